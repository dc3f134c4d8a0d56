"""How a container's record and the networks it is on belong together."""
