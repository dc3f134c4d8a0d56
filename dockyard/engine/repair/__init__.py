"""Data roots that were damaged: looked through, mended, rebuilt."""
