"""Which storage driver a data root gets: the named one, the one whose layers it holds, or the best that works."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from dockyard.errors import DockyardError, NotImplementedHere, SystemFailure
from dockyard.snapshots.driver import Driver
from dockyard.snapshots.overlay2 import Overlay2
from dockyard.snapshots.vfs import Vfs

# the best first; each is made of its directory and the daemon's storage options
DRIVERS: dict[str, Callable[[str, Mapping[str, str]], Driver]] = {"overlay2": Overlay2, "vfs": Vfs}


def choose(name: str | None, root: str | os.PathLike[str], options: Mapping[str, str] | None = None) -> Driver:
    """The driver called `name`, or the best that works on `root` (the data root) when None.

    `options` are the daemon's `--storage-opt` settings, for example {"overlay2.override_kernel_check": "true"}.
    Raises NotImplementedHere when the named driver is unknown or the kernel or file system lacks what it needs.
    """
    home = os.fspath(root)
    if name:
        if name not in DRIVERS:
            known = ", ".join(DRIVERS)
            raise NotImplementedHere(f"storage driver {name} is not supported; choose one of {known}")
        return DRIVERS[name](os.path.join(home, name), options or {})
    # A data root that already holds layers keeps its driver, or its images would seem to be gone.
    order = sorted(DRIVERS, key=lambda driver: not _holds_layers(os.path.join(home, driver)))
    problems = []
    for candidate in order:
        try:
            return DRIVERS[candidate](os.path.join(home, candidate), options or {})
        except (DockyardError, OSError) as error:
            if _holds_layers(os.path.join(home, candidate)):
                raise SystemFailure(
                    f"storage driver {candidate}, whose layers are in {home}, does not work: {error}; "
                    "mend that, or name another driver by --storage-driver"
                ) from error
            problems.append(f"{candidate}: {error}")
    raise NotImplementedHere(f"no storage driver works on {home}: {'; '.join(problems)}")


def _holds_layers(home: str) -> bool:
    try:
        return any(name != "l" for name in os.listdir(home))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise SystemFailure(
            f"{home} is in the way: a storage driver would keep its layers there; move it away"
        ) from None
