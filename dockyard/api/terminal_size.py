"""The size of a terminal as `resize` is asked for it."""

from dockyard.api.router import Call
from dockyard.errors import InvalidParameter

LARGEST = (1 << 32) - 1


def terminal_size(call: Call) -> tuple[int, int]:
    """The query's `h` and `w`, in characters. Raises InvalidParameter in Docker's words.

    moby httputils.Uint32Value; the kernel has 16 bits for each, and what is more is cut off, as there.
    """
    return _number(call, "h", "height") & 0xFFFF, _number(call, "w", "width") & 0xFFFF


def _number(call: Call, name: str, what: str) -> int:
    text = call.text(name)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidParameter(f'invalid resize {what} "{text}": invalid syntax')
    if text != digits or len(digits.lstrip("0")) > len(str(LARGEST)) or int(digits) > LARGEST:
        raise InvalidParameter(f'invalid resize {what} "{text}": value out of range')
    return int(digits)
