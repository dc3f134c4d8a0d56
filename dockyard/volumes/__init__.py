"""Where data outlive containers: volume drivers, and how a new volume is filled from an image."""
