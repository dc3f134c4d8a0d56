"""The host as the engine finds it, and what the engine says of itself."""
