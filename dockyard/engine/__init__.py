"""The use cases, one service each; the only room that joins the rooms above it."""
