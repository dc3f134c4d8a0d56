"""The spec's scheduler, ioPriority, execCPUAffinity, memoryPolicy and personality: checking and applying them."""

import contextlib
import errno
import os

from dockyard.linux import scheduling
from dockyard.oci.runtime_spec import CPUAffinity, IOPriority, MemoryPolicy, Personality, Process, Resources, Scheduler
from dockyard.runtime.errors import RuntimeFailure, reason

LARGEST_SET = 1 << 13  # as many CPUs or nodes as any kernel is built for
EVERY_CPU = range(1 << 10)  # the kernel leaves out those that are not


def check_process(process: Process) -> None:
    """Raise RuntimeFailure for what the kernel could not take anyhow, or would take for something else."""
    if process.scheduler is not None:
        _check_scheduler(process.scheduler)
    if process.io_priority is not None:
        _check_io_priority(process.io_priority)
    if process.exec_cpu_affinity is not None:
        for text in (process.exec_cpu_affinity.initial, process.exec_cpu_affinity.final):
            if text:
                number_set(text, "CPU affinity")


def _check_scheduler(wanted: Scheduler) -> None:
    if wanted.policy not in scheduling.POLICIES:
        raise RuntimeFailure(f"invalid scheduler policy: {wanted.policy}")
    if wanted.policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= wanted.nice <= 19:
        raise RuntimeFailure(f"invalid scheduler.nice: {wanted.nice} when scheduler.policy is {wanted.policy}")
    if wanted.priority and wanted.policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise RuntimeFailure("scheduler.priority can only be specified for SchedFIFO or SchedRR policy")
    if wanted.policy != "SCHED_DEADLINE" and (wanted.runtime or wanted.deadline or wanted.period):
        raise RuntimeFailure("scheduler runtime/deadline/period can only be specified for SchedDeadline policy")
    for flag in wanted.flags:
        if flag not in scheduling.FLAGS:
            raise RuntimeFailure(f"invalid scheduler flag: {flag}")


def _check_io_priority(wanted: IOPriority) -> None:
    if wanted.class_ not in scheduling.IO_CLASSES:
        raise RuntimeFailure(f'invalid ioPriority.Class: "{wanted.class_}"')
    if not 0 <= wanted.priority <= 7:
        raise RuntimeFailure(f"invalid ioPriority.Priority: {wanted.priority}")


def check_memory_policy(wanted: MemoryPolicy) -> None:
    """As `check_process`, for the memory policy."""
    if wanted.mode not in scheduling.MEMORY_POLICIES:
        raise RuntimeFailure(f'invalid memory policy mode "{wanted.mode}"')
    for flag in wanted.flags:
        if flag not in scheduling.MEMORY_POLICY_FLAGS:
            raise RuntimeFailure(f'invalid memory policy flag "{flag}"')
    nodes = number_set(wanted.nodes, "memory policy nodes") if wanted.nodes else set()
    if wanted.mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes:
            raise RuntimeFailure(f"memory policy mode requires 0 nodes but got {len(nodes)}")
    elif wanted.mode != "MPOL_PREFERRED" and not nodes:
        raise RuntimeFailure("memory policy mode requires at least one node but got 0")


def check_personality(wanted: Personality) -> None:
    """As `check_process`, for the execution domain."""
    if wanted.domain not in scheduling.PERSONALITIES:
        raise RuntimeFailure(f"invalid personality domain {wanted.domain}")


def number_set(text: str, what: str) -> set[int]:
    """A list like 0-3,7 as numbers. Raises RuntimeFailure."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise RuntimeFailure(f'invalid {what} "{text}"')
        low, high = int(first), int(last if dash else first)
        if low > high or high >= LARGEST_SET:
            raise RuntimeFailure(f'invalid {what} "{text}": values larger than {LARGEST_SET} are not supported')
        numbers.update(range(low, high + 1))
    return numbers


def apply(process: Process, limits: Resources | None) -> None:
    """The process's scheduler and IO priority, for the calling thread. Raises RuntimeFailure.

    `limits` are the container's, which may forbid a scheduler.
    """
    apply_scheduler(process, limits)
    apply_io_priority(process)


def apply_scheduler(process: Process, limits: Resources | None, pid: int = 0) -> None:
    """As `apply`, the scheduler alone, for the thread `pid` (0: the caller)."""
    wanted = process.scheduler
    if wanted is None:
        return
    flags = 0
    for flag in wanted.flags:
        flags |= scheduling.FLAGS[flag]
    try:
        scheduling.set_scheduler(
            scheduling.POLICIES[wanted.policy],
            flags,
            wanted.nice,
            wanted.priority,
            wanted.runtime,
            wanted.deadline,
            wanted.period,
            pid,
        )
    except OSError as error:
        if error.errno == errno.EPERM and limits is not None and limits.cpu is not None and limits.cpu.cpus:
            # sched_setattr(2): a deadline is promised on all of the CPUs or not at all
            raise RuntimeFailure("process scheduler can't be used together with AllowedCPUs") from error
        raise RuntimeFailure(f"error setting scheduler: {reason(error)}") from error


def apply_io_priority(process: Process) -> None:
    """As `apply`, the IO priority alone."""
    if process.io_priority is not None:
        kind = scheduling.IO_CLASSES[process.io_priority.class_]
        try:
            scheduling.set_io_priority(kind, process.io_priority.priority)
        except OSError as error:
            raise RuntimeFailure(f"failed to set io priority: {reason(error)}") from error


def apply_memory_policy(wanted: MemoryPolicy) -> None:
    """Raises RuntimeFailure."""
    mode = scheduling.MEMORY_POLICIES[wanted.mode]
    for flag in wanted.flags:
        mode |= scheduling.MEMORY_POLICY_FLAGS[flag]
    try:
        scheduling.set_memory_policy(mode, number_set(wanted.nodes, "memory policy nodes") if wanted.nodes else ())
    except OSError as error:
        raise RuntimeFailure(f"set_mempolicy: {reason(error)}") from error


def apply_personality(wanted: Personality) -> None:
    """Raises RuntimeFailure."""
    try:
        scheduling.set_personality(scheduling.PERSONALITIES[wanted.domain])
    except OSError as error:
        raise RuntimeFailure(f"personality: {reason(error)}") from error


def set_affinity(wanted: CPUAffinity | None, *, initial: bool) -> None:
    """Where an exec'ed process runs before (`initial`) and after it has joined the cgroup. Raises RuntimeFailure."""
    text = "" if wanted is None else wanted.initial if initial else wanted.final
    if text:
        try:
            os.sched_setaffinity(0, number_set(text, "CPU affinity"))
        except OSError as error:
            raise RuntimeFailure(f"error setting CPU affinity: {reason(error)}") from error
    elif wanted is None and not initial:
        reset_affinity()


def reset_affinity() -> None:
    """Every CPU that the cgroup allows: what the runtime itself was bound to is not for its containers."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, EVERY_CPU)
