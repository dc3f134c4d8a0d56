"""What BuildKit and its clients say to each other: messages and numbers that both sides of a connection share."""
