"""Being told when a directory's entries change: inotify(7)."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_CLOSE_WRITE = 0x80, 0x100, 0x200, 0x8
CHANGES = IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_CLOSE_WRITE


def new_inotify() -> int:
    """A non-blocking descriptor that becomes readable when something watched changes."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def watch(descriptor: int, path: str) -> None:
    """Tell of entries that come, go or are written in the directory `path`; no error when it is watched already."""
    _checked(_libc.inotify_add_watch(descriptor, os.fsencode(path), CHANGES))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
