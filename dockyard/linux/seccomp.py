"""Compiling a seccomp profile to BPF with libseccomp, once, and keeping the result as bytes.

Compiling takes milliseconds and a library; loading the bytes (syscalls.seccomp_load) takes one system call and happens
in the container's own process.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Sequence
from typing import Protocol

# include/seccomp.h.in of libseccomp
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
FILTER_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE: 2 makes a binary tree, so that late rules cost no more than early ones
FILTER_NO_NEW_PRIVS = 3  # SCMP_FLTATR_CTL_NNP


class Condition(Protocol):
    """A condition on one argument of a system call, as the OCI runtime spec's `args`."""

    @property
    def index(self) -> int: ...
    @property
    def value(self) -> int: ...
    @property
    def value_two(self) -> int: ...
    @property
    def op(self) -> str: ...


class Rule(Protocol):
    """What to do with system calls of these names, as the OCI runtime spec's `syscalls`."""

    @property
    def names(self) -> list[str]: ...
    @property
    def action(self) -> str: ...
    @property
    def errno_ret(self) -> int | None: ...
    @property
    def args(self) -> Sequence[Condition]: ...


class Profile(Protocol):
    """A filter, as the OCI runtime spec's `linux.seccomp`."""

    @property
    def default_action(self) -> str: ...
    @property
    def default_errno_ret(self) -> int | None: ...
    @property
    def architectures(self) -> list[str]: ...
    @property
    def syscalls(self) -> Sequence[Rule]: ...


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def compile_profile(profile: Profile) -> bytes:
    """The filter of `profile` as an array of struct sock_filter.

    Raises ValueError for an unknown action or operator, OSError when libseccomp refuses. Unknown system calls are left
    out, since a profile names calls of many kernels.
    """
    library = _library()
    context = library.seccomp_init(_action(profile.default_action, profile.default_errno_ret))
    if not context:
        raise OSError(errno.EINVAL, "seccomp_init failed")
    try:
        for architecture in profile.architectures:
            token = library.seccomp_arch_resolve_name(architecture.removeprefix("SCMP_ARCH_").lower().encode())
            if token:
                _check(library.seccomp_arch_add(context, token), architecture, allowed=(-errno.EEXIST,))
        library.seccomp_attr_set(context, FILTER_OPTIMIZE, 2)
        for rule in profile.syscalls:
            action = _action(rule.action, rule.errno_ret)
            if action == _action(profile.default_action, profile.default_errno_ret):
                continue  # libseccomp refuses rules that say the default once more
            _add(library, context, rule.names, action, rule.args)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: int, names: list[str], action: int, conditions: Sequence[Condition]) -> None:
    comparisons = [
        _Comparison(
            condition.index,
            _operator(condition.op),
            # the spec's `value` of MASKED_EQ is the mask, `valueTwo` the datum, as libseccomp has them
            condition.value,
            condition.value_two,
        )
        for condition in conditions
    ]
    # Several conditions on one argument can't be one rule in libseccomp; they are then alternatives (as in runc).
    indexes = [condition.index for condition in conditions]
    groups = [[one] for one in comparisons] if len(set(indexes)) < len(indexes) else [comparisons]
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            continue
        for group in groups:
            array = (_Comparison * len(group))(*group)
            result = library.seccomp_rule_add_array(context, action, number, len(group), array)
            # EDOM, EFAULT, EEXIST: the call is not there on one of the architectures, or the rule is there already
            _check(result, name, allowed=(-errno.EDOM, -errno.EFAULT, -errno.EEXIST))


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, fd), "export")
        size = os.lseek(fd, 0, os.SEEK_CUR)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _action(name: str, errno_ret: int | None) -> int:
    if name not in ACTIONS:
        raise ValueError(f"invalid seccomp action: {name}")
    action = ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        action |= (errno.EPERM if errno_ret is None else errno_ret) & 0xFFFF
    return action


def _operator(name: str) -> int:
    if name not in OPERATORS:
        raise ValueError(f"invalid seccomp operator: {name}")
    return OPERATORS[name]


def _check(result: int, what: str, allowed: tuple[int, ...] = ()) -> None:
    if result < 0 and result not in allowed:
        raise OSError(-result, f"libseccomp: {what}: {os.strerror(-result)}")


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise OSError(errno.ENOENT, "libseccomp.so.2 is needed to compile seccomp profiles") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


NATIVE_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def native_architectures() -> list[str]:
    """The architectures whose programs this machine's kernel runs."""
    return NATIVE_ARCHITECTURES.get(platform.machine(), [])
