"""`INCLUDE path`: Dockerfiles of fragments, behind the line `# syntax=dockyard/dockerfile:1`, which is ours alone.

A fragment stands where it is included, word for word; its path is relative to the Dockerfile's directory.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from dockyard.dockerfile import parser
from dockyard.errors import InvalidParameter

SYNTAX = re.compile(
    r"(?:\ufeff)?(?:#!.*\n)?\s*#\s*syntax\s*=\s*(?:docker\.io/)?dockyard/dockerfile(?:[:@]\S*)?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
DEEPEST = 10  # fragments in each other
LARGEST = 4 << 20  # characters of all of it

Read = Callable[[str], Awaitable[str]]


def includes(text: str) -> bool:
    """Whether a Dockerfile has the line behind which INCLUDE means something."""
    return SYNTAX.match(text) is not None


async def whole(text: str, read: Read) -> str:
    """A Dockerfile with its fragments in place; `read` gives a file's text. Raises InvalidParameter."""
    return await _expanded(text, read, (), parser.parse(text).escape)


async def _expanded(text: str, read: Read, path: Sequence[str], escape: str) -> str:
    lines = text.splitlines()
    for node in reversed(_nodes(text, escape, path)):
        if node.word != "INCLUDE":
            continue
        name = _checked(node, lines[node.line - 1], path)
        fragment = await _expanded(await read(name), read, [*path, name], escape)
        lines[node.line - 1 : node.line] = fragment.splitlines()
    found = "\n".join(lines) + "\n"
    if len(found) > LARGEST:
        raise InvalidParameter("the Dockerfile is too large with what it includes")
    return found


def _nodes(text: str, escape: str, path: Sequence[str]) -> list[parser.Node]:
    """The instructions of a file; those of a fragment are read with the escape character of the whole."""
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        return []
    head = f"# escape={escape}\n" if path else ""
    found = parser.parse(head + text).nodes
    if not path:
        return found
    return [replace(one, line=one.line - 1, end=one.end - 1) for one in found]


def _checked(node: parser.Node, line: str, path: Sequence[str]) -> str:
    """The path of a fragment. Raises InvalidParameter."""
    where = f"{path[-1]} line {node.line}" if path else f"line {node.line}"
    name = posixpath.normpath(node.rest)
    if not node.rest or len(node.rest.split()) != 1 or node.flags or line.strip() != node.original:
        raise InvalidParameter(f"dockerfile parse error on {where}: INCLUDE requires exactly one path")
    if name.startswith(("/", "../")) or name in ("..", "."):
        raise InvalidParameter(f"dockerfile parse error on {where}: INCLUDE {node.rest} leads out of the directory")
    if name in path:
        raise InvalidParameter(f"dockerfile parse error on {where}: {name} includes itself")
    if len(path) >= DEEPEST:
        raise InvalidParameter(f"dockerfile parse error on {where}: more than {DEEPEST} fragments in each other")
    return name
