"""What is asked of a build, in the names that BuildKit has for it (docker/buildx, build/opt.go)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dockyard.buildkit import wire_pb2 as wire

Attributes = dict[str, str]


class InvalidRequest(ValueError):
    """What the command line or a file says can't be asked."""


@dataclass
class Output:
    """One output: an exporter of the engine's, and where on our side it writes, "" for nowhere."""

    kind: str
    attributes: Attributes = field(default_factory=dict)
    destination: str = ""
    directory: bool = False


@dataclass
class BuildRequest:
    """One build. `directories`: what the engine may read, by name; `upload`: a context that comes in as an archive."""

    options: Attributes = field(default_factory=dict)
    directories: dict[str, str] = field(default_factory=dict)
    upload: object = None
    outputs: list[Output] = field(default_factory=list)
    secrets: Sequence[str] = ()
    secret_values: dict[str, bytes] = field(default_factory=dict, repr=False)
    ssh: Sequence[str] = ()
    entitlements: list[str] = field(default_factory=list)
    cache_imports: list[tuple[str, Attributes]] = field(default_factory=list)
    cache_exports: list[tuple[str, Attributes]] = field(default_factory=list)
    inputs: dict[str, wire.Definition] = field(default_factory=dict)


def fields(text: str) -> list[str]:
    """The fields of a comma-separated value. Raises InvalidRequest."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidRequest(f"invalid value {text}: {error}") from None


def outputs(texts: Sequence[str]) -> list[Output]:
    """`-o`: a directory, `-`, or `type=…,dest=…`. Raises InvalidRequest."""
    return [_output(text) for text in texts if text]


def _output(text: str) -> Output:
    parts = fields(text)
    if len(parts) == 1 and parts[0] == text and not text.startswith("type="):
        if text == "-":
            return Output("tar", destination="-")
        return _checked(Output("local", destination=text, directory=True))
    found: Attributes = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidRequest(f"invalid value {part}")
        found[name.strip().lower()] = value
    kind, destination = found.pop("type", ""), found.pop("dest", "")
    if not kind:
        raise InvalidRequest("type is required for output")
    if kind == "registry":
        kind = "image"
        found.setdefault("push", "true")
    return _checked(Output(kind, found, destination, directory=kind == "local"))


def _checked(output: Output) -> Output:
    """Where it is to be written must be there, and be what it is to be. Raises InvalidRequest."""
    kind, place = output.kind, output.destination
    if kind == "local":
        if not place:
            raise InvalidRequest("dest is required for local exporter")
        if place == "-":
            raise InvalidRequest("dest cannot be stdout for local exporter")
        if os.path.exists(place) and not os.path.isdir(place):
            raise InvalidRequest(f"destination directory {place} is a file")
    elif kind in ("oci", "docker", "tar"):
        if output.attributes.get("tar", "").lower() in ("false", "0"):
            raise InvalidRequest(f"{kind} is written as an archive only, not as a directory (tar=false)")
        if kind == "docker" and not place:
            output.kind = "moby"
        elif not place:
            output.destination = "-"
        elif place != "-" and os.path.isdir(place):
            raise InvalidRequest(f"destination file {place} is a directory")
    elif kind not in ("image", "moby", "cacheonly"):
        raise InvalidRequest(f'exporter "{kind}" could not be found')
    elif place:
        raise InvalidRequest(f"dest is no attribute of an output of type {kind}")
    return output


def caches(texts: Sequence[str]) -> list[tuple[str, Attributes]]:
    """`--cache-from` and `--cache-to`: (type, attributes). Raises InvalidRequest."""
    found: list[tuple[str, Attributes]] = []
    for text in texts:
        if text and "=" not in text:
            found += [("registry", {"ref": name}) for name in fields(text)]
            continue
        attributes: Attributes = {}
        for part in fields(text):
            name, equals, value = part.partition("=")
            if not equals:
                raise InvalidRequest(f"invalid value {part}")
            attributes[name.lower()] = value
        kind = attributes.pop("type", "")
        if not kind:
            raise InvalidRequest(f"type required form> {json.dumps(text)}")
        found.append((kind, attributes))
    return found


def contexts(request: BuildRequest, named: Mapping[str, str]) -> None:
    """Take up `--build-context NAME=…`: addresses, images, directories. Raises InvalidRequest."""
    for name, value in named.items():
        if "://" in value or value.startswith("git@"):
            request.options[f"context:{name}"] = value
            continue
        if not os.path.isdir(value):
            raise InvalidRequest(f"failed to get build context {name}: stat {value}: no such file or directory")
        request.directories[name] = value
        request.options[f"context:{name}"] = f"local:{name}"


def annotation_attributes(texts: Sequence[str]) -> Attributes:
    """`--annotation [TYPE,…:]KEY=VALUE` as attributes of exporters. Raises InvalidRequest."""
    found: Attributes = {}
    for text in texts:
        whole, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f'invalid annotation "{text}", expected key=value')
        kinds, colon, key = whole.partition(":")
        if not colon:
            found[f"annotation.{whole}"] = value
            continue
        for kind in kinds.split(","):
            name, bracket, platform = kind.partition("[")
            if name not in ("index", "index-descriptor", "manifest", "manifest-descriptor"):
                raise InvalidRequest(f'unknown annotation type "{name}"')
            found[f"annotation-{name}{bracket}{platform}.{key}"] = value
    return found


def attestations(attests: Sequence[str], provenance: str, sbom: str) -> Attributes:
    """`--attest type=…`, `--provenance` and `--sbom` as options of the frontend. Raises InvalidRequest."""
    found: Attributes = {}
    shorthand = [("provenance", provenance), ("sbom", sbom)]
    texts = [*attests, *(_attestation(kind, value) for kind, value in shorthand if value)]
    for text in texts:
        attributes = dict(part.partition("=")[::2] for part in fields(text))
        kind = attributes.pop("type", "")
        if kind not in ("provenance", "sbom"):
            raise InvalidRequest(f"attestation type must be specified: {text}" if not kind else f"unknown type {kind}")
        if attributes.pop("disabled", "false").lower() in ("true", "1"):
            found.pop(f"attest:{kind}", None)
            continue
        found[f"attest:{kind}"] = ",".join(f"{name}={value}" for name, value in attributes.items())
    return found


def _attestation(kind: str, value: str) -> str:
    if value.lower() in ("true", "1"):
        return f"type={kind}"
    if value.lower() in ("false", "0"):
        return f"type={kind},disabled=true"
    return f"type={kind},{value}" if "=" in value else f"type={kind},mode={value}"
