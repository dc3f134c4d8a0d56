"""Reading a Dockerfile: directives, comments, continued lines, flags, here-documents, up to one node an instruction.

What the instructions mean is `instructions.py`'s business. Reference: docs.docker.com/reference/dockerfile; in what
that leaves open, moby/buildkit frontend/dockerfile/parser, which is what Dockerfiles are written for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dockyard.dockerfile.substitution import go_quoted, heredoc_name, heredoc_words, split_words
from dockyard.errors import DockyardError, InvalidParameter

# The words that start an instruction, in the order in which an error lists them.
INSTRUCTIONS = (
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER VOLUME"
    " WORKDIR"
).split()
WITH_HEREDOCS = ("ADD", "COPY", "RUN")
WITH_LISTS = ("ADD", "CMD", "COPY", "ENTRYPOINT", "HEALTHCHECK", "RUN", "SHELL", "VOLUME")
LONGEST_LINE = 1 << 16
BLANKS = re.compile(r"[\t\v\f\r ]+")

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"[0-9]*<<(-?)\s*([^<]*)")


class AtLine(InvalidParameter):
    """Something is wrong with lines of a Dockerfile, from `line`, which counts from 1, to `end`.

    An `end` of 0 is that of the instruction.
    """

    def __init__(self, message: str, line: int, end: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.end = end


def at_line(error: DockyardError, line: int, end: int) -> DockyardError:
    """An error with the lines at which it has come up, unless it has some."""
    if isinstance(error, AtLine):
        return error
    if isinstance(error, InvalidParameter):
        return AtLine(str(error), line, end)
    error.__dict__.setdefault("lines", (line, end))
    return error


def lines_of(error: Exception) -> tuple[int, int]:
    """The lines of a Dockerfile at which an error has come up; 0 for none."""
    if isinstance(error, AtLine):
        return error.line, error.end
    found: tuple[int, int] = error.__dict__.get("lines", (0, 0))
    return found


@dataclass(frozen=True, slots=True)
class Heredoc:
    """An in-line document; `expand`: variables in it mean something (its name was not quoted).

    `chomp`: its lines' leading tabs are to go (`<<-`); `content` has them, `text` has not.
    """

    name: str
    content: str
    expand: bool
    chomp: bool = False

    @property
    def text(self) -> str:
        """What it says."""
        return re.sub(r"^\t+", "", self.content, flags=re.MULTILINE) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction: `word` in capitals, `original` the line as written (continuations joined), `rest` what follows
    the word and its flags, `line` the number of its first line and `end` of its last one, with its documents.

    `listed`: the exec form's words, None in the shell form. `comments`: those right before it.
    """

    word: str
    original: str
    flags: tuple[str, ...]
    rest: str
    line: int
    heredocs: tuple[Heredoc, ...] = ()
    end: int = 0
    listed: tuple[str, ...] | None = None
    comments: tuple[str, ...] = ()
    escape: str = "\\"

    @property
    def written(self) -> str:
        """The word as it is written."""
        return BLANKS.split(self.original, maxsplit=1)[0]


@dataclass(slots=True)
class Dockerfile:
    """All instructions of a file."""

    nodes: list[Node] = field(default_factory=list)
    escape: str = "\\"
    warnings: list[str] = field(default_factory=list)
    empty_continuations: list[int] = field(default_factory=list)
    check: str = ""  # the directive of that name


def parse(text: str, name: str = "") -> Dockerfile:
    """Take a Dockerfile apart. Raises AtLine; InvalidParameter, with the file's `name` where one is given."""
    if name:
        return _parse_named(text, name)
    if not text:
        raise InvalidParameter("the Dockerfile cannot be empty")
    return _Reader(text).read()


def _parse_named(text: str, name: str) -> Dockerfile:
    if not text.strip():
        raise InvalidParameter(f"the Dockerfile ({name}) cannot be empty")
    try:
        return parse(text)
    except AtLine as error:
        raise AtLine(f"failed to parse {name}: {error}", error.line, error.end) from None


