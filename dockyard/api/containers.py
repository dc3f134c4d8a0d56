"""Operations on containers."""

import asyncio
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from dockyard.api.container_create import CreateRequest, wanted
from dockyard.api.container_json import inspect_json, list_entry
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.api.streams import MULTIPLEXED_STREAM, RAW_STREAM, TakenOver, hijack
from dockyard.engine.container import Container, nanoseconds, timestamp
from dockyard.engine.container_config import HostConfig
from dockyard.errors import Conflict, InvalidParameter, NotFound
from dockyard.shim.client import DEFAULT_DETACH_KEYS, Attachment
from dockyard.shim.log_reader import LogEntry, read_logs

STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
LIST_FILTERS = frozenset(
    """
    ancestor before exited expose health id is-task isolation label name network publish since status volume
    """.split()
)


def routes(services: Services) -> list[Route]:
    """Operations on containers."""
    api = Containers(services)
    return [
        Route("GET", "/containers/json", api.list_all),
        Route("POST", "/containers/create", api.create),
        Route("POST", "/containers/prune", api.prune),
        Route("GET", "/containers/{id:path}/json", api.inspect),
        Route("GET", "/containers/{id:path}/top", api.top),
        Route("GET", "/containers/{id:path}/logs", api.logs),
        Route("POST", "/containers/{id:path}/resize", api.resize),
        Route("POST", "/containers/{id:path}/start", api.start),
        Route("POST", "/containers/{id:path}/stop", api.stop),
        Route("POST", "/containers/{id:path}/restart", api.restart),
        Route("POST", "/containers/{id:path}/kill", api.kill),
        Route("POST", "/containers/{id:path}/update", api.update),
        Route("POST", "/containers/{id:path}/rename", api.rename),
        Route("POST", "/containers/{id:path}/pause", api.pause),
        Route("POST", "/containers/{id:path}/unpause", api.unpause),
        Route("POST", "/containers/{id:path}/attach", api.attach),
        Route("GET", "/containers/{id:path}/attach/ws", api.attach_websocket),
        Route("POST", "/containers/{id:path}/wait", api.wait),
        Route("DELETE", "/containers/{id:path}", api.remove),
    ]


