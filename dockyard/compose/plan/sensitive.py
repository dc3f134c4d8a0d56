"""What in a project's files looks like a secret, so that it is not published unseen (DefangLabs/secret-detector)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.compose.model import yaml_source
from dockyard.compose.model.dotenv import read_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dockyard.compose.model.project import Project


class Finding(NamedTuple):
    """What it seems to be, where it stands ("" for a whole text), and what it is."""

    kind: str
    key: str
    value: str


_TEXTS = {
    "JSON Web Token": re.compile(r"\bey[A-Za-z0-9_-]{8,}\.ey[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    "Private Key": re.compile(
        r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----.*?-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
        re.DOTALL,
    ),
}
_VALUES = {
    "AWS Client ID": re.compile(r"(?:A3T[A-Z0-9]|AKIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ASIA)[A-Z0-9]{16}"),
    "AWS Secret Key": re.compile(r"aws.{0,20}?['\"][0-9a-zA-Z/+]{40}['\"]", re.IGNORECASE),
    "AWS cred file info": re.compile(r"aws_(?:access_key_id|secret_access_key|session_token)\s*=\s*\S{8,}"),
    "Github authentication": re.compile(r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{22,})"),
    "Gitlab authentication": re.compile(r"glpat-[A-Za-z0-9_-]{20,}"),
    "Slack authentication": re.compile(r"xox[abpr]-[A-Za-z0-9-]{10,}"),
    "URL with password": re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s:@]{1,100}:[^/\s:@]{3,100}@\S+"),
}


def findings_in(project: Project) -> list[Finding]:
    """What is found in the project's files, env_files, and the files of its configs and secrets."""
    found: list[Finding] = []
    for path in project.files:
        text = _read(path)
        for document in yaml_source.documents(text, path):
            for key, value in _flat(document.value, ""):
                found += _in_value(key, value)
        found += _in_text(text)
    for service in project.services.values():
        for entry in service.get("env_file") or ():
            path = str(entry["path"])
            for key, value in read_files([path], {}).items() if _read(path) else ():
                found += _in_value(key, value)
            found += _in_text(_read(path))
    for section in (project.configs, project.secrets):
        for definition in section.values():
            if definition.get("file"):
                found += _lines(_read(definition["file"]))
    return list(dict.fromkeys(found))


def _lines(text: str) -> list[Finding]:
    found = _in_text(text)
    for line in text.splitlines():
        found += _in_value("", line)
    return found


def _in_text(text: str) -> list[Finding]:
    return [Finding(kind, "", match[0]) for kind, pattern in _TEXTS.items() for match in pattern.finditer(text)]


def _in_value(key: str, value: str) -> list[Finding]:
    return [Finding(kind, key, value) for kind, pattern in _VALUES.items() if pattern.search(value)]


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """The texts in a tree by their dotted keys; `NAME=VALUE` in a list is the key NAME."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            name, equals, text = item.partition("=") if isinstance(item, str) else ("", "", "")
            if equals:
                yield f"{key}.{name}", text
            else:
                yield from _flat(item, key)
    elif isinstance(value, str):
        yield key, value


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
