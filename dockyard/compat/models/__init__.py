"""docker-py's objects, where programs import their types from."""
