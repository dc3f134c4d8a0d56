"""A data root as it is found: whether its state database is the one that its folders were made with."""

import os
from pathlib import Path

from dockyard.engine.state import copies as state_copies
from dockyard.engine.state.database import Database
from dockyard.errors import SystemFailure

DATABASE = "dockyard.db"
DRIVERS = {"overlay2": "overlay2", "vfs": "vfs/dir"}  # where each storage driver has its snapshots

OUR_FOLDERS = ("networks", "backups", "image/imagedb")  # which Docker's has not, though it has lost its database


def open_database(root: Path) -> Database:
    """The state database of the data root, made where there is nothing yet.

    Raises SystemFailure when it is lost, empty or new and the folders are not: whatever belongs to nothing is swept
    at a start, and by such a database everything does. A daemon with nothing to go by must not go on.
    """
    refuse_dockers(root)
    path = root / DATABASE
    missing = not path.exists()
    if missing or (path.is_file() and path.stat().st_size == 0):
        _refuse_if_used(root, "missing" if missing else "empty")
    database = Database(path)
    try:
        if database.is_new():
            _refuse_if_used(root, "new")
    except BaseException:
        database.close()
        raise
    return database


def refuse_dockers(root: Path) -> None:
    """Raise SystemFailure for a data root of Docker's, in which everything would be taken for ours."""
    ours = any((root / name).exists() for name in (DATABASE, *OUR_FOLDERS))
    if (root / "image").is_dir() and (root / "containers").is_dir() and not ours:
        raise SystemFailure(
            f"{root} is a data root of Docker's: give Dockyard one of its own (data-root), "
            f"and take over what is there by `dockyard system import-docker {root}`"
        )


def _refuse_if_used(root: Path, how: str) -> None:
    path = root / DATABASE
    held = {
        "layers": sum(len(snapshots(root, driver)) for driver in DRIVERS),
        "containers": len(container_folders(root)),
        "copies of a database": len(state_copies.copies(str(path))),
    }
    if any(held.values()):
        found = " and ".join(f"{count} {what}" for what, count in held.items() if count)
        raise SystemFailure(
            f"the state database {path} is {how}, but {root} holds {found}, which would be swept away: "
            f"{state_copies.advice(str(path))}"
        )


def snapshots(root: Path, driver: str) -> list[str]:
    """The names of what a storage driver has there."""
    home = root / DRIVERS[driver]
    if not home.is_dir():
        return []
    return sorted(entry.name for entry in home.iterdir() if entry.name != "l" and not entry.name.startswith("probe-"))


def container_folders(root: Path) -> list[str]:
    """The ids of the containers that have a folder."""
    folder = root / "containers"
    return sorted(os.listdir(folder)) if folder.is_dir() else []
