"""Bake files read, and the targets that are wanted worked out: groups, inheritance, overrides, links (bake/bake.go)."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dockyard.bake import compose_file, json_syntax, syntax, tree
from dockyard.bake.definition import Definition
from dockyard.bake.errors import BakeError
from dockyard.bake.target import Target, merge, normalized, override
from dockyard.dockerfile.git_source import REMOTE

DEFAULT_FILES = (
    "compose.yaml compose.yml docker-compose.yml docker-compose.yaml docker-bake.json docker-bake.hcl "
    "docker-bake.override.json docker-bake.override.hcl"
).split()
# keys of --set that take several values
REPEATED = "output cache-to cache-from tags platform secrets ssh attest entitlements network annotations".split()

File = tuple[str, str]  # name, text


class Plan:
    """The targets that are wanted, those that they are linked to, and the groups that lead there."""

    def __init__(self, targets: dict[str, Target], groups: dict[str, Target], linked: set[str]) -> None:
        self.targets = targets
        self.groups = groups
        self.linked = linked


def default_files() -> list[str]:
    """The bake files of this folder, in the order in which they are laid over each other."""
    return [name for name in DEFAULT_FILES if os.path.exists(name)]


class Project:
    """All targets and groups of files."""

    def __init__(self, files: Sequence[File], builtin: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """`builtin`: BAKE_CMD_CONTEXT and its like. Raises BakeError."""
        composed = [file for file in files if _is_compose(*file)]
        bodies = [_body(*file) for file in files if file not in composed]
        self.targets: dict[str, Target] = {}
        self.groups: dict[str, Target] = {}
        self.definition: Definition | None = None
        if composed:
            self.targets, self.groups = compose_file.read(composed)
        if bodies:
            self.definition = Definition(bodies, builtin, environment)
            targets, groups = self.definition.read()
            for name, target in targets.items():
                self.targets[name] = merge(self.targets[name], target) if name in self.targets else target
            self.groups.update(groups)
            for label, names in self.definition.renamed.items():
                self.groups.setdefault(label, {"targets": list(dict.fromkeys(names))})

    # -- what is wanted

    def plan(
        self, wanted: Sequence[str], overrides: Sequence[str], located: Callable[[Target], None] = lambda target: None
    ) -> Plan:
        """What the words of the command line name, with `--set`. Raises BakeError.

        `located` has the contexts of a target mean what they mean where the files are from.
        """
        names = list(
            dict.fromkeys(found for one in wanted for found in self._matching(one.replace(".", "_"), groups=True))
        )
        changes = self._overrides(overrides)
        targets: dict[str, Target] = {}
        groups: dict[str, Target] = {}
        for name in names:
            for target in self._members(name, groups, []):
                if target not in targets:
                    targets[target] = self._resolved(target, changes)
        for name in names:
            if name == "default" and "default" in groups:
                continue
            group = groups.get("default", {})
            groups["default"] = {**group, "targets": [*group.get("targets", []), name]}
        if "default" in groups and groups["default"].get("targets") is not None:
            groups["default"] = {**groups["default"], "targets": sorted(set(groups["default"]["targets"]))}
        linked: set[str] = set()
        for name in list(targets):
            self._link(name, targets, changes, [], linked)
        for one in targets.values():
            located(one)
            settled(one)
        return Plan(targets, groups, linked)

    def _matching(self, pattern: str, *, groups: bool) -> list[str]:
        if not re.search(r"[*?\[\]]", pattern):
            return [pattern]
        known = [*(self.groups if groups else ()), *self.targets]
        found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise BakeError(f'could not find any target matching "{pattern}"')
        return found

    def _members(self, name: str, groups: dict[str, Target], path: list[str]) -> list[str]:
        """The targets of a group, of those in it too; it is entered into `groups`."""
        group = self.groups.get(name)
        if group is None:
            return [name]
        if name in path:
            return [name]  # a target may have the name of a group that it is in
        groups[name] = {**group, "targets": list(dict.fromkeys(group.get("targets", []))) or None}
        found = [one for member in group.get("targets", []) for one in self._members(member, groups, [*path, name])]
        return list(dict.fromkeys(found))

    def _resolved(self, name: str, changes: Mapping[str, Mapping[str, tuple[bool, list[str]]]]) -> Target:
        found = self._inherited(name, changes, {})
        assert found is not None  # (only what inherits from itself is left out)
        found.pop("inherits", None)
        found.setdefault("context", ".")
        if not found.get("dockerfile"):
            found["dockerfile"] = "Dockerfile"
        return found

    def _inherited(
        self,
        name: str,
        changes: Mapping[str, Mapping[str, tuple[bool, list[str]]]],
        visited: dict[str, Target | None],
    ) -> Target | None:
        if name in visited:
            return visited[name]
        visited[name] = None
        target = self.targets.get(name)
        if target is None:
            raise BakeError(f"failed to find target {name}")
        base: Target = {}
        for parent in target.get("inherits", []):
            found = self._inherited(parent, changes, visited)
            if found is not None:
                base = merge(base, found)
        made = merge(base, target)
        for key, (append, values) in changes.get(name, {}).items():
            made = override(made, key, values, append=append)
        visited[name] = normalized(made)
        return dict(visited[name] or {})

    def _overrides(self, given: Sequence[str]) -> dict[str, dict[str, tuple[bool, list[str]]]]:
        """`--set PATTERN.key[.name][+]=value` by target. Raises BakeError."""
        found: dict[str, dict[str, tuple[bool, list[str]]]] = {}
        for text in given:
            left, equals, value = text.partition("=")
            key = left.removesuffix("+")
            parts = key.split(".", 2)
            if len(parts) < 2:
                raise BakeError(f"invalid override key {key}, expected target.name")
            if not equals and parts[1] != "args":
                raise BakeError(f"invalid override {text}, expected target.name=value")
            if parts[1] in ("args", "contexts") and len(parts) != 3:
                raise BakeError(f"invalid key {left}, {parts[1]} requires name")
            if not equals:
                if parts[2] not in os.environ:
                    continue
                value = os.environ[parts[2]]
            for name in self._targets_like(parts[0]):
                own = found.setdefault(name, {})
                _, known = own.get(".".join(parts[1:]), (False, []))
                values = [*known, value] if parts[1] in REPEATED else [value]
                own[".".join(parts[1:])] = (left.endswith("+"), values)
        return found

    def _targets_like(self, pattern: str) -> list[str]:
        if pattern in self.targets:
            return [pattern]
        found = [name for name in self.targets if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise BakeError(f"could not find any target matching '{pattern}'")
        return found

    def _link(
        self,
        name: str,
        targets: dict[str, Target],
        changes: Mapping[str, Mapping[str, tuple[bool, list[str]]]],
        path: list[str],
        linked: set[str],
    ) -> None:
        """Take up the targets whose results a target's contexts are. Raises BakeError."""
        path = [*path, name]
        target = targets[name]
        for value in target.get("contexts", {}).values():
            if not value.startswith("target:"):
                continue
            other = value.removeprefix("target:")
            if other == name:
                raise BakeError(f"target {other} cannot link to itself")
            if other in path:
                raise BakeError(f"infinite loop from {name} to {other}")
            if other not in targets:
                targets[other] = {**self._resolved(other, changes), "output": [{"type": "cacheonly"}]}
                linked.add(other)
            self._link(other, targets, changes, path, linked)
            _share(name, target, other, targets[other])


