"""Processes for other work of the daemon's, forked by the zygote: an interpreter of their own takes 50 ms to start.

Whose work it is nobody here knows: an order is the name of a function, `module:function`, and a connection to whoever
has given it, which the function is called with. What the zygote has not imported is imported in the fork.
"""

import gc
import importlib
import os
import signal
import socket

from dockyard.linux import syscalls
from dockyard.shim import protocol

LONGEST_NAME = 256


def fork_one(orders: socket.socket) -> bool:
    """Take an order and fork its process; false when no more will come."""
    try:
        name, passed = protocol.receive(orders, LONGEST_NAME, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    if not name:
        return False
    if passed and os.fork() == 0:
        _be(name, passed[0])
    for fd in passed:
        os.close(fd)
    return True


def _be(name: bytes, connection: int) -> None:
    """Whoever has ordered it sees by the connection's end that it has not come to life, or is over."""
    try:
        syscalls.default_signal_action(signal.SIGCHLD)
        os.setsid()
        syscalls.close_all_but(0, 1, 2, connection)
        gc.enable()
        module, _, function = name.decode().partition(":")
        getattr(importlib.import_module(module), function)(connection)
    finally:
        os._exit(0)
