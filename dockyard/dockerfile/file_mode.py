"""`--chmod`: octal, or as chmod(1) takes it: `u+x,go-w`, `a=rX`."""

from __future__ import annotations

import re
from collections.abc import Callable

from dockyard.errors import InvalidParameter

_CLAUSE = re.compile(r"([ugoa]*)((?:[+=-](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([+=-])([ugo]|[rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}

# What a mode becomes: of (permissions, whether it is a directory's).
ModeChange = Callable[[int, bool], int]


def parse_mode(text: str, *, symbolic: bool = True) -> ModeChange | None:
    """What `--chmod=text` does; None for no text. Raises InvalidParameter."""
    if not text:
        return None
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        fixed = int(text, 8)
        return lambda mode, directory: fixed
    clauses = text.split(",")
    if not symbolic or text[0].isdigit() or not all(_CLAUSE.fullmatch(clause) for clause in clauses):
        raise InvalidParameter(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")

    def change(mode: int, directory: bool) -> int:
        for clause in clauses:
            mode = _changed(mode, directory, clause)
        return mode

    return change


def made_directory_mode(text: str) -> int:
    """The mode of directories that are made on the way to a destination: numbers count for them, letters do not."""
    return int(text, 8) if re.fullmatch(r"[0-7]{1,5}", text) else 0o755


def _changed(mode: int, directory: bool, clause: str) -> int:
    found = _CLAUSE.fullmatch(clause)
    assert found is not None
    who = "ugo" if not found[1] or "a" in found[1] else found[1]
    for operator, permissions in _ACTION.findall(found[2]):
        bits, cleared = 0, 0
        for one in who:
            bits |= _bits(mode, directory, one, permissions)
            cleared |= 7 << _SHIFT[one] | {"u": 0o4000, "g": 0o2000, "o": 0o1000}[one]
        if operator == "+":
            mode |= bits
        elif operator == "-":
            mode &= ~bits
        else:
            mode = mode & ~cleared | bits
    return mode


def _bits(mode: int, directory: bool, who: str, permissions: str) -> int:
    """The bits that `permissions` means for one of u, g, o."""
    shift, bits = _SHIFT[who], 0
    if permissions in ("u", "g", "o"):
        return (mode >> _SHIFT[permissions] & 7) << shift
    for one in permissions:
        if one == "s":
            bits |= {"u": 0o4000, "g": 0o2000, "o": 0}[who]
        elif one == "t":
            bits |= 0o1000 if who == "o" else 0
        elif one == "X":
            bits |= 1 << shift if directory or mode & 0o111 else 0
        else:
            bits |= {"r": 4, "w": 2, "x": 1}[one] << shift
    return bits
