"""A project: what its files say, as a whole."""

from __future__ import annotations

import fnmatch
import os

from dockyard.compose.errors import ComposeError, Disabled, Missing
from dockyard.compose.model import dotenv
from dockyard.compose.model.extends import clone
from dockyard.compose.model.language import SECTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Tree = dict[str, Any]


class Project:  # no dataclass: importing those takes a quarter of the time that `config` has
    """Its name, where it is, and its resources by their keys; each is a tree of language.py's keys.

    `disabled` are the services that no active profile enables, or that were not asked for.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        *,
        services: dict[str, Tree] | None = None,
        networks: dict[str, Tree] | None = None,
        volumes: dict[str, Tree] | None = None,
        secrets: dict[str, Tree] | None = None,
        configs: dict[str, Tree] | None = None,
        models: dict[str, Tree] | None = None,
        extensions: Tree | None = None,
        disabled: dict[str, Tree] | None = None,
        environment: dict[str, str] | None = None,
        profiles: list[str] | None = None,
        files: list[str] | None = None,
        env_files: list[str] | None = None,
        separator: str = "-",
    ) -> None:
        self.name = name
        self.folder = folder
        self.services = services or {}
        self.networks = networks or {}
        self.volumes = volumes or {}
        self.secrets = secrets or {}
        self.configs = configs or {}
        self.models = models or {}
        self.extensions = extensions or {}
        self.disabled = disabled or {}
        self.environment = environment or {}
        self.profiles = profiles or []
        self.files = files or []
        self.env_files = env_files or []
        self.separator = separator

    def with_(self, **changes: Any) -> Project:
        """A project that differs in these fields."""
        return Project(**{**self.__dict__, **changes})

    def service(self, name: str) -> Tree:
        """The service `name`. Raises Missing, Disabled."""
        if name in self.services:
            return self.services[name]
        if name in self.disabled:
            raise Disabled(f"no such service: {name}: disabled")
        raise Missing(f"no such service: {name}: not found")

    def all_services(self) -> dict[str, Tree]:
        """Those that are enabled, and those that are not."""
        return {**self.services, **self.disabled}

    def image_of(self, name: str) -> str:
        """The image that a service runs: its own, or the one that its build is named."""
        service = self.all_services()[name]
        return str(service.get("image") or f"{self.name}{self.separator}{name}")

    # -- which services

    def with_profiles(self, profiles: Sequence[str]) -> Project:
        """The project with the services that these profiles enable."""
        enabled: dict[str, Tree] = {}
        disabled: dict[str, Tree] = {}
        for name, service in sorted(self.all_services().items()):
            of = service.get("profiles") or ()
            active = not of or "*" in profiles or any(profile in profiles for profile in of)
            (enabled if active else disabled)[name] = service
        return self.with_(services=enabled, disabled=disabled, profiles=list(profiles))

    def with_enabled(self, names: Sequence[str]) -> Project:
        """The project in which naming a service enables its profiles."""
        if not names:
            return self
        profiles = list(self.profiles)
        for name in names:
            if name not in self.services and name in self.disabled:
                profiles += self.disabled[name].get("profiles") or ()
        return self.with_profiles(profiles)

    def without(self, names: Iterable[str]) -> Project:
        """The project without these services, which nothing depends on then."""
        left = set(names)
        kept = {name: _without_dependencies(service, left) for name, service in self.services.items()}
        disabled = {**self.disabled, **{name: self.services[name] for name in left if name in self.services}}
        return self.with_(services={name: one for name, one in kept.items() if name not in left}, disabled=disabled)

    def selected(self, names: Sequence[str], *, dependencies: bool = True) -> Project:
        """The project with these services (which may be patterns) and what they depend on. Raises Missing."""
        if not names:
            return self
        chosen = self.reachable(names, dependencies=dependencies)
        others = [name for name in self.services if name not in chosen]
        return self.without(others)

    def reachable(self, names: Iterable[str], *, dependencies: bool = True, dependents: bool = False) -> list[str]:
        """The services `names`, with those they depend on before them, or those that depend on them.

        Raises Missing.
        """
        found: list[str] = []

        def visit(name: str, required: bool = True) -> None:
            matched = [one for one in self.services if fnmatch.fnmatchcase(one, name)]
            if not matched and required:
                raise Missing(f"no such service: {name}")
            for one in matched:
                if one in seen:
                    continue
                seen.add(one)
                if dependents:
                    for other in self.dependents(one):
                        visit(other)
                elif dependencies:
                    for other, dependency in (self.services[one].get("depends_on") or {}).items():
                        visit(other, dependency["required"])
                found.append(one)

        seen: set[str] = set()
        for name in names:
            visit(name)
        return found

    def dependents(self, name: str) -> list[str]:
        """The services that depend on this one."""
        return [other for other, service in self.services.items() if name in (service.get("depends_on") or ())]

    def without_unused(self) -> Project:
        """The project without resources that no service uses."""
        used: dict[str, set[str]] = {section: set() for section in SECTIONS}
        for service in self.services.values():
            used["networks"] |= set(service.get("networks") or ())
            used["models"] |= set(service.get("models") or ())
            used["volumes"] |= {
                mount["source"]
                for mount in service.get("volumes") or ()
                if mount.get("type") == "volume" and mount.get("source")
            }
            used["configs"] |= {mount["source"] for mount in service.get("configs") or ()}
            secrets = [*(service.get("secrets") or ()), *((service.get("build") or {}).get("secrets") or ())]
            used["secrets"] |= {mount["source"] for mount in secrets}

        def kept(section: str) -> dict[str, Tree]:
            entries: dict[str, Tree] = getattr(self, section)
            return {key: entry for key, entry in entries.items() if key in used[section]}

        return self.with_(
            networks=kept("networks"),
            volumes=kept("volumes"),
            secrets=kept("secrets"),
            configs=kept("configs"),
            models=kept("models"),
        )

    # -- what comes from other files

    def with_environment(self, *, discard: bool) -> Project:
        """The project whose services have the variables of their `env_file`s; `discard` forgets which files.

        Raises ComposeError.
        """
        services = {name: self._with_environment(service, discard=discard) for name, service in self.services.items()}
        return self.with_(services=services)

    def _with_environment(self, service: Tree, *, discard: bool) -> Tree:
        given = {
            key: self.environment.get(key) if value is None else value
            for key, value in (service.get("environment") or {}).items()
        }
        variables = {key: value for key, value in given.items() if value is not None}
        own = dict(variables)

        def lookup(name: str) -> str | None:
            value = self.environment.get(name)
            return own.get(name) if value is None else value

        for file in service.get("env_file") or ():
            _read_env_file(file, variables, lookup)
        found = dict(service)
        merged: Tree = {**variables, **given}
        if merged:
            found["environment"] = merged
        if discard:
            found.pop("env_file", None)
        return ordered(found)

    def with_labels(self, *, discard: bool) -> Project:
        """The project whose services have the labels of their `label_file`s. Raises ComposeError."""
        services = {}
        for name, service in self.services.items():
            labels: dict[str, str] = {}
            for path in service.get("label_file") or ():
                if not os.path.exists(path):
                    raise ComposeError(f"label file {path} not found: stat {path}: no such file or directory")
                try:
                    dotenv.parse(dotenv.read(path), labels, labels.get)
                except ComposeError as error:
                    raise ComposeError(f"failed to read {path}: {error}") from None
            labels.update(service.get("labels") or {})
            services[name] = ordered({**service, "labels": labels}) if labels else service
            if discard and "label_file" in service:
                services[name] = {key: item for key, item in services[name].items() if key != "label_file"}
        return self.with_(services=services)

    def copy(self) -> Project:
        """A project that may be changed without this one's noticing."""
        return self.with_(
            **{section: clone(getattr(self, section)) for section in (*SECTIONS, "disabled", "extensions")}
        )


