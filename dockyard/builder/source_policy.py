"""Source policies: rules of a client's about what a build may take from where (moby/buildkit sourcepolicy).

A rule allows, denies or converts the sources that it selects; the last one that allows or denies decides, and what was
converted is judged anew. Patterns are RE2's, as in BuildKit, so none takes long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from dockyard.errors import InvalidParameter

ALLOW, DENY, CONVERT = range(3)
WILDCARD, EXACT, REGEX = range(3)
EQUAL, NOT_EQUAL, MATCHES = range(3)
MOST_CONVERSIONS = 20
MOST_RULES = 1000
IMAGE = "docker-image://"

Source = tuple[str, dict[str, str]]  # an identifier as LLB has it, and its attributes


class SourceDenied(InvalidParameter):
    """A policy denies a source."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an attribute of a source has to be."""

    name: str
    value: str
    condition: int = EQUAL


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with a source whose identifier matches; `updates`: what a conversion makes of it."""

    action: int
    pattern: str
    kind: int = WILDCARD
    constraints: tuple[Constraint, ...] = ()
    updates: tuple[str, Mapping[str, str]] | None = None


class SourcePolicy:
    """Any number of policies; the first that converts something does so."""

    def __init__(self, policies: Iterable[Sequence[Rule]] = ()) -> None:
        """Raises InvalidParameter for rules that make no sense."""
        self._policies = [[_Compiled(rule) for rule in rules] for rules in policies]
        if sum(map(len, self._policies)) > MOST_RULES:
            raise InvalidParameter("the source policy is too large")

    def __bool__(self) -> bool:
        return any(self._policies)

    def together(self, other: SourcePolicy) -> SourcePolicy:
        """What both say, this one first."""
        both = SourcePolicy()
        both._policies = [*self._policies, *other._policies]
        return both

    def applied(self, identifier: str, attributes: Mapping[str, str]) -> Source:
        """What to take instead of a source, if not itself. Raises SourceDenied, InvalidParameter."""
        source: Source = (identifier, dict(attributes))
        for _ in range(MOST_CONVERSIONS + 1):
            converted = self._converted(source)
            if converted is None:
                return source
            source = converted
        raise InvalidParameter("too many mutations on a single source: too many operations")

    def _converted(self, source: Source) -> Source | None:
        for rules in self._policies:
            denied = False
            for rule in rules:
                if not rule.matches(source):
                    continue
                if rule.rule.action != CONVERT:
                    denied = rule.rule.action == DENY
                    continue
                converted = rule.converted(source)
                if converted != source:
                    return converted
            if denied:
                raise SourceDenied(f'source "{source[0]}" denied by policy: source denied by policy')
        return None


class _Compiled:
    """A rule with its patterns ready."""

    def __init__(self, rule: Rule) -> None:
        if rule.action not in (ALLOW, DENY, CONVERT):
            raise InvalidParameter(f'source policy: rule {rule.action} {rule.pattern}: unknown type "{rule.action}"')
        if rule.kind not in (WILDCARD, EXACT, REGEX):
            raise InvalidParameter(f"unknown match type: {rule.kind}")
        if rule.action == CONVERT and rule.updates is None:
            raise InvalidParameter("error mutating source policy: missing destination for convert rule")
        self.rule = rule
        self._pattern = None
        if rule.kind == WILDCARD:
            if "**" in rule.pattern:
                reason = 'to regexp: invalid wildcard: "**"'
                raise InvalidParameter(f'failed to translate wildcard "{rule.pattern}" {reason}')
            self._pattern = _compiled("^" + re.escape(rule.pattern).replace(r"\*", "(.*)") + "$")
        elif rule.kind == REGEX:
            self._pattern = _compiled(rule.pattern)
        self._values = [_compiled(one.value) if one.condition == MATCHES else None for one in rule.constraints]

    def matches(self, source: Source) -> bool:
        """Whether the rule is about a source."""
        identifier, attributes = source
        for constraint, pattern in zip(self.rule.constraints, self._values, strict=True):
            value = attributes.get(constraint.name, "")
            fits = pattern.search(value) is not None if pattern is not None else value == constraint.value
            if fits == (constraint.condition == NOT_EQUAL):
                return False
        if identifier == self.rule.pattern:
            return True
        return self._pattern is not None and self._pattern.search(identifier) is not None

    def converted(self, source: Source) -> Source:
        """What the rule makes of a source that it is about."""
        assert self.rule.updates is not None
        identifier, attributes = source
        given, changes = self.rule.updates
        target = given or self.rule.pattern
        found = self._pattern.search(identifier) if self._pattern is not None else None
        if found is not None:
            target = _expanded(target, found)
            if self.rule.kind == REGEX:
                target = identifier[: found.start()] + target + identifier[found.end() :]
        return target or identifier, {**attributes, **changes}


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise InvalidParameter(f'invalid regex "{pattern}": {reason}') from None


def _expanded(template: str, found: Any) -> str:
    """`$1`, `${name}` and `$$` as Go's regexp.Expand has them; of groups that there are none of, nothing."""

    def value(variable: re.Match[str]) -> str:
        if variable[0] == "$$":
            return "$"
        name = variable[1] or variable[2]
        try:
            return found.group(int(name) if name.isdigit() else name) or ""
        except (IndexError, KeyError):
            return ""

    return re.sub(r"\$(?:\$|\{(\w+)\}|(\w+))", value, template, flags=re.ASCII)
