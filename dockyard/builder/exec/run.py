"""RUN: a command in a container of its own, whose changes become a layer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from dockyard.engine.containers.config import ContainerConfig, HostConfig, LogSettings
from dockyard.engine.containers.creation import Origin
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.containers.spec.cdi import DEFAULT_DIRECTORIES
from dockyard.errors import DockyardError, NotFound
from dockyard.shim.orders import Attachment

if TYPE_CHECKING:
    from dockyard.builder.graph.client import Terminal

HEAD = 8

# What is told of a command's output: the stream, 1 or 2, and a piece.
Say = Callable[[int, bytes], None]


class Runner:
    """Makes, runs and removes the containers of builds."""

    def __init__(self, containers: ContainerService, device_directories: Sequence[str] = DEFAULT_DIRECTORIES) -> None:
        """`device_directories`: where devices are described that commands may want by name."""
        self._containers = containers
        self.device_directories = device_directories

    async def create(
        self, config: ContainerConfig, host: HostConfig, origin: Origin | None = None, secrets: Sequence[str] = ()
    ) -> str:
        """Make a container of the image `config.image`, or of `origin`; its ID.

        `secrets`: further variables, which are written down nowhere.
        """
        # Nobody reads a build container's log, and the service fills in what it is given.
        own = msgspec.structs.replace(host, log_config=LogSettings("none"))
        container = await self._containers.create("", config, own, {}, scratch=True, origin=origin)
        container.unrecorded[:] = secrets
        return container.id

    async def run(self, container_id: str, output: Say) -> int:
        """Start it, hand on what it says, and wait for its end; its exit code."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            await self._containers.attach(container_id, Attachment(theirs.detach(), detach_keys=b""))
            await self._containers.start(container_id)
            await _hand_on(reader, output)
            code, _ = await self._containers.wait(container_id)
            return code
        finally:
            writer.close()

    async def look(self, container_id: str, words: Sequence[str], terminal: Terminal) -> None:
        """Run a shell in a container that has ended, with its files as they are then. Raises DockyardError."""
        config = self._containers.get(container_id).config
        config.entrypoint, config.cmd = None, list(words)
        config.tty = config.open_stdin = config.stdin_once = True
        config.env = [*(config.env or []), "TERM=xterm"]
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        typing = asyncio.ensure_future(self._type(container_id, terminal, writer))
        try:
            await self._containers.attach(
                container_id, Attachment(theirs.detach(), stdin=True, detach_keys=b"", raw=True)
            )
            await self._containers.start(container_id)
            while piece := await reader.read(1 << 16):
                await terminal.show(piece)
            await self._containers.wait(container_id)
        except ConnectionError:
            pass
        finally:
            typing.cancel()
            writer.close()

    async def _type(self, container_id: str, terminal: Terminal, writer: asyncio.StreamWriter) -> None:
        """Hand on what is typed; a terminal that goes takes the shell with it."""
        while (typed := await terminal.typed()) is not None:
            if isinstance(typed, bytes):
                writer.write(typed)
                await writer.drain()
                continue
            for _ in range(50):  # it may not have started yet
                try:
                    await self._containers.resize(container_id, *typed)
                    break
                except DockyardError:
                    await asyncio.sleep(0.1)
        with suppress(DockyardError):
            await self._containers.kill(container_id)

    async def remove(self, container_id: str) -> None:
        """Remove it and its anonymous volumes; no error when it is gone."""
        try:
            await self._containers.remove(container_id, force=True, volumes=True)
        except NotFound:
            pass


async def _hand_on(reader: asyncio.StreamReader, output: Say) -> None:
    """Give `output` what is in Docker's frames until the container ends."""
    while True:
        try:
            head = await reader.readexactly(HEAD)
            data = await reader.readexactly(int.from_bytes(head[4:], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        if data:
            output(2 if head[0] == 2 else 1, data)
