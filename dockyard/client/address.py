"""Where the engine is: from an argument, the environment or a context of the docker configuration, with its TLS files.

The first of these that says anything decides:

    the argument                        unix:///PATH, tcp://HOST:PORT (http://, https:// are taken too)
    DOCKYARD_HOST, DOCKER_HOST          with DOCKER_TLS_VERIFY, DOCKER_CERT_PATH for tcp://
    DOCKER_CONTEXT, then `currentContext` in ~/.docker/config.json (DOCKER_CONFIG)
    the socket of Dockyard, or Docker's when only that one is there
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from dockyard.client.config_file import load
from dockyard.client.errors import ClientError, CredentialsError
from dockyard.oci.quick_json import loads

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

DOCKYARD_SOCKET = "/run/dockyard/docker.sock"
DOCKER_SOCKET = "/var/run/docker.sock"
TLS_PORT, PLAIN_PORT = 2376, 2375


class TLS(NamedTuple):
    """The files of a TLS connection; `verify` is off for an engine whose certificate is not to be checked."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """What Python's TLS needs. Raises OSError when a file cannot be read."""
        import ssl

        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    @classmethod
    def folder(cls, path: str, *, verify: bool = True) -> TLS:
        """The files ca.pem, cert.pem and key.pem of a folder, as far as they are there."""
        ca, cert, key = (name if os.path.exists(name := f"{path}/{kind}.pem") else "" for kind in ("ca", "cert", "key"))
        return cls(ca, cert, key, verify)


class Address(NamedTuple):
    """An engine's address: the path of a UNIX socket, or host and port with or without TLS."""

    socket: str = ""
    host: str = ""
    port: int = 0
    tls: TLS | None = None

    def __str__(self) -> str:
        return f"unix://{self.socket}" if self.socket else f"tcp://{self.host}:{self.port}"


def parse(text: str, tls: TLS | None = None) -> Address:
    """The address that `text` names. Raises ClientError for one that is malformed or of a kind we do not speak."""
    scheme, found, place = text.partition("://")
    if not found:
        scheme, place = ("unix", text) if text.startswith("/") else ("tcp", text)
    if scheme == "unix" and place:
        return Address(socket=place)
    if scheme not in ("tcp", "http", "https"):
        raise ClientError(f"unable to talk to {text!r}: the address must be unix://PATH or tcp://HOST:PORT")
    if scheme == "https" and tls is None:
        tls = TLS()
    place = place.partition("/")[0]
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = place, ""
    if port and not port.isdigit():
        raise ClientError(f"invalid port {port!r} in {text!r}")
    return Address(host=host.strip("[]") or "127.0.0.1", port=int(port or (TLS_PORT if tls else PLAIN_PORT)), tls=tls)


def find(
    host: str = "", tls: TLS | None = None, context: str = "", environment: Mapping[str, str] = os.environ
) -> Address:
    """The engine to talk to; see above. Raises ClientError."""
    if host:
        return parse(host, tls)
    if not context:
        host = environment.get("DOCKYARD_HOST") or environment.get("DOCKER_HOST") or ""
        if host:
            return parse(host, tls or _tls_of(environment) if not host.startswith("unix") else None)
    folder = config_folder(environment)
    context = context or environment.get("DOCKER_CONTEXT") or _current_context(folder)
    if context and context != "default":
        return _of_context(folder, context)
    if not os.path.exists(DOCKYARD_SOCKET) and os.path.exists(DOCKER_SOCKET):
        return Address(socket=DOCKER_SOCKET)
    return Address(socket=DOCKYARD_SOCKET)


def config_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Where docker's clients keep their configuration."""
    return environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def _tls_of(environment: Mapping[str, str]) -> TLS | None:
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    if not verify and not environment.get("DOCKER_TLS"):
        return None
    return TLS.folder(environment.get("DOCKER_CERT_PATH") or config_folder(environment), verify=verify)


def _current_context(folder: str) -> str:
    try:
        return str(load(folder).get("currentContext") or "")
    except CredentialsError:
        return ""  # a broken configuration may not keep anyone from talking to an engine


def _of_context(folder: str, name: str) -> Address:
    """The address in a context that `docker context create` has made."""
    from _sha256 import sha256  # type: ignore[import-not-found]  # hashlib loads OpenSSL

    key = sha256(name.encode()).hexdigest()
    try:
        with open(f"{folder}/contexts/meta/{key}/meta.json", "rb") as file:
            endpoint = loads(file.read())["Endpoints"]["docker"]
    except (OSError, ValueError, KeyError) as error:
        raise ClientError(f"context {name!r}: {error}") from None
    files = f"{folder}/contexts/tls/{key}/docker"
    tls = TLS.folder(files, verify=not endpoint.get("SkipTLSVerify")) if os.path.isdir(files) else None
    return parse(str(endpoint.get("Host") or ""), tls)
