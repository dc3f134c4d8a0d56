"""A service's mounts: volumes, configs and secrets as the engine's binds and mounts, and what is kept of an old one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dockyard.compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.compose.model.project import Project

Tree = dict[str, Any]
Body = dict[str, Any]

SECRETS = "/run/secrets/"


def binds_and_mounts(
    project: Project,
    service: Tree,
    inherited: Tree | None,
    image_volumes: tuple[str, ...],
    warn: Callable[[str], None],
) -> Body:
    """HostConfig's Binds and Mounts. `inherited` is the container that is replaced: its anonymous volumes are kept.

    Raises ComposeError for configs and secrets that only a swarm has.
    """
    given = list(service.get("volumes") or ())
    mounts: dict[str, Tree] = {}
    if inherited is not None:
        given = _keep_anonymous(inherited, given, image_volumes, mounts)
    for volume in given:
        mounts[volume["target"]] = _mount(project, volume, warn)
    for extra in (*_secret_mounts(project, service, warn), *_config_mounts(project, service, warn)):
        mounts.setdefault(extra["Target"], extra)
    named = {volume["target"]: volume for volume in given}
    binds: list[str] = []
    kept: list[Tree] = []
    names = {volume.get("name") for volume in project.volumes.values()}
    for target, mount in mounts.items():
        volume = named.get(target)
        if volume is not None and _fits_bind(mount, volume, names):
            binds.append(_bind(mount["Source"], volume))
        else:
            kept.append(mount)
    body: Body = {}
    if binds:
        body["Binds"] = binds
    if kept:
        body["Mounts"] = kept
    return body


def _fits_bind(mount: Tree, volume: Tree, names: set[Any]) -> bool:
    """Whether a bind says all that there is to say. Only binds make folders that are missing on the host."""
    if mount["Type"] == "bind":
        bind = volume.get("bind")
        if bind is None:
            return True
        return bool(bind.get("create_host_path")) and not bind.get("propagation") and not bind.get("recursive")
    if mount["Type"] == "volume" and mount.get("Source") in names:
        options = volume.get("volume") or {}
        return not (options.get("labels") or options.get("subpath") or options.get("nocopy"))
    return False


def _bind(source: str, volume: Tree) -> str:
    bind = volume.get("bind") or {}
    options = ["ro" if volume.get("read_only") else "rw"]
    options += [bind[key] for key in ("selinux", "propagation") if bind.get(key)]
    return f"{source}:{volume['target']}:{','.join(options)}"


def _keep_anonymous(
    inherited: Tree, given: list[Tree], image_volumes: tuple[str, ...], mounts: dict[str, Tree]
) -> list[Tree]:
    """Mount the anonymous volumes of the container that is replaced; what of `given` is not one of them is left."""
    left = given
    for one in inherited.get("Mounts") or ():
        if one.get("Type") == "tmpfs":
            continue
        target = one["Destination"]
        anonymous = any(volume["target"] == target and not volume.get("source") for volume in left)
        if target in image_volumes or anonymous:
            source = one.get("Name") if one.get("Type") == "volume" else one.get("Source")
            mounts[target] = {"Type": one["Type"], "Source": source, "Target": target, "ReadOnly": not one.get("RW")}
        if anonymous:
            left = [volume for volume in left if volume["target"] != target or volume.get("source")]
    return left


def _mount(project: Project, volume: Tree, warn: Callable[[str], None]) -> Tree:
    kind, source = volume.get("type", ""), volume.get("source", "")
    for key in ("bind", "volume", "tmpfs", "image"):
        if key in volume and key != kind:
            warn(f"mount of type `{kind}` should not define `{key}` option")
    if kind == "bind" and not os.path.isabs(source):
        source = os.path.abspath(source)
    if kind == "volume" and source in project.volumes:
        source = project.volumes[source]["name"]
    mount: Tree = {"Type": kind, "Target": volume["target"]}
    if source:
        mount["Source"] = source
    if volume.get("read_only"):
        mount["ReadOnly"] = True
    if volume.get("consistency"):
        mount["Consistency"] = volume["consistency"]
    options = _OPTIONS[kind](volume.get(kind)) if kind in _OPTIONS else {}
    return {**mount, **options}


def _bind_options(given: Tree | None) -> Tree:
    if given is None:
        return {}
    options: Tree = {}
    if given.get("propagation"):
        options["Propagation"] = given["propagation"]
    if given.get("create_host_path"):
        options["CreateMountpoint"] = True
    field = {"disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive", "readonly": "ReadOnlyForceRecursive"}
    if given.get("recursive") in field:
        options[field[given["recursive"]]] = True
    return {"BindOptions": options}


def _volume_options(given: Tree | None) -> Tree:
    if given is None:
        return {}
    options = {"NoCopy": given.get("nocopy"), "Subpath": given.get("subpath"), "Labels": given.get("labels")}
    return {"VolumeOptions": {name: value for name, value in options.items() if value}}


def _tmpfs_options(given: Tree | None) -> Tree:
    if given is None:
        return {}
    options = {"SizeBytes": given.get("size"), "Mode": given.get("mode")}
    return {"TmpfsOptions": {name: value for name, value in options.items() if value}}


def _image_options(given: Tree | None) -> Tree:
    return {"ImageOptions": {"Subpath": given["subpath"]}} if given and given.get("subpath") else {}


_OPTIONS: dict[str, Callable[[Tree | None], Tree]] = {
    "bind": _bind_options,
    "volume": _volume_options,
    "tmpfs": _tmpfs_options,
    "image": _image_options,
}


# -- configs and secrets


def _only_files(definition: Tree, kind: str) -> bool:
    """Whether a definition is a file's. Raises ComposeError for what only a swarm has."""
    if definition.get("external"):
        raise ComposeError(f"unsupported external {kind} {definition.get('name', '')}")
    for key in ("driver", "template_driver"):
        if definition.get(key):
            raise ComposeError(f"Docker Compose does not support {kind}s.*.{key}")
    return not definition.get("environment") and (kind == "secret" or not definition.get("content"))


