"""What is kept of a container in the state directory, for other commands to find it again."""
