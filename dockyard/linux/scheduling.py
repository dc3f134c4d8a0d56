"""How the kernel schedules a process: CPU policy, IO priority, NUMA memory policy, execution domain.

sched_setattr(2), ioprio_set(2), set_mempolicy(2), personality(2).
"""

import ctypes
import platform
import struct
from collections.abc import Iterable

from dockyard.linux import recorder, syscalls

POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_POLICIES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_POLICY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
PERSONALITIES = {"LINUX": 0x0, "LINUX32": 0x8}

_OF_PROCESS_GROUP = 1  # IOPRIO_WHO_PGRP
_CLASS_SHIFT = 13
# None of these is in the range that is the same on every architecture.
_NUMBERS = {"x86_64": (314, 251, 238), "aarch64": (274, 30, 237)}
_SCHED_SETATTR, _IOPRIO_SET, _SET_MEMPOLICY = _NUMBERS.get(platform.machine(), _NUMBERS["aarch64"])


def set_scheduler(
    policy: int,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
    pid: int = 0,
) -> None:
    """sched_setattr(2) of the thread `pid` (0: the caller); runtime, deadline and period in ns. Raises OSError."""
    recorder.note("sched_setattr", pid, policy, flags, nice, priority, runtime, deadline, period)
    attributes = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    syscalls.call(_SCHED_SETATTR, ctypes.c_int(pid), attributes, ctypes.c_uint(0))


def set_io_priority(kind: int, level: int) -> None:
    """ioprio_set(2) for the caller's process group: `kind` of IO_CLASSES, `level` 0 (first) to 7. Raises OSError."""
    recorder.note("ioprio_set", kind, level)
    priority = ctypes.c_int(kind << _CLASS_SHIFT | level)
    syscalls.call(_IOPRIO_SET, ctypes.c_int(_OF_PROCESS_GROUP), ctypes.c_int(0), priority)


def set_memory_policy(mode: int, nodes: Iterable[int]) -> None:
    """set_mempolicy(2): `mode` of MEMORY_POLICIES or'ed with flags. Raises OSError."""
    wanted = sorted(set(nodes))
    recorder.note("set_mempolicy", mode, tuple(wanted))
    if not wanted:
        syscalls.call(_SET_MEMPOLICY, ctypes.c_int(mode), None, ctypes.c_ulong(0))
        return
    words = wanted[-1] // 64 + 1
    mask = (ctypes.c_uint64 * words)()
    for node in wanted:
        mask[node // 64] |= 1 << node % 64
    # the kernel takes the last bit's number plus one as one too many
    syscalls.call(_SET_MEMPOLICY, ctypes.c_int(mode), mask, ctypes.c_ulong(words * 64 + 1))


def set_personality(domain: int) -> None:
    """personality(2): `domain` of PERSONALITIES. Raises OSError."""
    syscalls.personality(domain)
