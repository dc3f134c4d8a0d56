"""What is inside a volume, as `--mount volume-subpath=` has it.

Other containers may have the same volume and swap symlinks in it while we look. So the kernel looks the path up and
refuses to leave the volume (openat2(2), RESOLVE_BENEATH), and what is mounted is the descriptor found, never the path
once more.
"""

import errno
import os

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.linux import syscalls

# The kernel gives up (EAGAIN) when something is renamed on the way just then; who renames all the time loses.
MOST_TRIES = 128


def open_subpath(volume: str, subpath: str) -> int:
    """A descriptor (O_PATH) of `subpath` in the directory `volume`. Symlinks may lead anywhere but out of it.

    Raises InvalidParameter for a path that leads out, SystemFailure for one that isn't there.
    """
    top = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
    try:
        for _ in range(MOST_TRIES):
            try:
                return syscalls.openat2(top, subpath, os.O_PATH, resolve=resolve)
            except BlockingIOError:
                continue
        raise SystemFailure(f"cannot access path {os.path.join(volume, subpath)}: it is being changed")
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidParameter(
                f"invalid subpath {subpath}: subpath must be a relative path within the volume"
            ) from None
        reason = (error.strerror or "").lower()
        raise SystemFailure(f"cannot access path {os.path.join(volume, subpath)}: {reason}") from None
    finally:
        os.close(top)