def parse_line(text: str) -> Node:
    """One instruction by itself: a build trigger. Raises InvalidParameter."""
    nodes = parse(text).nodes
    if len(nodes) != 1:
        raise InvalidParameter("onbuild trigger should be a single expression")
    return nodes[0]


def check_directive(text: str) -> str:
    """What `# check=` says at the top of a Dockerfile, also below a line that names an interpreter; "" for nothing."""
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[0].startswith("#!"):
        del lines[0]
    found: dict[str, str] = {}
    for line in lines:
        directive = _directive(line)
        if directive is None or directive[0] in found:
            break
        found[directive[0]] = directive[1]
    return found.get("check", "").partition(" ")[0]


def _directive(line: str) -> tuple[str, str] | None:
    """A `# name=value` line of those at the very top (Dockerfile reference, "Parser directives")."""
    found = _DIRECTIVE.fullmatch(line.rstrip("\r"))
    if found is None or found[1].lower() not in ("escape", "syntax", "check"):
        return None
    return found[1].lower(), found[2]


class _Reader:
    """Reads a file from the top."""

    def __init__(self, text: str) -> None:
        self._lines = text.removeprefix("\ufeff").split("\n")
        self._ended = text.endswith("\n")
        if self._ended:
            self._lines.pop()
        self._position = 0
        self._found = Dockerfile(check=check_directive(text))
        self._directives: set[str] | None = set()  # those seen; None below them
        self._comments: list[str] = []
        self._continued = _continuation(self._found.escape)

    def read(self) -> Dockerfile:
        """Everything. Raises AtLine."""
        while self._position < len(self._lines):
            self._read_one()
        found = self._found
        if not found.nodes:
            raise AtLine("file with no instructions", max(self._position, 1))
        if found.warnings:
            found.warnings.append("[WARNING]: Empty continuation lines will become errors in a future release.\n")
        return found

    def _line(self) -> str:
        """The next line, without its end. Raises AtLine."""
        line = self._lines[self._position]
        self._position += 1
        if len(line) >= LONGEST_LINE:
            message = f"dockerfile line greater than max allowed size of {LONGEST_LINE - 1}"
            raise AtLine(message, self._position)
        return line.rstrip("\r")

    def _look_for_directive(self, line: str) -> bool:
        """Whether a line is a directive, which is then heeded. Raises AtLine."""
        if self._directives is None:
            return False
        found = _directive(line)
        if found is None:
            self._directives = None
            return False
        name, value = found
        if name in self._directives:
            raise AtLine(f"only one {name} parser directive can be used", self._position)
        self._directives.add(name)
        if name == "escape":
            if value not in ("\\", "`"):
                raise AtLine(f"invalid escape token '{value}' does not match ` or \\", self._position)
            self._found.escape = value
            self._continued = _continuation(value)
        return True

    def _read_one(self) -> None:
        """What begins at the next line: an instruction, a comment, or nothing."""
        line = self._line()
        stripped = line.lstrip()
        if self._look_for_directive(stripped):
            return
        if stripped.startswith("#"):
            said = line[1:].strip()
            self._comments = [*self._comments, said] if said else []
            return
        begun = self._position
        text, going_on = self._continued.subn("", stripped)
        if not text and not going_on:
            return
        text, empty = self._joined(text) if going_on else (text, False)
        found = self._found
        if empty:
            found.warnings.append(f"[WARNING]: Empty continuation line found in: {text}\n")
            found.empty_continuations.append(self._position)
        try:
            node = _node(text, found.escape)
            documents = tuple(self._heredocs(text)) if _takes_heredocs(node) else ()
        except InvalidParameter as error:
            raise AtLine(str(error), begun, self._position) from None
        found.nodes.append(
            Node(
                node.word, node.original, node.flags, node.rest, begun, documents, self._position, node.listed,
                tuple(self._comments), found.escape,
            )
        )  # fmt: skip
        self._comments = []

    def _joined(self, text: str) -> tuple[str, bool]:
        """`text` with the lines that continue it, and whether there were empty ones among them."""
        empty = False
        while self._position < len(self._lines):
            line = self._line()
            if line.lstrip().startswith("#"):
                continue
            if not line.strip():
                empty = True
                continue
            more, going_on = self._continued.subn("", line)
            text += more
            if not going_on:
                break
        return text, empty

    def _heredocs(self, text: str) -> Iterator[Heredoc]:
        """The documents that a line says follow it. Raises InvalidParameter."""
        for word in heredoc_words(text) if "<<" in text else ():
            document = heredoc(word)
            if document is not None:
                yield Heredoc(document.name, self._content(document), document.expand, document.chomp)

    def _content(self, document: Heredoc) -> str:
        content: list[str] = []
        while self._position < len(self._lines):
            whole = self._lines[self._position]
            self._position += 1
            line = whole.rstrip("\r")
            if (line.lstrip("\t") if document.chomp else line) == document.name:
                return "".join(content)
            content.append(whole + "\n")
        raise InvalidParameter("unterminated heredoc")


