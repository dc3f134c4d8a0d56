"""Compiling a seccomp profile to BPF with libseccomp, once, and keeping the result as bytes.

Compiling takes milliseconds and a library; loading the bytes (syscalls.seccomp_load) takes one system call and happens
in the container's own process.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from typing import Protocol

from dockyard.linux import newer_calls, syscalls
from dockyard.linux.bpf import ARCHITECTURE, EQUAL, GREATER, HAS_BIT, JUMP, LOAD, NUMBER, RETURN, Instruction

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
# Actions after which a program goes on as if nothing were: a call that they cover needs no ENOSYS.
TOLERANT = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
# seccomp(2); TSYNC is about other threads, and whoever loads a filter here has none.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": syscalls.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}
# include/uapi/linux/audit.h: the architectures as filters see them. x32 is x86_64 with a bit in the call's number.
AUDIT_ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
}
X32_BIT = 1 << 30
RANGES = os.path.join(os.path.dirname(__file__), "filter_ranges.py")  # has a part in what is compiled, see below
FILTER_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE: 2 makes a binary tree, so that late rules cost no more than early ones
MANY = 32  # rules from which on a tree is better; with none libseccomp 2.5 makes a wrong one


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

    Raises ValueError for what the profile says wrongly, OSError when libseccomp refuses. Unknown system calls are left
    out, since a profile names calls of many kernels; those newer than every call that it names fail with ENOSYS.
    """
    from dockyard.linux import filter_ranges  # only to compile: most processes get their filter compiled

    library = _library()
    default = _action(profile.default_action, profile.default_errno_ret)
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise ValueError("SCMP_ACT_NOTIFY cannot be used as default action")
    context = library.seccomp_init(default)
    if not context:
        raise OSError(errno.EINVAL, "seccomp_init failed")
    try:
        for architecture in profile.architectures:
            token = library.seccomp_arch_resolve_name(architecture.removeprefix("SCMP_ARCH_").lower().encode())
            if not token:
                raise ValueError(f"invalid seccomp architecture: {architecture}")
            _check(library.seccomp_arch_add(context, token), architecture, allowed=(-errno.EEXIST,))
        if sum(len(rule.names) for rule in profile.syscalls) > MANY:
            library.seccomp_attr_set(context, FILTER_OPTIMIZE, 2)
        for rule in profile.syscalls:
            action = _action(rule.action, rule.errno_ret)
            if rule.action == "SCMP_ACT_NOTIFY" and "write" in rule.names:
                # the listener's number could never be written to whoever passes it on
                raise ValueError("SCMP_ACT_NOTIFY cannot be used for the write syscall")
            if action == default:
                continue  # libseccomp refuses rules that say the default once more
            _add(library, context, rule.names, action, rule.args)
        return filter_ranges.by_ranges(_prelude(library, profile) + _export(library, context))
    finally:
        library.seccomp_release(context)


def library_path() -> str:
    """The file of the libseccomp that has been loaded. Raises FileNotFoundError when none has."""
    with open("/proc/self/maps") as rows:
        for row in rows:
            if "/libseccomp.so" in row:
                return row.split(maxsplit=5)[5].rstrip("\n")
    raise FileNotFoundError(errno.ENOENT, "libseccomp is not loaded")


def load_flags(names: Sequence[str] | None) -> int:
    """The spec's `flags` as seccomp(2)'s. Raises ValueError for an unknown one.

    None is not the empty list: it leaves speculation as it is, as runc does, which else costs every call some time.
    """
    if names is None:
        return syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    flags = 0
    for name in names:
        if name not in FLAGS:
            raise ValueError(f"seccomp flag {name} is not known")
        flags |= FLAGS[name]
    return flags


def notifies(program: bytes) -> bool:
    """Whether a compiled filter has calls decided by a listener."""
    answer = struct.pack("=HBBI", RETURN, 0, 0, ACTIONS["SCMP_ACT_NOTIFY"])
    return any(program[at : at + 8] == answer for at in range(0, len(program), 8))


def _prelude(library: ctypes.CDLL, profile: Profile) -> bytes:
    """Instructions in front of the filter, for calls that libseccomp has no names for.

    Those that the profile names get what it says. A call newer than all that it names does not exist: the profile's
    author can't have meant it, and a C library that gets EPERM for it does not try the older one that it would try
    after ENOSYS (runc does the same since 1.0.0-rc93).
    """
    answers = _answers(library, profile)
    named: dict[int, dict[int, int]] = {}
    newest: dict[int, dict[bool, int]] = {}
    for architecture in {*profile.architectures, *native_architectures()[:1]}:
        audit = AUDIT_ARCHITECTURES.get(architecture)
        token = library.seccomp_arch_resolve_name(architecture.removeprefix("SCMP_ARCH_").lower().encode())
        if audit is None or not token:
            continue
        x32 = architecture == "SCMP_ARCH_X32"
        own = {
            number | (X32_BIT if x32 else 0): action
            for (place, number), action in answers.items()
            if place in (newer_calls.EVERYWHERE, architecture)
        }
        named.setdefault(audit, {}).update(own)
        numbers = [
            library.seccomp_syscall_resolve_name_arch(token, name.encode())
            for rule in profile.syscalls
            for name in rule.names
        ]
        last = max((*numbers, *own), default=0)
        if last > 0:
            newest.setdefault(audit, {})[x32] = last
    code: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE)]
    for audit, known in named.items():
        block = [(LOAD, 0, 0, NUMBER)]
        for number, action in known.items():
            block += [(EQUAL, 0, 1, number), (RETURN, 0, 0, action)]
        if audit in newest and profile.default_action not in TOLERANT:
            never = 0xFFFFFFFF
            block += [
                (HAS_BIT, 1, 0, X32_BIT if audit == AUDIT_ARCHITECTURES["SCMP_ARCH_X32"] else 0),
                (GREATER, 1, 2, newest[audit].get(False, never)),
                (GREATER, 0, 1, newest[audit].get(True, never)),
                (RETURN, 0, 0, ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS),
            ]
        if len(block) > 1:
            code += [(EQUAL, 0, len(block) + 1, audit), *block, (JUMP, 0, 0, -1)]
    # each block that finds nothing wrong goes on with the filter itself
    ends = [
        (kind, yes, no, len(code) - at - 1 if kind == JUMP else operand)
        for at, (kind, yes, no, operand) in enumerate(code)
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in ends)


def _answers(library: ctypes.CDLL, profile: Profile) -> dict[tuple[str, int], int]:
    """{(architecture, number): action} of the calls that the profile names and libseccomp does not know.

    A rule that looks at arguments is left out, as libseccomp leaves out the whole call.
    """
    default = _action(profile.default_action, profile.default_errno_ret)
    answers: dict[tuple[str, int], int] = {}
    for rule in profile.syscalls:
        action = _action(rule.action, rule.errno_ret)
        if rule.args or action == default:
            continue
        for name in rule.names:
            if name in newer_calls.NUMBERS and library.seccomp_syscall_resolve_name(name.encode()) == -1:
                answers.setdefault(newer_calls.NUMBERS[name], action)
    return answers


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
    elif errno_ret is not None and name not in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"):
        raise ValueError(f"seccomp action {name} does not take an errnoRet")
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
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
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
