"""Times as clients write them: UNIX seconds, RFC 3339 whole or in part, durations back from now."""

import re
import time
from datetime import datetime

from dockyard.errors import InvalidParameter

SECOND = 1_000_000_000
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6}
_UNITS |= {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?)?)?(Z|z|[+-]\d\d:\d\d)?", re.ASCII
)


def unix_time(text: str, name: str) -> int | None:
    """SECONDS[.FRACTION], or a date, in UNIX ns; None when empty. Raises InvalidParameter, naming the parameter."""
    if not text:
        return None
    found = _seconds(text)
    if found is None:
        found = _date(text)
    if found is None:
        raise InvalidParameter(f'invalid value for "{name}": invalid timestamp "{text}"')
    return found


def moment(text: str) -> int:
    """A duration back from now (10m, 1h30m), a date or UNIX seconds, in UNIX ns. Raises InvalidParameter."""
    if not text.strip():
        raise InvalidParameter("failed to parse value as time or duration: value is empty")
    ago = duration(text)
    if ago is not None and text != "0":
        return time.time_ns() - ago
    for read in (_date, _seconds):
        found = read(text)
        if found is not None:
            return found
    raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')


def duration(text: str) -> int | None:
    """Go's durations ("1h30m", "-1.5s", "0") in ns; None when it is none."""
    sign, text = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if text == "0":
        return 0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sign * sum(int(float(number) * _UNITS[unit]) for number, unit in parts)


def _seconds(text: str) -> int | None:
    whole, dot, fraction = text.partition(".")
    if not whole.removeprefix("-").isdecimal() or (dot and fraction and not fraction.isdecimal()):
        return None
    nanoseconds = int((fraction + "0" * 9)[:9])
    return int(whole) * SECOND + (-nanoseconds if whole.startswith("-") else nanoseconds)


def _date(text: str) -> int | None:
    """2006-01-02[T15[:04[:05[.999999999]]]][Z07:00]; without a zone in the host's own."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    day, hour, minute, second, fraction, zone = found.groups()
    try:
        whole = datetime.fromisoformat(
            f"{day}T{hour or '00'}:{minute or '00'}:{second or '00'}{(zone or '').upper().replace('Z', '+00:00')}"
        )
    except ValueError:
        return None
    return int(whole.timestamp()) * SECOND + int(((fraction or "") + "0" * 9)[:9])
