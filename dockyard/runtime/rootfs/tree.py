"""The container's file tree: its mounts, devices and protected paths, and the change of root.

Everything here runs in the container's own mount namespace, before the container's program does, but on a tree that an
image's author made: every path in it is looked up with openat2(RESOLVE_IN_ROOT), which keeps symlinks inside the root,
and what is mounted on is the descriptor found, not the path once more (runc CVE-2021-30465: a symlink swapped in
between the check and the mount). What is to be changed about a mount later is held by its descriptor too.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Mapping

import msgspec

from dockyard.linux import cgroups, mounts, null_device, procfs, syscalls
from dockyard.linux.syscalls import (
    MNT_DETACH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_BIND,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    RESOLVE_IN_ROOT,
    mount,
    mount_setattr,
)
from dockyard.oci.runtime_spec import Mount, Spec
from dockyard.runtime.errors import RuntimeFailure, doing
from dockyard.runtime.rootfs import cgroup_mounts, devices, file_systems, mount_options, mount_sources, tmpfs_copy
from dockyard.runtime.rootfs.mount_options import PROPAGATION, Options
from dockyard.runtime.security import labels

# What may be mounted over in /proc: lxcfs puts the container's own numbers there.
MOUNTABLE_IN_PROC = tuple(
    "/proc/" + name
    for name in (
        "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo sys/kernel/ns_last_pid sys/crypto/fips_enabled"
    ).split()
)
PROC_ROOT_INODE = 1
MOST_LINKS = 40  # as the kernel follows


class Rootfs:
    """A tree that is becoming a root: `path` is where it lies, `fd` an O_PATH descriptor of its top."""

    def __init__(self, path: str, bundle: str, spec: Spec, *, own_namespace: bool) -> None:
        """Make `path` a mount point in the caller's mount namespace.

        Without an `own_namespace` for the container that is somebody else's too: then nothing but `path` is touched.
        """
        propagation = spec.linux.rootfs_propagation
        flags = PROPAGATION[propagation] if propagation else MS_SLAVE | MS_REC
        place = _reachable(path)
        if own_namespace:
            mount(None, "/", None, flags)
            if flags not in (MS_SLAVE | MS_REC, MS_PRIVATE | MS_REC):
                # A shared parent would tell the host of the mount below, and pivot_root refuses it.
                _isolate_parent(place, MS_SLAVE if flags & MS_SLAVE else MS_PRIVATE)
        self.path = path
        self._bundle = bundle
        self._userns = any(namespace.type == "user" for namespace in spec.linux.namespaces)
        self._propagation = flags
        self._label = spec.linux.mount_label
        self._late_readonly: list[int] = []
        self.fd = _bound_on_itself(place)
        if not own_namespace:
            mount(None, path, None, MS_PRIVATE | MS_REC)

    def close(self) -> None:
        """Let go of the tree."""
        os.close(self.fd)

    def open(self, inside: str, flags: int = os.O_PATH, *, resolve: int = 0) -> int:
        """A descriptor (O_PATH) of `inside`, symlinks followed but never out of the root. Raises OSError."""
        return syscalls.openat2(self.fd, inside.lstrip("/") or ".", flags, resolve=RESOLVE_IN_ROOT | resolve)

    def make_directory(self, inside: str, *, resolve: int = 0, links: int = MOST_LINKS) -> int:
        """Open the directory `inside`, making what is missing of it; returns an O_PATH descriptor."""
        try:
            return self.open(inside, resolve=resolve)
        except FileNotFoundError:
            pass
        parent, _, name = inside.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise RuntimeFailure(f"mount destination {inside} is not a clean path")
        directory = self.make_directory(parent, resolve=resolve)
        try:
            try:
                os.mkdir(name, 0o755, dir_fd=directory)
            except FileExistsError:
                # a symlink that leads nowhere yet, or made meanwhile, by another mount or container of this root
                target = self._link_target(directory, parent, name) if not resolve and links else ""
                if target:
                    return self.make_directory(target, links=links - 1)
            return self.open(inside, resolve=resolve)
        finally:
            os.close(directory)

    @staticmethod
    def _link_target(directory: int, parent: str, name: str) -> str:
        """Where the symlink `name` leads, as a path in the tree; "" when it is none."""
        try:
            target = os.readlink(name, dir_fd=directory)
        except OSError:
            return ""
        # .. at the top leads nowhere else, as for the kernel
        return os.path.normpath(target if target.startswith("/") else f"/{parent}/{target}")

    def make_file(self, inside: str, *, links: int = MOST_LINKS) -> int:
        """Open the file `inside`, making it and its directories when missing; returns an O_PATH descriptor."""
        try:
            return self.open(inside)
        except FileNotFoundError:
            pass
        parent, _, name = inside.rpartition("/")
        directory = self.make_directory(parent)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                os.close(os.open(name, flags, 0o644, dir_fd=directory))
            except FileExistsError:
                target = self._link_target(directory, parent, name)
                if target:
                    if not links:
                        raise
                    return self.make_file(target, links=links - 1)
            return self.open(inside)
        finally:
            os.close(directory)

    def _where(self, fd: int) -> str:
        """What `fd` is, as a path in the tree. Raises RuntimeFailure when it is not in it, or its top."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        top = self.path.rstrip("/")
        if path == self.path:
            raise RuntimeFailure(f'mountpoint "{path}" is on the top of rootfs "{self.path}"')
        if not path.startswith(top + "/"):
            raise RuntimeFailure(f'mountpoint "{path}" is outside of rootfs "{self.path}"')
        return path[len(top) :]

    # -- mounts

    def make_mounts(
        self,
        spec: Spec,
        group: cgroups.Cgroup | None,
        own_cgroupns: bool,
        sources: Mapping[int, int],
        map_ids: Callable[[int, int], None],
    ) -> None:
        """Make the spec's mounts in their order. Raises RuntimeFailure naming the one that can't be.

        `sources` has, for some of them by their place in the list, what the runtime has opened for a container that
        could not do it itself; these descriptors are closed. `map_ids` has the runtime map the ids of a clone, for the
        mount of a number in the list: only the root of the file system's user namespace may.
        """
        for number, given in enumerate(spec.mounts):
            wanted = self._inside(given)
            try:
                self._make_mount(number, wanted, group, own_cgroupns, sources.get(number, -1), map_ids)
            except OSError as error:
                file = str(error.filename or "")
                where = f": {file}" if file and not file.startswith("/proc/self") else ""
                place = f'"{wanted.source}" to rootfs at "{wanted.destination}"'
                raise RuntimeFailure(f"error mounting {place}: {(error.strerror or '').lower()}{where}") from error

    def _inside(self, wanted: Mount) -> Mount:
        """With a clean destination; some say it as the host sees it."""
        # as text: what is a link in the tree is followed later, and stays inside
        clean = os.path.normpath("/" + wanted.destination.lstrip("/"))
        top = self.path.rstrip("/")
        if clean.startswith(top + "/"):
            clean = clean[len(top) :]
        return wanted if clean == wanted.destination else msgspec.structs.replace(wanted, destination=clean)

    def _make_mount(
        self,
        number: int,
        wanted: Mount,
        group: cgroups.Cgroup | None,
        own_cgroupns: bool,
        source: int,
        map_ids: Callable[[int, int], None],
    ) -> None:
        options = mount_options.parse(wanted.options)
        if wanted.type in ("cgroup", "cgroup2") and not options.bind:
            cgroup_mounts.make(self, wanted, options, group, own_cgroupns)
        elif options.bind or wanted.type == "bind":
            self._bind(wanted, options, source, lambda clone: map_ids(number, clone))
        else:
            self._mount(wanted, options, source)

    def _mount(self, wanted: Mount, options: Options, made: int) -> None:
        """Mount it; `made` is the file system if the runtime has made it, else -1."""
        pseudo = wanted.type in ("proc", "sysfs")
        there = wanted.type == "tmpfs" and self._is_there(wanted.destination)
        try:
            # A link at /proc could lead mounts of procfs elsewhere and leave the masks on the wrong place.
            target = self.make_directory(wanted.destination, resolve=syscalls.RESOLVE_NO_SYMLINKS if pseudo else 0)
            if not stat.S_ISDIR(os.fstat(target).st_mode):
                os.close(target)
                raise NotADirectoryError(20, "Not a directory")
        except (NotADirectoryError, OSError) as error:
            if pseudo and error.errno in (20, 40):
                raise RuntimeFailure(f'filesystem "{wanted.type}" must be mounted on ordinary directory') from None
            raise
        try:
            self.check_place(target, wanted.type == "proc")
            data = options.data
            late = bool(options.flags & MS_RDONLY) and (wanted.type == "tmpfs" or wanted.destination == "/dev")
            if wanted.type == "tmpfs" and "mode=" not in data and there:
                # a tmpfs takes the mode of the directory it covers; the kernel's own, if there was none
                data = f"mode={stat.S_IMODE(os.fstat(target).st_mode):o},{data}".rstrip(",")
            if not pseudo and wanted.type != "mqueue":
                data = labels.mount_data(data, self._label)
            if made >= 0 or late or options.needs_descriptor():
                self._mount_by_descriptor(wanted, options, data, target, late, made, covers=there)
            else:
                mount(
                    wanted.source or wanted.type,
                    f"/proc/self/fd/{target}",
                    wanted.type,
                    options.flags & ~MS_REMOUNT,
                    data or None,
                )
        finally:
            os.close(target)

    def _is_there(self, inside: str) -> bool:
        try:
            os.close(self.open(inside))
        except OSError:
            return False
        return True

    def _mount_by_descriptor(
        self, wanted: Mount, options: Options, data: str, target: int, late: bool, made: int, *, covers: bool
    ) -> None:
        """`covers`: the directory was there before us, and has something to tell a tmpfs."""
        if made < 0:
            made = file_systems.new_file_system(wanted, options, data)
        keep = False
        try:
            if options.copy_up and covers:
                tmpfs_copy.copy_tree(target, made)
            syscalls.move_mount(made, target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
            self._finish(made, options)
            if late:
                # read-only only when all that belongs in it is there: mount points, devices
                self._late_readonly.append(made)
                keep = True
        finally:
            if not keep:
                os.close(made)

    def _bind(self, wanted: Mount, options: Options, source: int, map_ids: Callable[[int], None]) -> None:
        # The clone is taken before anything in the container's tree is looked at, of exactly what the host has there.
        clone = source if source >= 0 else mount_sources.clone(wanted, options, self._bundle)
        try:
            if source < 0 and mount_sources.is_mapped(wanted, options):
                map_ids(clone)
            directory = stat.S_ISDIR(os.fstat(clone).st_mode)
            target = self.make_directory(wanted.destination) if directory else self.make_file(wanted.destination)
            try:
                whole_proc = (
                    syscalls.file_system_type(clone) == procfs.MAGIC and os.fstat(clone).st_ino == PROC_ROOT_INODE
                )
                self.check_place(target, whole_proc)
                syscalls.move_mount(clone, target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
            finally:
                os.close(target)
            if self._userns:
                set_, clear = mount_options.locked_attributes(options, clone)
            else:
                set_, clear, _ = options.bind_attributes()
            if set_ or clear:
                mount_setattr(clone, "", syscalls.AT_EMPTY_PATH, set_=set_, clear=clear)
            self._finish(clone, options)
        finally:
            os.close(clone)

    def check_place(self, target: int, procfs_itself: bool = False) -> None:
        """Nothing may be mounted on or in /proc but procfs: what guards it (labels, masks) would be at its mercy."""
        where = self._where(target)
        if where == "/proc":
            if not procfs_itself:
                raise RuntimeFailure(f'"{self.path}/proc" cannot be mounted because it is not of type proc')
        elif where.startswith("/proc/") and where not in MOUNTABLE_IN_PROC:
            raise RuntimeFailure(f'"{self.path}{where}" cannot be mounted because it is inside /proc')

    @staticmethod
    def _finish(fd: int, options: Options) -> None:
        for flags in options.propagation:
            recursive = syscalls.AT_RECURSIVE if flags & MS_REC else 0
            mount_setattr(fd, "", syscalls.AT_EMPTY_PATH | recursive, propagation=flags & ~MS_REC)
        if options.recursive_set or options.recursive_clear:
            mount_setattr(
                fd,
                "",
                syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE,
                set_=options.recursive_set,
                clear=options.recursive_clear,
            )

    def make_devices(self, spec: Spec, *, userns: bool) -> None:
        """Set up /dev, unless the spec binds one there."""
        if not any(_binds_dev(wanted) for wanted in spec.mounts):
            devices.make_all(self, spec.linux.devices, bind=userns)

    def bind_console(self, slave: int) -> None:
        """Bind the terminal's slave end on /dev/console (runc CVE-2025-52565: by descriptor, onto no link)."""
        directory = self.make_directory("/dev")
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                os.close(os.open("console", flags, 0o600, dir_fd=directory))
            except FileExistsError:
                pass
            place = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            clone = syscalls.open_tree(
                slave, "", syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
            )
            try:
                if stat.S_ISLNK(os.fstat(place).st_mode):
                    raise RuntimeFailure("/dev/console is a symbolic link")
                syscalls.move_mount(clone, place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
            finally:
                os.close(place)
                os.close(clone)
        finally:
            os.close(directory)

    # -- protection

    def protect(self, spec: Spec) -> None:
        """Make read-only and mask what the spec says.

        A mask is a null device made for that, since the container's /dev/null may be anything by now (runc
        CVE-2025-31133), and a change of the mode or owner of the host's would be one for the host.
        """
        for path in spec.linux.readonly_paths:
            self._make_readonly(path)
        self._mask(spec.linux.masked_paths)
        for made in self._late_readonly:
            mount_setattr(made, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
            os.close(made)
        self._late_readonly = []
        if spec.root.readonly:
            mount_setattr(self.fd, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)

    def _mask(self, paths: list[str]) -> None:
        empty = -1
        with contextlib.ExitStack() as undo:
            null = -1
            for path in dict.fromkeys(path.rstrip("/") for path in paths):
                try:
                    fd = self.open(path, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                place = f"/proc/self/fd/{fd}"
                try:
                    if not stat.S_ISDIR(os.fstat(fd).st_mode):
                        if null < 0:
                            null = self._null_device(undo)
                        _bind_read_only(null, fd)
                    elif empty >= 0:
                        mount(f"/proc/self/fd/{empty}", place, None, MS_BIND)
                    else:
                        data = labels.mount_data("nr_blocks=1,nr_inodes=1", self._label)
                        mount("tmpfs", place, "tmpfs", MS_RDONLY, data)
                        empty = self.open(path)  # one empty file system serves all
                        undo.callback(os.close, empty)
                except OSError as error:
                    raise RuntimeFailure(f'can\'t mask path "{path}": {error.strerror}') from error
                finally:
                    os.close(fd)

    def _null_device(self, undo: contextlib.ExitStack) -> int:
        """An O_PATH descriptor of a null device that can be bound until `undo`. Raises OSError."""
        try:
            made = null_device.file_system(self._label)
        except OSError:
            # who is root only of a user namespace may make no devices: the host's, which read-only can't be changed
            null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
            undo.callback(os.close, null)
            return null
        undo.callback(os.close, made)
        # only what is mounted somewhere can be bound; whoever has a descriptor of the tree still sees what is below
        syscalls.move_mount(made, self.fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
        undo.callback(syscalls.umount2, f"/proc/self/fd/{made}", MNT_DETACH)
        null = os.open("null", os.O_PATH | os.O_CLOEXEC, dir_fd=made)
        undo.callback(os.close, null)
        return null

    def _make_readonly(self, path: str) -> None:
        try:
            fd = self.open(path, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            with doing(f'can\'t make "{path}" read-only'):
                _bind_read_only(fd, fd, syscalls.AT_RECURSIVE)
        finally:
            os.close(fd)

    # -- the change of root

    def enter(self) -> None:
        """Make the tree this mount namespace's root and the old one unreachable (pivot_root(2), ".", ".")."""
        old = os.open("/", os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchdir(self.fd)
            syscalls.pivot_root(".", ".")
            os.fchdir(old)
        finally:
            os.close(old)
        # What is unmounted here must not be unmounted on the host.
        mount(None, ".", None, MS_SLAVE | MS_REC)
        syscalls.umount2(".", MNT_DETACH)
        os.chdir("/")
        if not self._propagation & (MS_SLAVE | MS_PRIVATE):
            # not earlier: pivot_root refuses shared mounts
            mount(None, "/", None, self._propagation)

    def enter_by_move(self) -> None:
        """The way in without pivot_root, for a root on ramfs (--no-pivot): the tree is moved over the root."""
        self._bury_host_proc()
        os.fchdir(self.fd)
        mount(self.path, "/", None, syscalls.MS_MOVE)
        self.enter_by_chroot()

    def enter_by_chroot(self) -> None:
        """The way in for a container that shares the caller's mount namespace."""
        os.fchdir(self.fd)
        os.chroot(".")
        os.chdir("/")

    def _bury_host_proc(self) -> None:
        """Without pivot_root the old mounts stay there, below: no procfs and no sysfs of the host's may be among them.

        The kernel lets a container mount a new procfs without the masks as long as an unmasked one is in its namespace.
        """
        for row in mounts.mount_table():
            if row.kind not in ("proc", "sysfs") or row.root != "/":
                continue
            if row.target.startswith(self.path.rstrip("/") + "/"):
                continue
            try:
                mount(None, row.target, None, MS_SLAVE | MS_REC)
                syscalls.umount2(row.target, MNT_DETACH)
            except FileNotFoundError:
                continue  # went with what it was on
            except OSError:
                mount("tmpfs", row.target, "tmpfs")


def _bind_read_only(source: int, place: int, recursive: int = 0) -> None:
    """Mount what `source` is, read-only, on what `place` is. Raises OSError."""
    here = syscalls.AT_EMPTY_PATH | recursive
    clone = syscalls.open_tree(source, "", syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | here)
    try:
        mount_setattr(clone, "", here, set_=syscalls.MOUNT_ATTR_RDONLY)
        syscalls.move_mount(clone, place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    finally:
        os.close(clone)


def unmount(path: str) -> None:
    """Take away what `Rootfs` has mounted for a container without a mount namespace of its own."""
    try:
        syscalls.umount2(path, MNT_DETACH)
    except OSError:
        pass  # never mounted, or gone


def _binds_dev(wanted: Mount) -> bool:
    binds = wanted.type == "bind" or "bind" in wanted.options or "rbind" in wanted.options
    return binds and os.path.normpath("/" + wanted.destination.lstrip("/")) == "/dev"


def _reachable(path: str) -> str:
    """The root directory by its path, or, when a container's root may not go there, as the directory we are in."""
    try:
        os.stat(path)
    except PermissionError:
        return "."
    return path


def _bound_on_itself(place: str) -> int:
    """Make the directory a mount point by mounting it on itself; an O_PATH descriptor of the new mount's top."""
    recursive = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
    tree = syscalls.open_tree(syscalls.AT_FDCWD, place, recursive)
    try:
        syscalls.move_mount(tree, syscalls.AT_FDCWD, place)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _isolate_parent(path: str, flags: int) -> None:
    """Change the propagation of the mount that `path` lies on."""
    while True:
        try:
            mount(None, path, None, flags)
            return
        except OSError as error:
            # EINVAL: no mount point
            if error.errno != 22 or path == "/":
                raise
        path = os.path.dirname(path)
