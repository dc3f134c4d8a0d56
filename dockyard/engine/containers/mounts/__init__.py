"""What a container has mounted: of the host, of volumes, of images, at its start and while it runs."""
