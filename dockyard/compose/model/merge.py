"""How one file's tree is laid over another's, and which entries of a list replace earlier ones."""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import short_forms
from dockyard.compose.model.go_values import sprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Path = tuple[str, ...]

    Tree = dict[str, Any]


def merge(base: Tree, over: Tree) -> Tree:
    """`base` with `over` laid over it; both may be changed. Raises ComposeError where they do not fit."""
    merged: Tree = _merge(base, over, ())
    return merged


def extend_service(base: Tree, over: Tree) -> Tree:
    """A service that extends `base`."""
    merged: Tree = _merge(base, over, ("services", "*"))
    return merged


def _merge(base: Any, over: Any, path: Path) -> Any:
    special = _SPECIAL.get(path)
    if special is not None:
        return special(base, over, path)
    if over is None:
        return base
    if isinstance(base, dict):
        if not isinstance(over, dict):
            raise ComposeError(f"cannot override {'.'.join(path)}")
        return _merge_mappings(base, over, path)
    if isinstance(base, list):
        if not isinstance(over, list):
            raise ComposeError(f"cannot override {'.'.join(path)}")
        return base + over
    return over


def _merge_mappings(base: Tree, over: Tree, path: Path) -> Tree:
    for key, value in over.items():
        base[key] = _merge(base[key], value, step(path, key)) if key in base else value
    return base


def step(path: Path, key: str) -> Path:
    """The path one key further; a name that users choose is *."""
    chosen = len(path) == 1 or (len(path) == 3 and path[2] == "ulimits")
    return (*path, "*" if chosen else key)


# -- special places


def _override(base: Any, over: Any, path: Path) -> Any:
    return over


def _logging(base: Any, over: Any, path: Path) -> Any:
    """Options of another driver are not this one's."""
    one, other = base.get("driver"), over.get("driver")
    return _merge_mappings(base, over, path) if one == other or one is None or other is None else over


def _build(base: Any, over: Any, path: Path) -> Any:
    def whole(value: Any) -> Tree:
        return {"context": value} if isinstance(value, str) else value or {}

    return _merge_mappings(whole(base), whole(over), path)


def _as_mapping(value: Any, default: Tree | None) -> Tree:
    if isinstance(value, list):
        return {item: None if default is None else dict(default) for item in value}
    return value if isinstance(value, dict) else {}


def _depends_on(base: Any, over: Any, path: Path) -> Any:
    default = {"condition": "service_started", "required": True}
    return _merge_mappings(_as_mapping(base, default), _as_mapping(over, default), path)


def _names(base: Any, over: Any, path: Path) -> Any:
    return _merge_mappings(_as_mapping(base, None), _as_mapping(over, None), path)


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, dict):
        found = []
        for key, item in value.items():
            if item is None:
                found.append(key)
            else:
                found += [f"{key}={sprint(one)}" for one in (item if isinstance(item, list) else [item])]
        return sorted(found)
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, str) else []


def _to_list(base: Any, over: Any, path: Path) -> Any:
    return _as_list(base) + _as_list(over)


def _hosts(base: Any, over: Any, path: Path) -> Any:
    found = _as_list(base)
    return found + [item for item in _as_list(over) if item not in found]


def _ulimit(base: Any, over: Any, path: Path) -> Any:
    return over


def _pools(base: Any, over: Any, path: Path) -> Any:
    if not isinstance(base, list) or not isinstance(over, list):
        raise ComposeError(f"{'.'.join(path)}: unexpected type {type(base).__name__}")
    found: list[Tree] = []

    def index_of(subnet: Any) -> int:
        return next((index for index, pool in enumerate(found) if pool.get("subnet") == subnet), -1)

    for original in base:
        for override in over:
            if override.get("subnet") != original.get("subnet") and index_of(override.get("subnet")) < 0:
                found.append(override)
                continue
            merged = _merge_mappings(original, override, path)
            index = index_of(merged.get("subnet"))
            if index < 0:
                found.append(merged)
            else:
                found[index] = merged
    return found


_SERVICE_SPECIAL: dict[str, Callable[[Any, Any, Path], Any]] = {
    **dict.fromkeys(
        """
        annotations build.args build.additional_contexts build.labels deploy.labels dns dns_opt dns_search env_file
        label_file environment labels sysctls tmpfs
        """.split(),
        _to_list,
    ),
    **dict.fromkeys(("command", "entrypoint", "healthcheck.test"), _override),
    **dict.fromkeys(("build.extra_hosts", "extra_hosts"), _hosts),
    "build": _build,
    "depends_on": _depends_on,
    "logging": _logging,
    "models": _names,
    "networks": _names,
    "ulimits.*": _ulimit,
}
_SPECIAL: dict[Path, Callable[[Any, Any, Path], Any]] = {
    ("networks", "*", "ipam", "config"): _pools,
    ("networks", "*", "labels"): _to_list,
    ("volumes", "*", "labels"): _to_list,
    **{("services", "*", *key.split(".")): function for key, function in _SERVICE_SPECIAL.items()},
}


