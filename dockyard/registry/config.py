"""The settings: `config.yml` of the distribution project's registry, overridden by `REGISTRY_*` variables.

A variable's name is the way to a setting: REGISTRY_HTTP_TLS_KEY is `http: {tls: {key: …}}`, and
REGISTRY_HTTP_TLS_CLIENTCAS_0 the first of a list. Every scalar is read as text, and becomes what its setting is.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import yaml

from dockyard.errors import InvalidParameter
from dockyard.registry.settings import Config, Settings

log = logging.getLogger("dockyard.registry")

PREFIX = "REGISTRY_"
# of distribution's, with what is to be had here in place of each
_ABSENT = {
    "redis": "what is kept in memory is kept by each process",
    "middleware": "put what stands before a registry before it",
}
_STORAGES = ("filesystem", "s3", "inmemory", "azure", "gcs", "oss", "swift", "s3goamz")
_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")


def load(text: str, environment: Mapping[str, str]) -> Config:
    """Read a file's content and the variables. Raises InvalidParameter."""
    try:
        values = yaml.load(text, yaml.BaseLoader) if text.strip() else {}
    except yaml.YAMLError as error:
        raise InvalidParameter(f"configuration: {error}") from None
    if not isinstance(values, dict):
        raise InvalidParameter("configuration: it is not a mapping")
    if text.strip() and values.get("version") not in ("0.1", 0.1):
        raise InvalidParameter(f'configuration: unsupported version: "{values.get("version", "")}"')
    for name in sorted(environment):  # the more general come before those that say more of the same
        if name.startswith(PREFIX):
            _override(values, name, name.removeprefix(PREFIX).split("_"), environment[name])
    for group, kinds in (("storage", _STORAGES), ("auth", ())):
        _choose(values, group, kinds)
    _warn(values, Config, "")
    try:
        config = msgspec.convert(_without_empty(values, Config), Config, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"configuration: {error}") from None
    return config


def check(config: Config) -> None:
    """Raise InvalidParameter for what cannot be done, where to go on without it would do harm."""
    if config.http.tls.letsencrypt.hosts or config.http.tls.letsencrypt.email:
        raise InvalidParameter("http.tls.letsencrypt is not here: use certbot or the like, and certificate and key")
    if bool(config.http.tls.certificate) != bool(config.http.tls.key):
        raise InvalidParameter("http.tls needs both a certificate and a key")
    if config.proxy.exec is not None:
        raise InvalidParameter("proxy.exec is not here: use username and password")


def seconds(text: str) -> float:
    """A duration as Go writes it, "1m30s" (nanoseconds without a unit), in seconds. Raises InvalidParameter."""
    if text.isdigit():
        return int(text) * 1e-9
    parts = _DURATION.findall(text)
    if not parts or "".join(parts) != text:
        raise InvalidParameter(f"configuration: invalid duration {text!r}")
    found = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        found += float(part.removesuffix(unit)) * _UNIT[unit]
    return found


def _override(node: Any, name: str, path: list[str], text: str) -> None:
    """Set what the variable `name` leads to by `path`."""
    word, *rest = path
    if isinstance(node, list):
        if not word.isdigit() or int(word) > len(node):
            raise InvalidParameter(f"parsing environment variable {name}: undefined index: {word}")
        index = int(word)
        if index == len(node):
            node.append({} if rest else "")
        if rest:
            if not isinstance(node[index], (dict, list)):
                node[index] = {}
            _override(node[index], name, rest, text)
        else:
            node[index] = _value(text)
        return
    key = next((known for known in node if str(known).upper() == word), word.lower())
    if not rest:
        node[key] = _value(text)
        return
    if isinstance(node.get(key), str) and node[key]:
        node[key] = {node[key]: {}}  # `auth: htpasswd`
    if not isinstance(node.get(key), (dict, list)):
        node[key] = [] if rest[0].isdigit() else {}
    _override(node[key], name, rest, text)


def _value(text: str) -> Any:
    """A variable's text, or the list or mapping that it spells."""
    if text.lstrip().startswith(("[", "{", "- ")) or "\n" in text:
        try:
            found = yaml.load(text, yaml.BaseLoader)
        except yaml.YAMLError:
            return text
        return found if isinstance(found, (dict, list)) else text
    return text


def _choose(values: dict[str, Any], group: str, kinds: tuple[str, ...]) -> None:
    """Make `storage: filesystem` the mapping that it stands for; a variable's storage counts before the file's."""
    found = values.get(group)
    if isinstance(found, str) and found:
        values[group] = found = {found: {}}
    if not isinstance(found, dict):
        return
    for kind in list(found):
        if found[kind] == "" or found[kind] is None:
            found[kind] = {}
    chosen = [kind for kind in found if kind in kinds or (not kinds and kind != "")]
    if len(chosen) > 1 and "filesystem" in chosen:
        del found["filesystem"]  # the image's own file has it
        chosen.remove("filesystem")
    if len(chosen) > 1:
        raise InvalidParameter(f"configuration: must provide exactly one {group} type. Provided: {chosen}")
    known = get_type_hints(Config)[group].__struct_fields__
    for kind in chosen:
        if kind not in known and (group, kind) != ("auth", "none"):
            raise InvalidParameter(f"configuration: {group} {kind!r} is not here; there is {', '.join(known)}")


def _warn(values: Any, kind: Any, path: str) -> None:
    """Name the settings that nobody heeds."""
    if not isinstance(values, dict) or not (isinstance(kind, type) and issubclass(kind, Settings)):
        return
    hints = get_type_hints(kind)
    for key, value in values.items():
        where = f"{path}{key}"
        if key not in hints:
            log.warning("ignoring unrecognized setting %s", where)
        elif not path and key in _ABSENT and value:
            log.warning("ignoring %s: %s", key, _ABSENT[key])
        else:
            _warn(value, _struct_of(hints[key]), f"{where}.")


def _struct_of(hint: Any) -> Any:
    """The group of settings in `Group | None`; else what it is."""
    for one in get_args(hint) if get_origin(hint) not in (list, dict) else ():
        if isinstance(one, type) and issubclass(one, Settings):
            return one
    return hint


def _without_empty(values: Any, kind: Any) -> Any:
    """`values` without what is empty (`http:` with nothing below it), where the setting is no text."""
    if isinstance(kind, type) and issubclass(kind, Settings) and isinstance(values, dict):
        hints = get_type_hints(kind)
        kept = {}
        for key, value in values.items():
            hint = hints.get(key)
            if hint is None or (hint is not str and value in ("", "null", "~", None)):
                continue
            kept[key] = _without_empty(value, _struct_of(hint))
        return kept
    if get_origin(kind) is list and isinstance(values, list):
        (inner,) = get_args(kind)
        return [_without_empty(value, inner) for value in values]
    if get_origin(kind) is dict and get_args(kind)[1] == list[str] and isinstance(values, dict):
        return {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    return values
