"""RUN: a command in a container of its own, whose changes become a layer."""

from __future__ import annotations

import asyncio
import codecs
import socket
from collections.abc import Callable

import msgspec

from dockyard.engine.containers.config import ContainerConfig, HostConfig, LogSettings
from dockyard.engine.containers.service import ContainerService
from dockyard.errors import NotFound
from dockyard.shim.orders import Attachment

HEAD = 8
# Docker paints what a RUN says on its standard error.
RED, PLAIN = "\x1b[91m", "\x1b[0m"


class Runner:
    """Makes, runs and removes the containers of builds."""

    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    async def create(self, config: ContainerConfig, host: HostConfig) -> str:
        """Make a container of the image `config.image`; its ID."""
        # Nobody reads a build container's log, and the service fills in what it is given.
        own = msgspec.structs.replace(host, log_config=LogSettings("none"))
        container = await self._containers.create("", config, own, {}, scratch=True)
        return container.id

    async def run(self, container_id: str, output: Callable[[str], None]) -> int:
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

    async def remove(self, container_id: str) -> None:
        """Remove it and its anonymous volumes; no error when it is gone."""
        try:
            await self._containers.remove(container_id, force=True, volumes=True)
        except NotFound:
            pass


async def _hand_on(reader: asyncio.StreamReader, output: Callable[[str], None]) -> None:
    """Give `output` the text in Docker's frames until the container ends."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}
    while True:
        try:
            head = await reader.readexactly(HEAD)
            data = await reader.readexactly(int.from_bytes(head[4:], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        text = decoders[2 if head[0] == 2 else 1].decode(data)
        if text:
            output(f"{RED}{text}{PLAIN}" if head[0] == 2 else text)
