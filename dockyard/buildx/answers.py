"""What a Dockerfile answers when it is asked, not built: `--check`, `--call=outline|targets`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from dockyard.buildx.excerpt import lines_around
from dockyard.buildx.request import InvalidRequest, fields

NAMES = {"check": "lint", "lint": "lint", "outline": "outline", "targets": "targets"}
DESCRIBE = "subrequests.describe"


class Question:
    """`--call`: what is asked, and how its answer is shown."""

    def __init__(self, text: str) -> None:
        """`text`: a name, `,format=json` and `,ignorestatus=true` behind it perhaps. Raises InvalidRequest."""
        name, *options = fields(text)
        self.name = NAMES.get(name.removeprefix("type="), name.removeprefix("type="))
        self.json = self.ignores_status = False
        for option in options:
            key, _, value = option.partition("=")
            if key == "format" and value in ("json", "text", ""):
                self.json = value == "json"
            elif key == "ignorestatus":
                self.ignores_status = value.lower() in ("", "true", "1")
            else:
                raise InvalidRequest(f"invalid print function: {text}")

    @property
    def request_id(self) -> str:
        """By which the frontend knows the question."""
        return "frontend.subrequests.describe" if self.name == DESCRIBE else f"frontend.{self.name}"

    def text(self, answers: Mapping[str, bytes]) -> tuple[str, int, str]:
        """What to show of the answer, the status to end with, and the error that the Dockerfile has, "" for none."""
        document = answers.get("result.json", b"").decode()
        error = ""
        if self.name == "lint":
            found = json.loads(document or "{}")
            text, error = _check(found)
        else:
            text = answers.get("result.txt", b"").decode()
        status = answers.get("result.statuscode", b"0")
        code = int(status) if status.isdigit() and not self.ignores_status else 0
        return (f"{document}\n" if self.json else text), code, error


def _check(found: Mapping[str, Any]) -> tuple[str, str]:
    """The report of the build checks, and the Dockerfile's error."""
    warnings = sorted(found.get("warnings") or (), key=_line_of)
    error = found.get("buildError")
    text = ""
    if warnings:
        count = "1 warning has" if len(warnings) == 1 else f"{len(warnings)} warnings have"
        text = f"Check complete, {count} been found!\n"
    elif not error:
        text = "Check complete, no warnings found.\n"
    for warning in warnings:
        link = f" - {warning['url']}" if warning.get("url") else ""
        text += f"\nWARNING: {warning['ruleName']}{link}\n{warning.get('detail', '')}\n"
        text += _place(warning, found)
    return text, f"{error['message']}\n{_place(error, found)}" if error else ""


def _line_of(warning: Mapping[str, Any]) -> int:
    ranges = (warning.get("location") or {}).get("ranges") or []
    return int((ranges[0].get("start") or {}).get("line", 0)) if ranges else 0


def _place(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    location = one.get("location") or {}
    sources = found.get("sources") or []
    number = int(location.get("sourceIndex") or 0)
    if number >= len(sources) or not isinstance(sources[number], dict):
        return ""
    source = sources[number]
    places = [
        (int((part.get("start") or {}).get("line", 0)), int((part.get("end") or {}).get("line", 0)))
        for part in location.get("ranges") or []
    ]
    data = base64.b64decode(source.get("data") or "").decode(errors="replace")
    return lines_around(str(source.get("filename", "")), data, places)
