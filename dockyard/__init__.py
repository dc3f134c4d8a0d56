"""A complete, Docker-compatible container platform in Python."""
