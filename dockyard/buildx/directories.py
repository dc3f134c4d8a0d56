"""Directories that are served: which of their files the engine is told of (tonistiigi/fsutil, filter.go)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildkit.go_mode import of_stat
from dockyard.dockerfile.dockerignore import IgnoreRules, match

WILDCARDS = frozenset("*?[")


class Wanted:
    """Paths that were asked for, all that is below them, and the directories above them."""

    def __init__(self, paths: Sequence[str]) -> None:
        """No paths: everything."""
        self._paths = set(paths)
        self.everything = not paths or "." in self._paths
        self._above = {path[:place] for path in self._paths for place, letter in enumerate(path) if letter == "/"}

    def whole(self, path: str) -> bool:
        """Whether `path` itself was asked for."""
        return self.everything or path in self._paths

    def above(self, path: str) -> bool:
        """Whether something below the directory `path` was asked for."""
        return path in self._above


class Directory:
    """A directory of ours. Its files are told of as root's, as whoever builds is not who owns them."""

    def __init__(self, path: str) -> None:
        self.path = path

    def entries(self, follow: Sequence[str] = (), excludes: Sequence[str] = ()) -> Iterator[tuple[wire.Stat, str]]:
        """Everything that is wanted, in the order in which a receiver wants it, with its path here. Raises OSError."""
        wanted = Wanted(self.resolved(follow))
        rules = IgnoreRules(excludes)
        return self._walk(self.path, "", wanted, wanted.everything, rules, {})

    def _walk(
        self,
        folder: str,
        prefix: str,
        wanted: Wanted,
        everything: bool,
        rules: IgnoreRules,
        links: dict[tuple[int, int], str],
    ) -> Iterator[tuple[wire.Stat, str]]:
        with os.scandir(folder) as found:
            children = sorted(found, key=lambda child: os.fsencode(child.name))
        for child in children:
            path = prefix + child.name
            all_of_it = everything or wanted.whole(path)
            if not all_of_it and not wanted.above(path):
                continue
            excluded = rules.excludes(path)
            is_folder = child.is_dir(follow_symlinks=False)
            if excluded and not (is_folder and rules.takes_back):
                continue
            try:
                told = child.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it has gone since
            if not is_folder:
                if all_of_it and not stat.S_ISSOCK(told.st_mode):
                    yield _stat(path, child.path, told, links), child.path
                continue
            below = self._walk(child.path, f"{path}/", wanted, all_of_it, rules, links)
            if not excluded:
                yield _stat(path, child.path, told, links), child.path
            elif (first := next(below, None)) is not None:
                # what leads to a file that is taken back in
                yield _stat(path, child.path, told, links), child.path
                yield first
            yield from below

    # -- what a path leads to

    def resolved(self, paths: Sequence[str]) -> list[str]:
        """The paths, and what symbolic links in them lead to, within the directory; wildcards as what they match."""
        found: set[str] = set()
        for path in paths:
            self._resolve(path, found, set())
        return sorted(found)

    def _resolve(self, path: str, found: set[str], seen: set[str]) -> None:
        path = os.path.normpath(f"/{path}").lstrip("/") or "."
        if path in seen or path == ".":
            found.add(path)
            return
        seen.add(path)
        parts = path.split("/")
        for number, part in enumerate(parts):
            place = "/".join(parts[: number + 1])
            if WILDCARDS.intersection(part):
                self._match("/".join(parts[:number]), part, parts[number + 1 :], found, seen)
                return
            try:
                target = os.readlink(os.path.join(self.path, place))
            except OSError:
                continue
            found.add(place)
            base = "" if target.startswith("/") else os.path.dirname(place)
            self._resolve("/".join([base, target, *parts[number + 1 :]]), found, seen)
            return
        found.add(path)

    def _match(self, folder: str, pattern: str, rest: list[str], found: set[str], seen: set[str]) -> None:
        if "**" in pattern:
            found.add(folder or ".")
            return
        try:
            names = os.listdir(os.path.join(self.path, folder))
        except OSError:
            return
        for name in names:
            if match(pattern, name):
                self._resolve("/".join([folder, name, *rest]), found, seen)


def _stat(path: str, place: str, told: os.stat_result, links: dict[tuple[int, int], str]) -> wire.Stat:
    mode = told.st_mode
    found = wire.Stat(path=path, mode=of_stat(mode), mod_time=told.st_mtime_ns)
    if stat.S_ISREG(mode):
        found.size = told.st_size
        if told.st_nlink > 1:
            first = links.setdefault((told.st_dev, told.st_ino), path)
            if first != path:
                found.linkname, found.size = first, 0
    elif stat.S_ISLNK(mode):
        found.linkname = os.readlink(place)
    elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        found.devmajor, found.devminor = os.major(told.st_rdev), os.minor(told.st_rdev)
    _attributes(found, place)
    return found


def _attributes(found: wire.Stat, place: str) -> None:
    try:
        for name in os.listxattr(place, follow_symlinks=False):
            found.xattrs[name] = os.getxattr(place, name, follow_symlinks=False)
    except OSError:
        pass  # a file system without them, or one that is not for us to read
