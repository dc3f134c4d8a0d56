"""The engine's own folders: there, with the mode that is wanted, or an error in words."""

import os
import stat
from pathlib import Path

from dockyard.errors import SystemFailure, words


def own_folder(path: str | os.PathLike[str], mode: int = 0o700) -> Path:
    """Have the directory `path`, root's, with that mode whatever it had before; those above it only root can read.

    Raises SystemFailure when it can't be had.
    """
    folder = Path(path)
    try:
        try:
            folder.mkdir(mode=mode)
        except FileNotFoundError:
            own_folder(folder.parent, 0o711)
            folder.mkdir(mode=mode)
        except FileExistsError:
            pass
        status = folder.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise SystemFailure(f"{folder} is in the way: it is no directory, and one is needed there; move it away")
        if stat.S_IMODE(status.st_mode) != mode:
            folder.chmod(mode)
    except OSError as error:
        raise SystemFailure(f"cannot have the directory {folder}: {words(error)}") from error
    return folder
