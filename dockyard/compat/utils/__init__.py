"""What programs use of docker-py's module of this name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dockyard.client.container_options import size as parse_bytes
from dockyard.compat.tls import TLSConfig
from dockyard.compat.utils import proxy, socket

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "kwargs_from_env",
    "parse_bytes",
    "parse_repository_tag",
    "proxy",
    "socket",
    "version_gte",
    "version_lt",
]


def kwargs_from_env(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The engine that DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH name, as a client's arguments."""
    known = os.environ if environment is None else environment
    found: dict[str, Any] = {}
    if host := known.get("DOCKER_HOST"):
        found["base_url"] = host
    verify, folder = known.get("DOCKER_TLS_VERIFY"), known.get("DOCKER_CERT_PATH")
    if (verify or folder) and not str(host or "").startswith("unix"):
        folder = folder or os.path.expanduser("~/.docker")
        files = [os.path.join(folder, name) for name in ("cert.pem", "key.pem", "ca.pem")]
        found["tls"] = TLSConfig(client_cert=(files[0], files[1]), ca_cert=files[2], verify=bool(verify))
    return found


def parse_repository_tag(name: str) -> tuple[str, str | None]:
    """An image's repository, and its tag or digest."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def version_lt(one: str, other: str) -> bool:
    """Whether a version of the API is older than another."""
    return _numbers(one) < _numbers(other)


def version_gte(one: str, other: str) -> bool:
    """Whether a version of the API is another, or newer."""
    return not version_lt(one, other)
