"""The spec's rlimits (setrlimit(2))."""

import resource
from collections.abc import Sequence

from dockyard.oci.runtime_spec import Rlimit
from dockyard.runtime.errors import RuntimeFailure

# include/uapi/asm-generic/resource.h; the standard library lacks some
NUMBERS = {
    "RLIMIT_" + name: number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
    )
}
INFINITY = (1 << 64) - 1


def check(wanted: Sequence[Rlimit]) -> None:
    """Raise RuntimeFailure for an unknown limit or one given twice."""
    seen: set[str] = set()
    for limit in wanted:
        if limit.type not in NUMBERS:
            raise RuntimeFailure(f"wrong rlimit value: {limit.type}")
        if limit.type in seen:
            raise RuntimeFailure(f"duplicated rlimit: {limit.type}")
        if limit.soft > limit.hard:
            raise RuntimeFailure(f"error setting rlimit type {limit.type}: the soft limit is above the hard one")
        seen.add(limit.type)


def apply(wanted: Sequence[Rlimit], pid: int = 0) -> None:
    """Set them for the caller, or for the process `pid`. Raises RuntimeFailure, or PermissionError.

    The second when a hard limit is to be raised without CAP_SYS_RESOURCE outside of user namespaces.
    """
    for limit in wanted:
        values = (_bound(limit.soft), _bound(limit.hard))
        try:
            resource.prlimit(pid, NUMBERS[limit.type], values)
        except PermissionError as error:
            raise _refused(limit, error) from None
        except (OSError, ValueError) as error:
            raise RuntimeFailure(f"error setting rlimit type {NUMBERS[limit.type]}: {error}") from error


def raise_hard(wanted: Rlimit, pid: int = 0) -> None:
    """As `apply`, but only raise the hard limit, if need be: whoever lowers it later needs no right for that."""
    number = NUMBERS[wanted.type]
    soft, hard = resource.prlimit(pid, number)
    if hard != resource.RLIM_INFINITY and (wanted.hard > hard):
        try:
            resource.prlimit(pid, number, (soft, _bound(wanted.hard)))
        except PermissionError as error:
            raise _refused(wanted, error) from None


def _refused(limit: Rlimit, error: PermissionError) -> PermissionError:
    """The kernel's refusal, in runc's words."""
    words = f"error setting rlimit type {NUMBERS[limit.type]}: operation not permitted"
    return PermissionError(error.errno, words)


def _bound(value: int) -> int:
    return resource.RLIM_INFINITY if value >= INFINITY else value
