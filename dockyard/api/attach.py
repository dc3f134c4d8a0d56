"""POST /containers/{id}/attach and its websocket form."""

import asyncio
import os
import socket
from contextlib import suppress

from aiohttp import WSMsgType, web

from dockyard.api.container_logs import frame
from dockyard.api.router import Call, Route
from dockyard.api.services import Services
from dockyard.api.streams import MULTIPLEXED_STREAM, RAW_STREAM, hijack
from dockyard.engine.container import Container
from dockyard.errors import Conflict, InvalidParameter, NotFound
from dockyard.shim.client import DEFAULT_DETACH_KEYS, Attachment
from dockyard.shim.log_reader import read_logs


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
        if container.state.status == "paused":
            raise Conflict(f"container {call.params['id']} is paused, unpause the container before attach")
        keys = detach_keys(call.text("detachKeys"))
        stream = call.flag("stream")
        stdin, stdout, stderr = (call.flag(name) for name in ("stdin", "stdout", "stderr"))
        tty = container.config.tty
        kind = MULTIPLEXED_STREAM if not tty and call.version >= (1, 42) else RAW_STREAM
        fd, response = await hijack(call, kind)
        if call.flag("logs"):
            await self._replay(container, fd, stdout=stdout, stderr=stderr)
        if not stream:
            os.close(fd)
            return response
        attachment = Attachment(
            fd,
            stdin=stdin and container.config.open_stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=keys,
            raw=tty,
        )
        try:
            await self._containers.attach(container.id, attachment)
        except (NotFound, Conflict):
            pass  # the head is gone: all that is left is that the service has hung up
        return response

    async def _replay(self, container: Container, fd: int, *, stdout: bool, stderr: bool) -> None:
        """Send what has been logged so far, before the stream goes on live."""
        if not container.record.log_path:
            return
        loop = asyncio.get_running_loop()
        with socket.socket(fileno=os.dup(fd)) as client, suppress(ConnectionError):
            client.setblocking(False)
            async for entry in read_logs(container.record.log_path, stdout=stdout, stderr=stderr):
                await loop.sock_sendall(client, entry.line if container.config.tty else frame(entry))

    async def attach_websocket(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        if container.state.status == "paused":
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        keys = detach_keys(call.text("detachKeys"))
        websocket = web.WebSocketResponse()
        await websocket.prepare(call.http)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await self._containers.attach(
            container.id,
            Attachment(
                theirs.detach(),
                stdin=call.flag("stdin") and container.config.open_stdin,
                stdout=call.flag("stdout"),
                stderr=call.flag("stderr"),
                detach_keys=keys,
                raw=True,
            ),
        )

        async def outwards() -> None:
            while data := await loop.sock_recv(ours, 65536):
                await websocket.send_bytes(data)
            await websocket.close()

        sending = asyncio.ensure_future(outwards())
        try:
            async for message in websocket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    data = message.data.encode() if isinstance(message.data, str) else message.data
                    await loop.sock_sendall(ours, data)
        finally:
            sending.cancel()
            ours.close()
        return websocket


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
