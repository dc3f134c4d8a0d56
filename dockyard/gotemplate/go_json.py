"""JSON as Go writes it, compact or indented; the standard library's `json` would cost 7 ms before the first letter."""

from __future__ import annotations

try:
    from _json import encode_basestring as _string
except ImportError:  # an interpreter without C extensions
    from json.encoder import py_encode_basestring as _string

_WORDS = {None: "null", True: "true", False: "false"}


def compact(value: object) -> str:
    """`value` (dicts, lists, strings, numbers, booleans, None) without a space; what is none of these is null."""
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(str(key))}:{compact(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(compact(item) for item in value) + "]"
    return "null"


def indented(value: object, margin: str = "") -> str:
    """`value` with four spaces for every level."""
    inner = margin + "    "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{_string(str(key))}: {indented(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{margin}}}"
    if isinstance(value, (list, tuple)) and value:
        return "[\n" + ",\n".join(inner + indented(item, inner) for item in value) + f"\n{margin}]"
    return compact(value)


def without_html(text: str) -> str:
    """JSON in which no letter means anything in HTML: what Go makes of its own structs."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
