"""What is built for a project's services, as targets in the words of bake (docker/buildx, bake/bake.go)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dockyard.compose.errors import ComposeError
from dockyard.compose.plan import labels
from dockyard.dockerfile.git_source import is_git

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dockyard.compose.model.project import Project

Tree = dict[str, Any]

SERVICE = "service:"


class BuildWishes:
    """What is asked for beside what the files say. `arguments`: None is what the environment has."""

    def __init__(
        self,
        *,
        pull: bool = False,
        no_cache: bool = False,
        push: bool = False,
        check: bool = False,
        arguments: Mapping[str, str | None] | None = None,
        ssh: Sequence[str] = (),
        proxies: Mapping[str, str] | None = None,
    ) -> None:
        self.pull = pull
        self.no_cache = no_cache
        self.push = push
        self.check = check
        self.arguments = arguments or {}
        self.ssh = list(ssh)
        self.proxies = proxies or {}


def target_names(services: Iterable[str]) -> dict[str, str]:
    """A target's name for each service: dots mean something there."""
    found: dict[str, str] = {}
    for name in sorted(services):
        target = name.replace(".", "_")
        while target in found.values():
            target += "_"
        found[name] = target
    return found


def with_contexts(project: Project, names: Iterable[str]) -> list[str]:
    """`names` that have something to build, and the services whose images they are built with. Raises ComposeError."""
    found = list(names)
    for name in found:
        service = project.all_services()[name]
        if "build" not in service:
            raise ComposeError(f'service "{name}" has no build section')
        for context in (service["build"].get("additional_contexts") or {}).values():
            other = context.removeprefix(SERVICE)
            if not context.startswith(SERVICE):
                continue
            if other not in project.all_services():
                raise ComposeError(f'service "{name}" depends on undefined service "{other}": invalid compose project')
            if other not in found:
                found.append(other)
    return found


def checked_platforms(project: Project, name: str, *, one: bool) -> list[str]:
    """The platforms that a service is built for; `one`: to be run here. Raises ComposeError."""
    service = project.all_services()[name]
    platforms = list(service["build"].get("platforms") or ())
    default = project.environment.get("DOCKER_DEFAULT_PLATFORM", "")
    wanted = service.get("platform") or ""
    if default and not wanted:
        if platforms and default not in platforms:
            raise ComposeError(
                f'service "{name}" build.platforms does not support value set by DOCKER_DEFAULT_PLATFORM: {default}'
            )
        wanted = default
    if wanted:
        if platforms and wanted not in platforms:
            raise ComposeError(f'service "{name}" build configuration does not support platform: {wanted}')
        return [wanted] if one or not platforms else platforms
    return [] if one and len(platforms) > 1 else platforms


def bake_file(project: Project, names: Sequence[str], wishes: BuildWishes, *, one: bool = False) -> Tree:
    """The bake file that Docker Compose would write for all that there is to build, of which `names` are built."""
    every = {name: service for name, service in project.services.items() if "build" in service}
    every |= {name: project.all_services()[name] for name in names}
    targets = target_names(project.all_services())
    return {
        "group": {"default": {"targets": [targets[name] for name in names]}},
        "target": {targets[name]: target(project, name, targets, wishes, one=one) for name in sorted(every)},
    }


