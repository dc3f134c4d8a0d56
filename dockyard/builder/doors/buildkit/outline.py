"""A Dockerfile's stages, and what one of them takes: arguments, secrets, agents, with what comments say of them.

moby/buildkit frontend/subrequests/targets and outline. A comment right above describes what it begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dockyard.builder import stages
from dockyard.builder.stages import Plan, Stage
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.checks import PLATFORM_ARGUMENTS
from dockyard.dockerfile.instructions import Arg, Command
from dockyard.dockerfile.mounts import settled
from dockyard.dockerfile.substitution import expand

Row = dict[str, Any]


def location(line: int, end: int = 0) -> Row:
    """A place in the only source, a range for each line."""
    numbers = range(line, max(line, end) + 1)
    return {"ranges": [{"start": {"line": number}, "end": {"line": number}} for number in numbers]}


class Outline:
    """What a Dockerfile says of itself. Raises InvalidParameter for one that is none."""

    def __init__(self, text: str, name: str, given: Mapping[str, str]) -> None:
        """`given`: the build's arguments."""
        self._lines = text.splitlines()
        self._file = dockerfile.parse(text)
        self._plan: Plan = stages.plan(self._file, classic=False)
        self._given = given

    def targets(self) -> list[Row]:
        """Every stage."""
        found = []
        for stage in self._plan.stages:
            row: Row = {"name": stage.name} if stage.name else {}
            about = self._described(stage.name, stage.line)
            row.update({"description": about} if about else {})
            row.update({"default": True} if stage is self._plan.stages[-1] else {})
            found.append({**row, "base": stage.start.base, "location": location(stage.line)})
        return found

    def of(self, name: str) -> Row:
        """What the stage `name` takes, "" for the last one. Raises InvalidParameter."""
        target = self._plan.target(name)
        needed = self._plan.needed(target)
        about = self._described(target.name, target.line)
        arguments, values = self._global(needed)
        secrets: dict[str, Row] = {}
        agents: dict[str, Row] = {}
        for stage in needed:
            known = dict(values)
            for step, line in zip(stage.steps, stage.lines, strict=True):
                if isinstance(step, Arg):
                    self._declare(step, line, known, arguments)
                elif isinstance(step, Command):
                    self._mounts(step, line, known, secrets, agents)
        found: Row = {"name": target.name} if target.name else {}
        found.update({"description": about} if about else {})
        for key, rows in (("args", arguments), ("secrets", secrets), ("ssh", agents)):
            if rows:
                found[key] = list(rows.values())
        return found

    def _global(self, needed: Sequence[Stage]) -> tuple[dict[str, Row], dict[str, str]]:
        """The arguments before the first FROM that these stages use, by what they say, and what all are worth."""
        lines = [node.line for node in self._file.nodes if node.word == "ARG"]
        used = {name for stage in needed for name in _names(f"{stage.start.base} {stage.start.platform}")}
        for argument in reversed(self._plan.arguments):
            for name, value in argument.arguments:
                used |= set(_names(value or "")) if name in used else set()
        rows: dict[str, Row] = {}
        values: dict[str, str] = {}
        for argument, line in zip(self._plan.arguments, lines, strict=False):
            declared: dict[str, Row] = {}
            self._declare(argument, line, values, declared)
            rows.update((name, row) for name, row in declared.items() if name in used)
        return rows, values

    def _declare(self, step: Arg, line: int, known: dict[str, str], rows: dict[str, Row]) -> None:
        for name, default in step.arguments:
            value = self._given.get(name)
            if value is None and default is not None:
                value = expand(default, known, self._file.escape)
            if value is not None:
                known[name] = value
            if name in PLATFORM_ARGUMENTS or name in rows:
                continue
            about = self._described(name, line)
            row: Row = {"name": name, **({"description": about} if about else {})}
            rows[name] = {**row, **({"value": value} if value is not None else {}), "location": location(line)}

    def _mounts(
        self, step: Command, line: int, known: Mapping[str, str], secrets: dict[str, Row], agents: dict[str, Row]
    ) -> None:
        for flag in step.mounts:
            mount = settled(flag, lambda value: expand(value, known, self._file.escape))
            if mount.kind not in ("secret", "ssh"):
                continue
            target = mount.target.rpartition("/")[2] if mount.kind == "secret" else ""
            name = mount.id or mount.source or target or "default"
            rows = secrets if mount.kind == "secret" else agents
            row = rows.setdefault(name, {"name": name, "location": location(line)})
            if mount.required:
                row["required"] = True

    def _described(self, name: str, line: int) -> str:
        """What the comment right above `line` says of `name`."""
        number = line - 2
        about = ""
        while name and number >= 0 and self._lines[number].lstrip().startswith("#"):
            said = self._lines[number].lstrip().lstrip("#").strip()
            if said.startswith(f"{name} "):
                about = said.removeprefix(f"{name} ")
            number -= 1
        return about


def _names(text: str) -> list[str]:
    from re import findall

    return [first or second for first, second in findall(r"\$(?:\{(\w+)|([A-Za-z_]\w*))", text)]


def outline_text(found: Row) -> str:
    """An outline as people read it."""
    text = ""
    if found.get("name") or found.get("description"):
        rows = [("TARGET:", found.get("name") or "(default)")]
        rows += [("DESCRIPTION:", found["description"])] if found.get("description") else []
        text += table(rows, gap=1) + "\n"
    if found.get("args"):
        cells = [(one["name"], one.get("value", ""), one.get("description", "")) for one in found["args"]]
        text += table([("BUILD ARG", "VALUE", "DESCRIPTION"), *cells], gap=3) + "\n"
    for key, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        if found.get(key):
            lines = [(one["name"], "true" if one.get("required") else "") for one in found[key]]
            text += table([(title, "REQUIRED"), *lines], gap=3) + "\n"
    return text


def targets_text(targets: Sequence[Row]) -> str:
    """Stages as people read them."""
    rows = []
    for target in targets:
        name = str(target.get("name", ""))
        name = f"{name} (default)".strip() if target.get("default") else name
        rows.append((name, str(target.get("description", ""))))
    return table([("TARGET", "DESCRIPTION"), *rows], gap=1)


def table(rows: Sequence[Sequence[str]], gap: int) -> str:
    """Rows in columns, as Go's text/tabwriter sets them: the last column is not filled up."""
    widths = [max(len(row[column]) for row in rows) + gap for column in range(len(rows[0]) - 1)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows]
    return "".join(f"{line}\n" for line in lines)
