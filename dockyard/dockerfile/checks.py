"""Build checks: what a Dockerfile does that works and had better not be done so.

They are those of docs.docker.com/reference/build-checks, in its words, as far as they need no more than the file. Each
is one function that yields what it has found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from dockyard.dockerfile.parser import Dockerfile, Node
from dockyard.dockerfile.substitution import expand, split_words
from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import InvalidParameter

URL = "https://docs.docker.com/go/dockerfile/rule/"
_SECRET = re.compile(r"(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)")
_NO_SECRET = re.compile(r"(?i)(?:_|^)public(?:_|$)|\$[{\w]")
PLATFORM_ARGUMENTS = frozenset(
    f"{kind}{part}" for kind in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)

DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
    ),
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
    ),
    "MaintainerDeprecated": ("The MAINTAINER instruction is deprecated, use a label instead to define an image author"),
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
        "base image changes"
    ),
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": ("Multiple instructions of the same type should not be used in the same stage"),
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
        "future release"
    ),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """What a check has found in the instruction that begins at `line`."""

    rule: str
    message: str
    line: int

    @property
    def description(self) -> str:
        """What the rule is about."""
        return DESCRIPTIONS[self.rule]

    @property
    def url(self) -> str:
        """Where it is explained."""
        return URL + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower() + "/"


@dataclass(slots=True)
class CheckOptions:
    """What `# check=` says: rules to leave out ("all": every one), and whether a violation is an error."""

    skip: set[str] = field(default_factory=set)
    error: bool = False


def options_of(text: str) -> CheckOptions:
    """`skip=A,B;error=true`. Raises InvalidParameter."""
    options = CheckOptions()
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals or name not in ("skip", "error", "experimental"):
            raise InvalidParameter(f'invalid check option "{part}"')
        if name == "skip":
            options.skip = {rule.strip() for rule in value.split(",")}
        elif name == "error":
            options.error = value.strip().lower() in ("1", "t", "true")
    return options


@dataclass(slots=True)
class _Stage:
    start: Node
    nodes: list[Node] = field(default_factory=list)


def check(file: Dockerfile, options: CheckOptions) -> list[Violation]:
    """All that the checks find, in the order of the lines."""
    if "all" in options.skip:
        return []
    found: list[Violation] = []
    arguments = list(_before_stages(file))
    stages = _stages(file)
    for rule in _RULES:
        found += rule(file, stages, arguments)
    return sorted((one for one in found if one.rule not in options.skip), key=lambda one: one.line)


def _before_stages(file: Dockerfile) -> Iterator[Node]:
    for node in file.nodes:
        if node.word == "FROM":
            return
        if node.word == "ARG":
            yield node


def _stages(file: Dockerfile) -> list[_Stage]:
    stages: list[_Stage] = []
    for node in file.nodes:
        if node.word == "FROM":
            stages.append(_Stage(node))
        elif stages:
            stages[-1].nodes.append(node)
    return stages


def _written(node: Node) -> str:
    return node.original.split(None, 1)[0]


def _stage_names(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    seen: set[str] = set()
    for stage in stages:
        words = stage.start.rest.split()
        if len(words) != 3:
            continue
        name, line = words[2], stage.start.line
        if name != name.lower():
            yield Violation("StageNameCasing", f"Stage name '{name}' should be lowercase", line)
        if name.lower() in ("scratch", "context"):
            yield Violation(
                "ReservedStageName", f'Stage name should not use the same name as reserved stage "{name}"', line
            )
        if name.lower() in seen:
            yield Violation("DuplicateStageName", f'Duplicate stage name "{name}", stage names should be unique', line)
        seen.add(name.lower())
        as_, from_ = words[1], _written(stage.start)
        if (as_.islower() and from_.isupper()) or (as_.isupper() and from_.islower()):
            yield Violation("FromAsCasing", f"'{as_}' and '{from_}' keywords' casing do not match", line)


def _empty_continuations(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    for line in file.empty_continuations:
        yield Violation("NoEmptyContinuation", "Empty continuation line", line)


def _casing(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    words = [_written(node) for node in file.nodes]
    upper = sum(word.isupper() for word in words)
    lower = sum(word.islower() for word in words)
    wanted, test = ("lowercase", str.islower) if lower > upper else ("uppercase", str.isupper)
    for node, word in zip(file.nodes, words, strict=True):
        if not test(word):
            yield Violation(
                "ConsistentInstructionCasing",
                f"Command '{word}' should match the case of the command majority ({wanted})",
                node.line,
            )


def _commands(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    with_shell: set[str] = set()
    for stage in stages:
        words = stage.start.rest.lower().split()
        shell = any(node.word == "SHELL" for node in stage.nodes) or bool(words and words[0] in with_shell)
        if shell and len(words) == 3:
            with_shell.add(words[2])
        for word in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            same = [node for node in stage.nodes if node.word == word]
            for node in same[:-1]:
                yield Violation(
                    "MultipleInstructionsDisallowed",
                    f"Multiple {word} instructions should not be used in the same stage because only the last one will "
                    "be used",
                    node.line,
                )
            for node in same if word != "HEALTHCHECK" and not shell else ():
                if not node.rest.startswith("["):
                    yield Violation(
                        "JSONArgsRecommended",
                        f"JSON arguments recommended for {word} to prevent unintended behavior related to OS signals",
                        node.line,
                    )


def _old_forms(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    for node in file.nodes:
        if node.word == "MAINTAINER":
            yield Violation(
                "MaintainerDeprecated", "Maintainer instruction is deprecated in favor of using label", node.line
            )
        if node.word in ("ENV", "LABEL") and node.rest and "=" not in split_words(node.rest)[0]:
            message = f'"{node.word} key=value" should be used instead of legacy "{node.word} key value" format'
            yield Violation("LegacyKeyValueFormat", message, node.line)


def _secrets(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    for node in file.nodes:
        if node.word not in ("ARG", "ENV"):
            continue
        words = split_words(node.rest)
        if node.word == "ENV" and words and "=" not in words[0]:
            words = words[:1]
        for word in words:
            name = word.partition("=")[0]
            if _SECRET.search(name) and not _NO_SECRET.search(name):
                message = f'Do not use ARG or ENV instructions for sensitive data ({node.word} "{name}")'
                yield Violation("SecretsUsedInArgOrEnv", message, node.line)


def _defaults(arguments: list[Node]) -> dict[str, str]:
    """What global arguments are worth without any from the command line."""
    known: dict[str, str] = {}
    for node in arguments:
        for word in split_words(node.rest):
            name, equals, value = word.partition("=")
            try:
                known[name] = expand(value, known) if equals else ""
            except InvalidParameter:
                known[name] = "unknown"  # it may make sense with what the command line gives
    return known


def _bases(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    known = _defaults(arguments)
    predefined = dict.fromkeys((*PLATFORM_ARGUMENTS, "TARGETSTAGE"), "linux")
    for stage in stages:
        node, base = stage.start, (stage.start.rest.split() or [""])[0]
        platform = next((flag.partition("=")[2] for flag in node.flags if flag.startswith("platform=")), "")
        for name in (*variables(base), *variables(platform)):
            if name not in known and name not in predefined:
                near = suggestion(name, [*known, *predefined])
                yield Violation("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{near}", node.line)
        try:
            worth = expand(base, {**predefined, **known})
        except InvalidParameter:
            worth = "unknown"
        if not worth or not re.fullmatch(r"[\w][\w./:@-]*[\w]|[\w]", worth):
            message = f"Default value for ARG {base} results in empty or invalid base image name"
            yield Violation("InvalidDefaultArgInFrom", message, node.line)
        if platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            message = f"Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
            yield Violation("RedundantTargetPlatform", message, node.line)
        elif platform and "$" not in platform:
            name = (node.rest.split() or ["", "", ""])[-1]
            if not any(part in name for part in platform.split("/")):
                message = f'FROM --platform flag should not use constant value "{platform}"'
                yield Violation("FromPlatformFlagConstDisallowed", message, node.line)


def _folders(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    absolute: Mapping[str, bool] = {}
    for stage in stages:
        words = stage.start.rest.split()
        sure = absolute.get(words[0].lower(), False) if words else False
        for node in stage.nodes:
            if node.word == "WORKDIR":
                relative = not node.rest.startswith(("/", "$", '"/'))
                if relative and not sure:
                    message = f'Relative workdir "{node.rest}" can have unexpected results if the base image changes'
                    yield Violation("WorkdirRelativePath", message, node.line)
                sure = True
        if len(words) == 3:
            absolute = {**absolute, words[2].lower(): sure}


def _ports(file: Dockerfile, stages: list[_Stage], arguments: list[Node]) -> Iterator[Violation]:
    for node in file.nodes:
        for port in node.rest.split() if node.word == "EXPOSE" else ():
            protocol = port.partition("/")[2]
            if protocol != protocol.lower():
                message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                yield Violation("ExposeProtoCasing", message, node.line)
            if ":" in port.replace("${", "").partition("}")[0] and "$" not in port:
                message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                yield Violation("ExposeInvalidFormat", message, node.line)


def variables(text: str) -> list[str]:
    """The names of variables that a word uses, but for those that it has a default for."""
    found = []
    for match in re.finditer(r"(?<!\\)\$(?:\{(\w+)(:?[-+?])?|([A-Za-z_]\w*))", text):
        if not match[2]:
            found.append(match[1] or match[3])
    return found


_RULES: tuple[Callable[[Dockerfile, list[_Stage], list[Node]], Iterator[Violation]], ...] = (
    _stage_names,
    _empty_continuations,
    _casing,
    _commands,
    _old_forms,
    _secrets,
    _bases,
    _folders,
    _ports,
)
