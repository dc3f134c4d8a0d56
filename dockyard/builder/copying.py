"""What the sources of COPY and ADD name in a tree, and what tells one copy from another."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator

from dockyard.builder.layer_plan import Source
from dockyard.builder.trees import File, Tree, checksum
from dockyard.dockerfile import dockerignore
from dockyard.errors import InvalidParameter

_WILDCARD = re.compile(r"[*?\[]")


def find_sources(tree: Tree, patterns: list[str], *, context: bool, unpack: bool) -> list[Source]:
    """What the `patterns` of a COPY name in `tree`. Raises InvalidParameter in Docker's words."""
    found: list[Source] = []
    for pattern in patterns:
        found += _find(tree, pattern, context, unpack)
    if not found:
        raise InvalidParameter("no source files were specified")
    return found


def _find(tree: Tree, pattern: str, context: bool, unpack: bool) -> list[Source]:
    cleaned = posixpath.normpath(pattern.lstrip("/") or ".")
    if cleaned == ".." or cleaned.startswith("../"):
        if context:
            raise InvalidParameter(f"forbidden path outside the build context: {pattern} ()")
        cleaned = posixpath.normpath("/" + cleaned).lstrip("/") or "."
    if _WILDCARD.search(cleaned):
        try:
            return [Source(place, file, unpack) for place, file in _glob(tree, cleaned)]
        except dockerignore.BadPattern as error:
            raise InvalidParameter(str(error)) from None
    file = tree.find("" if cleaned == "." else cleaned)
    if file is None:
        reason = f"stat {cleaned}: file does not exist"
        if context:
            reason = f"file not found in build context or excluded by .dockerignore: {reason}"
        raise InvalidParameter(reason)
    return [Source(cleaned, file, unpack)]


def _glob(tree: Tree, pattern: str) -> Iterator[tuple[str, File]]:
    """Every path that matches, component by component, in order."""
    reached = [""]
    for part in pattern.split("/"):
        following = []
        for place in reached:
            folder = tree.find(place)
            if folder is None or not folder.directory:
                continue
            if not _WILDCARD.search(part):
                following.append(posixpath.join(place, part))
                continue
            following += [posixpath.join(place, name) for name in sorted(folder.children())
                          if dockerignore.match(part, name)]  # fmt: skip
        reached = following
    for place in reached:
        file = tree.find(place)
        if file is not None:
            yield place, file


def source_checksum(sources: list[Source], *, owners: bool) -> str:
    """What decides whether a copy is the same as an earlier one: `file:…`, `dir:…` or `multi:…` and a digest.

    A file's name counts, for it is the copy's where the destination is a directory; a directory's does not. So does
    whether an archive is unpacked.
    """
    facts = []
    for source in sources:
        name = "" if source.file.directory else posixpath.basename(source.name)
        facts.append((name, source.unpack, source.file.directory, checksum(source.file, owners=owners)))
    kind = "multi" if len(sources) > 1 else "dir" if sources[0].file.directory else "file"
    return f"{kind}:{hashlib.sha256(repr(facts).encode(errors='surrogateescape')).hexdigest()}"
