"""Packages of Java: archives, what has been put into them, and archives within archives."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dockyard.builder.attestations.sbom.package import LARGEST_FILE, Package, paragraphs, read
from dockyard.builder.trees import File

SUFFIXES = tuple(".jar .war .ear .par .sar .nar .kar .rar .lpkg .jpi .hpi".split())
DEEPEST, MOST_MEMBERS, LARGEST_TEXT = 4, 100_000, 1 << 20
_POM = re.compile(r"META-INF/maven/[^/]+/[^/]+/pom\.properties")
_NAME = re.compile(r"(?P<name>[a-z][\w.]*?(?:-[a-z][\w.]*?)*?)(?:[-_.](?P<version>\d.*|build\d.*|rc?\d+.*))?", re.I)
_BROKEN = (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError)


@dataclass(slots=True)
class _Budget:
    """How many bytes of archives in archives may still be read."""

    left: int = 4 * LARGEST_FILE


def java_packages(place: str, file: File) -> list[Package]:
    """What an archive of Java's holds, if it is one."""
    if not place.endswith(SUFFIXES):
        return []
    content = read(file)
    return list(_packages(place, content, 0, _Budget())) if content else []


def _packages(place: str, content: bytes, depth: int, budget: _Budget) -> Iterator[Package]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if len(names) > MOST_MEMBERS:
                return
            yield from _own(place, archive, names)
            for name in names if depth < DEEPEST else ():
                inner = _member(archive, name, min(LARGEST_FILE, budget.left)) if name.endswith(SUFFIXES) else b""
                budget.left -= len(inner)
                if inner:
                    yield from _packages(f"{place}:{name}", inner, depth + 1, budget)
    except _BROKEN:
        return


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A file of an archive; nothing when it is larger than `most` or damaged."""
    try:
        with archive.open(name) as file:
            content = file.read(most + 1)
    except _BROKEN:
        return b""
    return content if len(content) <= most else b""


def _own(place: str, archive: zipfile.ZipFile, names: list[str]) -> Iterator[Package]:
    """The package that an archive is, and those that have been put into it."""
    text = _member(archive, "META-INF/MANIFEST.MF", LARGEST_TEXT).decode(errors="replace") if names else ""
    manifest = _manifest(text)
    parts = _named(posixpath.basename(place))
    itself = False
    for name in names:
        if not _POM.fullmatch(name):
            continue
        pom = _properties(_member(archive, name, LARGEST_TEXT).decode(errors="replace"))
        artifact, version = pom.get("artifactId", ""), pom.get("version", "")
        if artifact and version:
            itself = itself or artifact == parts[0] or parts[0].startswith(artifact)
            yield _package(place, artifact, version, pom.get("groupId", ""), manifest if artifact == parts[0] else {})
    title = parts[0] or next((manifest[key] for key in _TITLES if manifest.get(key)), "")
    version = parts[1] or next((manifest[key] for key in _VERSIONS if manifest.get(key)), "")
    if text and not itself and title and version:
        yield _package(place, title, version, _group(manifest), manifest)


_TITLES = ("Name", "Bundle-Name", "Short-Name", "Extension-Name", "Implementation-Title")
_VERSIONS = ("Implementation-Version", "Specification-Version", "Plugin-Version")
_GROUPS = ("Group-Id", "Bundle-SymbolicName", "Extension-Name", "Implementation-Vendor-Id")


def _package(place: str, name: str, version: str, group: str, manifest: Mapping[str, str]) -> Package:
    vendor = manifest.get("Implementation-Vendor", "") or manifest.get("Bundle-Vendor", "")
    return Package("maven", name, version, place, group or name, manifest.get("Bundle-License", ""), vendor)


def _group(manifest: Mapping[str, str]) -> str:
    """The group that a manifest tells of: a name with dots, without directives (OSGi)."""
    values = (manifest.get(key, "").partition(";")[0].strip() for key in _GROUPS)
    return next((value for value in values if "." in value and " " not in value), "")


def _named(file_name: str) -> tuple[str, str]:
    """Name and version by an archive's own name."""
    found = _NAME.fullmatch(file_name.rpartition(".")[0])
    return (found["name"], found["version"] or "") if found is not None else ("", "")


def _manifest(text: str) -> dict[str, str]:
    """The main section of a manifest (JAR File Specification); lines are 72 bytes, whatever is cut."""
    joined = text.replace("\r\n", "\n").replace("\n ", "")
    return next(paragraphs(joined), {})


def _properties(text: str) -> dict[str, str]:
    """java.util.Properties, as Maven writes them."""
    found = {}
    for line in text.splitlines():
        name, mark, value = re.sub(r"\s*[=:]\s*", "=", line.strip(), count=1).partition("=")
        if mark and not name.startswith(("#", "!")):
            found[name] = value
    return found
