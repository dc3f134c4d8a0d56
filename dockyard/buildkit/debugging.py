"""The conversation by which a client looks into a failed step's container: what the engine calls on its session.

It is our own; a client that does not offer the method is not asked. Both sides send packets.
"""

SHELL = "/dockyard.v1.Debugger/Shell"
ABOUT, BYTES, SIZE = 0, 2, 5  # what it is about, what is typed and shown, rows << 16 | columns of the terminal
