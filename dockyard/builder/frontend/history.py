"""Lines of an image's history as BuildKit writes them, where that is Go's way to print a value."""

from __future__ import annotations

from dockyard.dockerfile.substitution import go_quoted
from dockyard.oci.image_config import Healthcheck
from dockyard.timestamps import duration_text

_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 39: "'", 92: "\\"}


def quoted_check(check: Healthcheck) -> str:
    """A health check as Go's %q prints it: the number of retries as the character that it is the number of."""
    words = " ".join(go_quoted(word) for word in check.test)
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    return f"&{{[{words}] {' '.join(go_quoted(duration_text(time)) for time in times)} {_character(check.retries)}}}"


def _character(number: int) -> str:
    if number in _ESCAPES:
        return f"'\\{_ESCAPES[number]}'"
    if number < 32 or number == 127:
        return f"'\\x{number:02x}'"
    return f"'{chr(number) if number <= 0x10FFFF else chr(0xFFFD)}'"
