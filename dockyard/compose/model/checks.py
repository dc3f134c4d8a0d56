"""What no schema can say: choices that exclude each other, references to what is not there, circles."""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.short_forms import is_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.compose.model.project import Project

    Tree = dict[str, Any]

INVALID = "invalid compose project"
_SOURCES = {"configs": ("file", "environment", "content"), "secrets": ("file", "environment")}


def check_objects(tree: Tree) -> None:
    """Check a canonical tree. Raises ComposeError."""
    for name, volume in (tree.get("volumes") or {}).items():
        if volume is not None:
            _external_alone(volume, f"volumes.{name}")
    for section, keys in _SOURCES.items():
        for name, entry in (tree.get(section) or {}).items():
            _one_source(entry, keys, f"{section}.{name}")
    for name, service in (tree.get("services") or {}).items():
        if isinstance(service, dict):
            _service_objects(service, f"services.{name}")


def _external_alone(volume: Tree, where: str) -> None:
    if volume.get("external") is not True:
        return
    for key in volume:
        if key not in ("name", "external") and not key.startswith("x-"):
            raise ComposeError(f'{where}: conflicting parameters "external" and "{key}" specified')


def _one_source(entry: Tree, keys: tuple[str, ...], where: str) -> None:
    given = [key for key in keys if key in entry]
    if len(given) > 1:
        raise ComposeError(f"{where}: {'|'.join(keys)} attributes are mutually exclusive")
    if not given and "driver" not in entry and "external" not in entry:
        raise ComposeError(f"{where}: one of {'|'.join(keys)} must be set")


def _service_objects(service: Tree, where: str) -> None:
    for port in service.get("ports") or ():
        address = port.get("host_ip") if isinstance(port, dict) else None
        if address is not None and not is_address(str(address)):
            raise ComposeError(f"{where}.ports.[]: invalid ip address: {address}")
    for trigger in (service.get("develop") or {}).get("watch") or ():
        if not trigger["path"]:
            raise ComposeError(f"{where}.develop.watch.[].path: value can't be blank")
    reservations = ((service.get("deploy") or {}).get("resources") or {}).get("reservations") or {}
    for key, requests in (
        ("gpus", service.get("gpus")),
        ("deploy.resources.reservations.devices", reservations.get("devices")),
    ):
        for request in requests or ():
            if "count" in request and "device_ids" in request:
                raise ComposeError(f'{where}.{key}.[]: "count" and "device_ids" attributes are exclusive')


def check_consistency(project: Project) -> None:
    """Check a project as a whole. Raises ComposeError."""
    for name, service in project.services.items():
        _check_build(project, name, service)
        _check_references(project, name, service)
        _check_limits(name, service)
        _check_mounts(name, service)
    for name, secret in project.secrets.items():
        if not secret.get("external") and not secret.get("file") and not secret.get("environment"):
            raise ComposeError(f'secret "{name}" must declare either `file` or `environment`: {INVALID}')
    check_cycles(project)


def _check_build(project: Project, name: str, service: Tree) -> None:
    build = service.get("build")
    if build is None:
        if not service.get("image") and "provider" not in service:
            raise ComposeError(f'service "{name}" has neither an image nor a build context specified: {INVALID}')
        return
    if build.get("dockerfile_inline") and build.get("dockerfile"):
        raise ComposeError(f'service "{name}" declares mutualy exclusive dockerfile and dockerfile_inline: {INVALID}')
    for key, context in (build.get("additional_contexts") or {}).items():
        if not context.startswith("service:"):
            continue
        target = context.removeprefix("service:")
        if target not in project.services:
            raise ComposeError(f'service "{name}" declares unknown service "{target}" as additional contexts {key}')
        if "build" not in project.services[target]:
            raise ComposeError(
                f'service "{name}" declares non-buildable service "{target}" as additional contexts {key}'
            )
    platform, platforms = service.get("platform"), build.get("platforms")
    if platform and platforms and platform not in platforms:
        raise ComposeError(f'service.build.platforms MUST include service.platform "{platform}": {INVALID}')


