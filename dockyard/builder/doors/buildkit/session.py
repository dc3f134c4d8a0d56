"""The sessions of BuildKit's clients: connections on which the client is the server, and what it serves.

Services are named by the client when it connects; what it serves beyond is of no use, and what it does not serve is
said to be missing before it is asked. A client is never trusted: everything that it sends is bounded and checked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote_plus

from dockyard.builder.doors.buildkit.content import SERVICE, SessionStore
from dockyard.builder.doors.buildkit.file_modes import kind_and_permissions
from dockyard.builder.sources.contexts import ContextStore, Receiver
from dockyard.builder.trees import ArchiveTree
from dockyard.buildkit import debugging
from dockyard.buildkit import wire_pb2 as wire
from dockyard.content import tar_format
from dockyard.content.registry_auth import Credentials
from dockyard.content.tar_format import Entry
from dockyard.errors import Forbidden, InvalidParameter, NotFound, Unavailable
from dockyard.grpc import calls, status
from dockyard.grpc.calls import Call
from dockyard.grpc.connection import Connection, StreamReset
from dockyard.grpc.status import CallFailed

STAT, REQUEST, DATA, FIN, ERROR = range(5)
AT_ONCE = 64 << 10  # bytes of packets that are taken up where they come: a hop to a thread costs more
DROPS = 0.002  # s in which a client that walks its directory is left alone: it may want both processors
LARGEST_SMALL_FILE = 8 << 20  # a Dockerfile or .dockerignore
LARGEST_SECRET = 500 << 10  # as BuildKit's (session/secrets)

DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
FILE_SEND = "/moby.filesync.v1.FileSend/DiffCopy"
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"
PULL_UPLOAD = "/moby.upload.v1.Upload/Pull"
HEALTH = "/grpc.health.v1.Health/Check"


class Session:
    """One client's session."""

    def __init__(self, connection: Connection, id: str, shared_key: str, methods: Sequence[str]) -> None:
        self.connection = connection
        self.id = id
        self.shared_key = shared_key
        self._methods = {method.lower() for method in methods}

    def supports(self, method: str) -> bool:
        """Whether the client serves it."""
        return method.lower() in self._methods

    def _require(self, method: str, what: str) -> None:
        if not self.supports(method):
            raise NotFound(f"the client serves no {what}")

    # -- files from the client

    async def directory(
        self,
        store: ContextStore,
        name: str,
        *,
        follow: Sequence[str] = (),
        excludes: Sequence[str] = (),
        includes: Sequence[str] = (),
        told: Callable[[int], None] = lambda size: None,
        closing: Callable[[Callable[[], object]], None],
        beside: Callable[..., None],
    ) -> ArchiveTree:
        """The client's directory `name`, of which it sends only what the store does not have."""
        self._require(DIFF_COPY, "files")
        context = store.open(f"{name}:{self.shared_key or self.id}", passing=not self.shared_key)
        closing(lambda: store.close(context))
        receiver = Receiver(context, told)
        await self._receive(receiver, name, follow, excludes, includes)
        context.listing = receiver.listing()
        kept = receiver.kept()
        if kept is not context.known and kept != context.known:
            context.busy += 1

            async def save() -> None:
                try:
                    await asyncio.to_thread(context.save, kept)
                finally:
                    store.close(context)

            beside(save())
        return receiver.tree

    async def _receive(
        self,
        receiver: Receiver,
        name: str,
        follow: Sequence[str],
        excludes: Sequence[str],
        includes: Sequence[str] = (),
    ) -> None:
        metadata: dict[str, str | Sequence[str]] = {"dir-name": name}
        _put(metadata, "include-patterns", includes)
        _put(metadata, "exclude-patterns", excludes)
        _put(metadata, "followpaths", follow)
        call = Call(self.connection, DIFF_COPY, metadata)
        done = False
        try:
            while messages := await call.receive_many():
                if receiver.said_before(messages):
                    answers = []
                    if not receiver.listed:
                        self.connection.rest(DROPS)
                elif sum(map(len, messages := receiver.so_far() + messages)) < AT_ONCE:
                    answers = _take(receiver, messages)
                else:
                    answers = await asyncio.to_thread(_take, receiver, messages)
                if answers:
                    await call.stream.send_many(answers)
                if receiver.complete and not done:
                    done = True
                    await call.send(wire.Packet(type=FIN).SerializeToString())
                    call.half_close()
        except (CallFailed, StreamReset) as error:
            if not done:
                raise Unavailable(f"the client's files can't be read: {error}") from error
        finally:
            call.close()
        if not done:
            raise Unavailable("the client has not sent all files")

    async def files(self, name: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of small files in the client's directory `name`."""
        self._require(DIFF_COPY, "files")
        metadata: dict[str, str | Sequence[str]] = {"dir-name": name}
        _put(metadata, "followpaths", paths)
        call = Call(self.connection, DIFF_COPY, metadata)
        receiver = _SmallFiles()
        try:
            while messages := await call.receive_many():
                for message in messages:
                    for answer in receiver.take(wire.Packet.FromString(message)):
                        await call.send(answer)
                if receiver.complete and not receiver.done:
                    receiver.done = True
                    await call.send(wire.Packet(type=FIN).SerializeToString())
                    call.half_close()
        except (CallFailed, StreamReset) as error:
            if not receiver.done:
                raise Unavailable(f"the client's files can't be read: {error}") from error
        finally:
            call.close()
        return receiver.found()

    async def upload(self, path: str) -> AsyncIterator[bytes]:
        """What the client has on its standard input, in pieces."""
        self._require(PULL_UPLOAD, "upload")
        call = Call(self.connection, PULL_UPLOAD, {"urlpath": path})
        try:
            call.half_close()
            while (message := await call.receive()) is not None:
                yield wire.Bytes.FromString(message).data
        except (CallFailed, StreamReset) as error:
            raise Unavailable(f"the client's upload can't be read: {error}") from error
        finally:
            call.close()

    # -- files to the client

    @asynccontextmanager
    async def file_to(self, number: int, metadata: dict[str, str]) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """A file on the client's side, as the output `number` of the build: what writes it, a piece at a time."""
        self._require(FILE_SEND, "output")
        headers: dict[str, str | Sequence[str]] = {"buildkit-attachable-exporter-id": str(number)}
        headers.update((f"exporter-md-{name}", value) for name, value in metadata.items())
        call = Call(self.connection, FILE_SEND, headers)
        try:

            async def write(piece: bytes) -> None:
                for place in range(0, len(piece), 1 << 20):
                    await call.send(wire.Bytes(data=piece[place : place + (1 << 20)]).SerializeToString())

            yield write
            call.half_close()
            await call.receive()
        except (CallFailed, StreamReset) as error:
            raise Unavailable(f"the client has not taken the output: {error}") from error
        finally:
            call.close()

    def store(self, name: str) -> SessionStore:
        """A content store of the client's. Raises NotFound."""
        self._require(f"{SERVICE}Info", "content store")
        return SessionStore(self.connection, name)

    def directory_to(self, number: int) -> Call:
        """A call by which a directory goes to the client (fsutil's protocol, of which we are the sender)."""
        self._require(FILE_SEND, "output")
        return Call(self.connection, FILE_SEND, {"buildkit-attachable-exporter-id": str(number)})

    # -- what only the client knows

    async def credentials(self, domain: str) -> Credentials | None:
        """The login for a registry."""
        if not self.supports(CREDENTIALS):
            return None
        host = "registry-1.docker.io" if domain == "docker.io" else domain
        request = wire.CredentialsRequest(host=host).SerializeToString()
        try:
            answer = wire.CredentialsResponse.FromString(await calls.call(self.connection, CREDENTIALS, request))
        except (CallFailed, StreamReset):
            return None
        if not answer.secret:
            return None
        if not answer.username:
            return Credentials("", "", answer.secret)
        return Credentials(answer.username, answer.secret)

    async def secret(self, name: str) -> bytes | None:
        """A secret of the client's; None when it has none of that name. Raises InvalidParameter."""
        if not self.supports(SECRET):
            return None
        request = wire.GetSecretRequest(id=name).SerializeToString()
        try:
            answer = await calls.call(self.connection, SECRET, request)
        except CallFailed as failure:
            if failure.code in (status.NOT_FOUND, status.UNIMPLEMENTED):
                return None
            raise InvalidParameter(f"secret {name}: {failure.message}") from failure
        except StreamReset as error:
            raise Unavailable(f"secret {name}: {error}") from error
        value = wire.GetSecretResponse.FromString(answer).data
        if len(value) > LARGEST_SECRET:
            raise InvalidParameter(f"secret {name} is larger than {LARGEST_SECRET} bytes")
        return value

    async def ssh_agent(self, name: str, socket: Path) -> Callable[[], None]:
        """Serve the client's agent on a UNIX socket until what is returned is called. Raises NotFound."""
        if not self.supports(FORWARD_AGENT):
            raise NotFound(f"no SSH key {name!r} forwarded from the client")
        request = wire.CheckAgentRequest(id=name).SerializeToString()
        try:
            await calls.call(self.connection, CHECK_AGENT, request)
        except (CallFailed, StreamReset) as error:
            raise NotFound(f"no SSH key {name!r} forwarded from the client: {error}") from error
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._forward(name, reader, writer)
            finally:
                tasks.discard(task)
                writer.close()

        old = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(serve, socket)
        finally:
            os.umask(old)

        def close() -> None:
            server.close()
            for task in list(tasks):
                task.cancel()

        return close

    async def shell(self, about: str) -> SessionTerminal | None:
        """The client's terminal; None when it offers none."""
        if not self.supports(debugging.SHELL):
            return None
        terminal = SessionTerminal(Call(self.connection, debugging.SHELL, {}))
        await terminal.send(debugging.ABOUT, about.encode())
        return terminal

    async def _forward(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = Call(self.connection, FORWARD_AGENT, {"buildkit.ssh.id": name})

        async def to_client() -> None:
            while piece := await reader.read(1 << 16):
                await call.send(wire.Bytes(data=piece).SerializeToString())
            call.half_close()

        sending = asyncio.ensure_future(to_client())
        try:
            while (message := await call.receive()) is not None:
                writer.write(wire.Bytes.FromString(message).data)
                await writer.drain()
        except (CallFailed, StreamReset, ConnectionError):
            pass
        finally:
            sending.cancel()
            call.close()


class SessionTerminal:
    """A terminal on the client's side."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.close = call.close

    async def send(self, kind: int, data: bytes) -> None:
        try:
            await self._call.send(wire.Packet(type=kind, data=data).SerializeToString())
        except StreamReset as error:
            raise Unavailable(f"the client's terminal is gone: {error}") from error

    async def show(self, data: bytes) -> None:
        await self.send(debugging.BYTES, data)

    async def typed(self) -> bytes | tuple[int, int] | None:
        while True:
            try:
                message = await self._call.receive()
            except (CallFailed, StreamReset):
                return None
            if message is None:
                return None
            packet = wire.Packet.FromString(message)
            if packet.type == debugging.BYTES:
                return packet.data
            if packet.type == debugging.SIZE:
                return packet.id >> 16, packet.id & 0xFFFF


class Sessions:
    """The sessions that are there, by their ID."""

    PATIENCE = 5.0  # s that a build waits for the session that it names (BuildKit, source/local)

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._changed = asyncio.Condition()

    async def serve(self, session: Session) -> None:
        """Have a session for as long as its connection lasts. Raises Forbidden for a second one of its name."""
        if not session.id or session.id in self._sessions:
            session.connection.close()
            raise Forbidden(f"session {session.id} already exists")
        self._sessions[session.id] = session
        async with self._changed:
            self._changed.notify_all()
        try:
            await session.connection.closed
        finally:
            del self._sessions[session.id]

    async def get(self, id: str) -> Session:
        """The session `id`, which may be about to come. Raises NotFound."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.PATIENCE), self._changed:
                await self._changed.wait_for(lambda: id in self._sessions)
        found = self._sessions.get(id)
        if found is None:
            raise NotFound(f"no active session for {id}")
        return found

    def close(self) -> None:
        """End all."""
        for session in list(self._sessions.values()):
            session.connection.close()


def _put(metadata: dict[str, str | Sequence[str]], name: str, values: Sequence[str]) -> None:
    """Values as fsutil's headers carry them: escaped when one is not ASCII."""
    if not values:
        return
    encoded = any(not value.isascii() for value in values)
    metadata[name] = [quote_plus(value) for value in values] if encoded else list(values)
    if encoded:
        metadata[f"{name}-encoded"] = "1"


def entry_of(found: wire.Stat) -> tuple[Entry | None, str]:
    """What a client says of a file, and what it is a hard link to ("": to nothing); None for a socket."""
    kind, permissions = kind_and_permissions(found.mode)
    if kind is None:
        return None, ""
    link = found.linkname
    regular = kind == tar_format.REGULAR
    entry = Entry(
        "",
        kind,
        permissions,
        found.uid,
        found.gid,
        found.size if regular else 0,
        found.mod_time,
        link if kind == tar_format.SYMLINK else "",
        found.devmajor,
        found.devminor,
        dict(found.xattrs) if found.xattrs else {},
    )
    return entry, link if regular else ""


def _take(receiver: Receiver, messages: list[bytes]) -> list[bytes]:
    """Take up packets; what to answer. Raises InvalidParameter."""
    answers = []
    packet = wire.Packet()
    for message in messages:
        packet.ParseFromString(message)
        kind = packet.type
        if kind == DATA:
            receiver.data(packet.id, packet.data)
        elif kind == STAT:
            receiver.hear(message)
            if not packet.HasField("stat"):
                receiver.end_of_list()
                continue
            found = packet.stat
            entry, link = entry_of(found)
            wanted = receiver.entry(found.path, entry, link) if entry is not None else receiver.skip()
            if wanted is not None:
                answers.append(wire.Packet(type=REQUEST, id=wanted).SerializeToString())
        elif kind == ERROR:
            raise InvalidParameter(f"error from sender: {packet.data.decode(errors='replace')}")
    return answers


class _SmallFiles:
    """Receives a few small files into memory."""

    def __init__(self) -> None:
        self.done = False
        self._listed = False
        self._count = 0
        self._size = 0
        self._wanted: dict[int, str] = {}
        self._pieces: dict[str, list[bytes]] = {}
        self._open: set[int] = set()
        self._links: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        return self._listed and not self._open

    def take(self, packet: wire.Packet) -> list[bytes]:
        """One packet; what to answer."""
        if packet.type == STAT and packet.HasField("stat"):
            number = self._count
            self._count += 1
            entry, _ = entry_of(packet.stat)
            if entry is not None and entry.kind == tar_format.SYMLINK:
                self._links[packet.stat.path] = entry.link
            if entry is None or entry.kind != tar_format.REGULAR or self._count > 1000:
                return []
            self._wanted[number] = packet.stat.path
            self._open.add(number)
            self._pieces[packet.stat.path] = []
            return [wire.Packet(type=REQUEST, id=number).SerializeToString()]
        if packet.type == STAT:
            self._listed = True
        elif packet.type == DATA:
            path = self._wanted.get(packet.id)
            if path is None or packet.id not in self._open:
                raise InvalidParameter("the client sends a file that it was not asked for")
            self._size += len(packet.data)
            if self._size > LARGEST_SMALL_FILE:
                raise InvalidParameter(f"{path} is too large")
            if packet.data:
                self._pieces[path].append(packet.data)
            else:
                self._open.discard(packet.id)
        elif packet.type == ERROR:
            raise InvalidParameter(f"error from sender: {packet.data.decode(errors='replace')}")
        return []

    def found(self) -> dict[str, bytes]:
        """The contents by path, links followed."""
        contents = {path: b"".join(pieces) for path, pieces in self._pieces.items()}
        for path, link in self._links.items():
            target = os.path.normpath(os.path.join(os.path.dirname(path), link))
            if target in contents:
                contents[path] = contents[target]
        return contents
