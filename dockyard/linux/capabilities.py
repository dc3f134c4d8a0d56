"""Capabilities by name, and setting a thread's five sets (capabilities(7))."""

from dataclasses import dataclass
from functools import cache

from dockyard.linux.syscalls import PR_CAP_AMBIENT, PR_CAPBSET_DROP, PR_CAPBSET_READ, capget, capset, prctl

# include/uapi/linux/capability.h, in the order of their numbers
NAMES = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4


def bits(names: list[str] | tuple[str, ...]) -> int:
    """Capability names as a bit set. A name this table lacks is left out, as runc does with a warning."""
    found = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            found |= 1 << number
    return found


@cache
def last_known_to_kernel() -> int:
    """The highest capability number of the running kernel."""
    with open("/proc/sys/kernel/cap_last_cap") as text:
        return int(text.read())


def held() -> list[str]:
    """What this process may use right now: its bounding set, by name."""
    return [name for number, name in enumerate(NAMES) if _in_bounding_set(number)]


def _in_bounding_set(number: int) -> bool:
    try:
        return prctl(PR_CAPBSET_READ, number) == 1
    except OSError:
        return False


def permitted_now() -> int:
    """This thread's permitted set: it can give nothing else."""
    return capget()[1]


@dataclass(frozen=True, slots=True)
class Sets:
    """The five sets as bit sets."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0


def drop_bounding(keep: int, last: int) -> None:
    """Drop from the bounding set all that `keep` lacks, up to number `last`; must precede the change of user."""
    for number in range(last + 1):
        if not keep >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def apply(sets: Sets) -> None:
    """Set effective, permitted, inheritable and ambient; the last step before no_new_privs, seccomp and execve."""
    capset(sets.effective, sets.permitted, sets.inheritable)
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    ambient = sets.ambient & sets.permitted & sets.inheritable
    number = 0
    while ambient >> number:
        if ambient >> number & 1:
            prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, number)
        number += 1
