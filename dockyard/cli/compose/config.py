"""`config`: what the files come to."""

from __future__ import annotations

import sys

from dockyard.cli.usage import usage
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.load import LoadOptions
from dockyard.compose.model.render import as_json, as_yaml, project_tree
from dockyard.compose.model.settings import Sources, load_project, load_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.cli.compose.session import ComposeSession
    from dockyard.cli.usage import Flags
    from dockyard.compose.model.project import Project


@usage(
    """
dockyard compose config [OPTIONS] [SERVICE...]

Parse, resolve and render compose file in canonical format

Options:
      --environment             Print environment used for interpolation.
      --format string           Format the output. Values: [yaml | json]
      --hash string             Print the service config hash, one per line.
      --images                  Print the image names, one per line.
      --lock-image-digests      Produces an override file with image digests
      --models                  Print the model names, one per line.
      --networks                Print the network names, one per line.
      --no-consistency          Don't check model consistency - warning: may produce invalid Compose output
      --no-env-resolution       Don't resolve service env files
      --no-interpolate          Don't interpolate environment variables
      --no-normalize            Don't normalize compose model
      --no-path-resolution      Don't resolve file paths
  -o, --output string           Save to file (default to stdout)
      --profiles                Print the profile names, one per line.
  -q, --quiet                   Only validate the configuration, don't print anything
      --resolve-image-digests   Pin image tags to digests
      --services                Print the service names, one per line.
      --variables               Print model variables and default values.
      --volumes                 Print the volume names, one per line.
"""
)
def config(session: ComposeSession, flags: Flags) -> int:
    """YAML or JSON."""
    options = LoadOptions(
        interpolate=not flags.on("no-interpolate"),
        normalize=not flags.on("no-normalize") and not session.settings.on("compatibility"),
        resolve_paths=not flags.on("no-path-resolution"),
        consistency=not flags.on("no-consistency"),
    )
    for name, show in _LISTS.items():
        if flags.on(name) or (name == "hash" and flags.given("hash")):
            show(session, flags, options)
            return 0
    text = _rendered(session, flags, options)
    if flags.on("quiet"):
        return 0
    if flags.text("output"):
        with open(flags.text("output"), "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    return 0


convert = config


def _rendered(session: ComposeSession, flags: Flags, options: LoadOptions) -> str:
    form = flags.text("format") or "yaml"
    if form not in ("yaml", "json"):
        raise ComposeError(f'unsupported format "{form}"')
    if flags.on("no-interpolate"):
        from dockyard.compose.model.key_order import deep

        tree = deep(load_tree(session.project_settings(options)))
        return as_yaml(tree) if form == "yaml" else as_json(tree)
    project = _project(session, flags, options, flags.arguments)
    if flags.on("resolve-image-digests") or flags.on("lock-image-digests"):
        project = _with_digests(session, project)
    if not flags.on("no-consistency"):
        from dockyard.compose.model.checks import check_container_names

        check_container_names(project)
    if flags.on("lock-image-digests"):
        services = {name: {"image": one.get("image", "")} for name, one in project.services.items()}
        from dockyard.compose.model.project import Project

        project = Project(name="", folder=project.folder, services=services)
    tree = project_tree(project, form)
    return (as_yaml(tree) if form == "yaml" else as_json(tree)).replace("$", "$$")


def _project(session: ComposeSession, flags: Flags, options: LoadOptions, services: list[str]) -> Project:
    return load_project(session.project_settings(options), services, environment=not flags.on("no-env-resolution"))


def _with_digests(session: ComposeSession, project: Project) -> Project:
    services = {}
    for name, service in project.services.items():
        image = service.get("image")
        if image and "@" not in image:
            found = session.engine.get(f"/distribution/{image}/json")
            service = {**service, "image": f"{_full(image)}@{found['Descriptor']['digest']}"}
        services[name] = service
    return project.with_(services=services)


def _full(image: str) -> str:
    """An image's name with its registry, and its tag as far as it has one."""
    first, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in first or ":" in first or first == "localhost" else f"docker.io/{image}"


def _services(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    if flags.on("no-interpolate"):
        for name in load_tree(session.project_settings(options)).get("services") or ():
            print(name)
        return
    project = load_project(session.project_settings(options), environment=False)
    for name in project.reachable(sorted(project.services)):
        print(name)


def _volumes(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    for name in load_project(session.project_settings(options), environment=False).volumes:
        print(name)


def _networks(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    for name in load_project(session.project_settings(options), environment=False).networks:
        print(name)


def _models(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    for model in load_project(session.project_settings(options), environment=False).models.values():
        if model.get("model"):
            print(model["model"])


def _hash(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    from dockyard.compose.model.hashes import service_hash

    project = load_project(session.project_settings(options), environment=False)
    wanted = project.services if flags.text("hash") == "*" else flags.text("hash").split(",")
    for name in sorted(wanted):
        print(f"{name} {service_hash(project.service(name))}")


def _profiles(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    project = load_project(session.project_settings(options), environment=False)
    found = {name for service in project.all_services().values() for name in service.get("profiles") or ()}
    for name in sorted(found):
        print(name)


def _images(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    project = load_project(session.project_settings(options), flags.arguments, environment=False)
    if flags.arguments:
        project = project.selected(flags.arguments, dependencies=False)
    for name in sorted(project.services):
        print(project.image_of(name))


def _variables(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    from dockyard.cli.compose.look import plain_table
    from dockyard.compose.model.variables import references

    tree = load_tree(session.project_settings(options.with_(interpolate=False, normalize=False)))
    found: dict[str, Any] = {}
    for text in texts(tree):
        for one in references(text):
            known = found.setdefault(one.name, one)
            known.default = known.default or one.default
            known.alternative = known.alternative or one.alternative
            known.required = known.required or one.required
    form = flags.text("format")
    if form in ("json", "yaml"):
        import json

        rows = {
            name: {
                "Name": name,
                "DefaultValue": one.default,
                "PresenceValue": one.alternative,
                "Required": one.required,
            }
            for name, one in sorted(found.items())
        }
        if form == "json":
            print(json.dumps(rows, indent=4, ensure_ascii=False), end="\n\n")
            return
        for name, row in rows.items():
            print(f"{name}:")
            for key, value in row.items():
                print("    " + as_yaml({key.lower(): value}), end="")
        return
    table = [["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"]]
    table += [
        [name, "true" if one.required else "false", one.default, one.alternative] for name, one in sorted(found.items())
    ]
    print(plain_table(table))


def texts(value: Any) -> list[str]:
    """All texts in a tree."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def _environment(session: ComposeSession, flags: Flags, options: LoadOptions) -> None:
    sources = Sources(session.project_settings(options))
    sources.environment["COMPOSE_PROJECT_NAME"] = sources.name()
    for name, value in sorted(sources.environment.items()):
        print(f"{name}={value}")


_LISTS = {
    "services": _services,
    "volumes": _volumes,
    "networks": _networks,
    "models": _models,
    "hash": _hash,
    "profiles": _profiles,
    "images": _images,
    "variables": _variables,
    "environment": _environment,
}
