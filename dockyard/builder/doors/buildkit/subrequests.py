"""What clients ask of a Dockerfile other than to build it: `--check`, `--call=targets` and `outline`.

moby/buildkit frontend/subrequests.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from dockyard.builder.doors.buildkit.options import LINT
from dockyard.builder.doors.buildkit.outline import Outline, location, outline_text, targets_text
from dockyard.dockerfile.parser import lines_of
from dockyard.errors import DockyardError, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dockyard.builder.doors.buildkit.build import Build
    from dockyard.builder.graph.request import Built

TARGETS, OUTLINE, DESCRIBE = "frontend.targets", "frontend.outline", "frontend.subrequests.describe"


async def answer(build: Build, options: dict[str, str], frontend: str, inputs: Mapping[str, Built]) -> dict[str, bytes]:
    """The metadata that answer `requestid`. Raises InvalidParameter for another request."""
    kind = options["requestid"]
    if kind == LINT:
        return await _lint(build, options, frontend, inputs)
    if kind == TARGETS:
        return await _targets(build, options, inputs)
    if kind == OUTLINE:
        return await _outline(build, options, inputs)
    if kind == DESCRIBE:
        known = [{"name": name, "version": "1.0.0", "type": "rpc"} for name in (LINT, TARGETS, OUTLINE)]
        return _answer(known, "\n".join(str(one["name"]) for one in known))
    raise InvalidParameter(f"unsupported request {kind}")


async def _lint(build: Build, options: dict[str, str], frontend: str, inputs: Mapping[str, Built]) -> dict[str, bytes]:
    error: dict[str, Any] | None = None
    try:
        await build.convert(frontend, options, inputs)
    except DockyardError as failure:
        if not build.text:  # there is nothing to tell of
            raise
        error = {"message": str(failure), "location": {}}
        line, end = lines_of(failure)
        if line:
            error["location"] = location(line, end)
    warnings = [
        {
            "ruleName": one.rule,
            "description": one.description,
            "url": one.url,
            "detail": one.message,
            "location": location(one.line, one.end),
        }
        for one in sorted(build.violations, key=lambda one: one.line)
    ]
    source = {"filename": build.file_name, "language": "Dockerfile", "data": base64.b64encode(build.text).decode()}
    found: dict[str, Any] = {"warnings": warnings, "sources": [source]}
    if error is not None:
        found["buildError"] = error
    text = "".join(f"WARNING: {one.rule} - {one.url}\n{one.message}\n" for one in build.violations)
    told = _answer(found, text)
    told["result.statuscode"] = b"1" if warnings or error else b"0"
    return told


async def _targets(build: Build, options: dict[str, str], inputs: Mapping[str, Built]) -> dict[str, bytes]:
    found = Outline(await build.dockerfile(options, inputs), build.file_name, {}).targets()
    return _answer({"targets": found, "sources": _sources(build)}, targets_text(found))


async def _outline(build: Build, options: dict[str, str], inputs: Mapping[str, Built]) -> dict[str, bytes]:
    prefix = "build-arg:"
    given = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    outline = Outline(await build.dockerfile(options, inputs), build.file_name, given)
    found = outline.of(options.get("target", ""))
    return _answer({**found, "sources": _sources(build)}, outline_text(found))


def _sources(build: Build) -> list[str]:
    return [base64.b64encode(build.text).decode()]


def _answer(document: Any, text: str) -> dict[str, bytes]:
    return {"result.json": json.dumps(document, indent=2).encode(), "result.txt": text.encode(), "version": b"1.0.0"}
