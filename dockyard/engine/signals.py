"""Signals by the names that people give them."""

import signal

from dockyard.errors import InvalidParameter

SIGNALS = {signal.Signals(number).name.removeprefix("SIG"): number for number in map(int, signal.Signals)}


def parse_signal(text: str) -> int:
    """TERM, SIGTERM, 15, RTMIN+3. Raises InvalidParameter."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 0 < int(name) < 65:
        return int(name)
    if name in SIGNALS:
        return SIGNALS[name]
    for base, number in (("RTMIN", signal.SIGRTMIN), ("RTMAX", signal.SIGRTMAX)):
        if name.startswith(base) and name[len(base) + 1 :].isdigit():
            found = number + int(name[len(base) :])
            if signal.SIGRTMIN <= found <= signal.SIGRTMAX:
                return found
    raise InvalidParameter(f"invalid signal: {text}")
