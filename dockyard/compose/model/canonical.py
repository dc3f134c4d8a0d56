"""Every short form of a tree written out, and what is implied said."""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import short_forms
from dockyard.compose.model.go_values import sprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Tree = dict[str, Any]


def canonical(tree: Tree, warn: Callable[[str], None], *, lenient: bool = False) -> Tree:
    """The tree in its long forms; with `lenient` what cannot be parsed stays. Raises ComposeError."""
    for name, service in _entries(tree, "services"):
        if isinstance(service, dict):
            _service(service, f"services.{name}", lenient)
    for section in ("volumes", "networks", "secrets", "configs"):
        for name, entry in _entries(tree, section):
            if isinstance(entry, dict):
                _external(entry, f"{section}.{name}", warn)
    return tree


def _entries(tree: Tree, section: str) -> list[tuple[str, Any]]:
    found = tree.get(section)
    return list(found.items()) if isinstance(found, dict) else []


def _service(service: Tree, where: str, lenient: bool) -> None:
    for key, write_out in _KEYS.items():
        if key in service:
            service[key] = write_out(service[key], f"{where}.{key}", lenient)
    dns = service.get("dns")
    if isinstance(dns, list):
        service["dns"] = [item for item in dns if item not in (None, "")]


def _build(value: Any, where: str, lenient: bool) -> Any:
    if isinstance(value, str):
        return {"context": value}
    if not isinstance(value, dict):
        raise ComposeError(f"{where}: invalid type {type(value).__name__} for build")
    for key, write_out in _BUILD_KEYS.items():
        if key in value:
            value[key] = write_out(value[key], f"{where}.{key}", lenient)
    return value


def _text(value: Any, where: str, lenient: bool) -> Any:
    return value if isinstance(value, str) else sprint(value)


def _listed(value: Any, where: str, lenient: bool) -> Any:
    return [value] if isinstance(value, str) else value


def _pairs(value: Any, where: str, lenient: bool) -> Any:
    if isinstance(value, dict):
        return value
    found: Tree = {}
    for item in value:
        name, equals, text = item.partition("=")
        if not equals:
            if lenient:
                return value
            raise ComposeError(f"{where}: invalid value {item}, expected key=value")
        found[name] = text
    return found


def _file_mounts(value: Any, where: str, lenient: bool) -> Any:
    return [{"source": item} if isinstance(item, str) else item for item in value]


def _ssh(value: Any, where: str, lenient: bool) -> Any:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise ComposeError(f"{where}: invalid type {type(value).__name__} for ssh")
    found: Tree = {}
    for item in value:
        name, equals, path = str(item).partition("=")
        if not equals and name != "default":
            raise ComposeError(f'invalid ssh key "{item}"')
        found[name] = path if equals else None
    return found


def _depends_on(value: Any, where: str, lenient: bool) -> Any:
    if isinstance(value, list):
        return {name: {"condition": "service_started", "required": True} for name in value}
    if not isinstance(value, dict):
        raise ComposeError(f"{where}: invalid type {type(value).__name__} for depend_on")
    for name, item in value.items():
        if not isinstance(item, dict):
            raise ComposeError(f"{where}.{name}: unsupported value {sprint(value)}")
        item.setdefault("condition", "service_started")
        item.setdefault("required", True)
    return value


def _env_file(value: Any, where: str, lenient: bool) -> Any:
    found = []
    for item in [value] if isinstance(value, str) else value:
        found.append({"path": item, "required": True} if isinstance(item, str) else {"required": True, **item})
    return found


def _extends(value: Any, where: str, lenient: bool) -> Any:
    return {"service": value} if isinstance(value, str) else value


def _gpus(value: Any, where: str, lenient: bool) -> Any:
    return [{"count": "all"}] if isinstance(value, str) else value


def _names(value: Any, where: str, lenient: bool) -> Any:
    return dict.fromkeys(value) if isinstance(value, list) else value


def _volumes(value: Any, where: str, lenient: bool) -> Any:
    found = []
    for item in value:
        if isinstance(item, str):
            try:
                item = short_forms.volume(item)
            except ComposeError:
                if not lenient:
                    raise
        found.append(item)
    return found


def _devices(value: Any, where: str, lenient: bool) -> Any:
    return [short_forms.device(item, lenient=lenient) if isinstance(item, str) else item for item in value]


def _ports(value: Any, where: str, lenient: bool) -> Any:
    found: list[Any] = []
    for item in value:
        if isinstance(item, dict):
            found.append(item)
            continue
        try:
            found += short_forms.ports(sprint(item))
        except ComposeError:
            if lenient:
                return value
            raise
    return found


def _develop(value: Any, where: str, lenient: bool) -> Any:
    for trigger in (value or {}).get("watch") or ():
        for key in ("ignore", "include"):
            if isinstance(trigger.get(key), str):
                trigger[key] = [trigger[key]]
    return value


_KEYS: dict[str, Callable[[Any, str, bool], Any]] = {
    "build": _build,
    "configs": _file_mounts,
    "depends_on": _depends_on,
    "develop": _develop,
    "devices": _devices,
    "dns": _listed,
    "env_file": _env_file,
    "extends": _extends,
    "gpus": _gpus,
    "label_file": _listed,
    "models": _names,
    "networks": _names,
    "ports": _ports,
    "secrets": _file_mounts,
    "volumes": _volumes,
}
_BUILD_KEYS: dict[str, Callable[[Any, str, bool], Any]] = {
    "additional_contexts": _pairs,
    "provenance": _text,
    "sbom": _text,
    "secrets": _file_mounts,
    "ssh": _ssh,
}


def _external(entry: Tree, where: str, warn: Callable[[str], None]) -> None:
    external = entry.get("external")
    if not isinstance(external, dict):
        return
    entry["external"] = True
    if "name" in external:
        warn(f"{where}: external.name is deprecated. Please set name and external: true")
        if "name" in entry and entry["name"] != external["name"]:
            raise ComposeError(f"{where}: name and external.name conflict; only use name")
        entry.setdefault("name", external["name"])


def with_defaults(tree: Tree) -> Tree:
    """The tree with what is implied where nothing was said."""
    for _, service in _entries(tree, "services"):
        if not isinstance(service, dict):
            continue
        if isinstance(service.get("build"), dict):
            service["build"].setdefault("context", ".")
        for secret in service.get("secrets") or ():
            secret.setdefault("target", f"/run/secrets/{secret.get('source')}")
        for port in service.get("ports") or ():
            if isinstance(port, dict):
                port.setdefault("protocol", "tcp")
                port.setdefault("mode", "ingress")
        reservations = ((service.get("deploy") or {}).get("resources") or {}).get("reservations") or {}
        for request in [*(service.get("gpus") or ()), *(reservations.get("devices") or ())]:
            if "count" not in request and "device_ids" not in request:
                request["count"] = "all"
    return tree
