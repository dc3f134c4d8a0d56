"""The overlay2 driver: layers stacked by the kernel's overlay file system, in Docker's on-disk layout.

    <home>/l/<26 characters>      symlink to ../<id>/diff; short, so that 128 of them fit into one page of mount options
    <home>/<id>/diff              what this layer adds to those below
    <home>/<id>/link              the name of its symlink in l/
    <home>/<id>/lower             the layers below, nearest first: l/AAA…:l/BBB…
    <home>/<id>/work              overlayfs's own
    <home>/<id>/committed         there when another layer stands on this one: it must not change any more
    <home>/<id>/merged            the mount, while it is mounted
    <home>/<id>-init              a container's init layer, between the image and the container's own
    <home>/<id>-removing          on its way out

Kernel: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

from dockyard.errors import InvalidParameter, NotImplementedHere, SystemFailure, words
from dockyard.folders import own_folder
from dockyard.linux import mounts, syscalls, userns
from dockyard.snapshots import trees
from dockyard.snapshots.driver import Change, Fixture, Ids
from dockyard.snapshots.init_layers import Step, plan_fixtures
from dockyard.snapshots.mapped import mapped_tree, root_of
from dockyard.snapshots.overlay_changes import compare
from dockyard.snapshots.overlay_marks import is_whiteout

log = logging.getLogger("dockyard.snapshots.overlay2")

# The kernel's own bound is 500 lower layers; with more than 128 the options would not fit into a page.
MAX_DEPTH = 128
LINK_LENGTH = 26
_LINK_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_OPTIONS_LIMIT = os.sysconf("SC_PAGE_SIZE") - 1

FILE_SYSTEMS = {
    0xEF53: "extfs",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlayfs",
    0x6969: "nfs",
    0x2FC12FC1: "zfs",
    0x65735546: "fuse",
    0xF2F52010: "f2fs",
    0x61756673: "aufs",
}


class Overlay2:
    """See `snapshots.driver.Driver`."""

    name = "overlay2"
    whiteouts: Literal["overlay", "plain"] = "overlay"

    def __init__(self, home: str, options: Mapping[str, str]) -> None:
        """Open or make the driver's directory `home`. Raises NotImplementedHere when overlayfs does not work there."""
        for key in options:
            if key.startswith("overlay2.") and key not in ("overlay2.override_kernel_check", "overlay2.size"):
                raise InvalidParameter(f"overlay2: unknown option {key}")
        if options.get("overlay2.size"):
            raise NotImplementedHere(
                "Storage Option overlay2.size only supported for backingFS XFS with project quotas; remove the option"
            )
        self.home = home
        self._links = os.path.join(home, "l")
        own_folder(home, 0o710)
        own_folder(self._links)
        self._volatile_works = True
        self._options = _base_options()
        self._backing = file_system_name(home)
        try:
            _probe(home, self._options)
        except OSError as error:
            # No room to try it: layers that are here say that it has worked, and to remove some of them makes room.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or os.listdir(home) == ["l"]:
                raise
            log.warning("overlay2 is not probed: %s", error.strerror)
        self._undertaker = ThreadPoolExecutor(4, thread_name_prefix="overlay2-remove")
        self._committed: set[str] = set()
        self._plans: dict[tuple[str, tuple[Fixture, ...]], list[Step]] = {}

    def status(self) -> list[tuple[str, str]]:
        return [
            ("Backing Filesystem", self._backing),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]

    # -- making

    def create(self, id: str, parent: str | None) -> str:
        self._create(id, parent)
        return self.diff_path(id)

    def set_parent(self, id: str, parent: str) -> None:
        lower = self._lower_of_child(parent)
        os.mkdir(f"{self.layer_path(id)}/work", 0o700)
        self._mark_committed(parent)
        _write(f"{self.layer_path(id)}/lower", lower)

    def create_read_write(
        self,
        id: str,
        parent: str | None,
        *,
        fixtures: Sequence[Fixture] = (),
        options: Mapping[str, str] | None = None,
    ) -> None:
        for option in options or {}:
            if option == "size":
                raise InvalidParameter(
                    "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
                )
            raise InvalidParameter(f"Unknown option {option}")
        if not fixtures:
            self._create(id, parent)
            return
        init = f"{id}-init"
        plan = self._plan(parent, tuple(fixtures))
        self._create(init, parent)
        try:
            for step in plan:
                step.apply(self.diff_path(init))
            self._create(id, init)
        except BaseException:
            self._discard(init)
            raise

    def _create(self, id: str, parent: str | None) -> None:
        directory = self.layer_path(id)
        lower = None if parent is None else self._lower_of_child(parent)
        os.mkdir(directory, 0o710)
        link = _random_link()
        try:
            os.mkdir(f"{directory}/diff", 0o755)
            os.symlink(f"../{id}/diff", f"{self._links}/{link}")
            _write(f"{directory}/link", link)
            if parent is not None and lower is not None:
                os.mkdir(f"{directory}/work", 0o700)
                self._mark_committed(parent)
                _write(f"{directory}/lower", lower)
        except BaseException:
            _unlink(f"{self._links}/{link}")
            trees.remove_tree(directory)
            raise

    def _lower_of_child(self, parent: str) -> str:
        directory = self.layer_path(parent)
        lower = "l/" + _read(f"{directory}/link")
        below = _read_if_there(f"{directory}/lower")
        if below:
            lower = f"{lower}:{below}"
        if lower.count(":") >= MAX_DEPTH:
            raise InvalidParameter("max depth exceeded")
        return lower

    def _mark_committed(self, id: str) -> None:
        if id in self._committed:
            return
        os.close(os.open(f"{self.layer_path(id)}/committed", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if not id.endswith("-init"):
            self._committed.add(id)

    # -- the init layer

    def _plan(self, parent: str | None, fixtures: tuple[Fixture, ...]) -> list[Step]:
        """What has to be written into an init layer on `parent`; worked out once per image."""
        key = (parent or "", fixtures)
        plan = self._plans.get(key)
        if plan is None:
            layers = [] if parent is None else [self.diff_path(parent), *self.parents(parent)]
            plan = plan_fixtures(layers, fixtures)
            if len(self._plans) > 256:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    # -- mounting

    def get(self, id: str, *, volatile: bool = False, ids: Ids | None = None) -> str:
        directory = self.layer_path(id)
        lower = _read_if_there(f"{directory}/lower")
        if lower is None:
            if not os.path.isdir(f"{directory}/diff"):
                raise SystemFailure(f"layer {id} has no directory {directory}/diff")
            return f"{directory}/diff"
        if not lower:
            raise SystemFailure(f"layer {id} is damaged: {directory}/lower is empty")
        merged = f"{directory}/merged"
        try:
            os.mkdir(merged, 0o700)
        except FileExistsError:
            if os.stat(merged).st_dev != os.stat(directory).st_dev:
                return merged  # left mounted by an earlier daemon whose container runs on
        try:
            self._mount(id, lower, volatile and self._volatile_works, ids)
        except BaseException:
            os.rmdir(merged)
            raise
        return merged

    def _mount(self, id: str, lower: str, volatile: bool, ids: Ids | None) -> None:
        if os.path.exists(f"{self.layer_path(id)}/committed"):
            absolute = f"lowerdir={self.home}/{id}/diff:" + ":".join(f"{self.home}/{link}" for link in lower.split(":"))
            relative = f"lowerdir={id}/diff:{lower}"
            extra = ""
        else:
            base = f"{self.home}/{id}"
            absolute = "lowerdir=" + ":".join(f"{self.home}/{link}" for link in lower.split(":"))
            absolute += f",upperdir={base}/diff,workdir={base}/work"
            relative = f"lowerdir={lower},upperdir={id}/diff,workdir={id}/work"
            # A volatile mount leaves this mark and the kernel then refuses the directories until it is gone.
            if os.path.exists(f"{base}/work/work/incompat"):
                trees.remove_tree(f"{base}/work/work/incompat")
            extra = "volatile," if volatile else ""
        options = self._options + extra
        try:
            if ids is not None:
                _mount_mapped(self.home, f"{self.home}/{id}/merged", options + relative, ids)
            elif len(options) + len(absolute) <= _OPTIONS_LIMIT:
                mounts.mount("overlay", f"{self.home}/{id}/merged", "overlay", 0, options + absolute)
            else:
                _mount_from(self.home, f"{id}/merged", options + relative)
        except OSError as error:
            if extra and error.errno == errno.EINVAL:
                # Linux < 5.10 knows no volatile mounts.
                self._volatile_works = False
                self._mount(id, lower, False, ids)
                return
            raise SystemFailure(
                f"error creating overlay mount to {self.home}/{id}/merged: {os.strerror(error.errno or 0)}"
            ) from error

    def put(self, id: str) -> None:
        merged = f"{self.layer_path(id)}/merged"
        try:
            mounts.unmount(merged, syscalls.MNT_DETACH)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            if error.errno != errno.EINVAL:
                raise SystemFailure(f"cannot unmount {merged}: {error.strerror}") from error
        # Removing the mount point also unmounts the copies of this mount in other mount namespaces
        # (Linux 8ed936b5671b), which would keep the layer busy.
        try:
            os.rmdir(merged)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                raise SystemFailure(f"cannot remove {merged}: {error.strerror}") from error

    def mounted(self) -> list[str]:
        targets = (mount.target for mount in mounts.mount_table() if mount.target.startswith(self.home + "/"))
        return [os.path.basename(os.path.dirname(target)) for target in targets if target.endswith("/merged")]

    # -- keeping

    def missing(self, id: str) -> tuple[str, str] | None:
        directory = self.layer_path(id)
        if not os.path.isdir(f"{directory}/diff"):
            return id, f"{directory}/diff is missing"
        lower = _read_if_there(f"{directory}/lower")
        if lower == "" or not _read_if_there(f"{directory}/link"):
            return id, f"{directory}/{'lower' if lower == '' else 'link'} is missing or empty"
        for link in lower.split(":") if lower else ():
            try:
                below = os.path.basename(os.path.dirname(os.readlink(f"{self.home}/{link}")))
            except OSError:
                return id, f"{self.home}/{link}, which it stands on, is missing"
            if not os.path.isdir(self.diff_path(below)):
                return below, f"{self.diff_path(below)} is missing"
        return None

    def replace(self, id: str, fresh: str) -> None:
        directory = self.layer_path(id)
        os.makedirs(directory, 0o710, exist_ok=True)
        if not _read_if_there(f"{directory}/link"):
            target = f"../{id}/diff"
            known = [name for name in os.listdir(self._links) if os.readlink(f"{self._links}/{name}") == target]
            link = known[0] if known else _random_link()
            if not known:
                os.symlink(target, f"{self._links}/{link}")
            _unlink(f"{directory}/link")
            _write(f"{directory}/link", link)
        lower = _read_if_there(f"{self.layer_path(fresh)}/lower")
        if lower:
            _unlink(f"{directory}/lower")
            _write(f"{directory}/lower", lower)
            os.makedirs(f"{directory}/work", 0o700, exist_ok=True)
        try:
            os.rename(f"{directory}/diff", f"{self.layer_path(fresh)}/damaged")
        except FileNotFoundError:
            pass
        os.rename(self.diff_path(fresh), f"{directory}/diff")
        self.remove(fresh)

    # -- removing

    def remove(self, id: str) -> Future[None]:
        asides = [aside for name in (id, f"{id}-init") if (aside := self._put_aside(name)) is not None]
        return self._undertaker.submit(self._bury, *asides)

    def _discard(self, id: str) -> None:
        aside = self._put_aside(id)
        if aside is not None:
            self._undertaker.submit(self._bury, aside)

    def _put_aside(self, id: str) -> str | None:
        """Make it vanish; where it is now, if it was there."""
        directory = self.layer_path(id)
        link = _read_if_there(f"{directory}/link")
        if link:
            _unlink(f"{self._links}/{link}")
        aside = f"{directory}-removing"
        if os.path.lexists(aside):
            aside = f"{directory}.{secrets.token_hex(4)}-removing"
        try:
            os.rename(directory, aside)
        except FileNotFoundError:
            return None
        self._committed.discard(id)
        return aside

    def _bury(self, *directories: str) -> None:
        for directory in directories:
            try:
                trees.remove_tree(directory)
            except OSError as error:
                log.warning("cannot remove %s yet: %s", directory, error)

    def problem(self, id: str, parent: str | None) -> str | None:
        directory = self.layer_path(id)
        if not os.path.isdir(f"{directory}/diff"):
            return f"{directory}/diff, its files, is missing"
        try:
            link = _read_if_there(f"{directory}/link")
            if not link:
                return f"{directory}/link is missing or empty"
            if self._target(link) != f"../{id}/diff":
                return f"{self._links}/{link} does not lead to {directory}/diff"
            if parent is None:
                return None
            if not os.path.isdir(f"{directory}/work"):
                return f"{directory}/work is missing"
            if _read_if_there(f"{directory}/lower") != self._lower_of_child(parent):
                return f"{directory}/lower does not lead to the layers below"
        except FileNotFoundError:
            return None  # of the one below, which is told of itself
        except OSError as error:
            return words(error)
        return None

    def _target(self, link: str) -> str:
        try:
            return os.readlink(f"{self._links}/{link}")
        except OSError:  # none, or no symlink
            return ""

    def mendable(self, id: str) -> bool:
        return os.path.isdir(f"{self.layer_path(id)}/diff")

    def mend(self, id: str, parent: str | None) -> None:
        directory = self.layer_path(id)
        link = _read_if_there(f"{directory}/link") if os.path.isfile(f"{directory}/link") else None
        if not link or len(link) != LINK_LENGTH or not link.isalnum():
            # the name that others know it by, if that is still to be found
            known = (name for name in os.listdir(self._links) if self._target(name) == f"../{id}/diff")
            link = next(known, None) or _random_link()
            _replace(f"{directory}/link", link)
        if self._target(link) != f"../{id}/diff":
            _unlink(f"{self._links}/{link}")
            os.symlink(f"../{id}/diff", f"{self._links}/{link}")
        if parent is not None:
            os.makedirs(f"{directory}/work", 0o700, exist_ok=True)
            _replace(f"{directory}/lower", self._lower_of_child(parent))

    def sweep(self, known: Collection[str]) -> list[str]:
        keep = set(known)
        mounted = {mount.target for mount in mounts.mount_table() if mount.target.startswith(self.home + "/")}
        swept = []
        # also of those whose directory is lost: what stands on them knows them by these links
        targets = {f"../{name}/diff" for name in keep}
        for name in os.listdir(self.home):
            if name == "l":
                continue
            if name in keep or (name.endswith("-init") and name.removesuffix("-init") in keep):
                targets.add(f"../{name}/diff")
                continue
            swept.append(name)
            if f"{self.home}/{name}/merged" in mounted:
                self.put(name)
            if name.endswith("-removing"):
                self._undertaker.submit(self._bury, f"{self.home}/{name}")
            else:
                self._discard(name)
        for link in os.listdir(self._links):
            if self._target(link) not in targets:
                trees.remove_tree(f"{self._links}/{link}")
        return swept

    def cleanup(self) -> None:
        self._undertaker.shutdown(wait=True)

    # -- looking

    def exists(self, id: str) -> bool:
        return os.path.isdir(self.layer_path(id))

    def layer_path(self, id: str) -> str:
        return f"{self.home}/{id}"

    def diff_path(self, id: str) -> str:
        return f"{self.home}/{id}/diff"

    def parents(self, id: str) -> list[str]:
        lower = _read_if_there(f"{self.layer_path(id)}/lower")
        if not lower:
            return []
        return [os.path.normpath(f"{self._links}/{os.readlink(f'{self.home}/{link}')}") for link in lower.split(":")]

    def size(self, id: str) -> int:
        return trees.tree_size(self.diff_path(id))

    @contextmanager
    def difference(self, id: str) -> Iterator[str]:
        yield self.diff_path(id)

    def copy_changes(self, source: str, target: str) -> None:
        trees.copy_tree(self.diff_path(source), self.diff_path(target))

    def metadata(self, id: str) -> dict[str, str]:
        directory = self.layer_path(id)
        data = {}
        parents = self.parents(id)
        if parents:
            data["LowerDir"] = ":".join(parents)
        data["MergedDir"] = f"{directory}/merged"
        data["UpperDir"] = f"{directory}/diff"
        data["WorkDir"] = f"{directory}/work"
        return data

    def changes(self, id: str) -> list[Change]:
        found: list[Change] = []
        with self._lower_mounted(id) as lower, trees.opened_directory(self.diff_path(id)) as upper:
            if lower is None:
                compare(upper, None, "", found, 0)
            else:
                with trees.opened_directory(lower) as below:
                    compare(upper, below, "", found, 0)
        return found

    @contextmanager
    def _lower_mounted(self, id: str) -> Iterator[str | None]:
        """What lies under `id` as one read-only tree, mounted for the time of the block at a place of its own."""
        parents = self.parents(id)
        if not parents:
            yield None
            return
        if len(parents) == 1:
            yield parents[0]
            return
        lower = _read(f"{self.layer_path(id)}/lower")
        # Under the layer's own directory, so that a crash leaves it where the sweep looks.
        with tempfile.TemporaryDirectory(prefix="compare-", dir=self.layer_path(id)) as place:
            _mount_from(self.home, os.path.relpath(place, self.home), f"{self._options}lowerdir={lower}")
            try:
                yield place
            finally:
                mounts.unmount(place, syscalls.MNT_DETACH)


# -- probing


def _base_options() -> str:
    """The options that keep a layer's directory complete by itself, whatever the kernel's defaults."""
    options = ""
    for name in ("index", "redirect_dir", "metacopy"):
        try:
            with open(f"/sys/module/overlay/parameters/{name}") as parameter:
                value = parameter.read().strip()
        except FileNotFoundError:
            continue  # an old kernel that has no such feature
        # index=off always, as Docker does: with it the same upperdir could not be mounted from two places.
        if name == "index" or value == "Y":
            options += f"{name}=off,"
    return options


def _probe(home: str, options: str) -> None:
    """Mount a small overlay under `home` and see that files merge and deletions become whiteouts."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=home) as place:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{place}/{name}")
        _write(f"{place}/lower/file", "")
        data = f"{options}lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        try:
            mounts.mount("overlay", f"{place}/merged", "overlay", 0, data)
        except OSError as error:
            raise NotImplementedHere(
                f"storage driver overlay2 does not work on {home} ({file_system_name(home)}): "
                f"mounting an overlay failed: {os.strerror(error.errno or 0)}"
            ) from error
        try:
            os.unlink(f"{place}/merged/file")
            status = os.lstat(f"{place}/upper/file")
            with os.scandir(place) as found:
                # Without d_type in directory entries the kernel can't tell whiteouts when listing.
                typed = all(entry.is_dir(follow_symlinks=False) for entry in found)
        finally:
            mounts.unmount(f"{place}/merged", syscalls.MNT_DETACH)
        if not typed or not is_whiteout(status):
            raise NotImplementedHere(
                f"storage driver overlay2 does not work on {home}: its file system ({file_system_name(home)}) "
                "lacks d_type or whiteouts"
            )


class _StatFs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 248))


def file_system_name(path: str) -> str:
    """The kind of file system `path` lies on, in the words Docker uses ("extfs", "xfs", …)."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = _StatFs()
    if libc.statfs(os.fsencode(path), ctypes.byref(buffer)) != 0:
        raise OSError(ctypes.get_errno(), "statfs", path)
    return FILE_SYSTEMS.get(buffer.f_type & 0xFFFFFFFF, "<unknown>")


# -- small files and mounts


def _random_link() -> str:
    bits = secrets.randbits(5 * LINK_LENGTH)
    return "".join(_LINK_ALPHABET[bits >> shift & 31] for shift in range(0, 5 * LINK_LENGTH, 5))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _replace(path: str, text: str) -> None:
    _unlink(path)
    _write(path, text)


def _read(path: str) -> str:
    """What one of our small files holds; "" also when a power cut has left its length without its content."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, 8192)
    finally:
        os.close(descriptor)
    return data.decode() if data.isascii() and b"\0" not in data else ""


def _read_if_there(path: str) -> str | None:
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _mount_from(directory: str, target: str, options: str) -> None:
    """Mount an overlay with all paths relative to `directory`, so that the options fit into one page."""

    def mount() -> None:
        os.chdir(directory)
        mounts.mount("overlay", target, "overlay", 0, options)

    _in_thread(mount)


def _mount_mapped(home: str, target: str, options: str, ids: Ids) -> None:
    """Mount an overlay at `target` whose layers are those in `home`, seen with other ids; theirs are relative paths.

    overlayfs itself has no idmapped mounts, but stands on such (Linux 5.19). It does its own writing, too, with the
    ids of whoever mounts it, and these must be among those mapped: the host's root is not.
    """
    with mapped_tree(home, ids) as tree:

        def mount() -> None:
            os.fchdir(tree)
            userns.make_files_as(root_of(list(ids.uids)), root_of(list(ids.gids)))
            mounts.mount("overlay", target, "overlay", 0, options)

        try:
            _in_thread(mount)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # before Linux 6.15 overlayfs takes no layers from a mount that is nowhere; what it has taken it keeps
            with tempfile.TemporaryDirectory(prefix="mapped-", dir=os.path.dirname(target)) as place:
                syscalls.move_mount(tree, syscalls.AT_FDCWD, place)
                # else the overlay would appear below `place` too, and go from both when that goes
                syscalls.mount(None, place, None, syscalls.MS_PRIVATE | syscalls.MS_REC)
                try:
                    _in_thread(mount)
                finally:
                    mounts.unmount(place, syscalls.MNT_DETACH)


def _in_thread(mount: Callable[[], None]) -> None:
    """Run it where the working directory and the ids of files can be changed: they are the whole process's else."""
    failure: list[OSError] = []

    def run() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            mount()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="overlay2-mount")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
