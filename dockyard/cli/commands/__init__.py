"""The commands, one module per object they are about."""
