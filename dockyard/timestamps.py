"""Times as we write them, and as clients and images do: UNIX seconds, RFC 3339 in part, durations back from now."""

import re
import time
from datetime import UTC, datetime

from dockyard.errors import InvalidParameter

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
SECOND = 1_000_000_000
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6}
_UNITS |= {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?)?)?(Z|z|[+-]\d\d:\d\d)?", re.ASCII
)


def timestamp(time_ns: int | None = None) -> str:
    """UNIX ns (default: now) as RFC 3339 with nanoseconds."""
    time_ns = time.time_ns() if time_ns is None else time_ns
    return f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"


def nanoseconds(text: str) -> int:
    """RFC 3339 back as UNIX ns; 0 for NEVER."""
    if text.startswith("0001"):
        return 0
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int((fraction + "0" * 9)[:9])


def parse_time(text: str | datetime | None) -> int | None:
    """RFC 3339 with up to nine decimals as UNIX ns; None for none and for year one, which means the same."""
    if not text:
        return None
    if isinstance(text, datetime):
        return int(text.timestamp()) * 1_000_000_000 + text.microsecond * 1000
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*(Z|z|[+-]\d\d:\d\d)", text)
    if found is None or text.startswith("0001-"):
        return None
    zone = "+00:00" if found[3] in "Zz" else found[3]
    try:
        seconds = int(datetime.fromisoformat(found[1] + zone).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))


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


def parse_until(text: str) -> int:
    """The moment a filter means, in UNIX ns: a duration back from now (1h30m), a UNIX time, a date.

    Raises InvalidParameter.
    """
    if re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
        back = sum(float(number) * _UNITS[unit] for number, unit in parts)
        return time.time_ns() - int(back)
    if found := re.fullmatch(r"(\d+)(?:\.(\d{1,9}))?", text):
        return int(found[1]) * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))
    exact = parse_time(text)
    if exact is not None:
        return exact
    try:
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    except ValueError:
        raise InvalidParameter(
            f"invalid value for 'until' filter: failed to parse value as time or duration: {text!r}"
        ) from None


def duration(text: str) -> int | None:
    """Go's durations ("1h30m", "-1.5s", "0") in ns; None when it is none."""
    sign, text = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if text == "0":
        return 0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sign * sum(int(float(number) * _UNITS[unit]) for number, unit in parts)


def duration_text(duration_ns: int) -> str:
    """ns as Go's time.Duration prints them: 1h30m0s, 1.5s, 20ms, 0s."""
    sign, left = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    if left < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if left >= size:
                return f"{sign}{_decimal(left, size)}{unit}"
        return "0s"
    minutes, rest = divmod(left, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if unit > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


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
