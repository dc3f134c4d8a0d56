"""What goes further than Docker's API, all below /dockyard/: changes, leases and forks (docs/extensions.md)."""

import socket

import msgspec

from dockyard import web
from dockyard.api.archive import STAT_HEADER, send_archive, stat_header
from dockyard.api.router import COMMON_HEADERS, Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.api.streams import RAW_STREAM, ProgressStream, hijack
from dockyard.engine.containers.config import MountSpec, PortBinding
from dockyard.engine.containers.leases import Lease
from dockyard.engine.containers.reconfigure import Changes
from dockyard.engine.repair.fsck import Finding
from dockyard.errors import InvalidParameter
from dockyard.signals import signal_to_send

LONGEST_GRACE = 24 * 3600.0


class ReconfigureRequest(msgspec.Struct, rename="pascal"):
    """The body of POST /dockyard/containers/{id}/reconfigure."""

    publish_add: dict[str, list[PortBinding] | None] | None = None
    publish_remove: list[str] | None = None
    env_add: list[str] | None = None
    env_remove: list[str] | None = None
    mounts_add: list[MountSpec] | None = None
    binds_add: list[str] | None = None
    mounts_remove: list[str] | None = None
    labels_add: dict[str, str] | None = None
    labels_remove: list[str] | None = None


def routes(services: Services) -> list[Route]:
    """Operations that Docker does not have."""
    api = Extensions(services)
    return [
        Route("POST", "/dockyard/containers/{id}/reconfigure", api.reconfigure),
        Route("POST", "/dockyard/containers/{id}/fork", api.fork),
        Route("POST", "/dockyard/exec/{id}/kill", api.kill_exec),
        Route("POST", "/dockyard/leases", api.lease),
        Route("GET", "/dockyard/fsck", api.check),
        Route("POST", "/dockyard/fsck", api.repair),
        Route("POST", "/dockyard/import-docker", api.import_docker),
        Route("HEAD", "/dockyard/archive", api.stat_files),
        Route("GET", "/dockyard/archive", api.read_files),
        Route("PUT", "/dockyard/archive", api.write_files),
        Route("GET", "/dockyard/glob", api.glob),
        Route("GET", "/dockyard/networks/explain", api.explain),
    ]


class Extensions:
    """Handlers of these operations."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def reconfigure(self, call: Call) -> web.StreamResponse:
        asked = await call.body(ReconfigureRequest)
        restarted = await self._services.reconfigurer.change(
            call.params["id"],
            Changes(
                publish_add={port: bindings or [PortBinding()] for port, bindings in (asked.publish_add or {}).items()},
                publish_remove=asked.publish_remove or [],
                env_add=asked.env_add or [],
                env_remove=asked.env_remove or [],
                mounts_add=asked.mounts_add or [],
                binds_add=asked.binds_add or [],
                mounts_remove=asked.mounts_remove or [],
                labels_add=asked.labels_add or {},
                labels_remove=asked.labels_remove or [],
            ),
        )
        return json_response({"Restarted": restarted})

    async def explain(self, call: Call) -> web.StreamResponse:
        """The ways of packets: of the container `of`, or of the host port that it is ("8080", "53/udp")."""
        asked = call.text("of")
        number, _, protocol = asked.partition("/")
        if number.isascii() and number.isdigit() and len(number) < 6:
            paths = self._services.networks.explain_port(int(number), protocol or "tcp")
        else:
            paths = self._services.networks.explain(self._services.containers.get(asked).id)
        return json_response(paths)

    async def kill_exec(self, call: Call) -> web.StreamResponse:
        await self._services.execs.signal(call.params["id"], signal_to_send(call.text("signal") or "KILL"))
        return no_content()

    async def import_docker(self, call: Call) -> web.StreamResponse:
        progress = ProgressStream(call)
        path = call.text("path")
        if not path.startswith("/"):
            raise InvalidParameter("the path of Docker's data root must be absolute")
        work = self._services.docker_import.run(path, lambda line: progress.send({"status": line}))
        return await progress.run(work, errors_in_stream=True)

    async def fork(self, call: Call) -> web.StreamResponse:
        start = call.flag("start") if call.text("start") else None
        memory = call.flag("memory") if call.text("memory") else None
        forked = await self._services.forks.fork(call.params["id"], call.text("name"), start=start, memory=memory)
        answer = {
            "Id": forked.container.id,
            "Warnings": forked.warnings,
            "Memory": forked.memory,
            "StoppedMilliseconds": round(forked.stopped * 1000, 1),
        }
        return json_response(answer, 201)

    async def lease(self, call: Call) -> web.StreamResponse:
        """The answer is one line of JSON; then the connection stays, and is the lease."""
        try:
            grace = float(call.text("grace") or 0)
        except ValueError:
            raise InvalidParameter(f"invalid grace: {call.text('grace')}: want seconds") from None
        if not 0 <= grace <= LONGEST_GRACE:
            raise InvalidParameter(f"invalid grace: {grace}: want seconds up to a day")
        leases = self._services.leases
        lease: Lease = leases.take(call.text("id"), grace)
        try:
            await self._services.on_disk()
            fd, response = await hijack(call, RAW_STREAM)
        except BaseException:
            leases.let_go(lease)
            raise
        connection = socket.socket(fileno=fd)
        leases.keep(lease, connection, msgspec.json.encode({"Id": lease.id}) + b"\n")
        return response

    # -- damage in the data root

    async def check(self, call: Call) -> web.StreamResponse:
        return _findings(await self._services.fsck.check(content=call.flag("content")))

    async def repair(self, call: Call) -> web.StreamResponse:
        return _findings(await self._services.fsck.repair(content=call.flag("content")))

    # -- files of containers and volumes: `of` is a container, or volume:NAME

    async def stat_files(self, call: Call) -> web.StreamResponse:
        found = await self._services.archive.stat(call.text("of"), call.text("path") or "/")
        return web.Response(headers={STAT_HEADER: stat_header(found)})

    async def read_files(self, call: Call) -> web.StreamResponse:
        reading = self._services.archive.read(call.text("of"), call.text("path") or "/", name=call.text("name"))
        async with reading as (found, pieces):
            return await send_archive(call, pieces, {STAT_HEADER: stat_header(found)})

    async def write_files(self, call: Call) -> web.StreamResponse:
        await self._services.archive.write(
            call.text("of"),
            call.text("path") or "/",
            call.chunks(),
            keep_directories=call.flag("noOverwriteDirNonDir"),
            take_owner=call.flag("copyUIDGID"),
        )
        return web.Response(headers=COMMON_HEADERS)

    async def glob(self, call: Call) -> web.StreamResponse:
        return json_response({"Matches": await self._services.archive.glob(call.text("of"), call.text("path"))})


def _findings(found: list[Finding]) -> web.Response:
    rows = [
        {
            "Kind": finding.kind,
            "Name": finding.name,
            "Problem": finding.problem,
            "Remedy": finding.remedy,
            "Mendable": finding.mend is not None or finding.kind == "lost",
            "Mended": finding.mended,
        }
        for finding in found
    ]
    return json_response({"Findings": rows})
