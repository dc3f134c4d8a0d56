"""Runs the process that sends containers' logs to log servers, tells it whose, waits for what is still to send."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from dockyard.errors import Unavailable, words
from dockyard.shim.log_senders import Identity, make_sender

log = logging.getLogger("dockyard.logs")

# How long a container's removal waits for the rest of its log to be sent.
PATIENCE = 5.0
# Drivers that lose what they send without a word, so there is nothing to try.
CONNECTIONLESS = ("udp", "unixgram")


class LogForwarding:
    """The daemon's side of shim/log_forwarder.py; the process is started by the first container that needs it."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._orders: dict[str, dict[str, Any]] = {}
        self._sent: dict[str, asyncio.Event] = {}
        self._ended: set[str] = set()

    async def check(self, order: Mapping[str, Any]) -> None:
        """See whether the log server is there, where the driver can tell. Raises Unavailable in Docker's words."""
        options: Mapping[str, str] = order["options"]
        address = next((options[name] for name in options if name.endswith("-address")), "")
        if address.partition(":")[0] in CONNECTIONLESS or options.get("fluentd-async", "") in ("1", "t", "true"):
            return
        sender = make_sender(order["driver"], options, Identity(**order["identity"]))
        try:
            await asyncio.to_thread(sender.connect)
        except OSError as error:
            reason = "journald is not enabled on this host" if order["driver"] == "journald" else words(error)
            raise Unavailable(
                f"failed to create task for container: failed to initialize logging driver: {reason}"
            ) from error
        finally:
            sender.close()

    async def begin(self, order: dict[str, Any]) -> None:
        """Send the log of the container that `order` (log_options.forwarding) describes, from where it was left."""
        container_id: str = order["id"]
        self._orders[container_id] = order
        self._ended.discard(container_id)
        self._sent[container_id] = asyncio.Event()
        if self._process is None or self._process.returncode is not None:
            await self._start()
        else:
            self._tell(order)

    def end(self, container_id: str) -> None:
        """The container writes no more: send the rest."""
        if container_id in self._orders:
            self._ended.add(container_id)
            self._tell({"id": container_id, "ended": True})

    async def remove(self, container_id: str) -> None:
        """The log of a container that has ended is about to be removed: wait, for a moment, until it is sent."""
        event = self._sent.get(container_id)
        if event is None or container_id not in self._ended:
            return
        try:
            await asyncio.wait_for(event.wait(), PATIENCE)
        except TimeoutError:
            log.warning("container %s is removed before its log server has taken the rest of its log", container_id)
            self._forget(container_id)
            self._tell({"id": container_id, "removed": True})

    def _forget(self, container_id: str) -> None:
        self._orders.pop(container_id, None)
        self._ended.discard(container_id)
        event = self._sent.pop(container_id, None)
        if event is not None:
            event.set()

    async def close(self) -> None:
        """End the process; the next one goes on where it was."""
        process, self._process = self._process, None
        if self._reader is not None:
            self._reader.cancel()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), PATIENCE)

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from dockyard.shim.log_forwarder import main; main()",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = asyncio.ensure_future(self._read(self._process))
        for container_id, order in self._orders.items():
            self._tell(order)
            if container_id in self._ended:
                self._tell({"id": container_id, "ended": True})

    def _tell(self, order: Mapping[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None and self._process.returncode is None:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            container_id = line.decode().strip()
            if container_id in self._ended:
                self._forget(container_id)
        if process is self._process and self._orders:
            log.warning("the log forwarder has ended; starting it again")
            await asyncio.sleep(0.2)
            await self._start()
