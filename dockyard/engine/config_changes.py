"""`--change` of commit and import: Dockerfile instructions that alter an image's configuration and nothing else."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

from dockyard.errors import InvalidParameter

INSTRUCTIONS = (
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)


def apply_changes(config: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """A copy of an image's `config` (the JSON object, PascalCase keys) with Dockerfile instructions applied.

    Raises InvalidParameter for an instruction that does more than configure, or is malformed.
    """
    changed: dict[str, Any] = json.loads(json.dumps(config))
    for line in "\n".join(changes).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, _, rest = line.strip().partition(" ")
        instruction, rest = word.upper(), rest.strip()
        if instruction not in INSTRUCTIONS:
            raise InvalidParameter(f"{word} is not a valid change command")
        if not rest:
            raise InvalidParameter(f"{instruction} requires at least one argument")
        _apply(changed, instruction, rest)
    return changed


def _apply(config: dict[str, Any], instruction: str, rest: str) -> None:
    match instruction:
        case "CMD":
            config["Cmd"] = _command(rest, config)
        case "ENTRYPOINT":
            config["Entrypoint"] = _command(rest, config)
        case "ENV":
            variables = list(config.get("Env") or [])
            for name, value in _pairs(instruction, rest):
                variables = [item for item in variables if item.partition("=")[0] != name]
                variables.append(f"{name}={_expand(value, variables)}")
            config["Env"] = variables
        case "LABEL":
            config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(instruction, rest))}
        case "EXPOSE":
            ports = dict(config.get("ExposedPorts") or {})
            for port in shlex.split(rest):
                ports[_port(port)] = {}
            config["ExposedPorts"] = ports
        case "VOLUME":
            places = _json_list(rest) or shlex.split(rest)
            config["Volumes"] = {**(config.get("Volumes") or {}), **{place: {} for place in places}}
        case "USER":
            config["User"] = rest
        case "STOPSIGNAL":
            config["StopSignal"] = rest
        case "WORKDIR":
            base = config.get("WorkingDir") or "/"
            config["WorkingDir"] = rest if rest.startswith("/") else f"{base.rstrip('/')}/{rest}"
        case "ONBUILD":
            trigger = rest.partition(" ")[0].upper()
            if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
                raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
            config["OnBuild"] = [*(config.get("OnBuild") or []), rest]
        case "HEALTHCHECK":
            config["Healthcheck"] = _health_check(rest, config)


def _command(text: str, config: dict[str, Any]) -> list[str]:
    listed = _json_list(text)
    if listed is not None:
        return listed
    return [*(config.get("Shell") or ["/bin/sh", "-c"]), text]


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None


def _pairs(instruction: str, text: str) -> list[tuple[str, str]]:
    """NAME=value NAME="a value" …, or the old form NAME value."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidParameter(f"{instruction}: {error}") from None
    if words and "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidParameter(f"{instruction} must have two arguments")
        return [(name, value.strip())]
    pairs = []
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise InvalidParameter(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((name, value))
    return pairs


def _expand(value: str, variables: list[str]) -> str:
    known = dict(item.partition("=")[::2] for item in variables)
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: known.get(found[1] or found[2], ""), value)


def _port(text: str) -> str:
    found = re.fullmatch(r"(\d{1,5}(?:-\d{1,5})?)(?:/(tcp|udp|sctp))?", text.lower())
    if found is None or any(not 0 < int(port) < 65536 for port in found[1].split("-")):
        raise InvalidParameter(f"invalid containerPort: {text}")
    return f"{found[1]}/{found[2] or 'tcp'}"


_DURATION_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def _health_check(text: str, config: dict[str, Any]) -> dict[str, Any]:
    check: dict[str, Any] = {}
    names = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod",
             "start-interval": "StartInterval", "retries": "Retries"}  # fmt: skip
    while found := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        if found[1] not in names:
            raise InvalidParameter(f"unknown flag: --{found[1]}")
        value = found[2]
        if found[1] == "retries":
            if not value.isdigit():
                raise InvalidParameter(f"invalid value for --retries: {value}")
            check["Retries"] = int(value)
        else:
            parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", value)
            if not parts or "".join(map("".join, parts)) != value:
                raise InvalidParameter(f"invalid duration for --{found[1]}: {value}")
            check[names[found[1]]] = int(sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts))
        text = text[found.end() :]
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        return {"Test": ["NONE"]}
    if kind.upper() != "CMD" or not rest.strip():
        raise InvalidParameter(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    listed = _json_list(rest.strip())
    check["Test"] = ["CMD", *listed] if listed is not None else ["CMD-SHELL", rest.strip()]
    return check
