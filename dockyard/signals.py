"""Signals by the names that people give them."""

import re
import signal

from dockyard.errors import InvalidParameter

# moby/sys/signal, signal_linux.go: of the realtime signals as many as POSIX promises from either end
NAMES = {
    **{name.removeprefix("SIG"): int(member) for name, member in signal.Signals.__members__.items()},
    "CLD": signal.SIGCHLD,
    "IOT": signal.SIGABRT,
    "POLL": signal.SIGIO,
    "STKFLT": 16,
    "RTMIN": 34,
    "RTMAX": 64,
    **{f"RTMIN+{number}": 34 + number for number in range(1, 16)},
    **{f"RTMAX-{number}": 64 - number for number in range(1, 15)},
}
NUMBERS = frozenset(NAMES.values())
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)


def parse_signal(text: str) -> int:
    """TERM, SIGTERM, 15, RTMIN+3: a number, also of none that there is. Raises InvalidParameter."""
    found = int(text) if _NUMBER.fullmatch(text) else NAMES.get(text.upper().removeprefix("SIG"), 0)
    if not found:
        raise InvalidParameter(f"invalid signal: {text}")
    return int(found)


def signal_to_send(text: str) -> int:
    """As `parse_signal`, one that the kernel has. Raises InvalidParameter."""
    found = parse_signal(text)
    if found not in NUMBERS:
        raise InvalidParameter(f"the linux daemon does not support signal {found}")
    return found
