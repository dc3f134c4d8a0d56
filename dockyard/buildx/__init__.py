"""Builds as a client of BuildKit: what is asked of it, what is served to it meanwhile, how it is shown."""
