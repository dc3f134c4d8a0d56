"""Requests' paths and queries, escaped as the Engine API wants them."""

from __future__ import annotations

from dockyard.oci.quick_json import dumps

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~/")


def path(*parts: str, **values: object) -> str:
    """A request's path and query: each part is escaped; values that are None, False or empty are left out.

    path("/containers", name, "/stop", t=5) -> "/containers/web/stop?t=5". A list is repeated, a dict becomes JSON.
    """
    pairs = []
    for key, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                pairs.append(f"{key}=1")
            elif isinstance(item, dict) and item:
                pairs.append(f"{key}={quote(dumps(item))}")
            elif item is not None and item is not False and item != "" and item != {}:
                pairs.append(f"{key}={quote(str(item))}")
    place = "".join(quote(part) if part.startswith("/") else "/" + quote(part) for part in parts)
    return place + ("?" + "&".join(pairs) if pairs else "")


def quote(text: str) -> str:
    """Text for use in a path or query."""
    data = text.encode()
    if _PLAIN.issuperset(data):
        return text
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data)
