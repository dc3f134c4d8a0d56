"""gRPC as a server and as a client of one connection that somebody else has opened, over HTTP/2 without TLS (h2c).

Imports no other room. A BuildKit client sends a packet for every file of a context: what reads them must not cost more
than the files. h2, the general-purpose stack, takes 6 µs to read a small frame where this takes 1.
"""