def _share(name: str, target: Target, other: str, source: Target) -> None:
    """What a linked target is allowed, and for which platforms it is."""
    allowed: list[Any] = source.get("entitlements", [])
    if allowed:
        target["entitlements"] = list(dict.fromkeys([*target.get("entitlements", []), *allowed]))
    own, theirs = target.get("platforms", []), source.get("platforms", [])
    if len(own) > 1 and len(theirs) > 1 and not set(own) <= set(theirs):
        raise BakeError(
            f"target {other} can't be used by {name} because its platforms [{' '.join(own)}] are not a subset of "
            f"[{' '.join(theirs)}]"
        )


def settled(target: Target) -> None:
    """Have the context's path as it is built with, and what is read from here there. Raises BakeError."""
    context = target["context"]
    if context == "-" or target["dockerfile"] == "-":
        what = "context" if context == "-" else "dockerfile"
        raise BakeError(f"{what} from stdin not allowed in bake")
    if not remote(context) and "://" not in context.removeprefix("cwd://"):
        target["context"] = cleaned(context.removeprefix("cwd://"))
    for secret in target.get("secret", []):
        path = secret.get("src") or (
            "" if secret.get("env") or secret.get("id") in os.environ else secret.get("id", "")
        )
        if path and not os.path.exists(path):
            raise BakeError(f"failed to stat {path}: stat {path}: no such file or directory")
    for agent in target.get("ssh", []):
        if not agent.get("paths") and not os.environ.get("SSH_AUTH_SOCK"):
            raise BakeError(
                f"failed to convert agent config {{{agent['id']} [] false}}: invalid empty ssh agent socket: make sure "
                "SSH_AUTH_SOCK is set"
            )


def remote(context: str) -> bool:
    """Whether a context is at an address."""
    return context.startswith(REMOTE)


def cleaned(path: str) -> str:
    """A path as Go's path.Clean has it."""
    found = os.path.normpath(path) if path else "."
    return found[1:] if found.startswith("//") else found


def _is_compose(name: str, text: str) -> bool:
    lower = name.lower()
    if lower.endswith((".yml", ".yaml")):
        return True
    if lower.endswith((".json", ".hcl")):
        return False
    try:
        syntax.parse(text, name)
    except BakeError:
        try:
            json_syntax.parse(text, name)
        except BakeError:
            return True
    return False


def _body(name: str, text: str) -> tree.Body:
    if name.lower().endswith(".json"):
        return json_syntax.parse(text, name)
    if name.lower().endswith(".hcl"):
        return syntax.parse(text, name)
    try:
        return syntax.parse(text, name)
    except BakeError as error:
        try:
            return json_syntax.parse(text, name)
        except BakeError:
            raise error from None
