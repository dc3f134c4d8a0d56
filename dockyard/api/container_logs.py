"""GET /containers/{id}/logs, and log entries as the streams of the API carry them."""

import asyncio
import os
import time
from contextlib import suppress
from urllib.parse import quote_plus

from dockyard import timestamps, web
from dockyard.api.router import Call, Route
from dockyard.api.services import Services
from dockyard.api.streams import MULTIPLEXED_STREAM, RAW_STREAM, while_connected
from dockyard.engine.containers.container import Container
from dockyard.engine.containers.logs import options as log_options
from dockyard.errors import InvalidParameter, NotImplementedHere
from dockyard.generators import closing
from dockyard.shim.log_reader import LogEntry, read_logs
from dockyard.timestamps import nanoseconds, timestamp

FIRST_WORDS = 250_000_000  # ns after its start for which an empty log is waited for


def routes(services: Services) -> list[Route]:
    """The operation on logs."""
    return [Route("GET", "/containers/{id:path}/logs", Logs(services).logs)]


class Logs:
    """Handler of the operation on logs."""

    def __init__(self, services: Services) -> None:
        self._containers = services.containers

    async def logs(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not stdout and not stderr:
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        log_config = container.host_config.log_config
        file = log_options.log_file(log_config.type, log_config.config or {})
        if file is None or not file.readable:
            raise NotImplementedHere("configured logging driver does not support reading")
        follow = call.flag("follow")
        since = timestamps.unix_time(call.text("since"), "since") or 0
        until = timestamps.unix_time(call.text("until"), "until") or 0
        if not follow:
            await _first_words(container)
        return await while_connected(call, self._send(call, container, since, until))

    async def _send(self, call: Call, container: Container, since: int, until: int) -> web.StreamResponse:
        tail, details, timestamps = call.text("tail") or "all", call.flag("details"), call.flag("timestamps")
        stdout, stderr, follow, tty = (
            call.flag("stdout"),
            call.flag("stderr"),
            call.flag("follow"),
            container.config.tty,
        )
        kind = MULTIPLEXED_STREAM if not tty and call.version >= (1, 42) else RAW_STREAM
        ended = asyncio.Event()
        follower = asyncio.ensure_future(_end_with(container, ended)) if follow else None
        response = await call.open_stream(kind)
        pieces: list[bytes] = []
        size = 0
        try:
            found = read_logs(
                container.record.log_path,
                stdout=stdout,
                stderr=stderr,
                since_ns=since,
                until_ns=until,
                tail=int(tail) if tail.isdigit() else None,
                follow=follow,
                ended=ended,
            )
            async with closing(found) as entries:
                async for entry in entries:
                    head = f"{timestamp(entry.time_ns)} ".encode() if timestamps else b""
                    piece = head + (_details(entry) if details else b"") + entry.line
                    pieces.append(piece if tty else frame(entry, piece))
                    size += len(piece)
                    # one write for many lines, but never a line held back while nothing else comes
                    if follow or size > 1 << 18:
                        await response.write(b"".join(pieces))
                        pieces.clear()
                        size = 0
            if pieces:
                await response.write(b"".join(pieces))
            await response.write_eof()
        except ConnectionError:
            return web.TakenOver()
        finally:
            if follower is not None:
                follower.cancel()
        return response


def _details(entry: LogEntry) -> bytes:
    """The attributes of an entry as `logs --details` shows them."""
    pairs = (f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(entry.attrs.items()))
    return ",".join(pairs).encode() + b" "


async def _first_words(container: Container) -> None:
    """Give a container that has only just been started a moment to say something.

    Scripts that start a container and ask for its log at once (docker-py's own tests do) count on a start that takes
    the time of a short command; ours is over before the command has begun.
    """
    state = container.state
    path, exited = container.record.log_path, container.exited
    until = nanoseconds(state.started_at) + FIRST_WORDS
    while state.running and time.time_ns() < until and not exited.is_set():
        if _size(path):
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(exited.wait(), 0.01)


async def _end_with(container: Container, ended: asyncio.Event) -> None:
    """Set `ended` when the container does not run any more."""
    if container.state.running or container.state.status == "restarting" or container.state.status == "created":
        await container.exited.wait()
    ended.set()


def frame(entry: LogEntry, data: bytes | None = None) -> bytes:
    """Docker's stdcopy frame: stream, three zeros, length (big endian), payload."""
    payload = entry.line if data is None else data
    return (b"\1" if entry.stream == "stdout" else b"\2") + b"\0\0\0" + len(payload).to_bytes(4, "big") + payload


def _size(path: str) -> int:
    """A file's; 0 for one that is not there, or just being rotated."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
