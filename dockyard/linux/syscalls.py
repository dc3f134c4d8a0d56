"""System calls that the standard library lacks, by ctypes: each raises OSError with the kernel's errno.

Numbers of calls added since Linux 5.1 are the same on every architecture; the few older ones are listed per machine.
"""

import ctypes
import os
import platform
import sys

from dockyard.linux import recorder

_libc = ctypes.CDLL(None, use_errno=True)

# unshare(2), setns(2), clone(2)
CLONE_FS = 0x200
CLONE_NEWTIME = 0x80
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# mount(2), umount2(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25
MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# open_tree(2), move_mount(2), mount_setattr(2), fsopen(2)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
STATX_ATTR_MOUNT_ROOT = 0x2000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# openat2(2)
RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_MM = 35
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

# seccomp(2)
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32

CLOSE_RANGE_CLOEXEC = 4
FALLOC_FL_KEEP_SIZE = 1

SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 428, 429, 430, 431, 432
SYS_PIDFD_OPEN, SYS_CLOSE_RANGE, SYS_OPENAT2, SYS_MOUNT_SETATTR = 434, 436, 437, 442
SYS_PIDFD_SEND_SIGNAL, SYS_PIDFD_GETFD = 424, 438

_OLDER = {
    "x86_64": {
        "pivot_root": 155, "seccomp": 317, "bpf": 321, "keyctl": 250,
        "capget": 125, "capset": 126, "clone": 56, "action": 13,
    },
    "aarch64": {
        "pivot_root": 41, "seccomp": 277, "bpf": 280, "keyctl": 219,
        "capget": 90, "capset": 91, "clone": 220, "action": 134,
    },
}  # fmt: skip
MACHINE = platform.machine()
_older = _OLDER.get(MACHINE, _OLDER["aarch64"])  # aarch64's are the generic numbers
SYS_PIVOT_ROOT, SYS_SECCOMP, SYS_BPF = _older["pivot_root"], _older["seccomp"], _older["bpf"]
SYS_KEYCTL, SYS_CAPSET, SYS_CLONE = _older["keyctl"], _older["capset"], _older["clone"]
SYS_RT_SIGACTION, SYS_CAPGET = _older["action"], _older["capget"]

# What a process of ours still calls when its program's filter may be loaded already.
_CALLS = {
    "x86_64": {
        "sendmsg": 46, "recvmsg": 47, "exit_group": 231, "setsid": 112, "ioctl": 16, "prlimit64": 302,
        "gettid": 186, "getpid": 39, "mmap": 9, "munmap": 11, "brk": 12, "futex": 202, "close": 3,
    },
    "aarch64": {
        "sendmsg": 211, "recvmsg": 212, "exit_group": 94, "setsid": 157, "ioctl": 29, "prlimit64": 261,
        "gettid": 178, "getpid": 172, "mmap": 222, "munmap": 215, "brk": 214, "futex": 98, "close": 57,
    },
}  # fmt: skip
NUMBERS = {**_CALLS.get(MACHINE, _CALLS["aarch64"]), "clone": SYS_CLONE, "close_range": SYS_CLOSE_RANGE}

_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_prctl_of_text = ctypes.CDLL(None).prctl
_libc.personality.argtypes = (ctypes.c_ulong,)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _failure(path: str | None = None) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), path) if path is not None else OSError(code, os.strerror(code))


