"""How an upper layer marks what is gone from those below. Kernel: Documentation/filesystems/overlayfs.rst."""

import os
import stat

_OPAQUE = "trusted.overlay.opaque"


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs's mark for "deleted": a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: str | int) -> bool:
    """Whether the directory hides everything of its name in the layers below."""
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False