# -- entries that replace each other


def without_repeats(tree: Tree) -> Tree:
    """The tree, in whose lists a later entry for the same thing stands in the place of the earlier one."""
    for section, names in (("services", tree.get("services")), ("networks", tree.get("networks"))):
        for name, entry in (names if isinstance(names, dict) else {}).items():
            if isinstance(entry, dict):
                for keys, index in _UNIQUE[section].items():
                    _unique_at(entry, keys, index, f"{section}.{name}")
    return tree


def _unique_at(tree: Tree, keys: tuple[str, ...], index: Callable[[Any, str], str], where: str) -> None:
    key, *rest = keys
    if key == "*":
        for name, item in tree.items():
            if isinstance(item, dict):
                _unique_at(item, tuple(rest), index, f"{where}.{name}")
        return
    value = tree.get(key)
    if rest:
        if isinstance(value, dict):
            _unique_at(value, tuple(rest), index, f"{where}.{key}")
    elif isinstance(value, list):
        places: dict[str, int] = {}
        found: list[Any] = []
        for number, item in enumerate(value):
            name = index(item, f"{where}.{key}.[{number}]")
            if name in places:
                found[places[name]] = item
            else:
                places[name] = len(found)
                found.append(item)
        tree[key] = found


def _by_name(item: Any, where: str) -> str:
    if not isinstance(item, str):
        raise ComposeError(f"{where}: unexpected type {type(item).__name__}")
    return item.partition("=")[0]


def _by_target(item: Any, where: str) -> str:
    if isinstance(item, dict):
        if not isinstance(item.get("target"), str):
            raise ComposeError(f"service volume {where} is missing a mount target")
        return str(item["target"])
    return str(short_forms.volume(item)["target"]) if isinstance(item, str) else ""


def _by_device(item: Any, where: str) -> str:
    if isinstance(item, dict):
        if not isinstance(item.get("target"), str):
            raise ComposeError(f"service device {where} is missing a mount target")
        return str(item["target"])
    parts = str(item).split(":")
    return parts[1] if len(parts) > 1 else parts[0]


def _by_number(item: Any, where: str) -> str:
    if isinstance(item, (str, int)):
        return str(item)
    raise ComposeError(f"{where}: unsupported expose value {sprint(item)}")


def _by_mount(folder: str) -> Callable[[Any, str], str]:
    def index(item: Any, where: str) -> str:
        if isinstance(item, dict):
            return str(item["target"]) if "target" in item else f"{folder}/{item.get('source')}"
        if isinstance(item, str):
            return f"{folder}/{item}"
        raise ComposeError(f"{where}: unsupported expose value {sprint(item)}")

    return index


def _by_port(item: Any, where: str) -> str:
    if not isinstance(item, dict):
        return str(item)
    if "target" not in item:
        raise ComposeError(f"service ports {where} is missing a target port")
    host, protocol = item.get("host_ip", "0.0.0.0"), item.get("protocol", "tcp")
    return f"{host}:{item.get('published')}:{item['target']}/{protocol}"


def _by_path(item: Any, where: str) -> str:
    if isinstance(item, dict):
        if "path" not in item:
            raise ComposeError(f"environment path attribute {where} is missing")
        return str(item["path"])
    return str(item)


_UNIQUE: dict[str, dict[tuple[str, ...], Callable[[Any, str], str]]] = {
    "networks": {("labels",): _by_name, ("ipam", "options"): _by_name},
    "services": {
        **{
            tuple(key.split(".")): _by_name
            for key in """
            annotations build.args build.additional_contexts build.platform build.tags build.labels cap_add cap_drop
            deploy.labels dns dns_opt dns_search environment labels links networks.*.aliases networks.*.link_local_ips
            profiles sysctls tmpfs
            """.split()
        },
        ("configs",): _by_mount(""),
        ("devices",): _by_device,
        ("env_file",): _by_path,
        ("expose",): _by_number,
        ("ports",): _by_port,
        ("secrets",): _by_mount("/run/secrets"),
        ("volumes",): _by_target,
    },
}