def call(number: int, *arguments: object) -> int:
    """The system call of that number; arguments as ctypes wants them, a plain number being a C int. Raises OSError."""
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise _failure()
    return result


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Raises OSError, whose file name is `target`."""
    recorder.note("mount", source, target, kind, flags, data)
    encode = os.fsencode
    if _libc.mount(
        None if source is None else encode(source),
        encode(target),
        None if kind is None else encode(kind),
        flags,
        None if data is None else encode(data),
    ):
        raise _failure(target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    recorder.note("umount", target, flags)
    if _libc.umount2(os.fsencode(target), flags):
        raise _failure(target)


def statx_attributes(path: str) -> int:
    """The stx_attributes of statx(2), as far as the file system and the kernel have them; links are not followed."""
    found = ctypes.create_string_buffer(256)  # struct statx, whose second member but one they are
    if _libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, 0, found):
        raise _failure(path)
    return int.from_bytes(found.raw[8:16], sys.byteorder)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    recorder.note("pivot_root", new_root, put_old)
    call(SYS_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old))


def unshare(flags: int) -> None:
    """unshare(2)."""
    recorder.note("unshare", flags)
    if _libc.unshare(flags):
        raise _failure()


def setns(fd: int, kind: int = 0) -> None:
    """setns(2): enter the namespace `fd`, or with a pidfd all of the `kind`s of that process."""
    recorder.note("setns", fd, kind)
    if _libc.setns(fd, kind):
        raise _failure()


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    """prctl(2)."""
    recorder.note("prctl", option, second, third, fourth, fifth)
    result = int(_libc.prctl(option, second, third, fourth, fifth))
    if result < 0:
        raise _failure()
    return result


def set_process_name(name: str) -> None:
    """The name that `ps -o comm` and `top` show; 15 bytes at most."""
    recorder.note("prctl", PR_SET_NAME, name)
    _prctl_of_text(PR_SET_NAME, name.encode(), 0, 0, 0)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    recorder.note("sethostname", name)
    data = name.encode()
    if _libc.sethostname(data, len(data)):
        raise _failure()


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    recorder.note("setdomainname", name)
    data = name.encode()
    if _libc.setdomainname(data, len(data)):
        raise _failure()


def personality(domain: int) -> None:
    """personality(2)."""
    recorder.note("personality", domain)
    if _libc.personality(domain) < 0:
        raise _failure()


def pidfd_send_signal(pidfd: int, signo: int) -> None:
    """Signal the process behind `pidfd`, never another that has got its PID."""
    recorder.note("kill", pidfd, signo)
    call(SYS_PIDFD_SEND_SIGNAL, ctypes.c_int(pidfd), ctypes.c_int(signo), None, ctypes.c_uint(0))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): our own copy, close-on-exec, of the descriptor `fd` of the process behind `pidfd`."""
    return call(SYS_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0))


def file_system_type(fd: int) -> int:
    """The magic number of the file system that `fd` is on (fstatfs(2)). Raises OSError."""
    result = (ctypes.c_long * 16)()  # struct statfs begins with f_type, a long
    if _libc.fstatfs(ctypes.c_int(fd), result):
        raise _failure()
    return int(result[0])


_DEFAULT_ACTION = bytes(32)  # struct sigaction: SIG_DFL, no flags, nothing blocked


def default_signal_action(signo: int) -> None:
    """The signal to its default action; Python's own table, which takes long to write to, learns nothing of it."""
    _libc.syscall(SYS_RT_SIGACTION, signo, _DEFAULT_ACTION, None, 8)  # 8: the size of a mask


def default_signal_actions() -> None:
    """Every signal to its default action, also the two that glibc keeps to itself and lets nobody set."""
    for signo in range(1, 65):
        if signo not in (9, 19):  # SIGKILL and SIGSTOP have no other
            default_signal_action(signo)


def close_range(first: int, last: int = 0x7FFFFFFF, flags: int = 0) -> None:
    """close_range(2): close, or with CLOSE_RANGE_CLOEXEC mark, every descriptor from `first` to `last`."""
    call(SYS_CLOSE_RANGE, first, last, flags)


