"""POST /containers/{id}/attach and its websocket form."""

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import replace

from dockyard import web
from dockyard.api.container_logs import frame
from dockyard.api.router import Call, Route
from dockyard.api.services import Services
from dockyard.api.streams import MULTIPLEXED_STREAM, RAW_STREAM, take_over
from dockyard.engine.containers.container import Container
from dockyard.errors import Conflict, DockyardError, InvalidParameter
from dockyard.generators import closing
from dockyard.shim.log_reader import read_until
from dockyard.shim.orders import DEFAULT_DETACH_KEYS, Attachment


def routes(services: Services) -> list[Route]:
    """Operations that connect a client with a container's streams."""
    attach = Attach(services)
    return [
        Route("POST", "/containers/{id:path}/attach", attach.attach),
        Route("GET", "/containers/{id:path}/attach/ws", attach.attach_websocket),
    ]


class Attach:
    """Their handlers."""

    def __init__(self, services: Services) -> None:
        self._containers = services.containers

    async def attach(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        _check_attachable(container, call.params["id"])
        keys = detach_keys(call.text("detachKeys"))
        stream = call.flag("stream")
        stdin, stdout, stderr = (call.flag(name) for name in ("stdin", "stdout", "stderr"))
        tty = container.config.tty
        kind = MULTIPLEXED_STREAM if not tty and call.version >= (1, 42) else RAW_STREAM
        logs = call.flag("logs") and container.record.log_path != ""
        taken = await take_over(call, kind)
        with socket.socket(fileno=os.dup(taken.fd)) as client:
            client.setblocking(False)
            ours = replace(taken, fd=client.fileno())
            begun = False

            async def begin(inode: int, offset: int) -> None:
                """The client is served from now on, and may know; then what was logged before, if that is wanted."""
                nonlocal begun
                begun = True
                ours.begin()
                if logs or container.state.running:
                    await ours.heard()
                if logs:
                    await _replay(container, client, inode, offset, stdout=stdout, stderr=stderr)

            if not stream:
                await begin(0, 0)
                os.close(taken.fd)
                return taken.response
            attachment = Attachment(
                taken.fd,
                stdin=stdin and container.config.open_stdin,
                stdout=stdout,
                stderr=stderr,
                detach_keys=keys,
                raw=tty,
            )
            try:
                await self._containers.attach(container.id, attachment, begin)
            except DockyardError:
                # the connection is HTTP's no more: what was logged is all that can be told
                if not begun:
                    await begin(0, 0)
        return taken.response

    async def attach_websocket(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        _check_attachable(container, call.params["id"])
        every = call.version < (1, 42)  # which has no parameters for them
        stdin, stdout, stderr = (every or call.flag(name) for name in ("stdin", "stdout", "stderr"))
        keys = detach_keys(call.text("detachKeys"))
        websocket = await web.WebSocket.accept(call.http, text=call.version < (1, 28))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        told = socket.socket(fileno=os.dup(theirs.fileno()))
        told.setblocking(False)

        async def tell(inode: int, offset: int) -> None:
            with told:
                await _replay(container, told, inode, offset, stdout=stdout, stderr=stderr, raw=True)

        attachment = Attachment(
            theirs.detach(),
            stdin=stdin and container.config.open_stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=keys,
            raw=True,
        )
        logs = call.flag("logs") and container.record.log_path != ""

        async def outwards() -> None:
            while data := await loop.sock_recv(ours, 65536):
                await websocket.send(data)
            await websocket.close()

        sending = asyncio.ensure_future(outwards())  # first: what is told of the log may be more than the socket holds
        try:
            if call.flag("stream"):
                await self._containers.attach(container.id, attachment, tell if logs else None)
            else:
                os.close(attachment.fd)
                if logs:
                    await tell(0, 0)
            told.close()
            while data := await websocket.receive():
                await loop.sock_sendall(ours, data)
        finally:
            sending.cancel()
            told.close()
            ours.close()
            websocket.release()
        return web.TakenOver()


def _check_attachable(container: Container, reference: str) -> None:
    if container.state.status == "paused":
        raise Conflict(f"container {reference} is paused, unpause the container before attach")
    if container.state.status == "restarting":
        raise Conflict(f"container {reference} is restarting, wait until the container is running")


async def _replay(
    container: Container,
    client: socket.socket,
    inode: int,
    offset: int,
    *,
    stdout: bool,
    stderr: bool,
    raw: bool = False,
) -> None:
    """Tell what the log holds up to `offset` of its file `inode`."""
    loop = asyncio.get_running_loop()
    raw = raw or container.config.tty
    pieces = bytearray()
    with suppress(ConnectionError):
        found = read_until(container.record.log_path, inode, offset, stdout=stdout, stderr=stderr)
        async with closing(found) as entries:
            async for entry in entries:
                pieces += entry.line if raw else frame(entry)
                if len(pieces) > 1 << 18:
                    await loop.sock_sendall(client, pieces)
                    pieces = bytearray()
        await loop.sock_sendall(client, pieces)


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes a terminal sends. Raises InvalidParameter."""
    if not text:
        return DEFAULT_DETACH_KEYS
    found = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            found += key.encode()
        elif key.lower() == "del":
            found.append(127)
        elif key.lower().startswith("ctrl-") and len(key) == 6:
            letter = key[5].lower()
            if not ("a" <= letter <= "z" or letter in "@[\\]^_"):
                raise InvalidParameter(f"Invalid detach keys ({text}) provided")
            found.append(ord(letter.upper()) - 64)
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(found)
