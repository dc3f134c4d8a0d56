"""What lets `dockyard-runc` start quickly, and from an executable that no container can overwrite."""