def _continuation(escape: str) -> re.Pattern[str]:
    """What ends a line that goes on: the escape character, if it is not escaped itself."""
    return re.compile(f"(?<!{re.escape(escape)}){re.escape(escape)}[ \\t]*$")


def _node(line: str, escape: str) -> Node:
    """An instruction's line taken apart, its documents not yet read. Raises InvalidParameter for one of no form."""
    pieces = BLANKS.split(line.strip(), maxsplit=1)
    flags, rest = _take_flags(pieces[1], escape) if len(pieces) > 1 else ((), "")
    word, rest = pieces[0].upper(), rest.strip()
    listed = None
    if word in WITH_LISTS:
        listed = _list(BLANKS.split(rest, maxsplit=1)[-1] if word == "HEALTHCHECK" else rest)
    elif word in ("ENV", "LABEL"):
        _check_pairs(word, rest, escape)
    elif word == "ONBUILD" and rest:
        _node(rest, escape)
    return Node(word, line.strip(), flags, rest, 0, listed=listed)


def _takes_heredocs(node: Node) -> bool:
    """Whether there may be documents; a build trigger's are its own, which is kept as text."""
    if node.word == "ONBUILD" and node.rest:
        node = _node(node.rest, "\\")
    return node.word in WITH_HEREDOCS and node.listed is None


def _list(text: str) -> tuple[str, ...] | None:
    """A JSON array of strings; None where the text is none, and `[ -f x ] && …` is none. Raises InvalidParameter."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(one, str) for one in found):
        raise InvalidParameter("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(found)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_pairs(word: str, rest: str, escape: str) -> None:
    words = split_words(rest, escape)
    if words and "=" not in words[0]:
        if len(BLANKS.split(rest, maxsplit=1)) < 2:
            raise InvalidParameter(f"{word} must have two arguments")
        return
    for one in words:
        if "=" not in one:
            raise InvalidParameter(f"Syntax error - can't find = in {go_quoted(one)}. Must be of the form: name=value")


def _take_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """The leading --name=value words, quotes and escapes taken off, and what is after them."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if not text.startswith("--", position):
            return tuple(flags), text[position:]
        word, position = _flag(text, position, escape)
        if word == "--":
            return tuple(flags), text[position:]
        flags.append(word[2:])


def _flag(text: str, position: int, escape: str) -> tuple[str, int]:
    """The word at `position`, and where it ends."""
    word, quote = "", ""
    while position < len(text):
        character = text[position]
        if not quote and character.isspace():
            break
        position += 1
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif character == escape:
            word += text[position : position + 1]
            position += 1
        else:
            word += character
    return word, min(position, len(text))


def heredoc(word: str) -> Heredoc | None:
    """The document that a word announces, yet without its content; None for any other word. Raises InvalidParameter."""
    found = _HEREDOC.fullmatch(word)
    if found is None or not found[2]:
        return None
    plain = heredoc_name(found[2], quotes=False)
    if len(plain) != 1:
        return None
    quoted = heredoc_name(found[2], quotes=True)
    expand = all(quoted[0].count(mark) == plain[0].count(mark) for mark in "'\"")
    return Heredoc(plain[0], "", expand, bool(found[1]))
