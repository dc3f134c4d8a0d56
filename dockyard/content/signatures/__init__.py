"""Which images are trusted: containers-image's policy.json, and the signatures that it asks for."""
