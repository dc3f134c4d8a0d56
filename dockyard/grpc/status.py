"""How a call ends: codes of gRPC and the text that goes with them (gRPC over HTTP2, "Status-Message")."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
UNAUTHENTICATED = 16


class CallFailed(Exception):
    """A call ended with another code than OK. `details`: an encoded google.rpc.Status, or empty."""

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def quoted(message: str) -> str:
    """A message as a header's value: printable ASCII, the rest in percent signs."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in message.encode(errors="replace")
    )


def unquoted(text: str) -> str:
    """The message in a header's value."""
    return unquote_to_bytes(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)).decode(errors="replace")
