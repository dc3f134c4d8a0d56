"""Checkpoint and restore, which CRIU does."""
