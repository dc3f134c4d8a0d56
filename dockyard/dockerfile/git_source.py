"""Addresses of contexts; those of git are `repository?query#reference:directory`.

Standard library only: clients have it, too.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_SWITCHES = ("keep-git-dir", "submodules")
REMOTE = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")  # how a context that is elsewhere begins
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
    asked = _fields(query) if mark else {}
    for name, value in asked.items():
        if name == "ref":
            reference = _agreed("ref", reference, value)
        elif name == "subdir":
            directory = _agreed("subdir", directory, value)
    if "tag" in asked and "branch" in asked:
        raise ValueError("branch conflicts with tag")
    for name, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if name in asked:
            reference = _agreed("ref", reference, prefix + asked[name].removeprefix(prefix))
    commit = asked.get("commit", asked.get("checksum", ""))
    keep_git = _switch("keep-git-dir", asked["keep-git-dir"]) if "keep-git-dir" in asked else None
    submodules = _switch("submodules", asked.get("submodules", ""))
    for part in (repository, reference, commit):
        if part.startswith("-"):
            raise ValueError(f"invalid git reference: {part}")
    return GitSource(repository, reference, directory.lstrip("/"), commit, keep_git, submodules)


def _fields(query: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("ref", "tag", "branch", "commit", "checksum", "subdir", *_SWITCHES):
            raise ValueError(f'unexpected query "{name}"')
        if name in found:
            raise ValueError(f'query "{name}" has multiple values')
        if not value and name not in _SWITCHES:
            raise ValueError(f'query "{name}" has no value')
        found[name] = value
    return found


def _agreed(what: str, said: str, wanted: str) -> str:
    if said and said != wanted:
        raise ValueError(f'{what} conflicts: "{said}" vs "{wanted}"')
    return wanted


def _switch(name: str, value: str) -> bool:
    if value in ("", "1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f'invalid {name} value: "{value}"')


def top(clone: str | os.PathLike[str], directory: str) -> str:
    """The path of `directory` in a clone, without links. Raises ValueError when it is none or outside."""
    root = os.path.realpath(clone)
    path = os.path.realpath(os.path.join(root, directory))
    if (path != root and not path.startswith(f"{root}/")) or not os.path.isdir(path):
        raise ValueError(f"error setting git context, {directory!r} is not within git root")
    return path
