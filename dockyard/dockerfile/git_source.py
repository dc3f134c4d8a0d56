"""The address of a git context, `repository#reference:directory`. Standard library only, for the client has it too."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_GIT = re.compile(r"git://|git@|ssh://|github\.com/|https?://.*\.git(?:#.*)?$")


class GitSource(NamedTuple):
    """`reference` is "" for the repository's HEAD, `directory` for its top."""

    repository: str
    reference: str
    directory: str


def is_git(url: str) -> bool:
    """Whether `url` names a git repository."""
    return _GIT.match(url) is not None


def parse(url: str) -> GitSource:
    """The parts of an address. Raises ValueError for one that git would take for an option."""
    repository, _, fragment = url.partition("#")
    reference, _, directory = fragment.partition(":")
    if repository.startswith("github.com/"):
        repository = f"https://{repository}"
    for part in (repository, reference):
        if part.startswith("-"):
            raise ValueError(f"invalid git reference: {part}")
    return GitSource(repository, reference, directory.lstrip("/"))


def top(clone: str | os.PathLike[str], directory: str) -> str:
    """The path of `directory` in a clone, without links. Raises ValueError when it is none or outside."""
    root = os.path.realpath(clone)
    path = os.path.realpath(os.path.join(root, directory))
    if (path != root and not path.startswith(f"{root}/")) or not os.path.isdir(path):
        raise ValueError(f"error setting git context, {directory!r} is not within git root")
    return path
