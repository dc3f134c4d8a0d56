"""The use cases of networks, on networks/."""
