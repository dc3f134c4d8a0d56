"""The vfs driver: every layer is a whole copy of the one below. Slow and large, but works on any file system.

    <home>/dir/<id>               the whole tree

Blocks are shared where the file system can (FICLONE), so on btrfs and xfs a copy costs little.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.folders import own_folder
from dockyard.linux import mounts, syscalls
from dockyard.snapshots import trees
from dockyard.snapshots.driver import Change, ChangeKind, Fixture, Ids
from dockyard.snapshots.mapped import mount_mapped

log = logging.getLogger("dockyard.snapshots.vfs")


class Vfs:
    """See `snapshots.driver.Driver`."""

    name = "vfs"
    whiteouts: Literal["overlay", "plain"] = "plain"

    def __init__(self, home: str, options: Mapping[str, str]) -> None:
        for key in options:
            if key.startswith("vfs."):
                raise InvalidParameter(f"vfs: unknown option {key}")
        self.home = home
        self._trees = os.path.join(home, "dir")
        # What a snapshot was copied from, as a symlink; needed to say later what it changed.
        self._parents = os.path.join(home, "parents")
        own_folder(home, 0o710)
        own_folder(self._trees)
        own_folder(self._parents)
        self._undertaker = ThreadPoolExecutor(4, thread_name_prefix="vfs-remove")

    def status(self) -> list[tuple[str, str]]:
        return []

    def create(self, id: str, parent: str | None) -> str:
        tree = self.layer_path(id)
        os.mkdir(tree, 0o755)
        try:
            if parent is not None:
                os.symlink(parent, f"{self._parents}/{id}")
                trees.copy_tree(self.layer_path(parent), tree)
        except BaseException:
            self._discard(id)
            raise
        return tree

    def set_parent(self, id: str, parent: str) -> None:
        raise SystemFailure("a vfs layer must be made on its parent")

    def create_read_write(
        self,
        id: str,
        parent: str | None,
        *,
        fixtures: Sequence[Fixture] = (),
        options: Mapping[str, str] | None = None,
    ) -> None:
        for option in options or {}:
            raise InvalidParameter(f"vfs: unknown option {option}")
        if not fixtures:
            self.create(id, parent)
            return
        init = f"{id}-init"
        self.create(init, parent)
        try:
            for fixture in fixtures:
                _place(self.layer_path(init), fixture)
            self.create(id, init)
        except BaseException:
            self._discard(init)
            raise

    def get(self, id: str, *, volatile: bool = False, ids: Ids | None = None) -> str:
        tree = self.layer_path(id)
        if not os.path.isdir(tree):
            raise SystemFailure(f"layer {id} has no directory {tree}")
        if ids is None:
            return tree
        place = f"{self.home}/mapped/{id}"
        os.makedirs(place, 0o700, exist_ok=True)
        if os.stat(place).st_ino == os.stat(tree).st_ino:
            return place  # left mounted by an earlier daemon whose container runs on
        mount_mapped(tree, place, ids)
        return place

    def put(self, id: str) -> None:
        place = f"{self.home}/mapped/{id}"
        try:
            mounts.unmount(place, syscalls.MNT_DETACH)
            os.rmdir(place)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise SystemFailure(f"cannot unmount {place}: {error.strerror}") from error

    def mounted(self) -> list[str]:
        return []

    def missing(self, id: str) -> tuple[str, str] | None:
        tree = self.layer_path(id)
        return None if os.path.isdir(tree) else (id, f"{tree} is missing")

    def replace(self, id: str, fresh: str) -> None:
        aside = f"{self.layer_path(id)}.{secrets.token_hex(4)}-removing"
        try:
            os.rename(self.layer_path(id), aside)
            self._undertaker.submit(self._bury, aside)
        except FileNotFoundError:
            pass
        os.rename(self.layer_path(fresh), self.layer_path(id))
        self.remove(fresh)

    def remove(self, id: str) -> Future[None]:
        asides = [aside for name in (id, f"{id}-init") if (aside := self._put_aside(name)) is not None]
        return self._undertaker.submit(self._bury, *asides)

    def _discard(self, id: str) -> None:
        aside = self._put_aside(id)
        if aside is not None:
            self._undertaker.submit(self._bury, aside)

    def _put_aside(self, id: str) -> str | None:
        """Make it vanish; where it is now, if it was there."""
        tree = self.layer_path(id)
        aside = f"{tree}.{secrets.token_hex(4)}-removing"
        try:
            os.unlink(f"{self._parents}/{id}")
        except FileNotFoundError:
            pass
        try:
            os.rename(tree, aside)
        except FileNotFoundError:
            return None
        return aside

    def _bury(self, *asides: str) -> None:
        for tree in asides:
            try:
                trees.remove_tree(tree)
            except OSError as error:
                log.warning("cannot remove %s yet: %s", tree, error)

    def exists(self, id: str) -> bool:
        return os.path.isdir(self.layer_path(id))

    def layer_path(self, id: str) -> str:
        return f"{self._trees}/{id}"

    def diff_path(self, id: str) -> str:
        return self.layer_path(id)

    def parents(self, id: str) -> list[str]:
        found = []
        parent = self._parent(id)
        while parent is not None:
            found.append(self.layer_path(parent))
            parent = self._parent(parent)
        return found

    def _parent(self, id: str) -> str | None:
        try:
            return os.readlink(f"{self._parents}/{id}")
        except FileNotFoundError:
            return None

    def changes(self, id: str) -> list[Change]:
        parent = self._parent(id)
        found: list[Change] = []
        with trees.opened_directory(self.layer_path(id)) as upper:
            if parent is None:
                _compare(upper, None, "", found, 0)
            else:
                with trees.opened_directory(self.layer_path(parent)) as lower:
                    _compare(upper, lower, "", found, 0)
        return found

    @contextmanager
    def difference(self, id: str) -> Iterator[str]:
        """A copy of what changed; see `Driver.difference`."""
        if self._parent(id) is None:
            yield self.layer_path(id)
            return
        place = tempfile.mkdtemp(prefix="difference-", dir=self.home)
        try:
            with trees.opened_directory(self.layer_path(id)) as source, trees.opened_directory(place) as target:
                for change in self.changes(id):
                    _carry(source, target, change)
            yield place
        finally:
            trees.remove_tree(place)

    def copy_changes(self, source: str, target: str) -> None:
        tree = self.layer_path(target)
        trees.remove_tree(tree)
        os.mkdir(tree, 0o755)
        trees.copy_tree(self.layer_path(source), tree)

    def size(self, id: str) -> int:
        total = 0
        with trees.opened_directory(self.layer_path(id)) as source:
            for change in self.changes(id):
                if change.kind is ChangeKind.DELETED:
                    continue
                with _parent_directory(source, change.path) as (directory, name):
                    try:
                        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                if not stat.S_ISDIR(status.st_mode):
                    total += status.st_size
        return total

    def metadata(self, id: str) -> dict[str, str]:
        return {}

    def problem(self, id: str, parent: str | None) -> str | None:
        return None if self.exists(id) else f"{self.layer_path(id)}, its files, is missing"

    def mendable(self, id: str) -> bool:
        return self.exists(id)

    def mend(self, id: str, parent: str | None) -> None:
        pass  # there is nothing beside the files

    def sweep(self, known: Collection[str]) -> list[str]:
        keep = set(known)
        swept = []
        for name in os.listdir(self.home):
            if name.startswith("difference-"):
                self._undertaker.submit(self._bury, f"{self.home}/{name}")
        for name in os.listdir(self._trees):
            if name in keep or (name.endswith("-init") and name.removesuffix("-init") in keep):
                continue
            swept.append(name)
            self._discard(name)
        for name in _listing(f"{self.home}/mapped"):
            if name not in keep:
                self.put(name)
        for name in os.listdir(self._parents):
            if not os.path.isdir(f"{self._trees}/{name}"):
                os.unlink(f"{self._parents}/{name}")
        return swept

    def cleanup(self) -> None:
        self._undertaker.shutdown(wait=True)


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _place(tree: str, fixture: Fixture) -> None:
    """Make `fixture` in `tree`; what stands in the way and is no directory is replaced, as Docker does."""
    with trees.opened_directory(tree) as top:
        directory = os.dup(top)
        components = fixture.path.strip("/").split("/")
        try:
            for component in components[:-1]:
                _make_directory(component, directory)
                with trees.opened_directory(component, directory) as child:
                    os.dup2(child, directory, inheritable=False)
            name = components[-1]
            if fixture.kind == "directory":
                _make_directory(name, directory)
                return
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                pass
            except IsADirectoryError:
                return
            if fixture.kind == "symlink":
                os.symlink(fixture.target, name, dir_fd=directory)
            else:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=directory))
        finally:
            os.close(directory)


def _make_directory(name: str, parent: int) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    os.mkdir(name, 0o755, dir_fd=parent)


def _compare(upper: int, lower: int | None, path: str, found: list[Change], depth: int) -> None:
    """Append to `found` how the whole tree `upper` differs from the whole tree `lower`."""
    if depth > trees.DEPTH_LIMIT:
        raise SystemFailure(f"cannot compare {path[:200]}…: directories are nested too deep")
    below_names = {entry.name for entry in trees.entries(lower)} if lower is not None else set()
    for entry in trees.entries(upper):
        name = f"{path}/{entry.name}"
        try:
            status = os.stat(entry.name, dir_fd=upper, follow_symlinks=False)
        except FileNotFoundError:
            continue
        below = None
        if entry.name in below_names:
            below_names.discard(entry.name)
            below = os.stat(entry.name, dir_fd=lower, follow_symlinks=False)
        before = len(found)
        listed = below is None or trees.differs(status, below)
        if listed:
            found.append(Change(ChangeKind.ADDED if below is None else ChangeKind.MODIFIED, name))
        if stat.S_ISDIR(status.st_mode):
            try:
                with trees.opened_directory(entry.name, upper) as child:
                    if below is not None and stat.S_ISDIR(below.st_mode):
                        with trees.opened_directory(entry.name, lower) as child_below:
                            _compare(child, child_below, name, found, depth + 1)
                    else:
                        _compare(child, None, name, found, depth + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if len(found) > before and not listed:
                found.insert(before, Change(ChangeKind.MODIFIED, name))
    found.extend(Change(ChangeKind.DELETED, f"{path}/{name}") for name in sorted(below_names))


@contextmanager
def _parent_directory(top: int, path: str) -> Iterator[tuple[int, str]]:
    """The directory that holds `path` under `top`, and the last name; no symlink is followed."""
    components = path.strip("/").split("/")
    directory = os.dup(top)
    try:
        for component in components[:-1]:
            with trees.opened_directory(component, directory) as child:
                os.dup2(child, directory, inheritable=False)
        yield directory, components[-1]
    finally:
        os.close(directory)


def _carry(source: int, target: int, change: Change) -> None:
    """Repeat one change of the tree `source` in `target`, a tree of differences with overlay's whiteouts."""
    with _parent_directory(target, change.path) as (there, name):
        if change.kind is ChangeKind.DELETED:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=there)
            return
        with _parent_directory(source, change.path) as (here, _):
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                trees.copy_leaf(here, there, name, status)
                return
            os.mkdir(name, 0o700, dir_fd=there)
            with trees.opened_directory(name, here) as given, trees.opened_directory(name, there) as copy:
                trees.copy_opened_attributes(given, copy, status)
