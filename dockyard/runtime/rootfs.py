"""The container's file tree: its mounts, devices and protected paths, and the change of root.

Everything here runs in the container's own mount namespace, before the container's program does, but on a tree that an
image's author made: every path in it is looked up with openat2(RESOLVE_IN_ROOT), which keeps symlinks inside the root,
and what is mounted on is the descriptor found, not the path once more (runc CVE-2021-30465: a symlink swapped in
between the check and the mount).
"""

import os
import stat
from collections.abc import Sequence

from dockyard.linux import cgroups, syscalls
from dockyard.linux.syscalls import (
    MNT_DETACH,
    MS_BIND,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
    RESOLVE_IN_ROOT,
    mount,
    mount_setattr,
    openat2,
)
from dockyard.oci.runtime_spec import Device, IDMapping, Mount, Spec
from dockyard.runtime.errors import RuntimeFailure

# Option -> (flag, whether the option clears it); mount(8), runtime-spec config.md "Linux mount options".
FLAGS = {
    "async": (MS_SYNCHRONOUS, True),
    "atime": (MS_NOATIME, True),
    "defaults": (0, False),
    "dev": (MS_NODEV, True),
    "diratime": (MS_NODIRATIME, True),
    "dirsync": (MS_DIRSYNC, False),
    "exec": (MS_NOEXEC, True),
    "lazytime": (MS_LAZYTIME, False),
    "noatime": (MS_NOATIME, False),
    "nodev": (MS_NODEV, False),
    "nodiratime": (MS_NODIRATIME, False),
    "noexec": (MS_NOEXEC, False),
    "nolazytime": (MS_LAZYTIME, True),
    "norelatime": (MS_RELATIME, True),
    "nostrictatime": (MS_STRICTATIME, True),
    "nosuid": (MS_NOSUID, False),
    "nosymfollow": (MS_NOSYMFOLLOW, False),
    "relatime": (MS_RELATIME, False),
    "remount": (MS_REMOUNT, False),
    "ro": (MS_RDONLY, False),
    "rw": (MS_RDONLY, True),
    "strictatime": (MS_STRICTATIME, False),
    "suid": (MS_NOSUID, True),
    "symfollow": (MS_NOSYMFOLLOW, True),
    "sync": (MS_SYNCHRONOUS, False),
}
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
# Options with an r in front hold for all mounts below too: mount_setattr(2)'s attributes, (set, cleared).
RECURSIVE = {
    "rro": (syscalls.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, syscalls.MOUNT_ATTR_RDONLY),
    "rnosuid": (syscalls.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, syscalls.MOUNT_ATTR_NOSUID),
    "rnodev": (syscalls.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, syscalls.MOUNT_ATTR_NODEV),
    "rnoexec": (syscalls.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, syscalls.MOUNT_ATTR_NOEXEC),
    "rnosymfollow": (syscalls.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
}
DEVICE_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
# runtime-spec config-linux.md, "Default Devices" and "Dev symbolic links"
DEFAULT_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEV_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)


