"""JSON without the standard library's `json`, which imports `re`, and so 5 ms, before it has read a byte.

The work is done by the same C code that `json` calls; where an interpreter lacks that, `json` it is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:
    from json import dumps as dumps
    from json import loads as loads
else:

    class _Options:
        strict = False
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float
        memo: dict[str, str] = {}  # noqa: RUF012 (the scanner keeps the keys here, once each)

    _scan = make_scanner(_Options())  # type: ignore[arg-type]  # typeshed takes the options for a scanner

    def loads(  # type: ignore[misc]  # json's has more parameters; so has dumps
        data: bytes | str,
    ) -> Any:
        """The value that `data` holds. Raises ValueError."""
        text = data.decode() if isinstance(data, bytes) else data
        text = text.strip(" \t\r\n")
        try:
            value, end = _scan(text, 0)
        except StopIteration as error:
            raise ValueError(f"no JSON value at {error.value}") from None
        except SystemError:
            # what the C code would raise is a class of `json`, and it does not import that by itself
            from json import loads as told

            return told(text)
        if end != len(text):
            raise ValueError(f"more than a JSON value, at {end}")
        return value

    def dumps(value: object) -> str:  # type: ignore[misc]
        """`value` (dicts, lists, strings, numbers, booleans, None) as JSON."""
        if isinstance(value, str):
            return encode_basestring_ascii(value)
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        if isinstance(value, (int, float)):
            return repr(value)
        if isinstance(value, dict):
            return "{" + ",".join(f"{dumps(str(key))}:{dumps(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(dumps(item) for item in value) + "]"
        raise TypeError(f"{type(value).__name__} is not JSON")
