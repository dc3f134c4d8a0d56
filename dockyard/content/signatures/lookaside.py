"""Where signatures by GPG are: a web server or a folder beside the registry (containers-registries.d(5)).

Signature N of a manifest is at BASE/NAME@sha256=…/signature-N, counted from 1 until there is none
(containers/image, signature-protocols.md).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dockyard.content import download
from dockyard.content.download import Bounds
from dockyard.content.signatures.policy import scopes_of
from dockyard.errors import Forbidden, InvalidParameter, NotFound, words
from dockyard.oci.reference import Reference

FOLDER = "/etc/containers/registries.d"
DEFAULT = "file:///var/lib/containers/sigstore"
LARGEST_SIGNATURE = 4 << 20
MOST_SIGNATURES = 128

BOUNDS = Bounds(answer=60.0, silence=30.0, whole=120.0, size=LARGEST_SIGNATURE)


@dataclass(frozen=True)
class Lookaside:
    """The places by scope (a name, a namespace, a host), and that of all others."""

    scopes: Mapping[str, str]
    default: str = DEFAULT

    def base(self, name: Reference) -> str:
        """The URL below which the signatures of the image `name` are."""
        for scope in scopes_of(name)[:-1]:
            if place := self.scopes.get(scope):
                return place
        return self.default


def read(folder: str) -> Lookaside:
    """The places that the files of a folder name. Raises InvalidParameter; a folder that is missing names none."""
    scopes: dict[str, str] = {}
    default = ""
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.name.endswith(".yaml"))
    except FileNotFoundError:
        return Lookaside({})
    except OSError as error:
        raise InvalidParameter(f"cannot read {folder}: {words(error)}") from None
    for path in paths:
        document = _document(path)
        if document.get("default-docker") is not None:
            if default:
                raise InvalidParameter(f'parsing {path}: "default-docker" is defined in another file, too')
            default = _place(path, document["default-docker"]) or DEFAULT
        namespaces = document.get("docker") or {}
        if not isinstance(namespaces, dict):
            raise InvalidParameter(f"parsing {path}: docker is not a mapping")
        for scope, value in namespaces.items():
            if scope in scopes:
                raise InvalidParameter(f'parsing {path}: "docker" namespace "{scope}" is defined in another file, too')
            scopes[str(scope)] = _place(path, value)
    return Lookaside(scopes, default or DEFAULT)


def _document(path: Path) -> dict[str, Any]:
    import yaml  # needed by those alone who have such a policy

    try:
        document = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        return {}  # it has just gone
    except OSError as error:
        raise InvalidParameter(f"cannot read {path}: {words(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"parsing {path}: {error}") from None
    if document is not None and not isinstance(document, dict):
        raise InvalidParameter(f"parsing {path}: it is not a mapping")
    return document or {}


def _place(path: Path, value: Any) -> str:
    if value is not None and not isinstance(value, dict):
        raise InvalidParameter(f"parsing {path}: a namespace is not a mapping")
    place = (value or {}).get("lookaside") or (value or {}).get("sigstore") or ""
    if not isinstance(place, str):
        raise InvalidParameter(f"parsing {path}: lookaside is not a string")
    return place


async def signatures_of(places: Lookaside, name: Reference, digest: str) -> Sequence[bytes]:
    """What claims to be a signature of the manifest `digest` of `name`.

    Raises Forbidden when there are too many, InvalidParameter or Unavailable when they cannot be had.
    """
    base = f"{places.base(name)}/{name.path}@{digest.replace(':', '=', 1)}"
    found: list[bytes] = []
    for number in range(1, MOST_SIGNATURES + 2):
        signature = await _fetch(f"{base}/signature-{number}")
        if signature is None:
            break
        if number > MOST_SIGNATURES:
            raise Forbidden(f"the image has more than {MOST_SIGNATURES} signatures")
        if (
            not signature or signature[0] < 0x80
        ):  # a binary OpenPGP packet begins with a bit that is set (RFC 9580, 4.2)
            raise Forbidden(f"parsing signature {base}/signature-{number}: unrecognized signature format")
        found.append(signature)
    return found


async def _fetch(url: str) -> bytes | None:
    """A signature; None when there is none."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return await asyncio.to_thread(_read_file, unquote(parts.path))
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(f"Unsupported scheme when reading signature from {url}")
    try:
        async with download.opened(url, BOUNDS) as answer:
            return b"".join([piece async for piece in answer.pieces()])
    except NotFound:
        return None


def _read_file(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidParameter(f"cannot read signature {path}: {words(error)}") from None
    with open(fd, "rb") as file:
        try:
            data = file.read(LARGEST_SIGNATURE + 1)
        except OSError as error:
            raise InvalidParameter(f"cannot read signature {path}: {words(error)}") from None
    if len(data) > LARGEST_SIGNATURE:
        raise InvalidParameter(f"signature {path} is larger than {LARGEST_SIGNATURE} bytes")
    return data
