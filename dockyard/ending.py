"""How a program with threads in the background ends."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself is large for what starts quickly
if TYPE_CHECKING:
    from typing import NoReturn


def end(status: int) -> NoReturn:
    """End the process with `status`, its output flushed, without taking the interpreter apart.

    Nothing would be won by that, and threads that still print, or a library's own threads that would call into Python,
    make an interpreter that is being taken apart abort (Python before 3.14).
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)