def close_all_but(*kept: int) -> None:
    """Close every other descriptor."""
    low = 0
    for fd in sorted(set(kept)):
        if fd > low:
            close_range(low, fd - 1)
        low = fd + 1
    close_range(low)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): open `path` below `directory` with RESOLVE_* restrictions; close-on-exec. Returns the descriptor."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    try:
        return call(
            SYS_OPENAT2,
            ctypes.c_int(directory),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
    except OSError as error:
        error.filename = path
        raise


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount at `path`. Returns its descriptor."""
    recorder.note("open_tree", directory, path, flags)
    return call(SYS_OPEN_TREE, ctypes.c_int(directory), os.fsencode(path), ctypes.c_uint(flags))


def move_mount(from_fd: int, to_directory: int, to_path: str, flags: int = MOVE_MOUNT_F_EMPTY_PATH) -> None:
    """move_mount(2): attach the detached mount `from_fd` at `to_path`."""
    recorder.note("move_mount", from_fd, to_directory, to_path, flags)
    call(
        SYS_MOVE_MOUNT,
        ctypes.c_int(from_fd),
        b"",
        ctypes.c_int(to_directory),
        os.fsencode(to_path),
        ctypes.c_uint(flags),
    )


def fsopen(kind: str) -> int:
    """fsopen(2)."""
    recorder.note("fsopen", kind)
    return call(SYS_FSOPEN, kind.encode(), ctypes.c_uint(FSOPEN_CLOEXEC))


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, auxiliary: int = 0) -> None:
    """fsconfig(2)."""
    recorder.note("fsconfig", fd, command, key, value)
    call(
        SYS_FSCONFIG,
        ctypes.c_int(fd),
        ctypes.c_uint(command),
        None if key is None else key.encode(),
        None if value is None else os.fsencode(value),
        ctypes.c_int(auxiliary),
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): the configured file system as a detached mount. Returns its descriptor."""
    recorder.note("fsmount", fd, attributes)
    return call(SYS_FSMOUNT, ctypes.c_int(fd), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(
    directory: int, path: str, flags: int, *, set_: int = 0, clear: int = 0, propagation: int = 0, userns: int = 0
) -> None:
    """mount_setattr(2): change a mount's MOUNT_ATTR_* and propagation; with AT_RECURSIVE of all below it too."""
    recorder.note("mount_setattr", directory, path, flags, set_, clear, propagation, userns)
    attributes = _MountAttr(set_, clear, propagation, userns)
    call(
        SYS_MOUNT_SETATTR,
        ctypes.c_int(directory),
        os.fsencode(path),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2): with FALLOC_FL_KEEP_SIZE, give a file room that it does not show yet."""
    recorder.note("fallocate", fd, mode, offset, length)
    if _libc.fallocate(fd, mode, offset, length) != 0:
        raise _failure()


def seccomp_load(program: bytes, flags: int = 0) -> int:
    """seccomp(2): load a filter, given as an array of struct sock_filter (8 bytes each).

    Returns the listener's descriptor when `flags` holds SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    recorder.note("seccomp", len(program) // 8, flags)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    loaded = Program(len(program) // 8, program)
    return call(SYS_SECCOMP, ctypes.c_uint(SECCOMP_SET_MODE_FILTER), ctypes.c_uint(flags), ctypes.byref(loaded))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3, of this thread; each argument is a bit set of CAP_* numbers."""
    recorder.note("capset", effective, permitted, inheritable)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    call(SYS_CAPSET, ctypes.byref(header), ctypes.byref(data))


def capget() -> tuple[int, int, int]:
    """capget(2), version 3, of this thread: effective, permitted and inheritable as bit sets."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    call(SYS_CAPGET, ctypes.byref(header), ctypes.byref(data))
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def keyctl_join_session_keyring(name: str | None) -> int:
    """keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: a session keyring of one's own; returns its serial number."""
    recorder.note("keyctl", "join_session_keyring", name)
    return call(SYS_KEYCTL, ctypes.c_int(1), None if name is None else name.encode())


def keyctl_set_permissions(key: int, permissions: int) -> None:
    """keyctl(2) KEYCTL_SETPERM."""
    recorder.note("keyctl", "setperm", key, permissions)
    call(SYS_KEYCTL, ctypes.c_int(5), ctypes.c_int(key), ctypes.c_uint(permissions))


def bpf(command: int, attributes: bytes | bytearray) -> int:
    """bpf(2): `attributes` is the union bpf_attr of `command`; in a bytearray the kernel's answers are found after."""
    size = len(attributes)
    mutable = isinstance(attributes, bytearray)
    buffer = (ctypes.c_char * size).from_buffer(attributes if mutable else bytearray(attributes))
    return call(SYS_BPF, ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes)))
