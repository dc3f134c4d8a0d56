"""Cgroups below a container's own, which `exec --cgroup` puts a process into."""

import os

from dockyard.linux.cgroups import Cgroup
from dockyard.runtime.errors import RuntimeFailure


def parse(words: list[str]) -> dict[str, str]:
    """`[<controller>[,<controller>…]:]<cgroup>` as {controller: path}, or {"": path}. Raises RuntimeFailure."""
    paths: dict[str, str] = {}
    for word in words:
        controllers, colon, path = word.partition(":")
        if not colon:
            if len(words) != 1:
                raise RuntimeFailure(f"invalid --cgroup argument: {word} (missing <controller>: prefix)")
            return {"": word}
        for controller in controllers.split(","):
            if not controller:
                raise RuntimeFailure(f"invalid --cgroup argument: {word} (empty <controller> prefix)")
            if controller in paths:
                raise RuntimeFailure(f"invalid --cgroup argument(s): controller {controller} specified multiple times")
            paths[controller] = path
    return paths


def directories(group: Cgroup, paths: dict[str, str]) -> list[str]:
    """Every directory that a process must join so that `paths` holds. Raises RuntimeFailure."""
    if "" in paths:
        return [_below(directory, paths[""]) for directory in group.directories]
    chosen: dict[str, str] = {}
    for controller, path in paths.items():
        # version 2 has one tree for all of them, and no names for it
        directory = group.directory(controller) if group.version == 1 else None
        if directory is None:
            raise RuntimeFailure(f"unknown controller {controller} in SubCgroupPaths")
        chosen[directory] = _below(directory, path)
    return [chosen.get(directory, directory) for directory in group.directories]


def _below(directory: str, path: str) -> str:
    below = os.path.normpath(f"{directory}/{path}")
    if below != directory and not below.startswith(directory + "/"):
        raise RuntimeFailure(f"bad sub cgroup path: {path} is not a sub cgroup path")
    return below


def join(wanted: list[str]) -> None:
    """Move the caller into the cgroups at these directories. Raises RuntimeFailure."""
    for directory in wanted:
        name = f"{directory}/cgroup.procs"
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            said = (error.strerror or "").lower()
            raise RuntimeFailure(
                f"error adding pid {os.getpid()} to cgroups: failed to write: open {name}: {said}"
            ) from error