def _without_dependencies(service: Tree, left: set[str]) -> Tree:
    dependencies = service.get("depends_on")
    if not dependencies or not left & set(dependencies):
        return service
    kept = {name: one for name, one in dependencies.items() if name not in left}
    found = {key: item for key, item in service.items() if key != "depends_on"}
    return ordered({**found, "depends_on": kept}) if kept else found


def ordered(service: Tree) -> Tree:
    """A service's keys in their order."""
    fields = SECTIONS["services"].fields
    found = {key: service[key] for key in fields if key in service}
    return {**found, **{key: item for key, item in service.items() if key not in fields}}


def _read_env_file(file: Tree, variables: dict[str, str], lookup: Callable[[str], str | None]) -> None:
    path = file["path"]
    if not os.path.exists(path):
        if file["required"]:
            raise ComposeError(f"env file {path} not found: stat {path}: no such file or directory")
        return
    kind = file.get("format") or ""
    try:
        if kind == "raw":
            dotenv.parse_raw(dotenv.read(path), variables, lookup)
        elif kind in ("", ".env"):
            dotenv.parse(dotenv.read(path), variables, lookup)
        else:
            raise ComposeError(f'unsupported env_file format "{kind}"')
    except ComposeError as error:
        if kind in ("", ".env"):
            raise ComposeError(f"failed to read {path}: {error}") from None
        raise
    except OSError as error:
        raise ComposeError(f"open {path}: {(error.strerror or '').lower()}") from None


def scale_of(service: Tree) -> int:
    """How many containers a service has."""
    if service.get("scale") is not None:
        return int(service["scale"])
    replicas = (service.get("deploy") or {}).get("replicas")
    return 1 if replicas is None else int(replicas)
