"""What a client asks of the frontend `dockerfile.v0`, in the names that BuildKit has for it (frontend/dockerui)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from dockyard.builder.attributes import flag
from dockyard.builder.graph.request import BuildRequest, Built
from dockyard.buildkit import wire_pb2 as wire
from dockyard.dockerfile.parser import AtLine
from dockyard.engine.containers.config import HostConfig, Ulimit
from dockyard.errors import InvalidParameter
from dockyard.oci.manifest import normalized, parse_platform

EXPLAIN = "DOCKYARD_EXPLAIN_CACHE"  # a build argument: every step says why it was in the cache or not
LINT = "frontend.lint"  # the request that is answered with what the build checks find
FRONTENDS = ("dockerfile.v0", "gateway.v0")
_OURS = re.compile(r"(?:docker\.io/)?(?:docker/dockerfile|docker/dockerfile-upstream|dockyard/dockerfile)(?:[:@].*)?$")


def check_frontend(frontend: str, options: Mapping[str, str]) -> None:
    """Raise InvalidParameter for a frontend that is not ours: an image is never run to read a Dockerfile."""
    if frontend not in FRONTENDS:
        raise InvalidParameter(f"unknown frontend {frontend}: builds are described by Dockerfiles here")
    if frontend == "gateway.v0" and not _OURS.match(options.get("source", "")):
        raise InvalidParameter(
            f"frontend image {options.get('source', '')} is not run here: docker/dockerfile is built in, in any version"
        )


def check_syntax(text: str) -> None:
    """Raise InvalidParameter when the Dockerfile's `# syntax=` names a frontend that is not ours."""
    found = re.match(r"(?:\ufeff)?(?:#!.*\n)?\s*(?:#|//)\s*syntax\s*=\s*(\S+)", text, re.IGNORECASE)
    if found is not None and not _OURS.match(found[1]):
        message = f"frontend image {found[1]} is not run here: docker/dockerfile is built in, in any version"
        raise AtLine(message, text.count("\n", 0, found.start(1)) + 1)


class CacheEntry(msgspec.Struct, rename="pascal"):
    """A cache to read or to write: its type and attributes."""

    type: str = ""
    attrs: dict[str, str] = {}


def cache_entries(messages: Iterable[wire.CacheEntry]) -> list[CacheEntry]:
    """The same from messages."""
    return [CacheEntry(one.type, dict(one.attrs)) for one in messages]


def platforms_of(options: Mapping[str, str]) -> list[str]:
    """What is built for, in the names that indexes have for it, each once. Raises InvalidParameter."""
    asked = [part for part in options.get("platform", "").split(",") if part]
    return list(dict.fromkeys(str(normalized(parse_platform(platform))) for platform in asked))


def several_platforms(options: Mapping[str, str]) -> bool:
    """Whether results are of several platforms, which one alone can be by request. Raises InvalidParameter."""
    count = len(platforms_of(options))
    for name in ("build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"):
        if options.get(name):
            several = flag(options, name)
            if count > 1 and not several:
                raise InvalidParameter("conflicting config: returning multiple target platforms is not allowed")
            return several
    return count > 1


def cache_sources(options: Mapping[str, str]) -> list[CacheEntry]:
    """What `--cache-from` names. Raises InvalidParameter."""
    found = [CacheEntry("registry", {"ref": name}) for name in options.get("cache-from", "").split(",") if name]
    try:
        entries = msgspec.json.decode(options.get("cache-imports", "[]"), type=list[CacheEntry] | None) or []
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"failed to unmarshal cache-imports: {error}") from None
    return found + entries


def request_of(
    options: Mapping[str, str], dockerfile: str, inputs: Mapping[str, Built], entitlements: Sequence[str]
) -> BuildRequest:
    """The request that the options make. Raises InvalidParameter."""
    arguments: dict[str, str | None] = {**_prefixed(options, "build-arg:")}
    arguments.pop(EXPLAIN, None)
    platforms = platforms_of(options)
    no_cache = options.get("no-cache")
    epoch = arguments.get("SOURCE_DATE_EPOCH")
    if epoch and not re.fullmatch(r"\d{1,12}", epoch):
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
    return BuildRequest(
        dockerfile,
        options.get("filename", "Dockerfile"),
        target=options.get("target", ""),
        platform=platforms[0] if platforms else "",
        several_platforms=several_platforms(options),
        arguments=arguments,
        labels=_prefixed(options, "label:"),
        no_cache=None if no_cache is None else [name for name in no_cache.split(",") if name],
        contexts=_prefixed(options, "context:"),
        inputs=inputs,
        input_configs=_input_configs(options),
        pull=options.get("image-resolve-mode") == "pull",
        network=_network(options, entitlements),
        hostname=options.get("build-arg:BUILDKIT_SANDBOX_HOSTNAME", "") or options.get("hostname", ""),
        host=_host(options),
        cache_namespace=options.get("build-arg:BUILDKIT_CACHE_MOUNT_NS", ""),
        epoch=int(epoch) if epoch else None,
        entitlements=entitlements,
        check=options.get("build-arg:BUILDKIT_DOCKERFILE_CHECK", ""),
        all_stages=options.get("requestid") == LINT and not options.get("target"),
    )


def _input_configs(options: Mapping[str, str]) -> dict[str, bytes]:
    """What the images are to say that contexts of a client's own making are. Raises InvalidParameter."""
    found = {}
    for name, text in _prefixed(options, "input-metadata:").items():
        try:
            config = msgspec.json.decode(text, type=dict[str, bytes]).get("containerimage.config")
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"failed to unmarshal metadata for {name}: {error}") from None
        if config is not None:
            found[name] = config
    return found


def _prefixed(options: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}


def _network(options: Mapping[str, str], entitlements: Sequence[str]) -> str:
    mode = options.get("force-network-mode", "")
    if mode in ("", "sandbox", "default"):
        return ""
    if mode not in ("host", "none"):
        raise InvalidParameter(f"invalid netmode {mode}")
    if mode == "host" and "network.host" not in entitlements:
        raise InvalidParameter("network.host is not allowed")
    return mode


def _host(options: Mapping[str, str]) -> HostConfig:
    """Limits of every RUN."""
    hosts = []
    for field in next(csv.reader([options.get("add-hosts", "")]), []):
        name, equals, address = field.partition("=")
        if not equals:
            raise InvalidParameter(f"invalid key-value pair {field}")
        hosts.append(f"{name}:{address}")
    host = HostConfig(extra_hosts=hosts or None, cgroup_parent=options.get("cgroup-parent", ""))
    if options.get("shm-size"):
        host.shm_size = _number("shm-size", options["shm-size"])
    ulimits = []
    for field in next(csv.reader([options.get("ulimit", "")]), []):
        found = re.fullmatch(r"(\w+)=(-?\d+)(?::(-?\d+))?", field)
        if found is None:
            raise InvalidParameter(f"invalid ulimit argument: {field}")
        ulimits.append(Ulimit(name=found[1], soft=int(found[2]), hard=int(found[3] or found[2])))
    host.ulimits = ulimits or None
    return host


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise InvalidParameter(f"invalid {name}: {text}")
    return int(text)
