"""Compose files as bake files: each service that is built is a target (docker/buildx, bake/compose.go)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dockyard.bake.errors import BakeError
from dockyard.bake.target import Target, entries, without_repeats
from dockyard.compose.errors import ComposeError
from dockyard.compose.model import dotenv, schema
from dockyard.compose.model.load import Loader, LoadOptions
from dockyard.compose.model.source import Source

Tree = dict[str, Any]


def environment() -> dict[str, str]:
    """The variables that Compose files see: ours, and those of `.env`. Raises ComposeError."""
    found = dict(os.environ)
    if os.path.isfile(".env"):
        own: dict[str, str] = {}
        dotenv.parse(dotenv.read(".env"), own, found.get)
        found = {**own, **found}
    found.setdefault("COMPOSE_PROJECT_NAME", "bake")
    return found


def read(files: Sequence[tuple[str, str]]) -> tuple[dict[str, Target], dict[str, Target]]:
    """The targets and groups of Compose files, (name, text) each. Raises BakeError."""
    try:
        variables = environment()
        options = LoadOptions(validate=False, normalize=False, consistency=False)
        loader = Loader(variables, lambda warning: None, options)
        tree = loader.tree([Source(name, text.encode()) for name, text in files], "")
        _checked(tree)
    except ComposeError as error:
        raise BakeError(f"failed to parse compose file: {error}") from None
    services = tree.get("services") or {}
    if not services and not tree.get("secrets"):
        raise BakeError("failed to parse compose file: empty compose file")
    targets: dict[str, Target] = {}
    for name, service in sorted(services.items()):
        if isinstance(service, dict) and service.get("build") is not None:
            targets[name.replace(".", "_")] = _target(service, tree.get("secrets") or {}, variables)
    return targets, {"default": {"targets": list(targets)}} if services else {}


def _checked(tree: Tree) -> None:
    """What of the files builds are about must make sense. Raises ComposeError."""
    services = tree.get("services") or {}
    known = ("image", "build", "environment", "env_file")
    kept = {
        name: {key: value for key, value in (service or {}).items() if key in known}
        for name, service in services.items()
    }
    secrets = tree.get("secrets") or {}
    schema.validate({"services": kept, **({"secrets": secrets} if secrets else {})}, "")
    for name, service in kept.items():
        if not service.get("image") and service.get("build") is None:
            message = f'service "{name}" has neither an image nor a build context specified'
            raise ComposeError(f"{message}: invalid compose project")
        build = service.get("build")
        for secret in (build.get("secrets") or ()) if isinstance(build, dict) else ():
            source = secret if isinstance(secret, str) else secret.get("source")
            if source not in secrets:
                message = f'service "{name}" refers to undefined build secret {source}'
                raise ComposeError(f"{message}: invalid compose project")


def _target(service: Tree, secrets: Tree, variables: Mapping[str, str]) -> Target:
    build = service["build"]
    build = {"context": build} if isinstance(build, str) else build
    target: Target = {}
    for field, key in (
        ("context", "context"),
        ("dockerfile", "dockerfile"),
        ("dockerfile-inline", "dockerfile_inline"),
        ("network", "network"),
        ("target", "target"),
    ):
        if build.get(key):
            target[field] = str(build[key])
    for field, key in (("tags", "tags"), ("platforms", "platforms")):
        if build.get(key):
            target[field] = [str(one) for one in build[key]]
    for switch in ("pull", "no-cache"):
        if build.get(switch.replace("-", "_")):
            target[switch] = True
    if build.get("additional_contexts"):
        target["contexts"] = _contexts(_pairs(build["additional_contexts"]))
    if build.get("args"):
        target["args"] = _arguments(build["args"], _pairs(service.get("environment") or {}), variables)
    if build.get("labels"):
        target["labels"] = {name: value or "" for name, value in _pairs(build["labels"]).items()}
    if build.get("extra_hosts"):
        target["extra-hosts"] = _hosts(build["extra_hosts"])
    if build.get("shm_size"):
        target["shm-size"] = str(build["shm_size"])
    if build.get("ulimits"):
        target["ulimits"] = [_ulimit(name, value) for name, value in sorted(build["ulimits"].items())]
    _entries(target, build, secrets)
    _extension(target, build.get("x-bake") or {})
    if not target.get("tags") and service.get("image"):
        target["tags"] = [str(service["image"])]
    return target


def _entries(target: Target, build: Tree, secrets: Tree) -> None:
    for field in ("cache-from", "cache-to"):
        if build.get(field.replace("-", "_")):
            target[field] = entries(field, build[field.replace("-", "_")])
    if build.get("ssh"):
        found = [{"id": name, **({"paths": [path]} if path else {})} for name, path in _pairs(build["ssh"]).items()]
        target["ssh"] = sorted(found, key=lambda one: str(one["id"]))
    if build.get("secrets"):
        target["secret"] = [_secret(one, secrets) for one in build["secrets"]]
    attests = [attest_text(kind, build[kind]) for kind in ("sbom", "provenance") if build.get(kind)]
    if attests:
        target["attest"] = entries("attest", attests)


def attest_text(kind: str, value: Any) -> str:
    """`--sbom`, `--provenance` and their like as an attestation: type=…."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text in ("true", "1"):
        return f"type={kind}"
    if text in ("false", "0"):
        return f"type={kind},disabled=true"
    return f"type={kind},{text}" if "=" in text else f"type={kind},mode={text}"


