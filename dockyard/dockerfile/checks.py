"""Build checks: what a Dockerfile does that works and had better not be done so.

They are those of docs.docker.com/reference/build-checks, in its words. Here are the rules, and what can be found in the
file alone; what depends on variables and bases is found when a stage is gone through.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dockyard.dockerfile.parser import BLANKS, Dockerfile, Node
from dockyard.dockerfile.substitution import expand, split_words
from dockyard.errors import InvalidParameter

URL = "https://docs.docker.com/go/dockerfile/rule/"
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
    "MaintainerDeprecated": "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
        "base image changes"
    ),
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
        "not intended to be a description comment, add an empty line or comment between the instruction and the "
        "comment."
    ),
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
        "future release"
    ),
}
EXPERIMENTAL = frozenset(("CopyIgnoredFile", "InvalidDefinitionDescription"))  # only where they are asked for
WITHOUT_PAGE = "InvalidBaseImagePlatform"


@dataclass(frozen=True, slots=True)
class Violation:
    """What a check has found in the instruction of the lines from `line` to `end`."""

    rule: str
    message: str
    line: int
    end: int = 0

    @property
    def description(self) -> str:
        """What the rule is about."""
        return DESCRIPTIONS[self.rule]

    @property
    def url(self) -> str:
        """Where it is explained; "" for nowhere."""
        if self.rule == WITHOUT_PAGE:
            return ""
        return URL + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower() + "/"


@dataclass(slots=True)
class CheckOptions:
    """What `# check=` says: rules to leave out, experimental ones to take ("all": every one), and what follows."""

    skip: set[str] = field(default_factory=set)
    experimental: set[str] = field(default_factory=set)
    error: bool = False

    def wants(self, rule: str) -> bool:
        """Whether a rule is checked."""
        if rule in EXPERIMENTAL:
            return bool(self.experimental & {"all", rule})
        return not self.skip & {"all", rule}


def options_of(text: str) -> CheckOptions:
    """`skip=A,B;experimental=C;error=true`. Raises InvalidParameter."""
    options = CheckOptions()
    if not text.strip():
        return options
    for part in text.strip().split(";", 2):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals:
            raise InvalidParameter(f'invalid check option "{part}"')
        if name == "skip":
            options.skip = {rule.strip() for rule in value.split(",")}
        elif name == "experimental":
            options.experimental = {rule.strip() for rule in value.split(",")}
        elif name == "error":
            options.error = _boolean(part, value)
        else:
            raise InvalidParameter(f'invalid check option "{name}"')
    return options


def _boolean(part: str, value: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    why = f'strconv.ParseBool: parsing "{value}": invalid syntax'
    raise InvalidParameter(f'failed to parse check option "{part}": {why}')


class Findings:
    """What the checks that are wanted have found, in the order in which they did."""

    def __init__(self, options: CheckOptions) -> None:
        self.violations: list[Violation] = []
        self._options = options

    def add(self, rule: str, message: str, line: int, end: int = 0) -> None:
        """Note a violation, if the rule is to be checked."""
        if self._options.wants(rule):
            self.violations.append(Violation(rule, message, line, end or line))

    @property
    def failure(self) -> str:
        """What ends the build, if violations are to be errors; "" for nothing."""
        if not self._options.error or not self.violations:
            return ""
        return f"lint violation found for rules: {', '.join(dict.fromkeys(one.rule for one in self.violations))}"

    # -- in the file alone

    def check_continuations(self, file: Dockerfile) -> None:
        """Lines of nothing in the midst of an instruction."""
        for line in file.empty_continuations:
            self.add("NoEmptyContinuation", "Empty continuation line", line)

    def check_node(self, node: Node) -> None:
        """What an instruction looks like, before it is known whether it makes sense."""
        if node.word == "MAINTAINER":
            message = "Maintainer instruction is deprecated in favor of using label"
            self.add("MaintainerDeprecated", message, node.line, node.end)
        elif node.word == "FROM":
            self._check_from(node)
        elif node.word == "ARG":
            names = [word.partition("=")[0] for word in split_words(node.rest, node.escape)]
            self._check_description(node, names)

    def _check_from(self, node: Node) -> None:
        words = BLANKS.split(node.rest)
        if len(words) < 3:
            return
        keyword, as_, name = node.written, words[1], words[2]
        if len(words) == 3 and name != name.lower():
            self.add("StageNameCasing", f"Stage name '{name}' should be lowercase", node.line, node.end)
        if (keyword == keyword.lower() and as_ != as_.lower()) or (keyword == keyword.upper() and as_ != as_.upper()):
            message = f"'{as_}' and '{keyword}' keywords' casing do not match"
            self.add("FromAsCasing", message, node.line, node.end)
        if len(words) == 3:
            self._check_description(node, [name.lower()])

    def _check_description(self, node: Node, names: Sequence[str]) -> None:
        """The comment right above is to begin with what it describes."""
        if not node.comments or not names or node.comments[-1].partition(" ")[0] in names:
            return
        example = names[0] if len(names) == 1 else "<arg_key>"
        message = f"Comment for {node.word} should follow the format: `# {example} <description>`"
        self.add("InvalidDefinitionDescription", message, node.line, node.end)

    def check_stages(self, file: Dockerfile) -> None:
        """Names of stages, and how words are written."""
        starts = [node for node in file.nodes if node.word == "FROM"]
        seen: set[str] = set()
        for node in starts:
            words = BLANKS.split(node.rest)
            name = words[2].lower() if len(words) == 3 else ""
            if name in ("scratch", "context"):
                message = f'Stage name should not use the same name as reserved stage "{name}"'
                self.add("ReservedStageName", message, node.line, node.end)
            if name in seen:
                message = f'Duplicate stage name "{name}", stage names should be unique'
                self.add("DuplicateStageName", message, node.line, node.end)
            seen |= {name} - {""}
        self._check_casing(file.nodes[file.nodes.index(starts[0]) :] if starts else [])

    def _check_casing(self, nodes: Sequence[Node]) -> None:
        counts = Counter((node.written.islower(), node.written.isupper()) for node in nodes)
        lower = counts[True, False] > counts[False, True]
        for node in nodes:
            if node.written != (node.written.lower() if lower else node.written.upper()):
                wanted = "lowercase" if lower else "uppercase"
                message = f"Command '{node.written}' should match the case of the command majority ({wanted})"
                self.add("ConsistentInstructionCasing", message, node.line, node.end)


def default_arguments(file: Dockerfile, predefined: dict[str, str]) -> dict[str, str] | None:
    """What arguments before the first stage are worth without any from the command line; None: that is an error."""
    known = dict(predefined)
    for node in file.nodes:
        if node.word == "FROM":
            break
        for word in split_words(node.rest, node.escape) if node.word == "ARG" else ():
            name, equals, value = word.partition("=")
            try:
                known.update({name: expand(value, known, file.escape)} if equals else {})
            except InvalidParameter:
                return None
    return known