def target(project: Project, name: str, targets: Mapping[str, str], wishes: BuildWishes, *, one: bool = False) -> Tree:
    """One service's target; what is not wanted is left out."""
    service = project.all_services()[name]
    build: Tree = service["build"]
    platforms = checked_platforms(project, name, one=one)
    push = wishes.push and bool(service.get("image"))
    if wishes.check:
        outputs = []
    elif len(platforms) > 1:
        outputs = [f"type=image,push={'true' if push else 'false'}"]
    else:
        outputs = ["type=registry" if push else "type=docker"]
    entitlements = list(build.get("entitlements") or ())
    if build.get("privileged"):
        entitlements.append("security.insecure")
    found = {
        "context": build.get("context", "."),
        "contexts": {
            key: f"target:{targets[place.removeprefix(SERVICE)]}" if place.startswith(SERVICE) else place
            for key, place in (build.get("additional_contexts") or {}).items()
        },
        "dockerfile": dockerfile_path(build.get("context", "."), build.get("dockerfile", "")),
        "dockerfile-inline": (build.get("dockerfile_inline") or "").replace("${", "$${"),
        "args": {key: text.replace("${", "$${") for key, text in arguments_of(project, build, wishes).items()},
        "labels": {
            **(build.get("labels") or {}),
            labels.PROJECT: project.name,
            labels.SERVICE: name,
            labels.VERSION: labels.COMPATIBLE_VERSION,
        },
        "tags": [*(build.get("tags") or ()), project.image_of(name)],
        "cache-from": build.get("cache_from"),
        "cache-to": build.get("cache_to"),
        "target": build.get("target"),
        "secret": [_secret(project, reference) for reference in build.get("secrets") or ()],
        "ssh": [*_ssh(build.get("ssh")), *wishes.ssh],
        "platforms": platforms,
        "pull": wishes.pull or bool(build.get("pull")),
        "no-cache": wishes.no_cache or bool(build.get("no_cache")),
        "network": build.get("network"),
        "shm-size": str(build.get("shm_size") or ""),
        "ulimits": [_ulimit(key, limit) for key, limit in (build.get("ulimits") or {}).items()],
        "call": "lint" if wishes.check else "",
        "entitlements": entitlements,
        "extra-hosts": {host: ",".join(addresses) for host, addresses in (build.get("extra_hosts") or {}).items()},
        "output": outputs,
        "attest": [text for kind in ("provenance", "sbom") if (text := _attestation(kind, str(build.get(kind) or "")))],
    }
    return {key: value for key, value in found.items() if value}


def arguments_of(project: Project, build: Tree, wishes: BuildWishes) -> dict[str, str]:
    """The variables of a build: those that have a value, ours first, and the client's proxies."""
    given = {**(build.get("args") or {}), **wishes.arguments}
    resolved = {key: project.environment.get(key) if value is None else value for key, value in given.items()}
    return {**wishes.proxies, **{key: value for key, value in resolved.items() if value is not None}}


def dockerfile_path(context: str, dockerfile: str) -> str:
    """Where a Dockerfile is: in a repository as it is there, else from here, its folder without links."""
    if not dockerfile or is_git(context):
        return dockerfile
    path = os.path.join(context, dockerfile)
    folder = os.path.dirname(path)
    return os.path.join(os.path.realpath(folder), os.path.basename(path)) if os.path.isdir(folder) else path


def _ssh(given: Any) -> list[str]:
    """`ssh` of a build, in any of its forms, as ID=PATH."""
    if isinstance(given, dict):
        return [f"{key}={path or ''}" for key, path in given.items()]
    return [text if "=" in text else f"{text}=" for text in given or ()]


def _secret(project: Project, reference: Tree) -> str:
    source = reference["source"]
    definition = project.secrets[source]
    name = (reference.get("target") or source).rpartition("/")[2] or source
    if definition.get("environment"):
        return f"id={name},type=env,env={definition['environment']}"
    if definition.get("file"):
        return f"id={name},type=file,src={definition['file']}"
    raise ComposeError(f'build.secrets only supports environment or file-based secrets: "{source}"')


def _ulimit(name: str, limit: Any) -> str:
    if isinstance(limit, dict):
        return f"{name}={limit.get('soft', 0)}:{limit.get('hard', 0)}"
    return f"{name}={limit}"


def _attestation(kind: str, value: str) -> str:
    if value in ("", "false", "False"):
        return ""
    return f"type={kind}" if value in ("true", "True") else f"type={kind},{value}"
