"""A container's file tree: its mounts, devices and protected paths."""
