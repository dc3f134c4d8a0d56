"""Operations on containers."""

import asyncio
import subprocess
from contextlib import suppress
from typing import Any

import msgspec

from dockyard import web
from dockyard.api.container_create import CreateRequest, wanted
from dockyard.api.container_filters import ListMatcher, prune_matcher
from dockyard.api.container_json import inspect_json, list_entries
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.api.streams import while_connected
from dockyard.api.terminal_size import terminal_size
from dockyard.engine.containers.config import HostConfig
from dockyard.engine.containers.container import Container
from dockyard.errors import Conflict, InvalidParameter, SystemFailure

LONGEST_EMPTY_BODY = 7  # that clients send for no body: {} or null, with a line's end


class UpdateRequest(HostConfig, kw_only=True):
    """The body of POST /containers/{id}/update: limits and the restart policy."""


def routes(services: Services) -> list[Route]:
    """Operations on containers."""
    api = Containers(services)
    return [
        Route("GET", "/containers/json", api.list_all),
        Route("POST", "/containers/create", api.create),
        Route("POST", "/containers/prune", api.prune),
        Route("GET", "/containers/{id:path}/json", api.inspect),
        Route("GET", "/containers/{id:path}/top", api.top),
        Route("POST", "/containers/{id:path}/resize", api.resize, without_disk=True),
        Route("POST", "/containers/{id:path}/start", api.start),
        Route("POST", "/containers/{id:path}/stop", api.stop, without_disk=True),
        Route("POST", "/containers/{id:path}/restart", api.restart),
        Route("POST", "/containers/{id:path}/kill", api.kill, without_disk=True),
        Route("POST", "/containers/{id:path}/update", api.update),
        Route("POST", "/containers/{id:path}/rename", api.rename),
        Route("POST", "/containers/{id:path}/pause", api.pause, without_disk=True),
        Route("POST", "/containers/{id:path}/unpause", api.unpause, without_disk=True),
        Route("POST", "/containers/{id:path}/wait", api.wait, without_disk=True),
        Route("DELETE", "/containers/{id:path}", api.remove),
    ]


class Containers:
    """Handlers of the operations on containers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._containers = services.containers

    # -- making and looking

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(CreateRequest)
        if not call.http.has_body:
            raise InvalidParameter("invalid JSON: got EOF while reading request body")
        asked = wanted(body, call.version)
        platform = call.text("platform") if call.version >= (1, 41) else ""
        container = await self._containers.create(
            call.text("name"),
            asked.config,
            asked.host,
            asked.networks,
            platform=platform,
            read_only_once=call.version < (1, 44),
        )
        return json_response({"Id": container.id, "Warnings": [*container.warnings, *asked.warnings]}, 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.params["id"])
        shown = await inspect_json(self._services, container, version=call.version, size=call.flag("size"))
        return json_response(shown)

    async def list_all(self, call: Call) -> web.StreamResponse:
        matches = ListMatcher(self._services, call.filters())
        limit = call.integer("limit", -1)
        every = call.flag("all") or limit > 0 or matches.wants_stopped
        listed = [container for container in self._containers.all() if not container.hidden]
        found = sorted(listed, key=lambda container: container.record.created, reverse=True)
        shown = [container for container in found if (every or container.state.running) and matches(container)]
        if limit > 0:
            shown = shown[:limit]
        return json_response(
            await list_entries(
                self._services,
                shown,
                version=call.version,
                size=call.flag("size"),
                links=self._containers.names_by_links(),
            )
        )

    async def prune(self, call: Call) -> web.StreamResponse:
        removed, freed = await self._containers.prune(prune_matcher(call.filters()))
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})

    # -- life

    async def start(self, call: Call) -> web.StreamResponse:
        length = call.http.length
        if call.http.has_body and (length is None or length > LONGEST_EMPTY_BODY):
            raise InvalidParameter(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )
        name, checkpoint = call.text("checkpoint"), None
        if name and not self._containers.get(call.params["id"]).state.running:
            checkpoint = self._services.checkpoints.find(call.params["id"], name, call.text("checkpoint-dir"))
        await self._containers.start(call.params["id"], checkpoint)
        return no_content()

    async def stop(self, call: Call) -> web.StreamResponse:
        await self._containers.stop(call.params["id"], _timeout(call), _signal(call))
        return no_content()

    async def restart(self, call: Call) -> web.StreamResponse:
        await self._containers.restart(call.params["id"], _timeout(call), _signal(call))
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
        asked = await call.body(UpdateRequest)
        if call.version < (1, 40):
            asked.pids_limit = None
        if call.version >= (1, 42):
            asked.kernel_memory = 0
        warnings = await self._containers.update(call.params["id"], asked)
        return json_response({"Warnings": warnings or None})

    async def resize(self, call: Call) -> web.StreamResponse:
        await self._containers.resize(call.params["id"], *terminal_size(call))
        return no_content(200)

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.flag("link"):
            await self._containers.remove_link(call.params["id"])
            return no_content()
        await self._containers.remove(call.params["id"], force=call.flag("force"), volumes=call.flag("v"))
        return no_content()

    async def wait(self, call: Call) -> web.StreamResponse:
        condition = (call.text("condition") if call.version >= (1, 30) else "") or "not-running"
        if condition not in ("not-running", "next-exit", "removed"):
            raise InvalidParameter(f'invalid condition: "{condition}"')
        container = self._containers.get(call.params["id"])
        return await while_connected(call, self._wait(call, container, condition))

    async def _wait(self, call: Call, container: Container, condition: str) -> web.StreamResponse:
        # The head goes out at once: `docker run` starts the container only when it knows that the wait has begun.
        waiting = asyncio.ensure_future(self._containers.wait(container.id, condition))
        response = await call.open_stream() if call.version >= (1, 30) else None
        try:
            code, error = await waiting
        finally:
            waiting.cancel()
        try:
            await self._services.on_disk()
        except SystemFailure as failure:
            error = error or str(failure)
        response = response or await call.open_stream()
        if error and condition == "removed" and call.version < (1, 34):
            await response.write_eof()  # all that such a client takes for an error is that nothing is said
            return response
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
            raise InvalidParameter(f"ps: {done.stderr.partition(chr(10))[0].strip()}")
        titles, *rows = done.stdout.splitlines()
        names = titles.split()
        if "PID" not in names:
            raise InvalidParameter("Couldn't find PID field in ps output")
        column = names.index("PID")
        self._containers.emit(container, "top")
        processes = []
        for row in rows:
            fields = row.split(None, len(names) - 1)
            if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
                processes.append(fields)
        return json_response({"Processes": processes, "Titles": names})


def _signal(call: Call) -> str:
    """What `stop` and `restart` are to send; versions before 1.42 have no such parameter."""
    return call.text("signal") if call.version >= (1, 42) else ""


def _timeout(call: Call) -> int | None:
    return call.integer("t") if call.text("t") else None