def _check_references(project: Project, name: str, service: Tree) -> None:
    mode = service.get("network_mode", "")
    if mode and service.get("networks"):
        raise ComposeError(f"service {name} declares mutually exclusive `network_mode` and `networks`: {INVALID}")
    for network in service.get("networks") or ():
        _must_be(network in project.networks, name, "network", network)
    test = (service.get("healthcheck") or {}).get("test")
    if test and test[0] not in ("CMD", "CMD-SHELL", "NONE"):
        raise ComposeError('healthcheck.test must start either by "CMD", "CMD-SHELL" or "NONE"')
    for other, dependency in (service.get("depends_on") or {}).items():
        if other in project.services or (other in project.disabled and not dependency["required"]):
            continue
        raise ComposeError(f'service "{name}" depends on undefined service "{other}": {INVALID}')
    if mode.startswith("service:") and mode.removeprefix("service:") not in project.services:
        other = mode.removeprefix("service:")
        raise ComposeError(f"service \"{other}\" not found for network_mode 'service:{other}'")
    for mount in service.get("volumes") or ():
        if mount.get("type") == "volume" and mount.get("source"):
            _must_be(mount["source"] in project.volumes, name, "volume", mount["source"])
    for secret in (service.get("build") or {}).get("secrets") or ():
        _must_be(secret.get("source") in project.secrets, name, "build secret", secret.get("source"))
    for kind, entries in (("config", project.configs), ("secret", project.secrets)):
        for mount in service.get(f"{kind}s") or ():
            _must_be(mount.get("source") in entries, name, kind, mount.get("source"))
    for model in service.get("models") or ():
        _must_be(model in project.models, name, "model", model)


def _must_be(there: bool, service: str, kind: str, name: Any) -> None:
    if not there:
        raise ComposeError(f'service "{service}" refers to undefined {kind} {name}: {INVALID}')


def _check_limits(name: str, service: Tree) -> None:
    deploy = service.get("deploy") or {}
    scale, replicas = service.get("scale"), deploy.get("replicas")
    if scale is not None and deploy:
        if replicas is not None and replicas != scale:
            raise ComposeError(
                f"services.{name}: can't set distinct values on 'scale' and 'deploy.replicas': {INVALID}"
            )
        deploy["replicas"] = scale
    if scale is not None and scale < 0:
        raise ComposeError(f"services.{name}.scale: must be greater than or equal to 0")
    if replicas is not None and replicas < 0:
        raise ComposeError(f"services.{name}.deploy.replicas: must be greater than or equal to 0")
    resources = deploy.get("resources") or {}
    for key, part, limit in (
        ("cpus", "limits", "cpus"),
        ("mem_limit", "limits", "memory"),
        ("mem_reservation", "reservations", "memory"),
        ("pids_limit", "limits", "pids"),
    ):
        if service.get(key) and part in resources and resources[part].get(limit, 0) != service[key]:
            both = f"'{key}' and 'deploy.resources.{part}.{limit}'"
            raise ComposeError(f"services.{name}: can't set distinct values on {both}: {INVALID}")
    wanted = scale if scale is not None else replicas
    if wanted is not None and wanted > 1 and service.get("container_name"):
        attribute = "deploy.replicas" if scale is None else "scale"
        raise ComposeError(
            f"services.{attribute}: can't set container_name and {name} as container name must be unique: {INVALID}"
        )
    for trigger in (service.get("develop") or {}).get("watch") or ():
        if not trigger.get("target") and trigger.get("action") not in ("rebuild", "restart"):
            raise ComposeError(f"services.{name}.develop.watch: target is required for non-rebuild actions: {INVALID}")


def _check_mounts(name: str, service: Tree) -> None:
    taken: dict[str, str] = {}
    targets = [("tmpfs", index, text.partition(":")[0]) for index, text in enumerate(service.get("tmpfs") or ())]
    targets += [("volumes", index, mount.get("target", "")) for index, mount in enumerate(service.get("volumes") or ())]
    for key, index, target in targets:
        place = f"services.{name}.{key}[{index}]"
        if target in taken:
            raise ComposeError(f"{place}: target {target} already mounted as {taken[target]}")
        taken[target] = place


def check_cycles(project: Project) -> None:
    """Raise ComposeError when services depend on each other in a circle, or on what is disabled."""
    for name, service in project.services.items():
        for other, dependency in (service.get("depends_on") or {}).items():
            if other not in project.services and dependency["required"]:
                if other in project.disabled:
                    profiles = " ".join(project.disabled[other].get("profiles") or ())
                    raise ComposeError(
                        f'service "{other}" is required by "{name}" but is disabled. '
                        f"Can be enabled by profiles [{profiles}]"
                    )
                raise ComposeError(f'service "{name}" depends on unknown service "{other}"')
    done: set[str] = set()
    for name in sorted(project.services):
        _search_cycle(project, [name], done)


def _search_cycle(project: Project, path: list[str], done: set[str]) -> None:
    name = path[-1]
    if name in done:
        return
    for other in sorted(project.services[name].get("depends_on") or ()):
        if other in path:
            circle = " -> ".join(path[path.index(other) :])
            raise ComposeError(f"dependency cycle detected: {circle} -> {other}")
        if other in project.services:
            _search_cycle(project, [*path, other], done)
    done.add(name)


def check_container_names(project: Project) -> None:
    """Raise ComposeError when two services want the same container's name."""
    names: dict[str, str] = {}
    for name, service in sorted(project.services.items()):
        wanted = service.get("container_name")
        if wanted in names:
            raise ComposeError(
                f'services.{name}: container name "{wanted}" is already in use by service {names[wanted]}"'
            )
        if wanted:
            names[wanted] = name