class Rootfs:
    """A tree that is becoming a root: `path` is where it lies, `fd` an O_PATH descriptor of its top."""

    def __init__(self, path: str, propagation: str) -> None:
        """Take the caller's (new) mount namespace and make `path` a mount point in it."""
        if propagation and propagation not in PROPAGATION:
            raise RuntimeFailure(f"rootfsPropagation={propagation} is not supported")
        flags = PROPAGATION[propagation] if propagation else MS_SLAVE | MS_REC
        mount(None, "/", None, flags)
        if not flags & MS_SLAVE and not flags & MS_PRIVATE:
            # pivot_root refuses when the parent mount is shared
            mount(None, _mount_point_of(path), None, MS_PRIVATE)
        self.path = path
        mount(path, path, None, MS_BIND | MS_REC)
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the tree."""
        os.close(self.fd)

    def open(self, inside: str, *, resolve: int = 0) -> int:
        """An O_PATH descriptor of `inside`, symlinks followed but never out of the root. Raises OSError."""
        return openat2(self.fd, inside.lstrip("/") or ".", os.O_PATH, resolve=RESOLVE_IN_ROOT | resolve)

    def make_directory(self, inside: str) -> int:
        """Open the directory `inside`, making what is missing of it; returns an O_PATH descriptor."""
        try:
            return self.open(inside)
        except FileNotFoundError:
            pass
        parent, _, name = inside.rstrip("/").rpartition("/")
        if name in (".", ".."):
            raise RuntimeFailure(f"mount destination {inside} is not a clean path")
        directory = self.make_directory(parent)
        try:
            try:
                os.mkdir(name, 0o755, dir_fd=directory)
            except FileExistsError:
                pass  # a dangling symlink, which the open below refuses, or made by another mount
            return self.open(inside)
        finally:
            os.close(directory)

    def make_file(self, inside: str) -> int:
        """Open the file `inside`, making it and its directories when missing; returns an O_PATH descriptor."""
        try:
            return self.open(inside)
        except FileNotFoundError:
            pass
        parent, _, name = inside.rpartition("/")
        directory = self.make_directory(parent)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=directory))
            return self.open(inside)
        finally:
            os.close(directory)

    # -- mounts

    def make_mount(self, wanted: Mount, group: cgroups.Cgroup | None, *, own_cgroupns: bool, userns: bool) -> None:
        """Make one mount of the spec. Raises RuntimeFailure naming it."""
        try:
            self._make_mount(wanted, group, own_cgroupns, userns)
        except OSError as error:
            raise RuntimeFailure(
                f"error mounting {wanted.source!r} to rootfs at {wanted.destination!r}: {error.strerror}"
                + (f": {error.filename}" if error.filename and not str(error.filename).startswith("/proc/self") else "")
            ) from error

    def _make_mount(self, wanted: Mount, group: cgroups.Cgroup | None, own_cgroupns: bool, userns: bool) -> None:
        options = parse_options(wanted.options)
        if wanted.type == "cgroup" or wanted.type == "cgroup2":
            self._mount_cgroup(wanted, options, group, own_cgroupns)
            return
        if options.bind or wanted.type == "bind":
            self._bind(wanted, options)
            return
        target = self.make_directory(wanted.destination)
        try:
            if wanted.type in ("proc", "sysfs") and _has_symlink(self, wanted.destination):
                # A link at /proc could lead mounts of procfs elsewhere and leave the masks on the wrong place.
                raise RuntimeFailure(f"filesystem {wanted.type!r} must be mounted on ordinary directory")
            place = f"/proc/self/fd/{target}"
            source = wanted.source or wanted.type
            if wanted.type == "tmpfs" and "mode=" not in options.data:
                # a tmpfs takes the mode of the directory it covers, as runc's does
                mode = stat.S_IMODE(os.stat(target).st_mode)
                options.data = f"{options.data},mode={mode:o}".lstrip(",")
            if wanted.type == "mqueue":
                mount(source, place, "mqueue", options.flags)
            else:
                mount(source, place, wanted.type, options.flags & ~MS_REMOUNT, options.data or None)
        finally:
            os.close(target)
        self._finish(wanted.destination, options)

    def _bind(self, wanted: Mount, options: "Options") -> None:
        # The clone is taken before anything in the container's tree is looked at, of exactly what the host has there.
        clone = syscalls.open_tree(
            syscalls.AT_FDCWD,
            wanted.source,
            syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | (syscalls.AT_RECURSIVE if options.recursive else 0),
        )
        try:
            directory = stat.S_ISDIR(os.fstat(clone).st_mode)
            target = self.make_directory(wanted.destination) if directory else self.make_file(wanted.destination)
            try:
                if wanted.uid_mappings or wanted.gid_mappings or options.idmap:
                    _idmap(clone, wanted.uid_mappings, wanted.gid_mappings, options.recursive)
                syscalls.move_mount(
                    clone,
                    target,
                    "",
                    syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH,
                )
            finally:
                os.close(target)
            set_, clear = _attributes(options)
            if set_ or clear:
                mount_setattr(clone, "", syscalls.AT_EMPTY_PATH, set_=set_, clear=clear)
            self._finish_fd(clone, options)
        finally:
            os.close(clone)

    def _finish(self, inside: str, options: "Options") -> None:
        if options.propagation or options.recursive_set or options.recursive_clear:
            target = self.open(inside)
            try:
                self._finish_fd(target, options)
            finally:
                os.close(target)

    def _finish_fd(self, fd: int, options: "Options") -> None:
        for flags in options.propagation:
            mount_setattr(
                fd,
                "",
                syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if flags & MS_REC else 0),
                propagation=flags & ~MS_REC,
            )
        if options.recursive_set or options.recursive_clear:
            mount_setattr(
                fd,
                "",
                syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE,
                set_=options.recursive_set,
                clear=options.recursive_clear,
            )

    def _mount_cgroup(
        self, wanted: Mount, options: "Options", group: cgroups.Cgroup | None, own_cgroupns: bool
    ) -> None:
        target = self.make_directory(wanted.destination)
        place = f"/proc/self/fd/{target}"
        try:
            layout = cgroups.layout()
            if layout.version == 2:
                if own_cgroupns or group is None:
                    mount("cgroup", place, "cgroup2", options.flags)
                else:
                    mount(group.directories[0], place, None, MS_BIND | MS_REC)
                    mount(None, self._proc_path(wanted.destination), None, MS_REMOUNT | MS_BIND | options.flags)
                return
            flags = options.flags
            mount("tmpfs", place, "tmpfs", flags & ~MS_RDONLY, "mode=755")
        finally:
            os.close(target)
        top = self.open(wanted.destination)
        try:
            self._mount_v1_hierarchies(top, layout, flags, group, own_cgroupns)
            if flags & MS_RDONLY:
                mount_setattr(top, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
        finally:
            os.close(top)

    def _mount_v1_hierarchies(
        self, top: int, layout: cgroups.Layout, flags: int, group: cgroups.Cgroup | None, own_cgroupns: bool
    ) -> None:
        done: set[str] = set()
        for controller, host_top in layout.tops.items():
            name = os.path.basename(host_top)
            if name not in done:
                done.add(name)
                os.mkdir(name, 0o755, dir_fd=top)
                place = f"/proc/self/fd/{top}/{name}"
                if own_cgroupns:
                    mount("cgroup", place, "cgroup", flags, controller)
                else:
                    directory = host_top + (group.path if group is not None else "")
                    mount(directory, place, None, MS_BIND | MS_REC)
                    if flags & ~MS_REC:
                        mount(None, place, None, MS_REMOUNT | MS_BIND | flags)
            if name != controller and not controller.startswith("name="):
                os.symlink(name, controller, dir_fd=top)

    def _proc_path(self, inside: str) -> str:
        fd = self.open(inside)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    # -- devices

    def make_devices(self, devices: Sequence[Device], *, userns: bool) -> None:
        """Make the nodes of the spec and those every container has, and /dev's customary links."""
        directory = self.make_directory("/dev")
        previous = os.umask(0)
        try:
            listed = {device.path for device in devices}
            for name, major, minor in DEFAULT_DEVICES:
                if f"/dev/{name}" not in listed:
                    self._node(directory, name, stat.S_IFCHR | 0o666, major, minor, userns, None, None)
            for device in devices:
                self._device(device, directory, userns)
            for name, target in DEV_LINKS:
                self._link(directory, name, target)
            if os.path.exists("/proc/kcore"):
                self._link(directory, "core", "/proc/kcore")
            try:
                os.unlink("ptmx", dir_fd=directory)
            except FileNotFoundError:
                pass
            self._link(directory, "ptmx", "pts/ptmx")
        finally:
            os.umask(previous)
            os.close(directory)

    @staticmethod
    def _link(directory: int, name: str, target: str) -> None:
        try:
            os.symlink(target, name, dir_fd=directory)
        except FileExistsError:
            pass

    def _device(self, device: Device, dev: int, userns: bool) -> None:
        if device.type not in DEVICE_KINDS:
            raise RuntimeFailure(f"{device.type!r} is not a valid device type for device {device.path}")
        kind = DEVICE_KINDS[device.type]
        mode = kind | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
        parent, _, name = device.path.rpartition("/")
        if parent == "/dev":
            self._node(dev, name, mode, device.major, device.minor, userns, device.uid, device.gid)
            return
        directory = self.make_directory(parent)
        try:
            self._node(directory, name, mode, device.major, device.minor, userns, device.uid, device.gid)
        finally:
            os.close(directory)

    @staticmethod
    def _node(
        directory: int, name: str, mode: int, major: int, minor: int, userns: bool, uid: int | None, gid: int | None
    ) -> None:
        if userns:
            # no mknod in a user namespace: the host's node is bound in its place
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=directory))
            mount(f"/dev/{name}", f"/proc/self/fd/{directory}/{name}", None, MS_BIND)
            return
        try:
            os.mknod(name, mode, os.makedev(major, minor), dir_fd=directory)
        except FileExistsError:
            present = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_IFMT(present.st_mode) != stat.S_IFMT(mode) or present.st_rdev != os.makedev(major, minor):
                os.unlink(name, dir_fd=directory)
                os.mknod(name, mode, os.makedev(major, minor), dir_fd=directory)
        if uid or gid:
            os.chown(name, uid or 0, gid or 0, dir_fd=directory, follow_symlinks=False)

    def make_console(self, slave: int) -> None:
        """Bind the terminal's slave end on /dev/console (runc CVE-2025-52565: by descriptor, onto a fresh file)."""
        directory = self.make_directory("/dev")
        try:
            flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open("console", flags, 0o600, dir_fd=directory))
            mount(f"/proc/self/fd/{slave}", f"/proc/self/fd/{directory}/console", None, MS_BIND)
        finally:
            os.close(directory)

    # -- protection

    def protect(self, spec: Spec) -> None:
        """Make read-only and mask what the spec says.

        Done before the change of root, so that a mask is the host's own null device: the container's /dev/null may be
        anything by now (runc CVE-2025-31133).
        """
        for path in spec.linux.readonly_paths:
            self._make_readonly(path)
        empty = -1
        try:
            for path in spec.linux.masked_paths:
                try:
                    fd = self.open(path, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                place = f"/proc/self/fd/{fd}"
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    mount("/dev/null", place, None, MS_BIND)
                elif empty >= 0:
                    mount(f"/proc/self/fd/{empty}", place, None, MS_BIND)
                else:
                    mount("tmpfs", place, "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1")
                    empty = self.open(path)  # one empty file system serves all
                os.close(fd)
        finally:
            if empty >= 0:
                os.close(empty)
        if spec.root.readonly:
            mount_setattr(self.fd, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)

    def _make_readonly(self, path: str) -> None:
        try:
            fd = self.open(path, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            here = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
            clone = syscalls.open_tree(fd, "", syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | here)
            try:
                mount_setattr(clone, "", here, set_=syscalls.MOUNT_ATTR_RDONLY)
                syscalls.move_mount(clone, fd, "", syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH)
            finally:
                os.close(clone)
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

    def enter_by_move(self) -> None:
        """The way in without pivot_root, for a root on ramfs (--no-pivot): the tree is moved over the root."""
        os.fchdir(self.fd)
        mount(self.path, "/", None, syscalls.MS_MOVE)
        os.chroot(".")
        os.chdir("/")


class Options:
    """A mount's options, sorted by what they are for."""

    __slots__ = (
        "bind",
        "cleared",
        "data",
        "flags",
        "idmap",
        "propagation",
        "recursive",
        "recursive_clear",
        "recursive_set",
    )

    def __init__(self) -> None:
        self.bind = self.recursive = self.idmap = False
        self.flags = self.cleared = self.recursive_set = self.recursive_clear = 0
        self.propagation: list[int] = []
        self.data = ""


def parse_options(given: Sequence[str]) -> Options:
    """Sort the options of one mount; what is no option of mount(2) is the file system's own data."""
    options = Options()
    data: list[str] = []
    for option in given:
        if option == "bind":
            options.bind = True
        elif option == "rbind":
            options.bind = options.recursive = True
        elif option in FLAGS:
            flag, clears = FLAGS[option]
            if clears:
                options.flags &= ~flag
                options.cleared |= flag
            else:
                options.flags |= flag
                options.cleared &= ~flag
        elif option in PROPAGATION:
            options.propagation.append(PROPAGATION[option])
        elif option in RECURSIVE:
            set_, clear = RECURSIVE[option]
            options.recursive_set = options.recursive_set & ~clear | set_
            options.recursive_clear = options.recursive_clear & ~set_ | clear
        elif option in ("idmap", "ridmap"):
            options.idmap = True
        elif option != "tmpcopyup":
            data.append(option)
    options.data = ",".join(data)
    return options


_ATTRIBUTES = (
    (MS_RDONLY, syscalls.MOUNT_ATTR_RDONLY),
    (MS_NOSUID, syscalls.MOUNT_ATTR_NOSUID),
    (MS_NODEV, syscalls.MOUNT_ATTR_NODEV),
    (MS_NOEXEC, syscalls.MOUNT_ATTR_NOEXEC),
    (MS_NODIRATIME, syscalls.MOUNT_ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
)


def _attributes(options: Options) -> tuple[int, int]:
    """A bind mount's flags as mount_setattr's (set, clear)."""
    set_ = clear = 0
    for flag, attribute in _ATTRIBUTES:
        if options.flags & flag:
            set_ |= attribute
        elif options.cleared & flag:
            clear |= attribute
    if options.flags & MS_NOATIME:
        set_, clear = set_ | syscalls.MOUNT_ATTR_NOATIME, clear | syscalls.MOUNT_ATTR_ATIME
    elif options.flags & MS_STRICTATIME:
        set_, clear = set_ | syscalls.MOUNT_ATTR_STRICTATIME, clear | syscalls.MOUNT_ATTR_ATIME
    return set_, clear


def _idmap(clone: int, uids: Sequence[IDMapping], gids: Sequence[IDMapping], recursive: bool) -> None:
    """Give a detached mount the id mapping of a throw-away user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP)."""
    ready, go = os.pipe2(os.O_CLOEXEC)
    made, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(tell, b"1")
        os.close(go)
        os.read(ready, 1)
        os._exit(0)
    try:
        os.read(made, 1)
        write_mappings(pid, uids, gids)
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            flags = syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
            mount_setattr(clone, "", flags, set_=syscalls.MOUNT_ATTR_IDMAP, userns=namespace)
        finally:
            os.close(namespace)
    finally:
        for fd in (ready, go, made, tell):
            os.close(fd)
        os.waitpid(pid, 0)


def write_mappings(pid: int, uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> None:
    """Set the id mappings of the new user namespace of `pid` (user_namespaces(7)); the caller is privileged."""
    for name, mappings in (("uid_map", uids), ("gid_map", gids)):
        text = "".join(f"{row.container_id} {row.host_id} {row.size}\n" for row in mappings)
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def _has_symlink(root: Rootfs, inside: str) -> bool:
    try:
        os.close(root.open(inside, resolve=syscalls.RESOLVE_NO_SYMLINKS))
    except OSError:
        return True
    return False


def _mount_point_of(path: str) -> str:
    """The mount point that `path` lies on."""
    device = os.stat(path).st_dev
    while path != "/":
        parent = os.path.dirname(path)
        if os.stat(parent).st_dev != device:
            return path
        path = parent
    return path


def set_sysctls(sysctls: dict[str, str]) -> None:
    """Write the spec's sysctls through the host's /proc: whose they are goes by the writer's namespaces.

    Raises RuntimeFailure naming the one refused.
    """
    for name, value in sysctls.items():
        path = "/proc/sys/" + name.replace(".", "/") if "/" not in name else "/proc/sys/" + name
        try:
            fd = openat2(syscalls.AT_FDCWD, path, os.O_WRONLY, resolve=syscalls.RESOLVE_NO_SYMLINKS)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise RuntimeFailure(f"open sysctl {name} file: {error.strerror}") from error
