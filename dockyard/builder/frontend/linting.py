"""Build checks of what a stage's instructions do, once their variables are replaced and their bases known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from dockyard.dockerfile.checks import Findings
from dockyard.dockerfile.dockerignore import IgnoreRules
from dockyard.dockerfile.instructions import Command, HealthCheck, Pairs
from dockyard.dockerfile.substitution import Expansion, go_quoted
from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import normalized, parse_platform
from dockyard.oci.reference import Reference

_SECRET = re.compile(r"(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)")
_NO_SECRET = re.compile(r"(?i)(?:_|^)public(?:_|$)")
NO_VARIABLES = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))


class StageChecks:
    """The checks of one stage. `line`, `end`: those of the instruction that is looked at."""

    def __init__(self, findings: Findings, base: StageChecks | None = None) -> None:
        self._findings = findings
        self._placed: bool = base._placed if base is not None else False  # a WORKDIR has said where everything is
        self._last: dict[str, tuple[int, int]] = {}  # where a word that counts once has been said
        self.line, self.end = 0, 0

    def _add(self, rule: str, message: str) -> None:
        self._findings.add(rule, message, self.line, self.end)

    def unknown(self, names: Iterable[str], known: Iterable[str], declared: Iterable[str]) -> None:
        """Variables that were used and stand for nothing; `declared` by an ARG without a value."""
        for name in names:
            if name in declared or name in NO_VARIABLES:
                continue
            near = suggestion(name, known).replace("did you mean ", "did you mean $")
            self._add("UndefinedVar", f"Usage of undefined variable '${name}'{near}")

    def pairs(self, step: Pairs, names: Sequence[str]) -> None:
        """ENV or LABEL, whose names are these."""
        for name in names:
            if step.old:
                message = f'"{step.word} key=value" should be used instead of legacy "{step.word} key value" format'
                self._add("LegacyKeyValueFormat", message)
            if step.word == "ENV":
                self.secret("ENV", name)

    def secret(self, word: str, name: str) -> None:
        """A variable or an argument of this name."""
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f"Do not use ARG or ENV instructions for sensitive data ({word} {go_quoted(name)})"
            self._add("SecretsUsedInArgOrEnv", message)

    def command(self, step: Command | HealthCheck, word: str, *, shell: bool) -> None:
        """CMD, ENTRYPOINT or HEALTHCHECK; `shell`: the image has one of its own."""
        if word in self._last:
            message = (
                f"Multiple {word} instructions should not be used in the same stage because only the last one will "
                "be used"
            )
            self._findings.add("MultipleInstructionsDisallowed", message, *self._last[word])
        self._last[step.word if isinstance(step, Command) else "HEALTHCHECK"] = self.line, self.end
        if isinstance(step, Command) and step.shell and not shell:
            message = f"JSON arguments recommended for {word} to prevent unintended behavior related to OS signals"
            self._add("JSONArgsRecommended", message)

    def folder(self, path: str) -> None:
        """WORKDIR."""
        if not self._placed and not path.startswith("/"):
            message = f"Relative workdir {go_quoted(path)} can have unexpected results if the base image changes"
            self._add("WorkdirRelativePath", message)
        self._placed = True

    def ports(self, words: Sequence[str]) -> None:
        """EXPOSE."""
        for word in words:
            protocol = word.rpartition(":")[2].partition("/")[2]
            if protocol != protocol.lower():
                self._add("ExposeProtoCasing", f"Defined protocol '{word}' in EXPOSE instruction should be lowercase")
            if word.rpartition(":")[0].strip(":"):
                message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
                self._add("ExposeInvalidFormat", message)

    def copied(self, word: str, path: str, ignored: IgnoreRules | None) -> None:
        """A path of the context that is copied."""
        if ignored is not None and ignored.excludes(path):
            message = f"Attempting to {word.capitalize()} file {go_quoted(path)} that is excluded by .dockerignore"
            self._add("CopyIgnoredFile", message)


class BaseChecks:
    """The checks of what stages begin with."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def default(self, written: str, worth: str, line: int, end: int) -> None:
        """What FROM names when the command line gives no arguments."""
        try:
            Reference.parse(worth)
        except InvalidParameter:
            message = f"Default value for ARG {written} results in empty or invalid base image name"
            self._findings.add("InvalidDefaultArgInFrom", message, line, end)

    def arguments(self, found: Expansion, known: Iterable[str], line: int, end: int) -> None:
        """What FROM's name or platform is made of; `known`: also what was declared without a value."""
        names = list(known)
        for name in found.unknown:
            if name not in names:
                near = suggestion(name, names)
                self._findings.add("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{near}", line, end)

    def platform(
        self, written: str, found: Expansion, values: Mapping[str, str], stage: str, line: int, end: int
    ) -> None:
        """What `--platform` says, for the stage of this name."""
        if found.known == ("TARGETPLATFORM",) and not found.unknown and found.text == values.get("TARGETPLATFORM"):
            message = f"Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            self._findings.add("RedundantTargetPlatform", message, line, end)
        if found.known or found.unknown:
            return
        try:
            platform = parse_platform(found.text)
        except InvalidParameter:
            return
        if platform.os not in stage and platform.architecture not in stage:
            message = f"FROM --platform flag should not use constant value {go_quoted(found.text)}"
            self._findings.add("FromPlatformFlagConstDisallowed", message, line, end)

    def image(self, name: str, wanted: Platform, found: Platform, line: int, end: int) -> None:
        """A base image that is there."""
        if (wanted.os, wanted.architecture) != (found.os, found.architecture):
            message = (
                f'Base image {name} was pulled with platform "{normalized(found)}", expected "{normalized(wanted)}" '
                "for current build"
            )
            self._findings.add("InvalidBaseImagePlatform", message, line, end)
