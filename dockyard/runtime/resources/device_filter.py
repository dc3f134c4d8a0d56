"""Which devices a cgroup may use, on cgroup version 2: a small eBPF program attached to the group.

The program is called for every mknod and open of a device with struct bpf_cgroup_dev_ctx (access_type: low half the
kind, high half the access; major; minor) and returns 1 to allow. Rules are tried from the last to the first, since in
the spec later ones win; each settles the accesses it names, and all that are asked for must be allowed. Kernel:
admin-guide/cgroup-v2, "Device controller"; bpf(2).
"""

import ctypes
import os
import struct

from dockyard.linux.syscalls import bpf
from dockyard.oci.runtime_spec import DeviceRule

BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_PROG_GET_FD_BY_ID, BPF_PROG_QUERY = 5, 8, 9, 13, 16
PROG_TYPE_CGROUP_DEVICE, ATTACH_CGROUP_DEVICE = 15, 6
ALLOW_MULTI, REPLACE = 2, 4
KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}
ALL = 7
MOST_PROGRAMS = 64  # the kernel's limit for one cgroup

# Conditional jumps of eBPF with an immediate operand.
_JEQ, _JNE = 0x15, 0x55


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | destination, offset, immediate)


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(0xB4, 0, 0, 0, int(allow)), _instruction(0x95)]  # w0 = allow; exit


def program(rules: list[DeviceRule]) -> bytes:
    """The instructions for `rules`; what no rule names is refused."""
    code = [
        _instruction(0x61, 2, 1, 0),  # r2 = ctx->access_type
        _instruction(0x61, 4, 1, 4),  # r4 = ctx->major
        _instruction(0x61, 5, 1, 8),  # r5 = ctx->minor
        _instruction(0xBC, 3, 2),  # w3 = w2
        _instruction(0x54, 2, 0, 0, 0xFFFF),  # w2 &= 0xffff: the kind
        _instruction(0x74, 3, 0, 0, 16),  # w3 >>= 16: the accesses not yet allowed
    ]
    for rule in reversed(rules):
        if rule.type not in KINDS:
            code += _answer(rule.allow)  # a rule for everything: nothing before it matters
            break
        code += _rule(rule)
    else:
        code += _answer(False)
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    """Instructions that settle what the rule settles, and fall through."""
    code = [_instruction(_JNE, 2, 0, 0, KINDS[rule.type])]  # if r2 != kind: skip
    if rule.major is not None and rule.major >= 0:
        code.append(_instruction(_JNE, 4, 0, 0, rule.major))
    if rule.minor is not None and rule.minor >= 0:
        code.append(_instruction(_JNE, 5, 0, 0, rule.minor))
    access = sum(ACCESS.get(letter, 0) for letter in set(rule.access)) or ALL
    if rule.allow:
        code += [_instruction(0x54, 3, 0, 0, ~access & ALL), _instruction(_JNE, 3, 0, 0, 0)]  # w3 &= ~access
    else:
        # w1 = w3 & access; if none is asked for: skip
        code += [_instruction(0xBC, 1, 3), _instruction(0x54, 1, 0, 0, access), _instruction(_JEQ, 1, 0, 0, 0)]
    code += _answer(rule.allow)
    for number, instruction in enumerate(code):
        if instruction[0] in (_JEQ, _JNE):  # over the rest of this rule
            code[number] = instruction[:2] + struct.pack("<h", len(code) - number - 1) + instruction[4:]
    return code


def attach(directory: str, rules: list[DeviceRule]) -> None:
    """Load the filter and make it the cgroup `directory`'s only one; it goes with the cgroup. Raises OSError."""
    loaded = _load(program(rules))
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            old = _attached(group)
            try:
                # all programs of a group must allow: an older, stricter one would keep its say
                if len(old) == 1:
                    _attach(group, loaded, ALLOW_MULTI | REPLACE, old[0])
                else:
                    _attach(group, loaded, ALLOW_MULTI)
                    for fd in old:
                        bpf(BPF_PROG_DETACH, struct.pack("<IIII", group, fd, ATTACH_CGROUP_DEVICE, 0))
            finally:
                for fd in old:
                    os.close(fd)
        finally:
            os.close(group)
    finally:
        os.close(loaded)


def _load(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache")
    load = struct.pack(
        "<IIQQIIQI", PROG_TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0,
    )  # fmt: skip
    return bpf(BPF_PROG_LOAD, load.ljust(128, b"\0"))


def _attach(group: int, loaded: int, flags: int, replaced: int = 0) -> None:
    bpf(BPF_PROG_ATTACH, struct.pack("<IIIII", group, loaded, ATTACH_CGROUP_DEVICE, flags, replaced))


def _attached(group: int) -> list[int]:
    """Descriptors of the device filters that the group has."""
    ids = (ctypes.c_uint32 * MOST_PROGRAMS)()
    query = bytearray(64)
    struct.pack_into("<IIIIQI", query, 0, group, ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), MOST_PROGRAMS)
    bpf(BPF_PROG_QUERY, query)
    count = struct.unpack_from("<I", query, 24)[0]
    return [bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0)) for number in ids[:count]]
