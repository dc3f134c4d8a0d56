"""What the instructions of a Dockerfile mean, as types: nodes (`dockerfile.py`) in, instructions out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.devices import DeviceFlag, parse_device
from dockyard.dockerfile.mounts import MountFlag, parse_mount
from dockyard.dockerfile.parser import BLANKS, AtLine, Heredoc, Node
from dockyard.dockerfile.substitution import go_quoted, split_words
from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import Healthcheck

BUILDKIT_ONLY = (
    "the --{} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to build images "
    "with BuildKit enabled"
)


NETWORKS = ("default", "none", "host")
SECURITY = ("sandbox", "insecure")


@dataclass(frozen=True, slots=True)
class Instruction:
    """The common part: the line as the user wrote it."""

    code: str

    @property
    def shown(self) -> str:
        """The line as a list of steps shows it."""
        word, blank, rest = self.code.partition(" ")
        return f"{word.upper()}{blank}{rest}"


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """FROM base [AS name]."""

    base: str
    name: str
    platform: str


@dataclass(frozen=True, slots=True)
class Script:
    """A document that is run: its name, its beginning, and whether it names its own interpreter (#!)."""

    name: str
    summary: str
    interpreter: bool = False


@dataclass(frozen=True, slots=True)
class Command(Instruction):
    """RUN, CMD or ENTRYPOINT: `words` to execute, or with `shell` one text for the shell.

    Of RUN alone: `flags` as they were written, `mounts` one for each `--mount`, `network` and `security` modes.
    `script`: the text is an in-line document, and nothing else.
    """

    word: str
    words: tuple[str, ...]
    shell: bool
    flags: tuple[str, ...] = ()
    mounts: tuple[MountFlag, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[DeviceFlag, ...] = ()
    script: Script | None = None


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """COPY and ADD. `link`: the layer is made without a look at what the image has, whose links are not followed."""

    word: str
    sources: tuple[str, ...]
    destination: str
    stage: str
    owner: str
    mode: str
    documents: tuple[Heredoc, ...]
    link: bool = False
    keep_git: bool | None = None
    checksum: str = ""
    parents: bool = False
    excludes: tuple[str, ...] = ()
    unpack: bool | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs(Instruction):
    """ENV and LABEL: names with values. `literal`: values that are taken as they are (from `--label`).

    `old`: one name and its value with a blank between them.
    """

    word: str
    pairs: tuple[tuple[str, str], ...]
    literal: bool = False
    old: bool = False


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """ARG name[=default] …"""

    arguments: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Words(Instruction):
    """EXPOSE, VOLUME and SHELL: a list."""

    word: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text(Instruction):
    """USER, WORKDIR, STOPSIGNAL, MAINTAINER and ONBUILD: one text."""

    word: str
    text: str


@dataclass(frozen=True, slots=True)
class HealthCheck(Instruction):
    """HEALTHCHECK."""

    check: Healthcheck


def parse(node: Node, *, classic: bool = True) -> Instruction:
    """The instruction in `node`. Raises AtLine.

    `classic`: what only BuildKit knows is refused.
    """
    try:
        if classic:
            refuse_buildkit_only(node)
        return meaning(node)
    except InvalidParameter as error:
        raise AtLine(f"dockerfile parse error on line {node.line}: {error}", node.line, node.end) from None


def meaning(node: Node) -> Instruction:
    """The same. Raises InvalidParameter, without naming the line."""
    parser = _PARSERS.get(node.word)
    if parser is None:
        # of two that are as near the one of the same letters
        known = sorted(dockerfile.INSTRUCTIONS, key=lambda word: sorted(word) != sorted(node.word))
        near = suggestion(node.written, known, case=False)
        raise InvalidParameter(f"unknown instruction: {node.written}{near}")
    return parser(node)


def parse_trigger(text: str, *, classic: bool = True) -> Instruction:
    """A build trigger (ONBUILD) that an image brought along."""
    return parse(dockerfile.parse_line(text), classic=classic)


def _flags(node: Node, known: dict[str, bool], several: Sequence[str] = ()) -> dict[str, list[str]]:
    """{flag: values}; `known` says of each flag whether it stands without a value, `several` which may come again."""
    found: dict[str, list[str]] = {}
    for flag in node.flags:
        name, equals, value = flag.partition("=")
        if name not in known and name not in several:
            raise InvalidParameter(f"unknown flag: --{name}{suggestion(name, [*known, *several])}")
        if name in found and name not in several:
            raise InvalidParameter(f"duplicate flag specified: --{name}")
        if known.get(name, False):
            value = value.lower() if equals else "true"
            if value not in ("true", "false", ""):
                raise InvalidParameter(f"expecting boolean value for flag --{name}, not: {flag.partition('=')[2]}")
            equals = value
        if not equals:
            raise InvalidParameter(f"missing a value on flag: --{name}")
        found.setdefault(name, []).append(value)
    return found


def _last(flags: Mapping[str, Sequence[str]], name: str) -> str:
    return flags[name][-1] if name in flags else ""


def _blank_split(text: str) -> tuple[str, ...]:
    """Words in which quotes are nothing but characters."""
    return tuple(BLANKS.split(text)) if text else ()


def _from(node: Node) -> From:
    words = _blank_split(node.rest)
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not re.fullmatch(r"[a-z][a-z0-9_.-]*", name):
            raise InvalidParameter(
                f"invalid name for build stage: {go_quoted(words[2])}, name can't start with a number or contain "
                "symbols"
            )
    elif len(words) == 1:
        name = ""
    else:
        raise InvalidParameter("FROM requires either one or three arguments")
    flags = _flags(node, {"platform": False})
    return From(node.original, words[0], name, _last(flags, "platform"))


def _command(node: Node) -> Command:
    if node.word == "RUN":
        return _run(node)
    _flags(node, {})
    return _bare_command(node)


def _run(node: Node) -> Command:
    flags = _flags(node, {"network": False, "security": False}, several=("mount", "device"))
    command = _bare_command(node)
    mounts = tuple(parse_mount(text) for text in flags.get("mount", ()))
    if "network" in flags and _last(flags, "network") not in NETWORKS:
        raise InvalidParameter(f"invalid network mode {go_quoted(_last(flags, 'network'))}")
    if "security" in flags and _last(flags, "security") not in SECURITY:
        raise InvalidParameter(f"security {go_quoted(_last(flags, 'security'))} is not valid")
    return replace(
        command,
        flags=node.flags,
        mounts=mounts,
        network=_last(flags, "network"),
        security=_last(flags, "security"),
        devices=tuple(parse_device(text) for text in flags.get("device", ())),
    )


def _bare_command(node: Node) -> Command:
    """The command without its flags."""
    if node.heredocs:
        return _script(node)
    if node.listed is not None:
        return Command(node.original, node.word, node.listed, False)
    return Command(node.original, node.word, (node.rest,), True)


def _script(node: Node) -> Command:
    """RUN with in-line documents: the shell reads them itself, or one document alone is the whole script."""
    first = node.heredocs[0]
    if dockerfile.heredoc(node.rest) is not None:
        about = Script(first.name, _summary(first.content), interpreter=first.content.startswith("#!"))
        return Command(node.original, node.word, (first.text,), True, script=about)
    script = "".join([node.rest, *(f"\n{document.content}{document.name}" for document in node.heredocs)])
    return Command(node.original, node.word, (script,), True)


def _summary(text: str) -> str:
    """A script's beginning."""
    first, *more = text.strip().replace("\r\n", "\n").split("\n")
    return f"{first}{'...' if more else ''}"


def refuse_buildkit_only(node: Node) -> None:
    """Raise InvalidParameter for what the classic builder refuses, in its words."""
    for flag in node.flags:
        name = flag.partition("=")[0]
        if node.word == "RUN" or (node.word in ("COPY", "ADD") and name in ("parents", "exclude", "unpack")):
            raise InvalidParameter(BUILDKIT_ONLY.format(name))
    if node.word == "RUN" and node.heredocs:
        script = _script(node).script
        if script is not None and script.interpreter:
            raise InvalidParameter("RUN with a heredoc that names its own interpreter (#!) requires BuildKit")


def _copy(node: Node) -> Copy:
    words = node.listed if node.listed is not None else _blank_split(node.rest)
    if len(words) < 2:
        raise InvalidParameter(
            f"{node.word} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    own = (
        {"from": False, "parents": True}
        if node.word == "COPY"
        else {"keep-git-dir": True, "checksum": False, "unpack": True}
    )
    flags = _flags(node, {"chown": False, "chmod": False, "link": True, **own}, several=("exclude",))
    if _announced(words[-1]) is not None:
        raise InvalidParameter(f"{node.word} cannot accept a heredoc as a destination")
    sources, documents = _told_apart(words[:-1], node.heredocs)
    return Copy(
        node.original,
        node.word,
        sources,
        words[-1],
        _last(flags, "from"),
        _last(flags, "chown"),
        _last(flags, "chmod"),
        documents,
        _last(flags, "link") == "true",
        _switch(flags, "keep-git-dir"),
        _last(flags, "checksum"),
        _last(flags, "parents") == "true",
        tuple(flags.get("exclude", ())),
        _switch(flags, "unpack"),
        node.flags,
    )


def _switch(flags: Mapping[str, Sequence[str]], name: str) -> bool | None:
    return flags[name][-1] == "true" if name in flags else None


def _announced(word: str) -> Heredoc | None:
    """The document that a word announces, if it does."""
    try:
        return dockerfile.heredoc(word)
    except InvalidParameter:
        return None


def _told_apart(words: Sequence[str], documents: Sequence[Heredoc]) -> tuple[tuple[str, ...], tuple[Heredoc, ...]]:
    """Sources that are paths, and those that are documents."""
    contents = {document.name: document.content for document in documents}
    paths, found = [], []
    for word in words:
        document = _announced(word)
        if document is None:
            paths.append(word)
        else:
            found.append(replace(document, content=contents.get(document.name, "")))
    return tuple(paths), tuple(found)


def _pairs(node: Node) -> Pairs:
    _flags(node, {})
    words = split_words(node.rest, node.escape)
    if not words:
        raise InvalidParameter(f"{node.word} requires at least one argument")
    if "=" not in words[0]:
        name, value = BLANKS.split(node.rest, maxsplit=1)
        return Pairs(node.original, node.word, ((name, value),), old=True)
    pairs = []
    for word in words:
        name, _, value = word.partition("=")
        if not name:
            raise InvalidParameter(f"{node.word} names can not be blank")
        pairs.append((name, value))
    return Pairs(node.original, node.word, tuple(pairs))


def _arg(node: Node) -> Arg:
    words = split_words(node.rest, node.escape)
    if not words:
        raise InvalidParameter("ARG requires at least one argument")
    arguments: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name and equals:
            raise InvalidParameter("ARG names can not be blank")
        arguments.append((name, value if equals else None))
    return Arg(node.original, tuple(arguments))


def _words(node: Node) -> Words:
    values = node.listed if node.listed is not None else _blank_split(node.rest)
    if node.word == "SHELL":
        _flags(node, {})
    if not values:
        raise InvalidParameter(f"{node.word} requires at least one argument")
    _flags(node, {})
    if node.word == "SHELL" and node.listed is None:
        raise InvalidParameter("SHELL requires the arguments to be in JSON form")
    if node.word == "VOLUME" and any(not value.strip() for value in values):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return Words(node.original, node.word, values)


def _text(node: Node) -> Text:
    if not node.rest:
        raise InvalidParameter(f"{node.word} requires exactly one argument")
    if node.word != "STOPSIGNAL":
        _flags(node, {})
    return Text(node.original, node.word, node.rest)


def _onbuild(node: Node) -> Text:
    if not node.rest:
        raise InvalidParameter("ONBUILD requires at least one argument")
    _flags(node, {})
    trigger = BLANKS.split(node.rest, maxsplit=1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    # flags belong to the trigger, so take the text as it was written
    text = re.sub(r"(?i)^\s*ONBUILD\s*", "", node.original)
    documents = [f"\n{document.content}{document.name}" for document in node.heredocs]
    return Text(node.original, "ONBUILD", "".join([text, *documents]))


_DURATION = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def _duration(name: str, text: str) -> int:
    """Go's time.ParseDuration, at least 1ms; 0 is "the default"."""
    if not text:
        return 0
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    if text != "0" and "".join(map("".join, parts)) != text:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    total = int(sum(float(number) * _DURATION[unit] for number, unit in parts))
    if 0 < total < 10**6:
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return total


def _health_check(node: Node) -> HealthCheck:
    kind, *others = BLANKS.split(node.rest, maxsplit=1)
    rest = others[0] if others else ""
    if not kind:
        raise InvalidParameter("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        if rest:
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        return HealthCheck(node.original, Healthcheck(["NONE"]))
    names = ("interval", "timeout", "start-period", "start-interval", "retries")
    flags = _flags(node, dict.fromkeys(names, False))
    if kind.upper() != "CMD":
        raise InvalidParameter(f"Unknown type {go_quoted(kind.upper())} in HEALTHCHECK (try CMD)")
    if not rest or node.listed == ():
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    interval, timeout, period, between = (_duration(name, _last(flags, name)) for name in names[:4])
    return HealthCheck(
        node.original,
        Healthcheck(
            ["CMD", *node.listed] if node.listed is not None else ["CMD-SHELL", rest],
            interval=interval,
            timeout=timeout,
            start_period=period,
            start_interval=between,
            retries=_retries(_last(flags, "retries")),
        ),
    )


def _retries(text: str) -> int:
    if not text:
        return 0
    number = re.fullmatch(r"[+-]?[0-9]+", text)
    if number is None or len(text) > 11 or not -(1 << 31) <= int(text) < 1 << 31:
        why = "invalid syntax" if number is None else "value out of range"
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text}": {why}')
    if int(text) < 0:
        raise InvalidParameter(f"--retries cannot be negative ({int(text)})")
    return int(text)


_PARSERS: dict[str, Callable[[Node], Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _command,
    "COPY": _copy,
    "ENTRYPOINT": _command,
    "ENV": _pairs,
    "EXPOSE": _words,
    "FROM": _from,
    "HEALTHCHECK": _health_check,
    "LABEL": _pairs,
    "MAINTAINER": _text,
    "ONBUILD": _onbuild,
    "RUN": _command,
    "SHELL": _words,
    "STOPSIGNAL": _text,
    "USER": _text,
    "VOLUME": _words,
    "WORKDIR": _text,
}
