"""Packages of Python and Node.js, wherever they lie: each has a file that says what it is."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dockyard.builder.attestations.sbom.package import Package, paragraphs, read
from dockyard.builder.trees import File

_PYTHON = re.compile(r"[^/]+\.(?:dist-info/METADATA|egg-info(?:/PKG-INFO)?)$")
_NODE = re.compile(r"(?:^|/)node_modules/(?:@[^/]+/)?[^/]+/package\.json$")


def package_of(place: str, file: File) -> Package | None:
    """The package that a file tells of, if it does."""
    if place.endswith("/package.json"):
        return _node(place, file) if _NODE.search(place) else None
    if "-info" in place[-40:] and _PYTHON.search(place):
        return _python(place, file)
    return None


def _python(place: str, file: File) -> Package | None:
    head = read(file).decode(errors="replace").partition("\n\n")[0]
    record = next(paragraphs(head), {})
    if not record.get("Name") or not record.get("Version"):
        return None
    name = re.sub(r"[-_.]+", "-", record["Name"]).lower()
    terms = record.get("License-Expression") or record.get("License", "").partition("\n")[0]
    author = record.get("Author-email") or record.get("Author", "")
    return Package("pypi", name, record["Version"], place, "", terms, author, record.get("Home-page", ""))


def _node(place: str, file: File) -> Package | None:
    try:
        found = msgspec.json.decode(read(file))
    except msgspec.DecodeError:
        return None
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("name"), str)
        or not isinstance(found.get("version"), str)
    ):
        return None
    scope, slash, name = found["name"].rpartition("/")
    return Package(
        "npm",
        name,
        found["version"],
        place,
        scope if slash else "",
        _word(found.get("license"), "type"),
        _word(found.get("author"), "name"),
        _word(found.get("homepage"), "url"),
    )


def _word(value: Any, key: str) -> str:
    """A field that is a word, or a record of which one is."""
    if isinstance(value, dict):
        value = value.get(key)
    return value if isinstance(value, str) else ""