def _secret(one: Any, secrets: Tree) -> Tree:
    source = one if isinstance(one, str) else str(one.get("source", ""))
    known = secrets.get(source) or {}
    if known.get("external"):
        raise BakeError(f"failed to parse compose file: unsupported external secret {known.get('name', source)}")
    found = {"id": source, "src": known.get("file") or "", "env": known.get("environment") or ""}
    return {name: str(value) for name, value in found.items() if value}


def _pairs(value: Any) -> dict[str, str | None]:
    """A mapping, or a list of NAME=VALUE."""
    if isinstance(value, Mapping):
        return {str(name): None if one is None else _plain(one) for name, one in value.items()}
    found: dict[str, str | None] = {}
    for text in value:
        name, equals, one = str(text).partition("=")
        found[name] = one if equals else None
    return found


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(value: Any, own: Mapping[str, str | None], variables: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, one in _pairs(value).items():
        known = one if one is not None else own.get(name) or variables.get(name)
        if known is not None:
            found[name] = known
    return found


def _contexts(found: Mapping[str, str | None]) -> dict[str, str]:
    made = {}
    for name, value in found.items():
        kind, colon, rest = (value or "").partition(":")
        linked = colon and kind in ("service", "target")
        made[name] = f"target:{rest.replace('.', '_')}" if linked else value or ""
    return made


def _hosts(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {name: ",".join(one) if isinstance(one, list) else str(one) for name, one in value.items()}
    found: dict[str, list[str]] = {}
    for text in value:
        name, _, address = str(text).replace("=", ":", 1).partition(":")
        found.setdefault(name, []).append(address)
    return {name: ",".join(addresses) for name, addresses in found.items()}


def _ulimit(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{name}={value.get('soft', 0)}:{value.get('hard', 0)}"
    return f"{name}={value}:{value}"


_LISTS = {
    "tags": "tags",
    "platforms": "platforms",
    "no-cache-filter": "no-cache-filter",
    "cache-from": "cache-from",
    "cache-to": "cache-to",
    "secret": "secret",
    "ssh": "ssh",
    "output": "output",
}


def _extension(target: Target, given: Tree) -> None:
    """`x-bake`: what bake knows and Compose does not."""
    for name, value in given.items():
        if name in _LISTS:
            values = value if isinstance(value, list) else [value]
            if name in ("tags", "platforms", "no-cache-filter"):
                target[name] = list(dict.fromkeys([*target.get(name, []), *map(str, values)]))
            else:
                target[name] = without_repeats(name, [*target.get(name, []), *entries(name, values)])
        elif name in ("pull", "no-cache"):
            target[name] = bool(value)
        elif name == "contexts":
            target[name] = {**_contexts(_pairs(value)), **target.get(name, {})}
