"""Packages of Python, Node.js and Ruby, wherever they lie: each has a file that says what it is."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dockyard.builder.attestations.sbom.package import Package, paragraphs, read
from dockyard.builder.trees import File

_PYTHON = re.compile(r"[^/]+\.(?:dist-info/METADATA|egg-info(?:/PKG-INFO)?)$")
_RUBY = re.compile(r"(?:^|/)specifications/(?:[^/]+/)*[^/]+\.gemspec$")
_RUBY_FIELD = re.compile(r"""\s*\w+\.(name|version|homepage|licenses?|authors?)\s*=\s*(.*)""")
_NODE = re.compile(r"(?:^|/)node_modules/(?:@[^/]+/)?[^/]+/package\.json$")


def package_of(place: str, file: File) -> Package | None:
    """The package that a file tells of, if it does."""
    if place.endswith("/package.json"):
        return _node(place, file) if _NODE.search(place) else None
    if place.endswith(".gemspec"):
        return _ruby(place, file) if _RUBY.search(place) else None
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


def _ruby(place: str, file: File) -> Package | None:
    """A specification as RubyGems installs it: Ruby's source, of which the lines with literals are read."""
    found: dict[str, str] = {}
    for line in read(file).decode(errors="replace").splitlines():
        field = _RUBY_FIELD.match(line)
        if field is None:
            continue
        texts = [first or second for first, second in re.findall(r"\"([^\"]*)\"|'([^']*)'", field[2])]
        several = " AND " if field[1].startswith("license") else ", "
        found.setdefault(field[1].rstrip("s"), several.join(texts))
    name, version = found.get("name", ""), found.get("version", "")
    if not name or not version or "#{" in name + version:
        return None
    home = found.get("homepage", "").replace("#{s.name}", name).replace("#{s.version}", version)
    home = "" if "#{" in home else home
    return Package("gem", name, version, place, "", found.get("license", ""), found.get("author", ""), home)


def _word(value: Any, key: str) -> str:
    """A field that is a word, or a record of which one is."""
    if isinstance(value, dict):
        value = value.get(key)
    return value if isinstance(value, str) else ""
