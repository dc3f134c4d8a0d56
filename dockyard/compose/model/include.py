"""`include`: the resources of other files, each loaded in its own folder and with its own variables."""

from __future__ import annotations

import os

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import dotenv, relative_paths
from dockyard.compose.model.extends import relative
from dockyard.compose.model.go_values import sprint
from dockyard.compose.model.remote import is_remote
from dockyard.compose.model.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dockyard.compose.model.load import Loader

    Tree = dict[str, Any]


def include(loader: Loader, tree: Tree, folder: str, included: Sequence[str]) -> None:
    """Add what the files of `tree["include"]` have to `tree`. Raises ComposeError for a circle or a conflict."""
    given = tree.pop("include", None)
    if given is None:
        return
    if not isinstance(given, list):
        raise ComposeError(f"`include` must be a list, got {sprint(given)}")
    for item in given:
        entry = {"path": item} if isinstance(item, str) else dict(item)
        _include_one(loader, tree, folder, included, entry)


def _include_one(loader: Loader, tree: Tree, folder: str, included: Sequence[str], entry: Tree) -> None:
    given = _listed(entry.get("path"))
    paths = [loader.remotes.file(path) if is_remote(path) else _below(folder, path) for path in given]
    if not paths:
        return
    if paths[0] in included:
        circle = [*included, paths[0]]
        raise ComposeError("include cycle detected:\n" + circle[0] + "\n include " + "\n include ".join(circle[1:]))
    directory = entry.get("project_directory") or ""
    if not directory:
        directory = os.path.dirname(paths[0])
        seen = directory if is_remote(given[0]) else relative(folder, directory)
    elif os.path.isabs(directory):
        seen = directory
    else:
        seen = directory
        directory = _below(folder, directory)
    files = [_env_file(folder, path) for path in _listed(entry.get("env_file"))]
    if not files and os.path.isfile(os.path.join(directory, ".env")):
        files = [os.path.join(directory, ".env")]
    environment = {**dotenv.read_files(files, loader.environment), **loader.environment}
    inner = loader.with_(environment, normalize=False, consistency=False, resolve_paths=True)
    # files within are found from the folder itself; what the tree says stays relative to ours
    imported = _Relative(inner, directory, seen).tree([Source(path) for path in paths], included)
    for section in ("services", "volumes", "networks", "secrets", "configs", "models"):
        _import(imported, tree, section)


class _Relative:
    """Loads a tree whose files lie in one folder while its paths are written relative to another."""

    def __init__(self, loader: Loader, folder: str, seen: str) -> None:
        self._loader = loader
        self._folder = folder
        self._seen = seen

    def tree(self, sources: list[Any], included: Sequence[str]) -> Tree:
        loader = self._loader.with_(resolve_paths=False)
        found = loader.tree(sources, self._folder, included)
        relative_paths.resolve(found, self._seen)
        return found


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _below(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(os.path.abspath(folder), path))


def _env_file(folder: str, path: str) -> str:
    found = path if os.path.isabs(path) else os.path.join(os.path.abspath(folder), path)
    if not os.path.isabs(path):
        if not os.path.exists(found):
            raise ComposeError(f"stat {found}: no such file or directory")
        if os.path.isdir(found):
            raise ComposeError(f"{found} is not a file")
    return found


def _import(source: Tree, target: Tree, section: str) -> None:
    entries = source.get(section)
    if not isinstance(entries, dict):
        return
    into = target.get(section) or {}
    for name, entry in entries.items():
        if name in into and into[name] != entry:
            raise ComposeError(f"{section}.{name} conflicts with imported resource")
        into[name] = entry
    target[section] = into
