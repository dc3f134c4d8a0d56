"""A client of BuildKit's door as small as it can be: a session with what a test lets it serve, builds as buildx does.

A hostile one is made by replacing what it serves.
"""

import asyncio
import os
import secrets
import socket
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dockyard.buildkit import wire_pb2 as wire
from dockyard.grpc import status
from dockyard.grpc.calls import Call, Method, Methods, call, request_of
from dockyard.grpc.connection import Connection, Stream
from dockyard.grpc.status import CallFailed

CONTROL = "/moby.buildkit.v1.Control/"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
STAT, REQUEST, DATA, FIN, ERROR = range(5)


@dataclass
class Outcome:
    """What a build has led to."""

    told: dict[str, str] = field(default_factory=dict)
    steps: dict[str, wire.Vertex] = field(default_factory=dict)
    log: bytes = b""
    warnings: list[str] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)
    failure: CallFailed | None = None

    @property
    def image(self) -> str:
        """The ID of the image that was made."""
        if self.failure is not None:
            raise AssertionError(f"{self.failure.message}\n{self.log.decode()}")
        return self.told["containerimage.config.digest"]

    def cached(self, text: str) -> bool:
        """Whether the step whose name holds `text` was in the cache."""
        return next(step.cached for step in self.steps.values() if text in step.name)


