"""A package that was found, and its package URL (package-url/purl-spec)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from dockyard.builder.trees import File, Tree

LARGEST_FILE = 64 << 20  # bytes of a file that is looked into


@dataclass(frozen=True, slots=True)
class Package:
    """One package. `kind` and `namespace` as in a package URL; `source`: the file that tells of it.

    `license` as its maker wrote it, "" for none.
    """

    kind: str
    name: str
    version: str
    source: str
    namespace: str = ""
    license: str = ""
    supplier: str = ""
    home: str = ""
    qualifiers: Mapping[str, str] = field(default_factory=dict)

    @property
    def purl(self) -> str:
        """Its package URL."""
        place = f"{quote(self.namespace, safe='/')}/" if self.namespace else ""
        found = f"pkg:{self.kind}/{place}{quote(self.name, safe='')}"
        if self.version:
            library = self.kind == "golang" and self.name == "stdlib"
            found += f"@{quote(self.version.removeprefix('go') if library else self.version, safe=':')}"
        wanted = "&".join(f"{key}={quote(value, safe=':')}" for key, value in sorted(self.qualifiers.items()) if value)
        return found + (f"?{wanted}" if wanted else "")


def content(tree: Tree, path: str) -> bytes:
    """What is in a file; nothing when it is not there, no file, or too large to be looked into."""
    found = tree.find(path)
    return read(found) if found is not None else b""


def read(file: File) -> bytes:
    """The same of a file that is known."""
    if file.directory or file.entry.size > LARGEST_FILE:
        return b""
    return b"".join(file.read())


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Records of `Key: value` lines, apart by empty lines; lines that go on are joined (deb822(5), RFC 822)."""
    record: dict[str, str] = {}
    key = ""
    for line in text.split("\n"):
        if not line.strip():
            if record:
                yield record
            record, key = {}, ""
        elif line[0] in " \t" and key:
            record[key] += "\n" + line.strip()
        else:
            key, colon, value = line.partition(":")
            if colon:
                record.setdefault(key, value.strip())
    if record:
        yield record


def os_release(tree: Tree) -> dict[str, str]:
    """What /etc/os-release says of the distribution."""
    found = {}
    text = (content(tree, "etc/os-release") or content(tree, "usr/lib/os-release")).decode(errors="replace")
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            found[key.strip()] = value.strip().strip("\"'")
    return found


def distribution(release: Mapping[str, str]) -> str:
    """A distribution with its version, as the qualifier `distro` has it."""
    return "-".join(part for part in (release.get("ID", ""), release.get("VERSION_ID", "")) if part)
