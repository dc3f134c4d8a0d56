"""Text of values and values of text: format, formatdate, timeadd, csvdecode, jsondecode."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from dockyard.bake.values import Value, is_number, normal, to_json, to_number, to_string

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+)?(?:\.(?P<precision>\d*))?(?:\[(?P<index>\d+)\])?(?P<verb>.)", re.DOTALL
)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = "January February March April May June July August September October November December".split()


def format_text(pattern: str, values: Sequence[Value]) -> str:
    """Go's Printf with the verbs that HCL has. Raises ValueError."""
    position = 0

    def verb(found: re.Match[str]) -> str:
        nonlocal position
        if found["verb"] == "%":
            return "%"
        if found["index"]:
            position = int(found["index"]) - 1
        if position >= len(values):
            raise ValueError(f"not enough arguments for {found[0]!r}")
        value, position = values[position], position + 1
        return _formatted(found, value)

    text = _VERB.sub(verb, pattern)
    if position < len(values) and "[" not in pattern:
        raise ValueError(f"too many arguments; only {position} used by format string")
    return text


def _formatted(found: re.Match[str], value: Value) -> str:
    kind, flags, width = found["verb"], found["flags"], int(found["width"] or 0)
    precision = int(found["precision"] or 0) if found["precision"] is not None else None
    if width > 1 << 16 or (precision or 0) > 1 << 16:
        raise ValueError("width is too large")
    if kind == "v":
        kind = "s" if isinstance(value, str) and "#" not in flags else "g" if is_number(value) else "j"
        if isinstance(value, bool):
            kind = "t"
    text = _verb(kind, value, precision, flags)
    if kind in "dbxXofeEgG" and "+" in flags and not text.startswith("-"):
        text = f"+{text}"
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and kind not in "sqjt":
        return text.zfill(width)
    return text.rjust(width)


def _verb(kind: str, value: Value, precision: int | None, flags: str) -> str:
    if kind == "j":
        return to_json(value)
    if value is None:
        raise ValueError("unsupported value for a verb: null value cannot be formatted")
    if kind in ("s", "q"):
        text = to_string(value)
        text = text[:precision] if precision is not None else text
        return json.dumps(text, ensure_ascii=False) if kind == "q" else text
    if kind == "t":
        return to_string(value)
    number: Any = to_number(value)
    if kind in "dbxXo":
        if not isinstance(number, int):
            number = int(number)
        return format(number, kind)
    if kind in "eEfgG":
        if kind in "gG" and precision is None:
            return to_string(normal(number))
        return format(Decimal(number), f".{6 if precision is None else precision}{kind}")
    raise ValueError(f'unsupported format verb "%{kind}"')


def _moment(text: str) -> datetime:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text):
        raise ValueError(f"not a valid RFC3339 timestamp: {text}")
    return datetime.fromisoformat(text)


def time_add(moment: str, duration: str) -> str:
    """A moment, a duration later. Raises ValueError."""
    sign = -1 if duration.startswith("-") else 1
    rest = duration.lstrip("+-")
    parts = _DURATION.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f'invalid duration "{duration}"')
    later = _moment(moment) + timedelta(seconds=sign * sum(float(number) * _UNITS[unit] for number, unit in parts))
    return later.strftime("%Y-%m-%dT%H:%M:%S") + _zone(later)


def _zone(moment: datetime) -> str:
    offset = moment.strftime("%z")
    return "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"


def format_date(pattern: str, moment: str) -> str:
    """A moment as a pattern of HCL's formatdate says. Raises ValueError."""
    at = _moment(moment)
    hour = at.hour % 12 or 12
    offset = at.strftime("%z")
    parts = {
        "YYYY": f"{at.year:04}", "YY": f"{at.year % 100:02}",
        "MMMM": _MONTHS[at.month - 1], "MMM": _MONTHS[at.month - 1][:3], "MM": f"{at.month:02}", "M": str(at.month),
        "DD": f"{at.day:02}", "D": str(at.day), "EEEE": _DAYS[at.weekday()], "EEE": _DAYS[at.weekday()][:3],
        "hh": f"{at.hour:02}", "h": str(at.hour), "HH": f"{hour:02}", "H": str(hour),
        "AA": "AM" if at.hour < 12 else "PM", "aa": "am" if at.hour < 12 else "pm",
        "mm": f"{at.minute:02}", "m": str(at.minute), "ss": f"{at.second:02}", "s": str(at.second),
        "ZZZZZ": f"{offset[:3]}:{offset[3:]}", "ZZZZ": offset, "ZZZ": "UTC" if offset == "+0000" else offset,
        "Z": _zone(at),
    }  # fmt: skip
    text = ""
    for found in re.finditer(r"'((?:[^']|'')*)'|([A-Za-z])\2*|.", pattern, re.S):
        piece = found[0]
        if piece.startswith("'"):
            text += found[1].replace("''", "'")
        elif found[2]:
            if piece not in parts:
                raise ValueError(f"invalid date format verb {piece!r}")
            text += parts[piece]
        else:
            text += piece
    return text


def csv_rows(text: str) -> list[Value]:
    """A table with a head as objects. Raises ValueError."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows:
        raise ValueError("missing header line")
    head, *rest = rows
    if any(len(row) != len(head) for row in rest):
        raise ValueError("wrong number of fields")
    return [dict(zip(head, row, strict=True)) for row in rest]


def json_value(text: str) -> Value:
    """The value that JSON has. Raises ValueError."""
    try:
        found: Value = json.loads(text, parse_float=Decimal)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    return found
