"""What a canonical tree implies, said: the default network, dependencies, names of resources."""

from __future__ import annotations

import posixpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Tree = dict[str, Any]

NAMESPACES = ("network_mode", "ipc", "pid", "uts", "cgroup")


def normalize(tree: Tree, name: str, environment: Mapping[str, str]) -> Tree:
    """The tree of the project `name`, completed."""
    _default_network(tree)
    for service in (tree.get("services") or {}).values():
        if isinstance(service, dict):
            _service(service, environment)
    for section in ("networks", "volumes", "configs", "secrets"):
        entries = tree.get(section)
        if isinstance(entries, dict):
            tree[section] = {key: _named(entry or {}, key, name) for key, entry in entries.items()}
    return tree


def _default_network(tree: Tree) -> None:
    given = tree.get("networks")
    networks: Tree = given if isinstance(given, dict) else {}
    used = False
    for service in (tree.get("services") or {}).values():
        if not isinstance(service, dict) or "provider" in service or "network_mode" in service:
            continue
        if not service.get("networks"):
            service["networks"] = {"default": None}
        used = used or "default" in service["networks"]
    if used:
        networks.setdefault("default", None)
    if networks:
        tree["networks"] = networks


def _service(service: Tree, environment: Mapping[str, str]) -> None:
    if service.get("pull_policy") == "if_not_present":
        service["pull_policy"] = "missing"
    build = service.get("build")
    if isinstance(build, dict):
        build.setdefault("context", ".")
        if "dockerfile" not in build and "dockerfile_inline" not in build:
            build["dockerfile"] = "Dockerfile"
        if "args" in build:
            build["args"] = _resolved(build["args"], environment, keep=False)
    if "environment" in service:
        service["environment"] = _resolved(service["environment"], environment, keep=True)
    dependencies = service.get("depends_on") or {}
    for link in service.get("links") or ():
        parts = link.split(":")
        _depend(dependencies, parts[0] if len(parts) == 2 else link, restart=True)
    for key in NAMESPACES:
        reference = service.get(key)
        if isinstance(reference, str) and reference.startswith("service:"):
            _depend(dependencies, reference.removeprefix("service:"), restart=True)
    for mount in service.get("volumes") or ():
        if isinstance(mount, dict) and isinstance(mount.get("target"), str):
            mount["target"] = clean(mount["target"])
    for source in service.get("volumes_from") or ():
        if not source.startswith("container:"):
            _depend(dependencies, source.partition(":")[0], restart=False)
    if dependencies:
        service["depends_on"] = dependencies


def clean(path: str) -> str:
    """A path inside of a container, without what says nothing."""
    found = posixpath.normpath(path)
    return found[1:] if found.startswith("//") else found


def _depend(dependencies: Tree, service: str, *, restart: bool) -> None:
    dependencies.setdefault(service, {"condition": "service_started", "restart": restart, "required": True})


def _resolved(value: Any, environment: Mapping[str, str], *, keep: bool) -> Any:
    """Variables without a value have that of the environment; those it has not stay if `keep`."""
    if isinstance(value, dict):
        found: Tree = {}
        for key, item in value.items():
            if item is not None:
                found[key] = item
            elif key in environment:
                found[key] = environment[key]
            elif keep:
                found[key] = None
        return found
    if isinstance(value, list):
        texts = []
        for item in value:
            if not isinstance(item, str) or "=" in item:
                texts.append(item)
            elif item in environment:
                texts.append(f"{item}={environment[item]}")
            elif keep:
                texts.append(item)
        return texts
    return value


def _named(entry: Tree, key: str, project: str) -> Tree:
    if entry.get("name") is None:
        external = str(entry.get("external", "")).lower() in ("true", "1", "t")
        entry["name"] = key if external else f"{project}_{key}"
    return entry
