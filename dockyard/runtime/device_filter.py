"""Which devices a cgroup may use, on cgroup version 2: a small eBPF program attached to the group.

The program is called for every mknod and open of a device with struct bpf_cgroup_dev_ctx (access_type: low half the
kind, high half the access; major; minor) and returns 1 to allow. Rules are tried from the last to the first, since in
the spec later ones win. Kernel: admin-guide/cgroup-v2, "Device controller"; bpf(2).
"""

import ctypes
import os
import struct

from dockyard.linux.syscalls import bpf
from dockyard.oci.runtime_spec import DeviceRule

BPF_PROG_LOAD, BPF_PROG_ATTACH = 5, 8
PROG_TYPE_CGROUP_DEVICE, ATTACH_CGROUP_DEVICE = 15, 6
ALLOW_MULTI = 2
KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | destination, offset, immediate)


def program(rules: list[DeviceRule]) -> bytes:
    """The instructions for `rules`; what no rule names is refused."""
    code = [
        _instruction(0x61, 2, 1, 0),  # r2 = ctx->access_type
        _instruction(0x61, 4, 1, 4),  # r4 = ctx->major
        _instruction(0x61, 5, 1, 8),  # r5 = ctx->minor
        _instruction(0xBC, 3, 2),  # w3 = w2
        _instruction(0x54, 2, 0, 0, 0xFFFF),  # w2 &= 0xffff: the kind
        _instruction(0x74, 3, 0, 0, 16),  # w3 >>= 16: the access
    ]
    for rule in reversed(rules):
        code += _rule(rule)
        if rule.type in ("a", "") and rule.major is None and rule.minor is None:
            break  # nothing before a rule for everything matters
    else:
        code += [_instruction(0xB4, 0, 0, 0, 0), _instruction(0x95)]
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    """Instructions that return the rule's answer when it fits and fall through when it does not."""
    tests: list[list[bytes]] = []
    if rule.type in KINDS:
        tests.append([_instruction(0x55, 2, 0, 0, KINDS[rule.type])])  # if r2 != kind: skip
    access = sum(ACCESS[letter] for letter in set(rule.access or "rwm"))
    if access != 7:
        # some asked access is not in the rule's: skip
        tests.append([_instruction(0xBC, 1, 3), _instruction(0x54, 1, 0, 0, access), _instruction(0x5D, 1, 3)])
    if rule.major is not None and rule.major >= 0:
        tests.append([_instruction(0x55, 4, 0, 0, rule.major)])
    if rule.minor is not None and rule.minor >= 0:
        tests.append([_instruction(0x55, 5, 0, 0, rule.minor)])
    answer = [_instruction(0xB4, 0, 0, 0, int(rule.allow)), _instruction(0x95)]
    flat = [instruction for test in tests for instruction in test]
    length = len(flat) + len(answer)
    done: list[bytes] = []
    for number, instruction in enumerate(flat):
        if instruction[0] in (0x55, 0x5D):  # a conditional jump: over the rest of this rule
            instruction = instruction[:2] + struct.pack("<h", length - number - 1) + instruction[4:]
        done.append(instruction)
    return done + answer


def attach(directory: str, rules: list[DeviceRule]) -> None:
    """Load the filter and attach it to the cgroup `directory`; it goes with the cgroup. Raises OSError."""
    code = program(rules)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache")
    load = struct.pack(
        "<IIQQIIQI", PROG_TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0,
    )  # fmt: skip
    loaded = bpf(BPF_PROG_LOAD, load.ljust(128, b"\0"))
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpf(BPF_PROG_ATTACH, struct.pack("<IIII", group, loaded, ATTACH_CGROUP_DEVICE, ALLOW_MULTI))
        finally:
            os.close(group)
    finally:
        os.close(loaded)
