"""Images: their names, layers and archives, how they come, go, and are removed."""