class Containers:
    """Handlers of the operations on containers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._containers = services.containers

    # -- making and looking

    async def create(self, call: Call) -> web.StreamResponse:
        asked = wanted(await call.body(CreateRequest), call.version)
        container = await self._containers.create(call.text("name"), asked.config, asked.host, asked.networks)
        return json_response({"Id": container.id, "Warnings": [*container.warnings, *asked.warnings]}, 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        return json_response(await inspect_json(self._services, container, size=call.flag("size")))

    async def list_all(self, call: Call) -> web.StreamResponse:
        filters = call.filters()
        for name in filters:
            if name not in LIST_FILTERS:
                raise InvalidParameter(f"invalid filter '{name}'")
        matches = self._matcher(filters)
        limit = call.integer("limit", -1)
        every = call.flag("all") or limit > 0 or "status" in filters or bool({"before", "since"} & set(filters))
        found = sorted(self._containers.all(), key=lambda container: container.record.created, reverse=True)
        shown = [
            container
            for container in found
            if matches(container) and (every or "exited" in filters or container.state.running)
        ]
        if limit > 0:
            shown = shown[:limit]
        size = call.flag("size")
        links = self._containers.names_by_links()
        return json_response(
            [
                await list_entry(self._services, container, size=size, link_names=links.get(container.id, ()))
                for container in shown
            ]
        )

    def _matcher(self, filters: dict[str, list[str]]) -> Callable[[Container], bool]:
        for status in filters.get("status", []):
            if status not in STATES:
                raise InvalidParameter(f"invalid filter 'status={status}'")
        for health in filters.get("health", []):
            if health not in ("starting", "healthy", "unhealthy", "none"):
                raise InvalidParameter(f"invalid filter 'health={health}'")
        ancestors: set[str] = set()
        for name in filters.get("ancestor", []):
            with suppress(NotFound, InvalidParameter):
                ancestors.add(self._services.images.resolve(name))
        before = [self._containers.get(name).record.created for name in filters.get("before", [])]
        since = [self._containers.get(name).record.created for name in filters.get("since", [])]
        ports = {
            kind: [port if "/" in port else f"{port}/tcp" for port in filters.get(kind, [])]
            for kind in ("publish", "expose")
        }

        def matches(container: Container) -> bool:
            record, state = container.record, container.state
            networks = {*record.networks, *(settings.network_id for settings in record.networks.values())}
            health = state.health.status if state.health else "none"
            exposed = set(record.config.exposed_ports or {}) | set(record.host_config.port_bindings or {})
            published = {
                port for port, bindings in (record.sandbox.ports if record.sandbox else {}).items() if bindings
            }
            tests: dict[str, Callable[[str], bool]] = {
                "id": lambda value: record.id.startswith(value),
                "name": lambda value: _name_fits(value, record.name),
                "status": lambda value: state.status == value,
                "health": lambda value: health == value,
                "exited": lambda value: state.status == "exited" and str(state.exit_code) == value,
                "network": lambda value: any(
                    name == value or (len(value) >= 12 and name.startswith(value)) for name in networks
                ),
                "volume": lambda value: any(
                    value in (mount.name, mount.destination, mount.source) for mount in record.mounts
                ),
                "isolation": lambda value: value == "default",
                "is-task": lambda value: value in ("false", "0"),
                "before": lambda value: all(record.created < created for created in before),
                "since": lambda value: all(record.created > created for created in since),
            }
            for name, values in filters.items():
                if name == "label":
                    if not all(_has_label(record.config.labels or {}, value) for value in values):
                        return False
                elif name == "ancestor":
                    if record.image_id not in ancestors and record.config.image not in values:
                        return False
                elif name in ports:
                    have = published if name == "publish" else exposed
                    if not any(port in have for port in ports[name]):
                        return False
                elif values and not any(tests[name](value) for value in values):
                    return False
            return True

        return matches

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters()
        for name in filters:
            if name not in ("until", "label", "label!"):
                raise InvalidParameter(f"invalid filter '{name}'")
        until = min((_until(value) for value in filters.get("until", [])), default=None)

        def matches(container: Container) -> bool:
            labels = container.config.labels or {}
            if until is not None and nanoseconds(container.record.created) > until:
                return False
            if not all(_has_label(labels, value) for value in filters.get("label", [])):
                return False
            return not any(_has_label(labels, value) for value in filters.get("label!", []))

        removed, freed = await self._containers.prune(matches)
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})

    # -- life

    async def start(self, call: Call) -> web.StreamResponse:
        await self._containers.start(call.params["id"])
        return no_content()

    async def stop(self, call: Call) -> web.StreamResponse:
        await self._containers.stop(call.params["id"], _timeout(call), call.text("signal"))
        return no_content()

    async def restart(self, call: Call) -> web.StreamResponse:
        await self._containers.restart(call.params["id"], _timeout(call), call.text("signal"))
        return no_content()

    async def kill(self, call: Call) -> web.StreamResponse:
        await self._containers.kill(call.params["id"], call.text("signal") or "KILL")
        return no_content()

    async def pause(self, call: Call) -> web.StreamResponse:
        await self._containers.pause(call.params["id"])
        return no_content()

    async def unpause(self, call: Call) -> web.StreamResponse:
        await self._containers.unpause(call.params["id"])
        return no_content()

    async def rename(self, call: Call) -> web.StreamResponse:
        self._containers.rename(call.params["id"], call.text("name"))
        return no_content()

    async def update(self, call: Call) -> web.StreamResponse:
        warnings = await self._containers.update(call.params["id"], await call.body(HostConfig))
        return json_response({"Warnings": warnings or None})

    async def resize(self, call: Call) -> web.StreamResponse:
        await self._containers.resize(call.params["id"], call.integer("h"), call.integer("w"))
        return no_content(200)

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.flag("link"):
            await self._containers.remove_link(call.params["id"])
            return no_content()
        await self._containers.remove(call.params["id"], force=call.flag("force"), volumes=call.flag("v"))
        return no_content()

    async def wait(self, call: Call) -> web.StreamResponse:
        condition = call.text("condition") or "not-running"
        if condition not in ("not-running", "next-exit", "removed"):
            raise InvalidParameter(f'invalid condition: "{condition}"')
        container = self._containers.get(call.params["id"])
        # The head goes out at once: `docker run` starts the container only when it knows that the wait has begun.
        waiting = asyncio.ensure_future(self._containers.wait(container.id, condition))
        response = await call.open_stream()
        try:
            code, error = await waiting
        finally:
            waiting.cancel()
        body: dict[str, Any] = {"StatusCode": code}
        if error:
            body["Error"] = {"Message": error}
        with suppress(ConnectionError):
            await response.write(msgspec.json.encode(body) + b"\n")
            await response.write_eof()
        return response

    async def top(self, call: Call) -> web.StreamResponse:
        container, shim = self._containers.running(call.params["id"])
        if container.state.status == "restarting":
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        arguments = call.text("ps_args") or "-ef"
        pids = set(await shim.pids())
        done = await asyncio.to_thread(
            subprocess.run, ["ps", *arguments.split()], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise InvalidParameter(f"ps: {done.stderr.strip()}")
        titles, *rows = done.stdout.splitlines()
        names = titles.split()
        if "PID" not in names:
            raise InvalidParameter("Couldn't find PID field in ps output")
        column = names.index("PID")
        processes = []
        for row in rows:
            fields = row.split(None, len(names) - 1)
            if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
                processes.append(fields)
        return json_response({"Processes": processes, "Titles": names})

    # -- streams

    async def attach(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        if container.state.status == "paused":
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
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

    async def logs(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not stdout and not stderr:
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        if not container.record.log_path:
            raise InvalidParameter("configured logging driver does not support reading")
        tail = call.text("tail") or "all"
        follow, timestamps = call.flag("follow"), call.flag("timestamps")
        details = call.flag("details")
        since, until = _moment(call.text("since")), _moment(call.text("until"))
        tty = container.config.tty
        kind = MULTIPLEXED_STREAM if not tty and call.version >= (1, 42) else RAW_STREAM
        ended = asyncio.Event()
        follower = asyncio.ensure_future(_end_with(container, ended)) if follow else None
        response = await call.open_stream(kind)
        pieces: list[bytes] = []
        size = 0
        try:
            async for entry in read_logs(
                container.record.log_path,
                stdout=stdout,
                stderr=stderr,
                since_ns=since,
                until_ns=until,
                tail=int(tail) if tail.isdigit() else None,
                follow=follow,
                ended=ended,
            ):
                head = f"{timestamp(entry.time_ns)} ".encode() if timestamps else b""
                piece = (head + b" " if details else head) + entry.line
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
            return TakenOver()
        finally:
            if follower is not None:
                follower.cancel()
        return response


async def _end_with(container: Container, ended: asyncio.Event) -> None:
    """Set `ended` when the container does not run any more."""
    if container.state.running or container.state.status == "restarting" or container.state.status == "created":
        await container.exited.wait()
    ended.set()


def frame(entry: LogEntry, data: bytes | None = None) -> bytes:
    """Docker's stdcopy frame: stream, three zeros, length (big endian), payload."""
    payload = entry.line if data is None else data
    return (b"\1" if entry.stream == "stdout" else b"\2") + b"\0\0\0" + len(payload).to_bytes(4, "big") + payload


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


def _timeout(call: Call) -> int | None:
    return call.integer("t") if call.text("t") else None


def _name_fits(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None or re.search(pattern, "/" + name) is not None
    except re.error as error:
        raise InvalidParameter(f"invalid filter 'name={pattern}': {error}") from None


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _moment(text: str) -> int:
    """SECONDS[.FRACTION] or RFC 3339 as UNIX ns; 0 when empty. Raises InvalidParameter."""
    if not text or text == "0":
        return 0
    whole, _, fraction = text.partition(".")
    if whole.lstrip("-").isdigit():
        return int(whole) * 10**9 + int((fraction + "0" * 9)[:9])
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise InvalidParameter(f'invalid value for "since": failed to parse value as time: "{text}"') from None


def _until(text: str) -> int:
    """`--filter until=`: a time, or a duration back from now (10m, 1h30m), as UNIX ns."""
    if re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms))+", text):
        units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        seconds = sum(float(number) * units[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|h|m|s)", text))
        return time.time_ns() - int(seconds * 1e9)
    return _moment(text)
