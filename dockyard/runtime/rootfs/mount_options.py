"""The options of one mount of the spec, sorted by what they are for (runtime-spec config.md, "Linux mount options")."""

import os
from collections.abc import Sequence

from dockyard.linux import syscalls
from dockyard.linux.syscalls import (
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_LAZYTIME,
    MS_MANDLOCK,
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
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)

# Option -> (flag, whether the option clears it); mount(8).
FLAGS = {
    "async": (MS_SYNCHRONOUS, True),
    "atime": (MS_NOATIME, True),
    "defaults": (0, False),
    "dev": (MS_NODEV, True),
    "diratime": (MS_NODIRATIME, True),
    "dirsync": (MS_DIRSYNC, False),
    "exec": (MS_NOEXEC, True),
    "iversion": (MS_I_VERSION, False),
    "lazytime": (MS_LAZYTIME, False),
    "loud": (MS_SILENT, True),
    "mand": (MS_MANDLOCK, False),
    "noatime": (MS_NOATIME, False),
    "nodev": (MS_NODEV, False),
    "nodiratime": (MS_NODIRATIME, False),
    "noexec": (MS_NOEXEC, False),
    "noiversion": (MS_I_VERSION, True),
    "nolazytime": (MS_LAZYTIME, True),
    "nomand": (MS_MANDLOCK, True),
    "norelatime": (MS_RELATIME, True),
    "nostrictatime": (MS_STRICTATIME, True),
    "nosuid": (MS_NOSUID, False),
    "nosymfollow": (MS_NOSYMFOLLOW, False),
    "relatime": (MS_RELATIME, False),
    "remount": (MS_REMOUNT, False),
    "ro": (MS_RDONLY, False),
    "rw": (MS_RDONLY, True),
    "silent": (MS_SILENT, False),
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
# Options with an r in front hold for all mounts below too: mount_setattr(2)'s attributes, (set, cleared). Those of
# access times are one number rather than flags: to change it all of it must be cleared.
_TIMES = syscalls.MOUNT_ATTR_ATIME
RECURSIVE = {
    "rro": (syscalls.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, syscalls.MOUNT_ATTR_RDONLY),
    "rnosuid": (syscalls.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, syscalls.MOUNT_ATTR_NOSUID),
    "rnodev": (syscalls.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, syscalls.MOUNT_ATTR_NODEV),
    "rnoexec": (syscalls.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, syscalls.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (syscalls.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, syscalls.MOUNT_ATTR_NODIRATIME),
    "rrelatime": (0, _TIMES),
    "rnorelatime": (0, _TIMES),
    "rnoatime": (syscalls.MOUNT_ATTR_NOATIME, _TIMES),
    "ratime": (0, _TIMES),
    "rstrictatime": (syscalls.MOUNT_ATTR_STRICTATIME, _TIMES),
    "rnostrictatime": (0, _TIMES),
    "rnosymfollow": (syscalls.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
}
OTHERS = ("bind", "rbind", "idmap", "ridmap", "tmpcopyup")
_ATTRIBUTES = (
    (MS_RDONLY, syscalls.MOUNT_ATTR_RDONLY),
    (MS_NOSUID, syscalls.MOUNT_ATTR_NOSUID),
    (MS_NODEV, syscalls.MOUNT_ATTR_NODEV),
    (MS_NOEXEC, syscalls.MOUNT_ATTR_NOEXEC),
    (MS_NODIRATIME, syscalls.MOUNT_ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
)
# statvfs(3)'s flags of those that the kernel locks
_STATVFS = (
    (os.ST_RDONLY, syscalls.MOUNT_ATTR_RDONLY),
    (os.ST_NOSUID, syscalls.MOUNT_ATTR_NOSUID),
    (os.ST_NODEV, syscalls.MOUNT_ATTR_NODEV),
    (os.ST_NOEXEC, syscalls.MOUNT_ATTR_NOEXEC),
)
# What a mount of its own has besides, per file system and not per mount: fsconfig's flags.
SUPERBLOCK_FLAGS = (
    (MS_SYNCHRONOUS, "sync"),
    (MS_DIRSYNC, "dirsync"),
    (MS_LAZYTIME, "lazytime"),
    (MS_MANDLOCK, "mand"),
    (MS_I_VERSION, "iversion"),
)


class Options:
    """A mount's options, sorted."""

    __slots__ = (
        "bind",
        "cleared",
        "copy_up",
        "data",
        "flags",
        "idmap",
        "idmap_recursive",
        "propagation",
        "recursive",
        "recursive_clear",
        "recursive_set",
    )

    def __init__(self) -> None:
        self.bind = self.recursive = self.idmap = self.idmap_recursive = self.copy_up = False
        self.flags = self.cleared = self.recursive_set = self.recursive_clear = 0
        self.propagation: list[int] = []
        self.data = ""

    def attributes(self) -> tuple[int, int]:
        """The flags as mount_setattr's (set, clear)."""
        set_ = clear = 0
        for flag, attribute in _ATTRIBUTES:
            if self.flags & flag:
                set_ |= attribute
            elif self.cleared & flag:
                clear |= attribute
        if self.flags & MS_STRICTATIME:
            set_, clear = set_ | syscalls.MOUNT_ATTR_STRICTATIME, clear | _TIMES
        elif self.flags & MS_NOATIME:
            set_, clear = set_ | syscalls.MOUNT_ATTR_NOATIME, clear | _TIMES
        elif self.flags & MS_RELATIME or self.cleared & (MS_NOATIME | MS_STRICTATIME):
            clear |= _TIMES  # relatime is the number 0
        return set_, clear

    def bind_attributes(self) -> tuple[int, int, int]:
        """The flags of a bind mount as mount_setattr's (set, cleared, cleared because it was asked for by name).

        As mount(2) has it and so other runtimes: without any flag the source's stay; with one, those not named are off.
        Of the times of access all stay unless one of them is set.
        """
        times = self.flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME)
        if not self.flags and not self.cleared:
            return 0, 0, 0
        set_ = clear = asked = 0
        for flag, attribute in _ATTRIBUTES:
            if flag == MS_NODIRATIME and not times:
                continue
            if self.flags & flag:
                set_ |= attribute
            else:
                clear |= attribute
                asked |= attribute if self.cleared & flag else 0
        if times:
            clear |= _TIMES  # relatime is the number 0
            if self.flags & MS_STRICTATIME:
                set_ |= syscalls.MOUNT_ATTR_STRICTATIME
            elif self.flags & MS_NOATIME:
                set_ |= syscalls.MOUNT_ATTR_NOATIME
        return set_, clear, asked

    def needs_descriptor(self) -> bool:
        """Whether more than mount(2) is to be done: then the mount must be held, not looked for where it was put."""
        return bool(self.propagation or self.recursive_set or self.recursive_clear or self.copy_up)


def locked_attributes(options: Options, fd: int) -> tuple[int, int]:
    """`options.bind_attributes` for a container with a user namespace, whose mount `fd` the runtime has cloned for it.

    The flags that a user namespace inherits are locked for it. It is not to lose them by our having more rights than
    it has: they stay, and it is an error to want them off or other times of access. Raises PermissionError.
    """
    set_, clear, asked = options.bind_attributes()
    have = os.fstatvfs(fd).f_flag
    present = 0
    for flag, attribute in _STATVFS:
        if have & flag:
            present |= attribute
    times = options.flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME)
    if asked & present or (times and _times(options.flags) != _times_of(have)):
        raise PermissionError(1, "Operation not permitted")
    return set_, clear & ~(present | _TIMES | syscalls.MOUNT_ATTR_NODIRATIME)


def _times(flags: int) -> tuple[str, bool]:
    kind = "no" if flags & MS_NOATIME else "strict" if flags & MS_STRICTATIME else "relative"
    return kind, bool(flags & MS_NODIRATIME)


def _times_of(statvfs_flags: int) -> tuple[str, bool]:
    relative = statvfs_flags & os.ST_RELATIME
    kind = "no" if statvfs_flags & os.ST_NOATIME else "relative" if relative else "strict"
    return kind, bool(statvfs_flags & os.ST_NODIRATIME)


def parse(given: Sequence[str]) -> Options:
    """Sort the options of one mount; what is no option of mount(8) is the file system's own data."""
    options = Options()
    data: list[str] = []
    for option in given:
        if option in FLAGS:
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
        elif option in OTHERS:
            _apply_other(options, option)
        else:
            data.append(option)
    options.data = ",".join(data)
    return options


def _apply_other(options: Options, option: str) -> None:
    if option in ("bind", "rbind"):
        options.bind = True
        options.recursive = options.recursive or option == "rbind"
    elif option == "tmpcopyup":
        options.copy_up = True
    else:
        options.idmap = True
        options.idmap_recursive = option == "ridmap"