async def connect(path: Path, target: str, connection: Connection, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Upgrade a connection to the engine to HTTP/2."""
    loop = asyncio.get_running_loop()
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    await loop.sock_connect(client, str(path))
    head = f"POST {target} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    await loop.sock_sendall(client, f"{head}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = await loop.sock_recv(client, 1)
        if not piece:
            raise ConnectionError(answer.decode())
        answer += piece
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(answer.decode())
    await loop.create_connection(lambda: connection, sock=client)


class Client:
    """One client with directories and secrets; `sent` counts the files that it was asked for."""

    def __init__(self, path: Path, folder: Path, *, key: str = "", **directories: Path) -> None:
        self.path = path
        self.directories = {"context": folder, "dockerfile": folder, **directories}
        self.secrets: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.key = key
        self.id = secrets.token_hex(12)
        self.methods: dict[str, Method] = {DIFF_COPY: self.diff_copy, SECRET: self.secret}

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """The session is there for the time of the block."""
        served = Connection(Methods(self.methods, lambda error: CallFailed(status.UNKNOWN, str(error))).accept)
        names = [("X-Docker-Expose-Session-Grpc-Method", path) for path in self.methods]
        headers = [("X-Docker-Expose-Session-Uuid", self.id), ("X-Docker-Expose-Session-Sharedkey", self.key), *names]
        await connect(self.path, "/session", served, headers)
        try:
            yield
        finally:
            served.close()
            await served.closed

    async def build(
        self,
        options: dict[str, str] | None = None,
        *,
        names: str = "",
        exporter: str = "moby",
        attributes: dict[str, str] | None = None,
        entitlements: Sequence[str] = (),
        meanwhile: Callable[[Connection, asyncio.Task[bytes]], None] | None = None,
    ) -> Outcome:
        """Build what the options say as buildx does; a failure is part of the outcome."""
        outcome, ref = Outcome(), secrets.token_hex(12)
        control = Connection()
        await connect(self.path, "/grpc", control)
        exporters = [wire.Exporter(type=exporter, attrs={"name": names, **(attributes or {})})] if exporter else []
        request = wire.ControlSolveRequest(
            ref=ref, session=self.id, exporters=exporters, frontend_attrs=options or {}, entitlements=entitlements
        )
        try:
            async with self.session():
                solving = asyncio.ensure_future(call(control, f"{CONTROL}Solve", request.SerializeToString()))
                looking = asyncio.ensure_future(self._look(control, ref, outcome))
                if meanwhile is not None:
                    meanwhile(control, solving)
                outcome.metadata = await self._drive(control, ref, options or {})
                try:
                    answer = await solving
                    outcome.told = dict(wire.ControlSolveResponse.FromString(answer).exporter_response)
                except CallFailed as failure:
                    outcome.failure = failure
                await looking
        finally:
            control.close()
        return outcome

    async def _drive(self, control: Connection, ref: str, options: dict[str, str]) -> dict[str, bytes]:
        about = {"buildkit-controlapi-buildid": ref}
        message = wire.SolveRequest(frontend="dockerfile.v0", frontend_opt=options)
        returned = wire.ReturnRequest()
        try:
            answer = await call(control, f"{BRIDGE}Solve", message.SerializeToString(), about)
            returned.result.CopyFrom(wire.SolveResponse.FromString(answer).result)
        except CallFailed as failure:
            returned.error.code, returned.error.message = failure.code, failure.message
        await call(control, f"{BRIDGE}Return", returned.SerializeToString(), about)
        return dict(returned.result.metadata)

    @staticmethod
    async def _look(control: Connection, ref: str, outcome: Outcome) -> None:
        watching = Call(control, f"{CONTROL}Status", {})
        await watching.send(wire.StatusRequest(ref=ref).SerializeToString())
        watching.half_close()
        while (message := await watching.receive()) is not None:
            response = wire.StatusResponse.FromString(message)
            for step in response.vertexes:
                outcome.steps[step.digest] = step
            for said in response.logs:
                outcome.log += said.msg
            outcome.warnings += [warning.short.decode() for warning in response.warnings]

    # -- what the client serves

    async def secret(self, stream: Stream) -> None:
        """One secret."""
        request = wire.GetSecretRequest.FromString(await request_of(stream))
        if request.id not in self.secrets:
            raise CallFailed(status.NOT_FOUND, f"secret {request.id} not found")
        await stream.send(wire.GetSecretResponse(data=self.secrets[request.id]).SerializeToString())

    async def diff_copy(self, stream: Stream) -> None:
        """A directory, as fsutil sends it, without its filters: only names that are asked for by `followpaths`."""
        folder = self.directories[stream.headers["dir-name"]]
        wanted = [name for name in stream.headers.get("followpaths", "").split(",") if name]
        paths = []
        for place, folders, files in os.walk(folder):
            folders.sort()
            paths += [os.path.relpath(os.path.join(place, name), folder) for name in (*folders, *files)]
        paths = [path for path in paths if not wanted or any(_follows(path, one) for one in wanted)]
        listed = sorted(paths, key=lambda path: path.split("/"))
        for path in listed:
            await stream.send(wire.Packet(type=STAT, stat=stat_of(folder, path)).SerializeToString())
        await stream.send(wire.Packet(type=STAT).SerializeToString())
        while (message := await stream.receive()) is not None:
            packet = wire.Packet.FromString(message)
            if packet.type == REQUEST:
                self.sent.append(listed[packet.id])
                content = (folder / listed[packet.id]).read_bytes()
                for at in range(0, len(content), 32 << 10):
                    piece = wire.Packet(type=DATA, id=packet.id, data=content[at : at + (32 << 10)])
                    await stream.send(piece.SerializeToString())
                await stream.send(wire.Packet(type=DATA, id=packet.id).SerializeToString())
            elif packet.type == FIN:
                await stream.send(wire.Packet(type=FIN).SerializeToString())
                return
            elif packet.type == ERROR:
                return


def _follows(path: str, wanted: str) -> bool:
    """Whether `path` is what is wanted, below it, or on the way there; everything fits behind a wildcard."""
    fixed = wanted.partition("*")[0].rpartition("/")[0] if "*" in wanted else wanted
    return not fixed or path == fixed or path.startswith(f"{fixed}/") or fixed.startswith(f"{path}/")


def stat_of(folder: Path, path: str) -> wire.Stat:
    """A file as fsutil tells of it."""
    found = (folder / path).lstat()
    mode = stat.S_IMODE(found.st_mode) & 0o777
    link = ""
    if stat.S_ISDIR(found.st_mode):
        mode |= 1 << 31
    elif stat.S_ISLNK(found.st_mode):
        mode |= 1 << 27
        link = os.readlink(folder / path)
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return wire.Stat(path=path, mode=mode, size=size, mod_time=found.st_mtime_ns, linkname=link)
