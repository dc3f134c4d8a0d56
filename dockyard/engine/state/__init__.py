"""What is durable: the database, its copies and its shape, and the documents beside things on the disk."""
