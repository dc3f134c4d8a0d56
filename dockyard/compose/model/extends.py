"""`extends`: a service that takes over another one, of the same file or of another."""

from __future__ import annotations

import os

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import merge, relative_paths
from dockyard.compose.model.marks import reset
from dockyard.compose.model.remote import is_remote
from dockyard.compose.model.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dockyard.compose.model.load import Loader
    from dockyard.compose.model.yaml_source import Path

    Tree = dict[str, Any]
    Trail = tuple[tuple[str, str], ...]  # (file, service), to find circles


class Extends:
    """Applies `extends` to the services of a file's tree."""

    def __init__(self, loader: Loader, file: str, folder: str) -> None:
        """`folder`: what paths to other files are relative to."""
        self._loader = loader
        self._file = file
        self._folder = folder

    def apply(self, tree: Tree, marks: Sequence[Path]) -> None:
        """Replace each service by itself laid over what it extends. Raises ComposeError."""
        services = tree.get("services")
        if "services" not in tree:
            return
        if not isinstance(services, dict):
            raise ComposeError("services must be a mapping")
        for name in list(services):
            services[name] = self._extended(name, services, (), marks)

    def _extended(self, name: str, services: Tree, trail: Trail, marks: Sequence[Path]) -> Any:
        service = services[name]
        if service is None:
            return None
        if not isinstance(service, dict):
            raise ComposeError(f"services.{name} must be a mapping")
        if "extends" not in service:
            return service
        given = service["extends"]
        reference, file = (given.get("service"), given.get("file")) if isinstance(given, dict) else (given, None)
        if not isinstance(reference, str):
            raise ComposeError(f"extends.{name}.service is required")
        base_marks: Sequence[Path] = ()
        within, file_name = self, self._file
        if file is not None:
            services_there, base_marks = self._other_file(name, reference, str(file))
            # paths in there are written as seen from our folder by now
            within, file_name = Extends(self._loader, str(file), self._folder), str(file)
        else:
            services_there = services
            if reference not in services:
                raise ComposeError(f'cannot extend service "{name}" in {self._file}: service "{reference}" not found')
        trail = _with(trail, file_name, name)
        base = within._extended(reference, services_there, trail, base_marks)
        if base is None:
            return service
        base = clone(base)
        if marks:
            reset({"services": {name: base}}, marks)
        merged = merge.extend_service(base, service)
        merged.pop("extends", None)
        services[name] = merged
        return merged

    def _other_file(self, name: str, reference: str, file: str) -> tuple[Tree, Sequence[Path]]:
        remote = is_remote(file)
        if remote:
            path = self._loader.remotes.file(file)
        else:
            path = file if os.path.isabs(file) else os.path.join(os.path.abspath(self._folder), file)
            path = os.path.normpath(path)
        folder = os.path.dirname(path)
        loader = self._loader.with_(
            resolve_paths=False,
            normalize=False,
            consistency=False,
            include=False,
            extend=False,
            validate=False,
            defaults=False,
        )
        tree, marks = loader.file(Source(path), folder, {})
        services = tree.get("services")
        if "services" not in tree:
            raise ComposeError(f'cannot extend service "{reference}" in {path}: no services section')
        if not isinstance(services, dict):
            raise ComposeError(f'cannot extend service "{reference}" in {path}: services must be a mapping')
        if reference not in services:
            raise ComposeError(
                f'cannot extend service "{name}" in {self._file}: service "{reference}" not found in {file}'
            )
        seen = self._loader.remotes.folder(file) if remote else relative(self._folder, folder)
        relative_paths.resolve(tree, seen)
        return services, marks


def relative(start: str, path: str) -> str:
    """`path` as seen from the folder `start`."""
    return os.path.relpath(path, os.path.abspath(start))


def _with(trail: Trail, file: str, service: str) -> Trail:
    if (file, service) in trail:
        lines = ["Circular reference:", f"  {trail[0][1]} in {trail[0][0]}"]
        lines += [f"  extends {name} in {place}" for place, name in (*trail[1:], (file, service))]
        raise ComposeError("\n".join(lines))
    return (*trail, (file, service))


def clone(value: Any) -> Any:
    """A copy, all the way down."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    return [clone(item) for item in value] if isinstance(value, list) else value
