"""Values as Compose, a Go program, reads and writes them: durations, sizes, numbers, words of a command."""

from __future__ import annotations

import re
import struct

from dockyard.compose.errors import ComposeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?[iI]?[bB]?")


def duration(text: str) -> int:
    """Nanoseconds of "1m30s", "2d", "1.5h". Raises ComposeError."""
    body = text.lstrip("+-") if text[:1] in "+-" else text
    if body == "0":
        return 0
    total = 0
    position = 0
    for match in _PART.finditer(body):
        if match.start() != position:
            break
        position = match.end()
        whole, _, fraction = match[1].partition(".")
        unit = _UNITS[match[2]]
        total += int(whole or 0) * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
    if not body or position != len(body):
        kind = "missing unit in duration" if re.fullmatch(r"[0-9.]+", body) else "invalid duration"
        raise ComposeError(f"time: {kind} {json_text(text)}")
    return -total if text.startswith("-") else total


def duration_text(nanoseconds: int) -> str:
    """ "1m30s", as Go writes a duration."""
    if nanoseconds == 0:
        return "0s"
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, name in ((1_000, "ns"), (1_000_000, "µs"), (1_000_000_000, "ms")):
        if value < unit:
            return sign + _fraction(value, unit // 1000) + name
    hours, rest = divmod(value, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    text = _fraction(rest, _UNITS["s"]) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _fraction(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(unit)) - 1, '0').rstrip('0')}"


def size(text: str) -> int:
    """Bytes of "512m", "1.5gb". Raises ComposeError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ComposeError(f"invalid size: '{text}'")
    scale = 1024 ** (" kmgtp".index(match[2].lower()) if match[2] else 0)
    return int(float(match[1]) * scale)


def sprint(value: Any) -> str:
    """A value as Go's fmt.Sprint shows it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value, large=21)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{sprint(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(sprint(item) for item in value) + "]"
    return str(value)


def single(value: float) -> float:
    """The nearest number of 32 bits."""
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


def float_text(value: float, *, bits: int = 64, large: int = 21) -> str:
    """The shortest text that reads back as `value`; with an exponent below 1e-4 and from 1e`large` on."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    text = _shortest_single(value) if bits == 32 else repr(value)
    mantissa, _, exponent = text.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    point = len(mantissa.lstrip("-").partition(".")[0]) + int(exponent or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    stripped = stripped.rstrip("0")
    if not stripped:
        return sign + "0"
    if point - 1 < -4 or point - 1 >= large:
        power = point - 1
        tail = f".{stripped[1:]}" if len(stripped) > 1 else ""
        return f"{sign}{stripped[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{stripped}"
    if point >= len(stripped):
        return sign + stripped + "0" * (point - len(stripped))
    return f"{sign}{stripped[:point]}.{stripped[point:]}"


def _shortest_single(value: float) -> str:
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if single(float(text)) == single(value):
            return text
    return repr(value)


def words(text: str) -> list[str]:
    """A command as a list: quotes and backslashes as in a shell, nothing expanded; `;&|<>` end it.

    Raises ComposeError. The rules are those of mattn/go-shellwords.
    """
    found: list[str] = []
    current = ""
    got = escaped = False
    quote = ""  # what we are within: a quote, or ")" for $(…)
    for letter in text:
        if escaped:
            current += {"t": "\t", "n": "\n"}.get(letter, letter)
            escaped, got = False, True
        elif letter == "\\":
            if quote == "'":
                current += letter
            else:
                escaped = True
        elif letter in " \t\r\n" and not quote:
            if got:
                found.append(current)
            current, got = "", False
        elif letter in "\"'" and quote in ("", letter):
            got = got or bool(quote)
            quote = "" if quote else letter
        elif letter in ";&|<>" and not quote:
            if letter == ">" and current[:1].isdigit():
                got = False  # the number of a descriptor
            break
        else:
            if letter == "(" and quote not in ("'", '"', "`"):
                if quote or not current.endswith("$"):
                    raise ComposeError("invalid command line string")
                quote = ")"
            elif letter in "`)" and quote in ("", letter):
                quote = "" if quote else letter
            current += letter
            got = True
    if escaped or quote:
        raise ComposeError("invalid command line string")
    return [*found, current] if got else found


def json_text(value: Any) -> str:
    """JSON as Go's encoding/json writes it."""
    from json import dumps  # 5 ms, which most commands need not spend

    return html_safe(dumps(value, ensure_ascii=False, separators=(",", ":")))


def html_safe(text: str) -> str:
    """JSON in which nothing means anything in HTML, as Go's."""
    for letter, code in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        if letter in text:
            text = text.replace(letter, code)
    return text
