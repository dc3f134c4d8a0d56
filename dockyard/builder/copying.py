"""What the sources of COPY and ADD name in a tree, and what tells one copy from another."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

from dockyard.builder.layer_plan import Source
from dockyard.builder.trees import File, Tree, checksum
from dockyard.dockerfile import dockerignore
from dockyard.dockerfile.dockerignore import IgnoreRules
from dockyard.errors import InvalidParameter

_WILDCARD = re.compile(r"[*?\[]")


class SourceNotFound(InvalidParameter):
    """There is no file of that name; `path`: which."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class _Part:
    """A part of a directory, by rules; a File."""

    inode: Hashable = None
    directory = True

    def __init__(self, folder: File, rules: IgnoreRules, place: str = "") -> None:
        self.entry = folder.entry
        self._folder = folder
        self._rules = rules
        self._place = place

    def children(self) -> Mapping[str, File]:
        """What is in it."""
        raise NotImplementedError

    def read(self) -> Iterator[bytes]:
        """Nothing: it is a directory."""
        yield from ()


class Selected(_Part):
    """A directory without what is excluded from it."""

    def children(self) -> Mapping[str, File]:
        """What is left in it."""
        found: dict[str, File] = {}
        for name, file in self._folder.children().items():
            place = posixpath.join(self._place, name)
            excluded = self._rules.excludes(place)
            if file.directory and not (excluded and not self._rules.takes_back):
                inner = Selected(file, self._rules, place)
                if not excluded or inner.children():
                    found[name] = inner
            elif not excluded:
                found[name] = file
        return found


class Chosen(_Part):
    """Of a directory what rules name, with the directories on the way there."""

    def children(self) -> Mapping[str, File]:
        """What is named in it."""
        found: dict[str, File] = {}
        for name, file in self._folder.children().items():
            place = posixpath.join(self._place, name)
            if self._rules.excludes(place):
                found[name] = file
            elif file.directory and (inner := Chosen(file, self._rules, place)).children():
                found[name] = inner
        return found


def including(sources: list[Source], patterns: Sequence[str]) -> list[Source]:
    """Of directories only what matches `patterns`, which are relative to each. Raises BadPattern."""
    if not patterns:
        return sources
    rules = IgnoreRules(patterns)
    return [replace(one, file=Chosen(one.file, rules)) if one.file.directory else one for one in sources]


def excluding(sources: list[Source], patterns: Sequence[str]) -> list[Source]:
    """The sources without what matches `patterns` (COPY --exclude), which are relative to each. Raises BadPattern."""
    if not patterns:
        return sources
    rules = IgnoreRules(patterns)
    found = []
    for source in sources:
        if source.file.directory:
            found.append(replace(source, file=Selected(source.file, rules), identity=""))
        elif not rules.excludes(posixpath.basename(source.name)):
            found.append(source)
    return found


def find_sources(
    tree: Tree, patterns: list[str], *, context: bool, unpack: bool, deep: bool = False, lenient: bool = False
) -> list[Source]:
    """What the `patterns` of a COPY name in `tree`; with `deep` a `**` stands for any directories.

    `lenient`: it may be nothing.

    Raises InvalidParameter in Docker's words.
    """
    found: list[Source] = []
    for pattern in patterns:
        found += _find(tree, pattern, context, unpack, deep)
    if not found and not lenient:
        raise InvalidParameter("no source files were specified")
    return found


def _find(tree: Tree, pattern: str, context: bool, unpack: bool, deep: bool) -> list[Source]:
    cleaned = posixpath.normpath(pattern.lstrip("/") or ".")
    if cleaned == ".." or cleaned.startswith("../"):
        if context:
            raise InvalidParameter(f"forbidden path outside the build context: {pattern} ()")
        cleaned = posixpath.normpath("/" + cleaned).lstrip("/") or "."
    if _WILDCARD.search(cleaned):
        try:
            return [Source(place, file, unpack) for place, file in _glob(tree, cleaned, deep)]
        except dockerignore.BadPattern as error:
            raise InvalidParameter(str(error)) from None
    file = tree.find("" if cleaned == "." else cleaned)
    if file is None:
        reason = f"stat {cleaned}: file does not exist"
        if context:
            reason = f"file not found in build context or excluded by .dockerignore: {reason}"
        raise SourceNotFound(reason, cleaned)
    return [Source(cleaned, file, unpack)]


def _glob(tree: Tree, pattern: str, deep: bool) -> Iterator[tuple[str, File]]:
    """Every path that matches, component by component, in order."""
    reached = [""]
    for part in pattern.split("/"):
        following = []
        if deep and part == "**":
            reached = list(dict.fromkeys(place for start in reached for place in _folders(tree, start)))
            continue
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


def _folders(tree: Tree, start: str) -> Iterator[str]:
    """A directory and all below it."""
    folder = tree.find(start)
    if folder is None or not folder.directory:
        return
    yield start
    for name, file in sorted(folder.children().items()):
        if file.directory:
            yield from _folders(tree, posixpath.join(start, name))


def source_checksum(sources: list[Source], *, owners: bool) -> str:
    """What decides whether a copy is the same as an earlier one: `file:…`, `dir:…` or `multi:…` and a digest.

    A file's name counts, for it is the copy's where the destination is a directory; a directory's does not. So does
    whether an archive is unpacked.
    """
    facts: list[object] = []
    for source in sources:
        name = "" if source.file.directory else posixpath.basename(source.name)
        digest = source.identity or checksum(source.file, owners=owners)
        fact = (name, source.unpack, source.file.directory, digest)
        above = [(place, folder.entry.mode, folder.entry.uid, folder.entry.gid) for place, folder in source.above]
        facts.append((*fact, source.place, above) if source.place else fact)
    if not sources:
        return "none"
    kind = "multi" if len(sources) > 1 else "dir" if sources[0].file.directory else "file"
    return f"{kind}:{hashlib.sha256(repr(facts).encode(errors='surrogateescape')).hexdigest()}"
