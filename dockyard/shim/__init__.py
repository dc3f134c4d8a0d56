"""Zygote, shim, their wire protocol, log writer and reader, and the client that the daemon uses."""
