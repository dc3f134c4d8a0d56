"""What a build's result becomes: an image of the engine, files on the client's side, an archive."""
