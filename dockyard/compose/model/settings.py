"""Which project is meant: its files, folder, name, profiles and variables, from options and the environment."""

from __future__ import annotations

import os
import re
import sys

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import dotenv, yaml_source
from dockyard.compose.model.checks import check_consistency
from dockyard.compose.model.language import SECTIONS, read_section
from dockyard.compose.model.load import Loader, LoadOptions
from dockyard.compose.model.normalize import normalize
from dockyard.compose.model.project import Project
from dockyard.compose.model.remote import Remotes, is_remote
from dockyard.compose.model.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Tree = dict[str, Any]

DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_FILES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)


class Settings:
    """What `dockyard compose` takes before its command."""

    def __init__(
        self,
        *,
        files: Sequence[str] = (),
        name: str = "",
        folder: str = "",
        profiles: Sequence[str] = (),
        env_files: Sequence[str] = (),
        compatibility: bool = False,
        all_resources: bool = False,
        options: LoadOptions | None = None,
        environment: Mapping[str, str] | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`environment` is ours by default."""
        self.files = list(files)
        self.name = name
        self.folder = folder
        self.profiles = list(profiles)
        self.env_files = list(env_files)
        self.compatibility = compatibility
        self.all_resources = all_resources
        self.options = options or LoadOptions()
        self.environment = os.environ if environment is None else environment
        self.warn = warn


class Sources:
    """The files of a project and the variables they are read with, found by `Settings`."""

    def __init__(self, settings: Settings) -> None:
        """Raises ComposeError for files or variables that cannot be found."""
        self._settings = settings
        self.folder = os.path.abspath(settings.folder) if settings.folder else ""
        self.environment = {"PWD": os.getcwd(), **settings.environment}
        self.env_files: list[str] = []
        self.remotes = Remotes(self.environment)
        self._remote_folder = ""  # of the first file that comes from elsewhere, once it is here
        self.paths = list(settings.files)
        self._read_env_files()
        self.paths = self._paths()
        self._read_env_files()
        if settings.name != normal_name(settings.name):
            raise invalid_name(settings.name)
        self._texts: list[Source] | None = None

    @property
    def compatibility(self) -> bool:
        """Whether names are made as Compose 1 made them."""
        given = self.environment.get("COMPOSE_COMPATIBILITY", "").lower()
        return self._settings.compatibility or given in ("1", "t", "true", "y")

    @property
    def working_folder(self) -> str:
        """The project's folder: as given, or that of the first file, or where we are."""
        return self.folder or self._remote_folder or self._own_folder

    @property
    def _own_folder(self) -> str:
        """The same where the files are elsewhere: then it is where we are, as for the project's name and variables."""
        if self.folder:
            return self.folder
        for path in self.paths:
            if path != "-":
                return os.getcwd() if is_remote(path) else os.path.dirname(os.path.abspath(path))
        return os.getcwd()

    def _read_env_files(self) -> None:
        if self._settings.env_files:
            self.env_files = list(self._settings.env_files)
        elif self.environment.get("COMPOSE_DISABLE_ENV_FILE", "").lower() not in ("1", "t", "true"):
            default = os.path.join(self.working_folder, ".env")
            if os.path.isfile(default):
                self.env_files = [default]
        found = dotenv.read_files(self.env_files, self.environment, self._unset)
        self.environment = {**found, **self.environment}

    def _unset(self, name: str) -> None:
        self._settings.warn(f'The "{name}" variable is not set. Defaulting to a blank string.')

    def _paths(self) -> list[str]:
        if self._settings.files:
            return list(self._settings.files)
        given = self.environment.get("COMPOSE_FILE")
        if given is not None:
            separator = self.environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
            found = [
                path if path == "-" or is_remote(path) else os.path.abspath(path) for path in given.split(separator)
            ]
            for path in found:
                if path != "-" and not is_remote(path) and not os.path.exists(path):
                    raise ComposeError(f"stat {path}: no such file or directory")
            return found
        place = self.working_folder
        while True:
            files = self._first(DEFAULT_FILES, place, "config")
            if files:
                return files + self._first(OVERRIDE_FILES, place, "override")
            if place == os.path.dirname(place):
                return []
            place = os.path.dirname(place)

    def _first(self, names: Sequence[str], folder: str, what: str) -> list[str]:
        found = [path for name in names if os.path.exists(path := os.path.join(folder, name))]
        if len(found) > 1:
            plural = "config files with supported names" if what == "config" else "override files with supported names"
            self._settings.warn(f"Found multiple {plural}: {', '.join(found)}")
            self._settings.warn(f"Using {found[0]}")
        return found[:1]

    def texts(self) -> list[Source]:
        """The files, read. Raises ComposeError when there are none."""
        if self._texts is None:
            if not self.paths:
                raise ComposeError("no configuration file provided: not found")
            self._texts = [self._text(path) for path in self.paths]
        return self._texts

    def _text(self, path: str) -> Source:
        if path == "-":
            return Source("-", sys.stdin.buffer.read())
        if is_remote(path):
            place = self.remotes.file(path)
            self._remote_folder = self._remote_folder or os.path.dirname(place)
        else:
            place = os.path.abspath(path)
        return Source(place, Source(place).read())

    def name(self) -> str:
        """The project's name: -p, COMPOSE_PROJECT_NAME, `name:` in the last file that has it, the folder's.

        Raises ComposeError for one that cannot be one.
        """
        given = self._settings.name or self.environment.get("COMPOSE_PROJECT_NAME") or ""
        if given:
            if normal_name(given) != given:
                raise invalid_name(given)
            return given
        found = ""
        for source in self.texts():
            found = _name_in(source) or found
        if found:
            loader = Loader(self.environment, self._settings.warn)
            found = loader.interpolation().text(found) if self._settings.options.interpolate else found
            if self._settings.options.normalize:
                found = normal_name(found)
        return found or normal_name(os.path.basename(self._own_folder))


def _name_in(source: Source) -> str:
    found = ""
    text = source.text or b""
    if not re.search(rb"^(['\"]?)name\1\s*:|^\{|^\s*<<", text, re.MULTILINE):
        return ""
    try:
        for document in yaml_source.documents(text, source.path):
            if isinstance(document.value, dict) and isinstance(document.value.get("name"), str):
                found = document.value["name"] or found
    except ComposeError:
        pass  # it is said when the file itself is loaded
    return found


def normal_name(text: str) -> str:
    """`text` as a project's name."""
    return re.sub(r"[^a-z0-9_-]", "", text.lower()).lstrip("_-")


def invalid_name(name: str) -> ComposeError:
    """The error for what cannot be a project's name."""
    return ComposeError(
        f'invalid project name "{name}": must consist only of lowercase alphanumeric characters, hyphens, and '
        "underscores as well as start with a letter or number"
    )


def load_tree(settings: Settings) -> Tree:
    """The canonical tree of a project, not yet read into types. Raises ComposeError."""
    sources = Sources(settings)
    return _tree(settings, sources)


def _tree(settings: Settings, sources: Sources) -> Tree:
    texts = sources.texts()
    name = sources.name()
    sources.environment["COMPOSE_PROJECT_NAME"] = name
    loader = Loader(sources.environment, settings.warn, settings.options, sources.remotes)
    tree = loader.tree(texts, sources.working_folder)
    if not tree:
        raise ComposeError("empty compose file")
    if not name:
        raise ComposeError("project name must not be empty")
    if settings.options.normalize:
        tree["name"] = name
        tree = normalize(tree, name, sources.environment)
    return tree


def load_project(
    settings: Settings,
    services: Sequence[str] = (),
    *,
    environment: bool = True,
    discard: bool = True,
) -> Project:
    """The project, of which only `services` and what they need are enabled when there are any.

    `environment`: read the services' env_files; `discard` forgets which they were. Raises ComposeError.
    """
    sources = Sources(settings)
    tree = _tree(settings, sources)
    sections: dict[str, Any] = {section: read_section(section, tree.get(section) or {}) for section in SECTIONS}
    project = Project(
        name=sources.environment["COMPOSE_PROJECT_NAME"],
        folder=sources.working_folder,
        environment=sources.environment,
        files=[source.path for source in sources.texts()],
        env_files=[os.path.abspath(path) for path in settings.env_files],
        separator="_" if sources.compatibility else "-",
        **sections,
        extensions={key: tree[key] for key in sorted(tree) if key.startswith("x-")},
    )
    profiles = settings.profiles or [
        part.strip() for part in sources.environment.get("COMPOSE_PROFILES", "").split(",")
    ]
    project = project.with_profiles(profiles)
    if settings.options.consistency:
        check_consistency(project)
    if environment:
        project = project.with_environment(discard=discard)
    project = project.with_labels(discard=discard)
    project = project.with_enabled(services).selected(services)
    return project if settings.all_resources else project.without_unused()
