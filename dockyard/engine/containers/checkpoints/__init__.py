"""Containers put aside and gone on with: checkpoints and forks."""
