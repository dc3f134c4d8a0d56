"""Secrets, logins and what is on the standard input: what only the client has, served on its session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from dockyard.buildkit import wire_pb2 as wire
from dockyard.client import credentials
from dockyard.client.errors import CredentialsError
from dockyard.grpc import status
from dockyard.grpc.calls import Method, request_of
from dockyard.grpc.connection import Stream
from dockyard.grpc.status import CallFailed

GET_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
PULL = "/moby.upload.v1.Upload/Pull"
HUB = ("registry-1.docker.io", "docker.io", "index.docker.io")


class InvalidSecret(ValueError):
    """What `--secret` says is no secret."""


def parse(texts: Sequence[str]) -> dict[str, Callable[[], bytes]]:
    """`id=NAME[,src=FILE|,env=VARIABLE]` of each, as what gives its content. Raises InvalidSecret."""
    found: dict[str, Callable[[], bytes]] = {}
    for text in texts:
        fields = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if not equals:
                raise InvalidSecret(f"invalid field '{part}' must be a key=value pair")
            if name not in ("type", "id", "source", "src", "env"):
                raise InvalidSecret(f"unexpected key '{name}' in '{part}'")
            fields[name] = value
        kind = fields.get("type", "")
        if kind not in ("", "file", "env"):
            raise InvalidSecret(f'unsupported secret type "{kind}"')
        name = fields.get("id", "")
        if not name:
            raise InvalidSecret("secret missing ID")
        found[name] = _source(name, kind, fields)
    return found


def _source(name: str, kind: str, fields: dict[str, str]) -> Callable[[], bytes]:
    path = fields.get("src") or fields.get("source") or ""
    variable = fields.get("env", "")
    if kind == "env" and not variable:
        variable, path = path or name, ""
    if not variable and not path and kind != "file" and name in os.environ:
        variable = name
    if variable:
        return lambda: os.environb.get(os.fsencode(variable), b"")
    path = path or name
    if not os.path.exists(path):
        raise InvalidSecret(f"failed to stat {path}: stat {path}: no such file or directory")

    def read() -> bytes:
        with open(path, "rb") as file:
            return file.read()

    return read


class Secrets:
    """Serves secrets by their names."""

    def __init__(self, sources: dict[str, Callable[[], bytes]]) -> None:
        self._sources = sources

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {GET_SECRET: self._get}

    async def _get(self, stream: Stream) -> None:
        name = wire.GetSecretRequest.FromString(await request_of(stream)).id
        source = self._sources.get(name)
        if source is None:
            raise CallFailed(status.NOT_FOUND, f"secret {name}: not found")
        await stream.send(wire.GetSecretResponse(data=source()).SerializeToString())


class Logins:
    """Serves the logins of `dockyard login`."""

    def __init__(self, config_folder: str) -> None:
        self._folder = config_folder

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {CREDENTIALS: self._get}

    async def _get(self, stream: Stream) -> None:
        host = wire.CredentialsRequest.FromString(await request_of(stream)).host
        try:
            found = credentials.find(self._folder, credentials.DOCKER_HUB if host in HUB else host) or {}
        except CredentialsError as error:
            raise CallFailed(status.UNKNOWN, str(error)) from None
        token = found.get("identitytoken", "")
        answer = wire.CredentialsResponse(
            username="" if token else found.get("username", ""), secret=token or found.get("password", "")
        )
        await stream.send(answer.SerializeToString())


class Upload:
    """Serves what comes in on the standard input, as the context of a build."""

    def __init__(self, name: str, pieces: Iterator[bytes]) -> None:
        self._name = name
        self._pieces = pieces

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {PULL: self._pull}

    async def _pull(self, stream: Stream) -> None:
        path = stream.headers.get("urlpath", "").rpartition("/")[2]
        if path != self._name:
            raise CallFailed(status.NOT_FOUND, f"no upload {path}")
        for piece in self._pieces:
            for place in range(0, len(piece), 1 << 20):
                await stream.send(wire.Bytes(data=piece[place : place + (1 << 20)]).SerializeToString())
