"""What clients ask of a Dockerfile other than to build it: `--check`, `--call=targets` and `outline`.

moby/buildkit frontend/subrequests.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dockyard.builder import stages
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.checks import PLATFORM_ARGUMENTS
from dockyard.dockerfile.instructions import Arg
from dockyard.errors import DockyardError, InvalidParameter

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build

LINT, TARGETS, OUTLINE, DESCRIBE = (
    "frontend.lint",
    "frontend.targets",
    "frontend.outline",
    "frontend.subrequests.describe",
)


async def answer(build: Build, options: dict[str, str], frontend: str) -> dict[str, bytes]:
    """The metadata that answer `requestid`. Raises InvalidParameter for another request."""
    kind = options["requestid"]
    if kind == LINT:
        return await _lint(build, options, frontend)
    if kind == TARGETS:
        return await _targets(build, options)
    if kind == OUTLINE:
        return await _outline(build, options)
    if kind == DESCRIBE:
        known = [{"name": name, "version": "1.0.0", "type": "rpc"} for name in (LINT, TARGETS, OUTLINE)]
        return _answer(known, "\n".join(str(one["name"]) for one in known))
    raise InvalidParameter(f"unsupported request {kind}")


async def _lint(build: Build, options: dict[str, str], frontend: str) -> dict[str, bytes]:
    error: dict[str, Any] | None = None
    try:
        await build.convert(frontend, options, {})
    except DockyardError as failure:
        line = getattr(failure, "line", 0)
        if not line:
            raise
        error = {"message": str(failure), "location": _location(line)}
    warnings = [
        {
            "ruleName": one.rule,
            "description": one.description,
            "url": one.url,
            "detail": one.message,
            "location": _location(one.line),
        }
        for one in build.violations
    ]
    source = {"filename": build.file_name, "language": "Dockerfile", "data": base64.b64encode(build.text).decode()}
    found: dict[str, Any] = {"warnings": warnings, "sources": [source]}
    if error is not None:
        found["buildError"] = error
    text = "".join(f"WARNING: {one.rule} - {one.url}\n{one.message}\n" for one in build.violations)
    told = _answer(found, text)
    told["result.statuscode"] = b"1" if warnings or error else b"0"
    return told


def _location(line: int) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}}]}


async def _targets(build: Build, options: dict[str, str]) -> dict[str, bytes]:
    plan = stages.plan(dockerfile.parse(await build.dockerfile(options), build.file_name), classic=False)
    targets = []
    for stage in plan.stages:
        target: dict[str, Any] = {"base": stage.start.base, "location": _location(stage.line)}
        if stage.name:
            target["name"] = stage.name
        if stage is plan.stages[-1]:
            target["default"] = True
        targets.append(target)
    rows = [
        f"{target.get('name', '')} (default)".strip() if target.get("default") else target.get("name", "")
        for target in targets
    ]
    text = _table([("TARGET", "DESCRIPTION"), *((row, "") for row in rows)], gap=1)
    return _answer({"targets": targets, "sources": [base64.b64encode(build.text).decode()]}, text)


async def _outline(build: Build, options: dict[str, str]) -> dict[str, bytes]:
    plan = stages.plan(dockerfile.parse(await build.dockerfile(options), build.file_name), classic=False)
    target = plan.target(options.get("target", ""))
    arguments: dict[str, dict[str, Any]] = {}
    steps = [*plan.arguments, *(step for stage in plan.needed(target) for step in stage.steps if isinstance(step, Arg))]
    for step in steps:
        for name, value in step.arguments:
            if name not in PLATFORM_ARGUMENTS:
                given = options.get(f"build-arg:{name}", value)
                arguments.setdefault(name, {"name": name, **({"value": given} if given is not None else {})})
    found: dict[str, Any] = {"args": list(arguments.values()), "sources": [base64.b64encode(build.text).decode()]}
    if target.name:
        found["name"] = target.name
    text = f"{_table([('TARGET:', target.name)], gap=1)}\n" if target.name else ""
    if arguments:
        rows = [(one["name"], one.get("value", ""), "") for one in arguments.values()]
        text += _table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows], gap=3) + "\n"
    return _answer(found, text)


def _table(rows: Sequence[Sequence[str]], gap: int) -> str:
    """Rows in columns, as Go's text/tabwriter sets them: the last column is not filled up."""
    widths = [max(len(row[column]) for row in rows) + gap for column in range(len(rows[0]) - 1)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _answer(document: Any, text: str) -> dict[str, bytes]:
    return {"result.json": json.dumps(document, indent=2).encode(), "result.txt": text.encode(), "version": b"1.0.0"}
