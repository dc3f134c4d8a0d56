"""What the instructions of a Dockerfile mean, as types: nodes (`dockerfile.py`) in, instructions out."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.mounts import RunMount, parse_mount
from dockyard.dockerfile.parser import Heredoc, Node
from dockyard.dockerfile.substitution import split_words
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
        """The line as a list of steps shows it: on one line."""
        return " ".join(self.code.split("\n")[0].split())


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """FROM base [AS name]."""

    base: str
    name: str
    platform: str


@dataclass(frozen=True, slots=True)
class Command(Instruction):
    """RUN, CMD or ENTRYPOINT: `words` to execute, or with `shell` one text for the shell.

    Of RUN alone: `flags` as they were written, `mounts` one for each `--mount`, `network` and `security` modes.
    `interpreter`: the text is a script that names its own (#!).
    """

    word: str
    words: tuple[str, ...]
    shell: bool
    flags: tuple[str, ...] = ()
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()
    interpreter: bool = False


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
    keep_git: bool = False
    checksum: str = ""
    parents: bool = False
    excludes: tuple[str, ...] = ()
    unpack: bool | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs(Instruction):
    """ENV and LABEL: names with values. `quoted`: values that are taken as they are (from `--label`)."""

    word: str
    pairs: tuple[tuple[str, str], ...]
    literal: bool = False


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
    """The instruction in `node`. Raises InvalidParameter, naming the line.

    `classic`: what only BuildKit knows is refused.
    """
    try:
        if classic:
            refuse_buildkit_only(node)
        return meaning(node)
    except InvalidParameter as error:
        raise InvalidParameter(f"dockerfile parse error on line {node.line}: {error}") from None


def meaning(node: Node) -> Instruction:
    """The same. Raises InvalidParameter, without naming the line."""
    parser = _PARSERS.get(node.word)
    if parser is None:
        word = node.original.split(None, 1)[0]
        near = difflib.get_close_matches(node.word, dockerfile.INSTRUCTIONS, 1, 0.6)
        raise InvalidParameter(f"unknown instruction: {word}" + (f" (did you mean {near[0]}?)" if near else ""))
    return parser(node)


def parse_trigger(text: str, *, classic: bool = True) -> Instruction:
    """A build trigger (ONBUILD) that an image brought along."""
    return parse(dockerfile.parse_line(text), classic=classic)


def _flags(node: Node, known: dict[str, bool]) -> dict[str, str]:
    """{flag: value}; `known` says of each flag whether it stands without a value."""
    found: dict[str, str] = {}
    for flag in node.flags:
        name, equals, value = flag.partition("=")
        if name not in known:
            near = suggestion(name, [*known, *(("mount", "device") if node.word == "RUN" else ())])
            raise InvalidParameter(f"unknown flag: --{name}{near}")
        if known[name]:
            value = value if equals else "true"
            if value not in ("true", "false"):
                raise InvalidParameter(f"expecting boolean value for flag --{name}, not: {value}")
        elif not equals:
            raise InvalidParameter(f"missing a value on flag: --{name}")
        if name in found:
            raise InvalidParameter(f"duplicate flag specified: --{name}")
        found[name] = value
    return found


def _json_words(text: str) -> list[str] | None:
    """The exec form; None when `text` is in the shell form (also when it merely begins like JSON)."""
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None


def _from(node: Node) -> From:
    flags = _flags(node, {"platform": False})
    words = node.rest.split()
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not re.fullmatch(r"[a-z][a-z0-9_.-]*", name):
            raise InvalidParameter(
                f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols'
            )
    elif len(words) == 1:
        name = ""
    else:
        raise InvalidParameter("FROM requires either one or three arguments")
    return From(node.original, words[0], name, flags.get("platform", ""))


def _command(node: Node) -> Command:
    if node.word == "RUN":
        return _run(node)
    _flags(node, {})
    return _bare_command(node)


def _run(node: Node) -> Command:
    mounts = tuple(parse_mount(flag.partition("=")[2]) for flag in node.flags if flag.startswith("mount="))
    devices = tuple(flag.partition("=")[2] for flag in node.flags if flag.startswith("device="))
    others = tuple(flag for flag in node.flags if not flag.startswith(("mount=", "device=")))
    flags = _flags(replace(node, flags=others), {"network": False, "security": False})
    for name, known in (("network", NETWORKS), ("security", SECURITY)):
        if name in flags and flags[name] not in known:
            raise InvalidParameter(f"invalid {name} mode: {flags[name]!r}".replace("'", '"'))
    return replace(
        _bare_command(node),
        flags=node.flags,
        mounts=mounts,
        network=flags.get("network", ""),
        security=flags.get("security", ""),
        devices=devices,
    )


def _bare_command(node: Node) -> Command:
    """The command without its flags."""
    if node.heredocs:
        return _script(node)
    listed = _json_words(node.rest)
    if listed is not None:
        return Command(node.original, node.word, tuple(listed), False)
    if not node.rest:
        raise InvalidParameter(f"{node.word} requires at least one argument")
    return Command(node.original, node.word, (node.rest,), True)


def _script(node: Node) -> Command:
    """RUN with in-line documents: the shell reads them itself, or one document alone is the whole script."""
    if not dockerfile.without_heredocs(node.rest).strip() and len(node.heredocs) == 1:
        script = node.heredocs[0].content
        return Command(node.original, node.word, (script,), True, interpreter=script.startswith("#!"))
    script = node.rest + "\n" + "".join(f"{document.content}{document.name}\n" for document in node.heredocs)
    return Command(node.original, node.word, (script,), True)


def refuse_buildkit_only(node: Node) -> None:
    """Raise InvalidParameter for what the classic builder refuses, in its words."""
    for flag in node.flags:
        name = flag.partition("=")[0]
        if node.word == "RUN" or (node.word in ("COPY", "ADD") and name in ("parents", "exclude", "unpack")):
            raise InvalidParameter(BUILDKIT_ONLY.format(name))
    if node.word == "RUN" and node.heredocs and _script(node).interpreter:
        raise InvalidParameter("RUN with a heredoc that names its own interpreter (#!) requires BuildKit")


def _copy(node: Node) -> Copy:
    own = (
        {"from": False, "parents": True}
        if node.word == "COPY"
        else {"keep-git-dir": True, "checksum": False, "unpack": True}
    )
    excludes = tuple(flag.partition("=")[2] for flag in node.flags if flag.startswith("exclude="))
    others = tuple(flag for flag in node.flags if not flag.startswith("exclude="))
    flags = _flags(replace(node, flags=others), {"chown": False, "chmod": False, "link": True, **own})
    words = _json_words(node.rest)
    if words is None:
        words = split_words(dockerfile.without_heredocs(node.rest) if node.heredocs else node.rest)
    if not words:
        raise InvalidParameter(f"{node.word} requires at least one argument")
    if len(words) < 2 and not node.heredocs:
        raise InvalidParameter(
            f"{node.word} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    return Copy(
        node.original,
        node.word,
        tuple(words[:-1]),
        words[-1],
        flags.get("from", ""),
        flags.get("chown", ""),
        flags.get("chmod", ""),
        node.heredocs,
        flags.get("link") == "true",
        flags.get("keep-git-dir") == "true",
        flags.get("checksum", ""),
        flags.get("parents") == "true",
        excludes,
        flags["unpack"] == "true" if "unpack" in flags else None,
        node.flags,
    )


def _pairs(node: Node) -> Pairs:
    _flags(node, {})
    words = split_words(node.rest)
    if not words:
        raise InvalidParameter(f"{node.word} requires at least one argument")
    if "=" not in words[0]:
        pieces = node.rest.split(None, 1)
        if len(pieces) < 2:
            raise InvalidParameter(f"{node.word} must have two arguments")
        return Pairs(node.original, node.word, ((pieces[0], pieces[1]),))
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        if not name:
            raise InvalidParameter(f"{node.word} names can not be blank")
        pairs.append((name, value))
    return Pairs(node.original, node.word, tuple(pairs))


def _arg(node: Node) -> Arg:
    words = split_words(node.rest)
    if not words:
        raise InvalidParameter("ARG requires at least one argument")
    arguments: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise InvalidParameter("ARG names can not be blank")
        arguments.append((name, value if equals else None))
    return Arg(node.original, tuple(arguments))


def _words(node: Node) -> Words:
    _flags(node, {})
    values = _json_words(node.rest) if node.word != "EXPOSE" else None
    if values is None:
        if node.word == "SHELL" and node.rest:
            raise InvalidParameter("SHELL requires the arguments to be in JSON form")
        values = split_words(node.rest)
    if not values:
        raise InvalidParameter(f"{node.word} requires at least one argument")
    if node.word == "VOLUME" and any(not value.strip() for value in values):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return Words(node.original, node.word, tuple(values))


def _text(node: Node) -> Text:
    _flags(node, {})
    if not node.rest:
        raise InvalidParameter(f"{node.word} requires exactly one argument")
    if node.word == "STOPSIGNAL" and len(node.rest.split()) != 1:
        raise InvalidParameter("STOPSIGNAL requires exactly one argument")
    return Text(node.original, node.word, node.rest)


def _onbuild(node: Node) -> Text:
    if not node.rest:
        raise InvalidParameter("ONBUILD requires at least one argument")
    trigger = node.rest.split(None, 1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    # flags belong to the trigger, so take the text as it was written
    return Text(node.original, "ONBUILD", node.original.split(None, 1)[1].strip())


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
    names = ("interval", "timeout", "start-period", "start-interval", "retries")
    flags = _flags(node, dict.fromkeys(names, False))
    kind, _, rest = node.rest.partition(" ")
    rest = rest.strip()
    if not kind:
        raise InvalidParameter("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        if rest:
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        return HealthCheck(node.original, Healthcheck(["NONE"]))
    if kind.upper() != "CMD":
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not rest:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    listed = _json_words(rest)
    retries = flags.get("retries", "") or "0"
    if not re.fullmatch(r"-?\d+", retries):
        raise InvalidParameter(f'strconv.ParseInt: parsing "{retries}": invalid syntax')
    if int(retries) < 0:
        raise InvalidParameter(f"--retries cannot be negative ({retries})")
    return HealthCheck(
        node.original,
        Healthcheck(
            ["CMD", *listed] if listed is not None else ["CMD-SHELL", rest],
            interval=_duration("interval", flags.get("interval", "")),
            timeout=_duration("timeout", flags.get("timeout", "")),
            start_period=_duration("start-period", flags.get("start-period", "")),
            start_interval=_duration("start-interval", flags.get("start-interval", "")),
            retries=int(retries),
        ),
    )


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
