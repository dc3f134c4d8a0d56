"""Reading a Dockerfile: directives, comments, continued lines, flags and here-documents, up to one node an instruction.

What the instructions mean is `instructions.py`'s business. Reference: docs.docker.com/reference/dockerfile.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from dockyard.errors import InvalidParameter

# The words that start an instruction, in the order in which an error lists them.
INSTRUCTIONS = (
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER VOLUME"
    " WORKDIR"
).split()
WITH_HEREDOCS = ("ADD", "COPY", "RUN")
LONGEST_LINE = 1 << 16

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_FLAG = re.compile(r"\s*--(\S*)")
_HEREDOC = re.compile(r"(?<![<\w])<<(-?)(?:\"([\w.-]+)\"|'([\w.-]+)'|([\w.-]+))")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """An in-line document; `expand`: variables in it mean something (its name was not quoted)."""

    name: str
    content: str
    expand: bool


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction: `word` in capitals, `original` the line as written (continuations joined), `rest` what follows
    the word and its flags, `line` the number of its first line."""

    word: str
    original: str
    flags: tuple[str, ...]
    rest: str
    line: int
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(slots=True)
class Dockerfile:
    """All instructions of a file."""

    nodes: list[Node] = field(default_factory=list)
    escape: str = "\\"
    warnings: list[str] = field(default_factory=list)
    empty_continuations: list[int] = field(default_factory=list)
    check: str = ""  # the directive of that name


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """Take a Dockerfile apart. Raises InvalidParameter, naming the line."""
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise InvalidParameter(f"the Dockerfile ({name}) cannot be empty")
    lines = text.splitlines()
    found = Dockerfile()
    directives = _directives(lines)
    found.escape = directives.get("escape", "\\")
    found.check = directives.get("check", "")
    if found.escape not in ("\\", "`"):
        raise InvalidParameter(f"failed to parse {name}: invalid escape token '{found.escape}' does not match ` or \\")
    continued = re.compile(re.escape(found.escape) + r"[ \t]*$")
    position = 0
    while position < len(lines):
        if not lines[position].strip() or lines[position].lstrip().startswith("#"):
            position += 1
            continue
        position = _read_instruction(lines, position, continued, found)
    if not found.nodes:
        raise InvalidParameter(f"failed to parse {name}: file with no instructions")
    return found


def parse_line(text: str, escape: str = "\\") -> Node:
    """One instruction by itself: a build trigger, or `--change` of commit."""
    found = Dockerfile(escape=escape)
    _read_instruction(text.splitlines(), 0, re.compile(re.escape(escape) + r"[ \t]*$"), found)
    return found.nodes[0]


def _directives(lines: list[str]) -> dict[str, str]:
    """The `# name=value` lines at the very top (Dockerfile reference, "Parser directives")."""
    known: dict[str, str] = {}
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None or found[1].lower() not in ("escape", "syntax", "check"):
            break
        name = found[1].lower()
        if name in known:
            raise InvalidParameter(f"failed to parse Dockerfile: only one {name} parser directive can be used")
        known[name] = found[2]
    return known


def _read_instruction(lines: list[str], start: int, continued: re.Pattern[str], found: Dockerfile) -> int:
    """Read the instruction that begins at `start`; returns the index of the line after it."""
    parts: list[str] = []
    position = start
    going_on = True
    empty = False
    while going_on and position < len(lines):
        line = lines[position]
        position += 1
        if len(line) >= LONGEST_LINE:
            raise InvalidParameter(f"dockerfile line greater than max allowed size of {LONGEST_LINE - 1}")
        if parts and line.lstrip().startswith("#"):
            continue
        if parts and not line.strip():
            empty = True
            continue
        end = continued.search(line)
        going_on = end is not None
        parts.append(line[: end.start()] if end is not None else line)
    original = "".join(parts).strip()
    if empty:
        found.empty_continuations.append(position)
        found.warnings.append(f"[WARNING]: Empty continuation line found in:\n    {original}\n")
    word, _, rest = _first_word(original)
    heredocs: list[Heredoc] = []
    trigger = _first_word(rest)[0] if word == "ONBUILD" and rest.strip() else word
    if trigger in WITH_HEREDOCS and not _is_exec_form(rest):
        begun = position
        position = _read_heredocs(lines, position, rest, heredocs, start + 1)
        if word == "ONBUILD" and position > begun:  # they are the trigger's, which is kept as text
            original = "\n".join([original, *lines[begun:position]])
    flags, rest = _take_flags(rest)
    found.nodes.append(Node(word, original, flags, rest.strip(), start + 1, tuple(heredocs)))
    return position


def _is_exec_form(rest: str) -> bool:
    """Whether what follows a word and its flags is a JSON array of strings; `[ -f x ] && …` is none."""
    text = _take_flags(rest)[1].strip()
    if not text.startswith("["):
        return False
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def _first_word(text: str) -> tuple[str, str, str]:
    pieces = text.split(None, 1)
    return pieces[0].upper(), " ", pieces[1] if len(pieces) > 1 else ""


def _take_flags(rest: str) -> tuple[tuple[str, ...], str]:
    """The leading --name=value words, and what is after them."""
    flags = []
    while (found := _FLAG.match(rest)) is not None:
        rest = rest[found.end() :]
        if not found[1]:
            break
        flags.append(found[1])
    return tuple(flags), rest


def _read_heredocs(lines: list[str], position: int, rest: str, heredocs: list[Heredoc], line: int) -> int:
    for chomp, double, single, bare in _heredoc_marks(rest):
        name = double or single or bare
        content = []
        while True:
            if position >= len(lines):
                raise InvalidParameter(f"dockerfile parse error on line {line}: unterminated heredoc")
            text = lines[position]
            position += 1
            if chomp:
                text = text.lstrip("\t")
            if text == name:
                break
            content.append(text + "\n")
        heredocs.append(Heredoc(name, "".join(content), bool(bare)))
    return position


def _heredoc_marks(text: str) -> list[tuple[str, str, str, str]]:
    """Every << outside quotes."""
    marks = []
    position = 0
    quote = ""
    while position < len(text):
        character = text[position]
        if quote:
            if character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character == "<" and (found := _HEREDOC.match(text, position)) is not None:
            marks.append((found[1], found[2] or "", found[3] or "", found[4] or ""))
            position = found.end()
            continue
        position += 1
    return marks


def without_heredocs(text: str) -> str:
    """`text` with every << mark taken out: a command or file list without the in-line documents."""
    return _HEREDOC.sub("", text)
