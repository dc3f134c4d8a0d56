"""What the files say: load, interpolate, merge, validate, and render again."""
