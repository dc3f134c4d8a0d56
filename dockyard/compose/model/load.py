"""From files to a project: each document is read, interpolated, extended, merged over those before it, checked and
written out; then what is implied is said and paths are resolved."""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import canonical, merge, relative_paths, schema, yaml_source
from dockyard.compose.model.checks import check_objects
from dockyard.compose.model.extends import Extends
from dockyard.compose.model.include import include
from dockyard.compose.model.interpolate import Interpolation
from dockyard.compose.model.marks import reset
from dockyard.compose.model.remote import Remotes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from dockyard.compose.model.source import Source
    from dockyard.compose.model.yaml_source import Path

    Tree = dict[str, Any]

CONTENT = "x-#value"  # what a secret's or config's variable holds, where a file may say nothing


class LoadOptions:
    """How a project is loaded; what can be left out is what `compose config` can leave out."""

    def __init__(
        self,
        *,
        interpolate: bool = True,
        validate: bool = True,
        resolve_paths: bool = True,
        normalize: bool = True,
        consistency: bool = True,
        extend: bool = True,
        include: bool = True,
        defaults: bool = True,
    ) -> None:
        self.interpolate = interpolate
        self.validate = validate
        self.resolve_paths = resolve_paths
        self.normalize = normalize
        self.consistency = consistency
        self.extend = extend
        self.include = include
        self.defaults = defaults

    def with_(self, **changes: bool) -> LoadOptions:
        """Options that differ in these."""
        return LoadOptions(**{**self.__dict__, **changes})


class Loader:
    """Loads trees. `warn` is given what Compose warns of."""

    def __init__(
        self,
        environment: Mapping[str, str],
        warn: Callable[[str], None],
        options: LoadOptions | None = None,
        remotes: Remotes | None = None,
    ) -> None:
        self.environment = environment
        self.warn = warn
        self.options = options or LoadOptions()
        self.remotes = remotes or Remotes(environment)

    def with_(self, environment: Mapping[str, str] | None = None, **changes: bool) -> Loader:
        """A loader that differs in these options."""
        known = self.environment if environment is None else environment
        return Loader(known, self.warn, self.options.with_(**changes), self.remotes)

    def interpolation(self) -> Interpolation:
        """What replaces variables."""

        def unset(name: str) -> None:
            self.warn(f'The "{name}" variable is not set. Defaulting to a blank string.')

        return Interpolation(self.environment.get, unset, self.warn)

    def tree(self, sources: Sequence[Source], folder: str, included: Sequence[str] = ()) -> Tree:
        """The canonical tree of files, merged in their order. `folder`: what paths are relative to.

        Raises ComposeError.
        """
        found: Tree = {}
        for source in sources:
            found, _ = self.file(source, folder, found, included, folder)
        if self.options.defaults:
            found = canonical.with_defaults(found)
        if self.options.validate:
            check_objects(found)
        if self.options.resolve_paths:
            relative_paths.resolve(found, folder)
        _resolve_environment(found, self.environment)
        return found

    def file(
        self, source: Source, folder: str, base: Tree, included: Sequence[str] = (), load_folder: str = ""
    ) -> tuple[Tree, list[Path]]:
        """`base` with a file's documents merged over it, and the marks of the last one. Raises ComposeError."""
        marks: list[Path] = []
        for document in yaml_source.documents(source.read(), source.path):
            marks = document.marks
            base = self._document(document.value, marks, source, folder, base, [*included, source.path])
        return base, marks

    def _document(
        self, value: Any, marks: list[Path], source: Source, folder: str, base: Tree, included: list[str]
    ) -> Tree:
        yaml_source.with_text_keys(value)
        if not isinstance(value, dict):
            raise ComposeError("top-level object must be a mapping")
        tree: Tree = self.interpolation().tree(value) if self.options.interpolate else value
        if self.options.extend:
            Extends(self, source.path, folder).apply(tree, marks)
        reset(base, marks)
        if self.options.include:
            include(self, tree, folder, included)
        base = merge.without_repeats(merge.merge(base, tree))
        if self.options.validate:
            schema.validate(base, source.path)
            if "version" in base:
                self.warn(
                    f"{source.path}: the attribute `version` is obsolete, it will be ignored, please remove it to "
                    "avoid potential confusion"
                )
                del base["version"]
        base = canonical.canonical(base, self.warn, lenient=not self.options.interpolate)
        # the long forms may show that two entries are for the same thing
        return merge.without_repeats(base)


def _resolve_environment(tree: Tree, environment: Mapping[str, str]) -> None:
    """Values for variables without one, and for secrets and configs that come from variables."""
    for service in _mappings(tree, "services"):
        variables = service.get("environment")
        if isinstance(variables, list):
            service["environment"] = [
                f"{item}={environment[item]}" if item in environment else item
                for item in variables
                if isinstance(item, str)
            ]
    for section in ("secrets", "configs"):
        for entry in _mappings(tree, section):
            name = entry.get("environment")
            if isinstance(name, str) and name in environment:
                entry[CONTENT] = environment[name]


def _mappings(tree: Tree, section: str) -> list[Tree]:
    found = tree.get(section)
    return [item for item in found.values() if isinstance(item, dict)] if isinstance(found, dict) else []
