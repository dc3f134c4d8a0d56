"""Init layers: between the image and a container's own layer, the files that are to be bound over and the like.

What has to be written is worked out from the layers' directories, without a mount: in the way stand non-directories,
which are replaced, and directories whose owner and mode the init layer must repeat.
"""

import os
import stat
from collections.abc import Sequence

from dockyard.snapshots import trees
from dockyard.snapshots.driver import Fixture
from dockyard.snapshots.overlay_marks import is_opaque, is_whiteout


class Step:
    """One directory, file or symlink to make in an init layer."""

    __slots__ = ("like", "path", "status", "target")

    def __init__(self, path: str, target: str | None, like: str | None, status: os.stat_result | None) -> None:
        self.path = path
        self.target = target  # None: a directory; "": an empty file; else a symlink to it
        self.like = like  # the directory below whose owner, mode and attributes a directory repeats
        self.status = status

    def apply(self, diff: str) -> None:
        """Make it below the directory `diff`."""
        path = f"{diff}{self.path}"
        if self.target is None:
            os.mkdir(path, 0o755)
            if self.like is not None and self.status is not None:
                trees.copy_attributes(self.like, path, self.status)
        elif self.target == "":
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755))
        else:
            os.symlink(self.target, path)


def plan_fixtures(layers: Sequence[str], fixtures: Sequence[Fixture]) -> list[Step]:
    """What an init layer on `layers` (directories, top first) must have so that all `fixtures` are there."""
    steps: dict[str, Step] = {}

    def need_directory(path: str) -> None:
        if path in ("", "/") or path in steps:
            return
        need_directory(os.path.dirname(path))
        found = _lookup(layers, path)
        if found is not None and stat.S_ISDIR(found[1].st_mode):
            plain = stat.S_IMODE(found[1].st_mode) == 0o755 and not found[1].st_uid and not found[1].st_gid
            if plain and not _carried_attributes(found[0]):
                steps[path] = Step(path, None, None, None)
            else:
                steps[path] = Step(path, None, found[0], found[1])
        else:
            steps[path] = Step(path, None, None, None)

    for fixture in fixtures:
        found = _lookup(layers, fixture.path)
        if fixture.kind == "directory":
            if found is None or not stat.S_ISDIR(found[1].st_mode):
                need_directory(fixture.path)
            continue
        if found is not None and stat.S_ISDIR(found[1].st_mode):
            continue  # Docker, too, leaves a directory of that name alone
        need_directory(os.path.dirname(fixture.path))
        steps[fixture.path] = Step(fixture.path, fixture.target if fixture.kind == "symlink" else "", None, None)
    return list(steps.values())


def _carried_attributes(path: str) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay.")]


def _lookup(layers: Sequence[str], path: str) -> tuple[str, os.stat_result] | None:
    """Where the merged tree of `layers` (top first) has `path`, and its status; no symlink is followed."""
    components = path.strip("/").split("/")
    for layer in layers:
        place = layer
        hidden = False
        for index, component in enumerate(components):
            place = f"{place}/{component}"
            try:
                status = os.lstat(place)
            except FileNotFoundError:
                break
            if is_whiteout(status):
                return None
            if index == len(components) - 1:
                return place, status
            if not stat.S_ISDIR(status.st_mode):
                return None
            hidden = hidden or is_opaque(place)
        if hidden:
            return None
    return None
