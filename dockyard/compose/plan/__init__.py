"""What there is, what must change, and in which order."""
