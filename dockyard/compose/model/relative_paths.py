"""Paths in a tree made absolute, or relative to the project, by the folder of the file that they are in."""

from __future__ import annotations

import os

from dockyard.compose.errors import ComposeError
from dockyard.dockerfile.git_source import REMOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Tree = dict[str, Any]


def joined(folder: str, path: str) -> str:
    """`path` below `folder`, cleaned."""
    if os.path.isabs(path):
        return os.path.normpath(path)
    return os.path.normpath(os.path.join(folder, path)) if folder else os.path.normpath(path)


def expanded(path: str) -> str:
    """~ as the user's home."""
    if not path.startswith("~"):
        return path
    home = os.environ.get("HOME")
    return joined(home, path[1:].lstrip("/")) if home else path


def resolve(tree: Tree, folder: str) -> None:
    """Resolve every path of a canonical tree. Raises ComposeError."""
    base = _Base(folder)
    for _, service in _entries(tree, "services"):
        _service(service, base)
    for section in ("configs", "secrets"):
        for _, entry in _entries(tree, section):
            _at(entry, "file", base.unix)
    for _, entry in _entries(tree, "volumes"):
        options = entry.get("driver_opts")
        if entry.get("driver") == "local" and isinstance(options, dict) and options.get("o") == "bind":
            _at(options, "device", base.unix)


def _entries(tree: Tree, section: str) -> list[tuple[str, Tree]]:
    found = tree.get(section)
    return [(key, item) for key, item in found.items() if isinstance(item, dict)] if isinstance(found, dict) else []


class _Base:
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def path(self, value: Any) -> Any:
        """As the specification says for most paths."""
        if not isinstance(value, str) or not value:
            return value
        value = expanded(value)
        return value if os.path.isabs(value) else joined(self._folder, value)

    def unix(self, value: Any) -> Any:
        """A path that may also be of another system."""
        if not isinstance(value, str):
            return value
        value = expanded(value)
        if value.startswith("/") or _is_windows(value):
            return value
        return joined(self._folder, value)

    def context(self, value: Any) -> Any:
        """A build's context, which may be remote or another service's image."""
        if not isinstance(value, str) or "://" in value or value.startswith(("service:", *REMOTE)):
            return value
        return self.path(value)

    def followed(self, value: Any) -> Any:
        """A path with its links followed."""
        found = self.path(value)
        return os.path.realpath(found) if isinstance(found, str) and os.path.exists(found) else found


def _is_windows(path: str) -> bool:
    return path.startswith("\\\\") or (len(path) > 2 and path[0].isalpha() and path[1] == ":" and path[2] in "\\/")


def _at(tree: Tree, key: str, resolved: Callable[[Any], Any]) -> None:
    if key in tree:
        tree[key] = resolved(tree[key])


def _service(service: Tree, base: _Base) -> None:
    build = service.get("build")
    if isinstance(build, dict):
        _at(build, "context", base.context)
        for key, resolved in (("additional_contexts", base.context), ("ssh", base.unix)):
            if isinstance(build.get(key), dict):
                for name in build[key]:
                    _at(build[key], name, resolved)
    for file in service.get("env_file") or ():
        if isinstance(file, dict):
            _at(file, "path", base.path)
    if isinstance(service.get("label_file"), list):
        service["label_file"] = [base.path(path) for path in service["label_file"]]
    if isinstance(service.get("extends"), dict):
        _at(service["extends"], "file", base.path)
    for trigger in (service.get("develop") or {}).get("watch") or ():
        _at(trigger, "path", base.followed)
    for mount in service.get("volumes") or ():
        if isinstance(mount, dict) and mount.get("type") == "bind":
            if "source" not in mount:
                raise ComposeError('invalid mount config for type "bind": field Source must not be empty')
            mount["source"] = base.unix(mount["source"])
