"""The use cases of volumes, on volumes/."""
