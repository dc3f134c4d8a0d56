"""Which OCI runtimes a container may ask for by name: ours, those the host has, those the configuration adds."""

import os
import shutil
from dataclasses import dataclass

from dockyard.config import KNOWN_RUNTIMES, OWN_RUNTIME, Config
from dockyard.errors import InvalidParameter
from dockyard.shim.orders import Runtime

_OWN_NAMES = (OWN_RUNTIME, "io.containerd.runc.v2")
_PROGRAMS = tuple(name for name in KNOWN_RUNTIMES if name not in _OWN_NAMES)
# Where daemons find programs that a shell's PATH may lack.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Listed:
    """A runtime as the engine tells of it."""

    path: str
    arguments: list[str]


def find(name: str, settings: Config) -> Runtime | None:
    """The runtime called `name`; None is ours. Raises InvalidParameter when there is none of that name."""
    added = settings.runtimes.get(name)
    if added is not None:
        return Runtime(name, [added.path, *added.runtime_args])
    if name in _OWN_NAMES:
        return None
    if name in _PROGRAMS:
        program = _program(name)
        if program:
            return Runtime(name, [program])
        if name == "runc":
            return None  # Docker's name for its default: a host that has no other has ours
    raise InvalidParameter(f"unknown or invalid runtime name: {name}")


def listed(settings: Config) -> dict[str, Listed]:
    """All of them by name."""
    found = {name: Listed(OWN_RUNTIME, []) for name in _OWN_NAMES}
    for name in _PROGRAMS:
        program = _program(name)
        if program or name == "runc":
            found[name] = Listed(program or OWN_RUNTIME, [])
    for name, added in settings.runtimes.items():
        found[name] = Listed(added.path, added.runtime_args)
    return dict(sorted(found.items()))


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PATH}") or ""
