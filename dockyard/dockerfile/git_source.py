"""The address of a git context, `repository?query#reference:directory`. Standard library only: clients have it too."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_GIT = re.compile(r"git://|git@|ssh://|github\.com/|https?://[^?#]*\.git(?:[?#].*)?$")


class GitSource(NamedTuple):
    """`reference` is "" for the repository's HEAD, `directory` for its top, `commit` for any.

    `keep_git`: with the files of git itself; None where the address does not say it.
    """

    repository: str
    reference: str
    directory: str
    commit: str = ""
    keep_git: bool | None = None
    submodules: bool = True


def is_git(url: str) -> bool:
    """Whether `url` names a git repository."""
    return _GIT.match(url) is not None


def parse(url: str) -> GitSource:
    """The parts of `repository?query#reference:directory`. Raises ValueError for what makes no sense.

    The query (ref, tag, branch, commit or checksum, subdir, keep-git-dir, submodules) is BuildKit's, from 0.25 on.
    """
    place, _, fragment = url.partition("#")
    reference, _, directory = fragment.partition(":")
    repository, mark, query = place.partition("?")
    if repository.startswith("github.com/"):
        repository = f"https://{repository}"
    commit, keep_git, submodules = "", None, True
    for name, value in _fields(query) if mark else ():
        if name in ("ref", "tag", "branch"):
            wanted = {"tag": "refs/tags/", "branch": "refs/heads/"}.get(name, "") + value
            reference = _agreed("ref", reference, wanted)
        elif name == "subdir":
            directory = _agreed("subdir", directory, value)
        elif name in ("commit", "checksum"):
            commit = _agreed("checksum", commit, value)
        elif name == "keep-git-dir":
            keep_git = _switch(name, value)
        elif name == "submodules":
            submodules = _switch(name, value)
        else:
            raise ValueError(f'unexpected query "{name}"')
    for part in (repository, reference, commit):
        if part.startswith("-"):
            raise ValueError(f"invalid git reference: {part}")
    return GitSource(repository, reference, directory.lstrip("/"), commit, keep_git, submodules)


def _fields(query: str) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(query, keep_blank_values=True)


def _agreed(what: str, said: str, wanted: str) -> str:
    if said and said != wanted:
        raise ValueError(f'{what} conflicts: "{said}" vs "{wanted}"')
    return wanted


def _switch(name: str, value: str) -> bool:
    if value.lower() not in ("", "1", "t", "true", "0", "f", "false"):
        raise ValueError(f'invalid {name} value: "{value}"')
    return value.lower() in ("", "1", "t", "true")


def top(clone: str | os.PathLike[str], directory: str) -> str:
    """The path of `directory` in a clone, without links. Raises ValueError when it is none or outside."""
    root = os.path.realpath(clone)
    path = os.path.realpath(os.path.join(root, directory))
    if (path != root and not path.startswith(f"{root}/")) or not os.path.isdir(path):
        raise ValueError(f"error setting git context, {directory!r} is not within git root")
    return path
