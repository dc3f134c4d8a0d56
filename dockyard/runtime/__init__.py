"""A container from an OCI bundle. Knows nothing of images or of Docker."""