def _file_mount(source: str, target: str) -> Tree:
    return {"Type": "bind", "Source": os.path.abspath(source), "Target": target, "ReadOnly": True}


def _secret_mounts(project: Project, service: Tree, warn: Callable[[str], None]) -> list[Tree]:
    found = []
    for secret in service.get("secrets") or ():
        definition = project.secrets[secret["source"]]
        if not _only_files(definition, "secret"):
            continue
        if any(key in secret for key in ("uid", "gid", "mode")):
            warn("secrets `uid`, `gid` and `mode` are not supported, they will be ignored")
        if not os.path.exists(definition["file"]):
            warn(f"secret file {definition['name']} does not exist")
        found.append({**_file_mount(definition["file"], secret_target(secret)), "BindOptions": {}})
    return found


def _config_mounts(project: Project, service: Tree, warn: Callable[[str], None]) -> list[Tree]:
    found = []
    for config in service.get("configs") or ():
        definition = project.configs[config["source"]]
        if not _only_files(definition, "config"):
            continue
        if any(key in config for key in ("uid", "gid", "mode")):
            warn("config `uid`, `gid` and `mode` are not supported, they will be ignored")
        found.append(_file_mount(definition["file"], config_target(config)))
    return found


def secret_target(secret: Tree) -> str:
    """Where a secret is found in the container."""
    target = str(secret.get("target") or secret["source"])
    return target if target.startswith("/") else SECRETS + target


def config_target(config: Tree) -> str:
    """Where a config is found in the container."""
    target = str(config.get("target") or config["source"])
    return target if target.startswith("/") else "/" + target


def injected(project: Project, name: str, service: Tree) -> list[tuple[Tree, str, str]]:
    """Configs and secrets that are no files, to be written into the container: (reference, target, content).

    Raises ComposeError when a variable is not set, or the container's root cannot be written to.
    """
    found = []
    for kind, entries, target_of in (
        ("secret", project.secrets, secret_target),
        ("config", project.configs, config_target),
    ):
        for reference in service.get(f"{kind}s") or ():
            definition = entries[reference["source"]]
            content = definition.get("content") or ""
            variable = definition.get("environment")
            if not content and variable:
                if variable not in project.environment:
                    raise ComposeError(
                        f'environment variable "{variable}" required by {kind} "{definition["name"]}" is not set'
                    )
                content = project.environment[variable]
            if not content:
                continue
            if service.get("read_only"):
                raise ComposeError(
                    f'cannot create {kind} "{definition["name"]}" in read-only service {name}: '
                    "`file` is the sole supported option"
                )
            found.append((reference, target_of(reference), content))
    return found
