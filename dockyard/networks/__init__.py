"""Container networks: sandboxes, endpoints and networks as in the Container Network Model."""
