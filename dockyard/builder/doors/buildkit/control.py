"""moby.buildkit.v1.Control and the gateway's LLBBridge: what clients call on `/grpc`.

buildx drives a build from its side: it asks Control to Solve without saying what, asks the bridge to solve a Dockerfile
(which converts it into a graph), and Returns what it got from that; only then is it built and exported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from dockyard.builder.cache.filters import matcher
from dockyard.builder.cache.orders import PruneOrder
from dockyard.builder.cache.usage import CacheEntry, CacheUsage
from dockyard.builder.doors.buildkit.build import Build
from dockyard.builder.doors.buildkit.caches import import_caches
from dockyard.builder.doors.buildkit.capabilities import FRONTEND_CAPABILITIES, LLB_CAPABILITIES
from dockyard.builder.doors.buildkit.content import PIECE
from dockyard.builder.doors.buildkit.content import SERVICE as CONTENT
from dockyard.builder.doors.buildkit.definitions import name_in
from dockyard.builder.doors.buildkit.exports import check_wishes, export_all
from dockyard.builder.doors.buildkit.failures import explain, of_build
from dockyard.builder.doors.buildkit.history import History
from dockyard.builder.doors.buildkit.llb.resolving import resolved
from dockyard.builder.doors.buildkit.llb.sources import Sources
from dockyard.builder.doors.buildkit.llb.translation import Translation
from dockyard.builder.doors.buildkit.options import CacheEntry as CacheExport
from dockyard.builder.doors.buildkit.options import cache_entries
from dockyard.builder.doors.buildkit.policies import policy_of
from dockyard.builder.doors.buildkit.reports import history_of, response_of, usage_of
from dockyard.builder.doors.buildkit.results import IMAGE_CONFIG, dated, returned_results
from dockyard.builder.doors.buildkit.sending import stat_of
from dockyard.builder.doors.buildkit.session import Session, Sessions
from dockyard.builder.doors.buildkit.subrequests import answer
from dockyard.builder.doors.buildkit.traces import trace_of
from dockyard.builder.exec.emulation import emulated, native
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.solver import Solver
from dockyard.builder.source_policy import IMAGE, SourcePolicy
from dockyard.builder.sources.contexts import ContextStore
from dockyard.builder.trees import File
from dockyard.buildkit import wire_pb2 as wire
from dockyard.dockerfile.dockerignore import match
from dockyard.engine.images.documents import encode_config
from dockyard.errors import InvalidParameter
from dockyard.generators import closing
from dockyard.grpc import status
from dockyard.grpc.calls import Method, Methods, request_of
from dockyard.grpc.connection import Connection, Stream, StreamReset
from dockyard.grpc.status import CallFailed
from dockyard.grpc.tunnel import Tunnel
from dockyard.oci.digest import digest_of
from dockyard.oci.manifest import parse_platform
from dockyard.oci.reference import Reference
from dockyard.version import VERSION

log = logging.getLogger("dockyard.builder")

CONTROL = "/moby.buildkit.v1.Control/"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
LARGEST_FILE = 15 << 20  # bytes that go in one message
BUILD_ID = "buildkit-controlapi-buildid"
SESSION_HEADER = "x-docker-expose-session-"
PATIENCE = 10.0  # s that a call waits for the build that it belongs to
KEPT_BUILDS = 50

Unary = Callable[[Stream, bytes], Awaitable[bytes]]


class Control:
    """The services, for any number of clients."""

    def __init__(
        self,
        solver: Solver,
        contexts: ContextStore,
        usage: CacheUsage,
        host_gateways: Callable[[], Sequence[str]],
        refused: Collection[str],
    ) -> None:
        """`host_gateways`: the addresses that host-gateway stands for, which clients put in its place.

        `refused`: entitlements that no build is granted.
        """
        self._host_gateways = host_gateways
        self._refused = refused
        self.solver = solver
        self.contexts = contexts
        self.usage = usage
        self.sessions = Sessions()
        self.history = History(solver.folder / "history")
        self._builds: dict[str, Build] = {}
        self._connections: set[Connection] = set()
        self._changed = asyncio.Condition()
        unary: dict[str, Unary] = {
            f"{CONTROL}Solve": self._solve,
            f"{CONTROL}ListWorkers": self._list_workers,
            f"{CONTROL}Info": self._info,
            f"{CONTROL}DiskUsage": self._disk_usage,
            f"{CONTROL}UpdateBuildHistory": self._update_history,
            f"{BRIDGE}Ping": self._ping,
            f"{BRIDGE}Solve": self._convert,
            f"{BRIDGE}Return": self._return,
            f"{BRIDGE}ResolveImageConfig": self._resolve_image,
            f"{BRIDGE}ResolveSourceMeta": self._resolve_source,
            f"{BRIDGE}Inputs": self._inputs,
            f"{BRIDGE}Evaluate": self._evaluate,
            f"{BRIDGE}ReadFile": self._read_file,
            f"{BRIDGE}StatFile": self._stat_file,
            f"{BRIDGE}ReadDir": self._read_dir,
            f"{BRIDGE}Warn": self._nothing,
            "/grpc.health.v1.Health/Check": self._healthy,
            f"{CONTENT}Info": self._content_info,
        }
        methods: dict[str, Method] = {path: _unary(method) for path, method in unary.items()}
        methods[f"{CONTROL}Status"] = self._status
        methods[f"{CONTROL}Session"] = self._session
        methods[f"{CONTENT}Read"] = self._content
        methods[f"{CONTROL}Prune"] = self._prune
        methods[f"{CONTROL}ListenBuildHistory"] = self._listen_history
        self.methods = Methods(methods, explain)

    async def close(self) -> None:
        """End what is under way."""
        self.sessions.close()
        for connection in list(self._connections):
            connection.close()
        builds = [build.job.close() for build in self._builds.values() if not build.ended]
        await asyncio.gather(*builds, return_exceptions=True)

    def connection(self) -> Connection:
        """The protocol of a client that has asked for `/grpc`."""
        made = Connection(self.methods.accept)
        self._connections.add(made)
        made.closed.add_done_callback(lambda _: self._connections.discard(made))
        return made

    # -- builds

    async def _build(self, ref: str) -> Build:
        try:
            async with asyncio.timeout(PATIENCE), self._changed:
                await self._changed.wait_for(lambda: ref in self._builds)
        except TimeoutError:
            raise CallFailed(status.NOT_FOUND, f"no such job {ref}") from None
        return self._builds[ref]

    async def _build_of(self, stream: Stream) -> Build:
        ref = stream.headers.get(BUILD_ID, "")
        if not ref:
            raise CallFailed(status.INVALID_ARGUMENT, "no buildid found in context")
        return await self._build(ref)

    def check_granted(self, entitlements: Iterable[str]) -> None:
        """Raise InvalidParameter for what this daemon grants to no build."""
        for one in entitlements:
            if one in self._refused:
                raise InvalidParameter(f"granting entitlement {one} is not allowed by build daemon configuration")

    async def _solve(self, stream: Stream, message: bytes) -> bytes:
        request = wire.ControlSolveRequest.FromString(message)
        if not request.ref or (request.ref in self._builds and not self._builds[request.ref].ended):
            raise CallFailed(status.ALREADY_EXISTS, f"job ID {request.ref} exists")
        options = dict(request.frontend_attrs)
        build = Build(self, request.ref, request.session, options, list(request.entitlements))
        build.internal = request.internal
        build.job.policy = policy_of([request.source_policy])
        build.job.open_source = Sources(build.job, lambda name: None).open
        self._builds[request.ref] = build
        async with self._changed:
            self._changed.notify_all()
        while len(self._builds) > KEPT_BUILDS:
            ended = (ref for ref, other in self._builds.items() if other.ended and not other.pinned)
            oldest = next(ended, None)
            if oldest is None:
                break
            del self._builds[oldest]
        try:
            told = await self._built_and_exported(build, request)
        except CallFailed as failure:
            build.failure = failure
            raise
        except Exception as error:
            build.failure = of_build(error, build)
            raise build.failure from error
        else:
            build.told = told = {**build.told, **told}
        finally:
            await build.close()
            if not build.internal:
                told_of = (history_of(build), response_of(build.progress.events), build.said())
                self.solver.beside(asyncio.to_thread(self.history.keep, *told_of))
        return wire.ControlSolveResponse(exporter_response=told).SerializeToString()

    async def _built_and_exported(self, build: Build, request: wire.ControlSolveRequest) -> dict[str, str]:
        build.exporters = list(request.exporters)
        if not build.exporters and request.exporter:
            build.exporters = [wire.Exporter(type=request.exporter, attrs=request.exporter_attrs)]
        exporters = [(exporter.type, dict(exporter.attrs)) for exporter in build.exporters]
        caches = cache_entries(request.cache.exports)
        if any(cache.type == "inline" for cache in caches):
            exporters = [(kind, {**attributes, "inline-cache": "1"}) for kind, attributes in exporters]
        caches = [cache for cache in caches if cache.type != "inline"]
        self.check_granted(request.entitlements)
        check_wishes(build.options, caches)
        build.inputs = dict(request.frontend_inputs)
        if request.frontend:
            inputs = {name: await self._input(build, one) for name, one in request.frontend_inputs.items()}
            found = await build.convert(request.frontend, build.options, inputs)
        elif request.HasField("definition"):
            await import_caches(build.job, cache_entries(request.cache.imports))
            built = await self._defined(build, request.definition)
            found = {built.platform: built}
        else:
            found = await build.returned
        return await self.finish(build, dated(found, build.options), exporters, caches)

    async def run_build(
        self,
        build: Build,
        frontend: str,
        exporters: Sequence[tuple[str, Mapping[str, str]]],
        caches: Sequence[CacheExport] = (),
    ) -> dict[str, str]:
        """Build what the frontend makes of the build's options; what the client is to be told."""
        return await self.finish(build, await build.convert(frontend, build.options, {}), exporters, caches)

    async def finish(
        self,
        build: Build,
        found: Mapping[str, Built],
        exporters: Sequence[tuple[str, Mapping[str, str]]],
        caches: Sequence[CacheExport] = (),
    ) -> dict[str, str]:
        """Do what the results need, and export them; what the client is to be told."""
        for built in found.values():
            build.job.announce(built.vertex)
        for built in found.values():
            await build.job.here(built.vertex)
        told = await export_all(build, found, exporters, caches)
        self.solver.beside(self.usage.collect())
        return told

    async def _status(self, stream: Stream) -> None:
        request = wire.StatusRequest.FromString(await request_of(stream))
        if request.ref not in self._builds and (told := self.history.told(request.ref)) is not None:
            await stream.send(told.SerializeToString())
            return
        build = await self._build(request.ref)
        async with closing(build.progress.follow()) as batches:
            async for batch in batches:
                await stream.send(response_of(batch).SerializeToString())

    async def _session(self, stream: Stream) -> None:
        """A session inside a call: one that several builds share."""
        connection = Connection()
        tunnel = Tunnel(
            stream,
            connection,
            lambda data: wire.Bytes(data=data).SerializeToString(),
            lambda message: wire.Bytes.FromString(message).data,
        )
        headers = stream.headers
        session = Session(
            connection,
            headers.get(f"{SESSION_HEADER}uuid", ""),
            headers.get(f"{SESSION_HEADER}sharedkey", ""),
            headers.get(f"{SESSION_HEADER}grpc-method", "").split(","),
        )
        await asyncio.gather(tunnel.run(), self.sessions.serve(session))

    # -- what was said about builds

    def _said(self, digest: str) -> bytes:
        """Provenance, and errors with all that is known of them."""
        for build in self._builds.values():
            for content in build.said():
                if digest_of(content) == digest:
                    return content
        if (kept := self.history.said(digest)) is not None:
            return kept
        raise CallFailed(status.NOT_FOUND, f"content {digest}: not found")

    async def _content_info(self, stream: Stream, message: bytes) -> bytes:
        digest = wire.ContentInfoRequest.FromString(message).digest
        info = wire.ContentInfo(digest=digest, size=len(self._said(digest)))
        return wire.ContentInfoResponse(info=info).SerializeToString()

    async def _content(self, stream: Stream) -> None:
        request = wire.ReadContentRequest.FromString(await request_of(stream))
        content = self._said(request.digest)
        end = request.offset + request.size if request.size else len(content)
        for place in range(request.offset, min(end, len(content)), PIECE):
            data = content[place : min(place + PIECE, end)]
            await stream.send(wire.ReadContentResponse(offset=place, data=data).SerializeToString())

    # -- what the engine is

    def worker(self) -> wire.Worker:
        """What builds run on: this host."""
        return wire.Worker(
            id="dockyard",
            labels={
                "org.mobyproject.buildkit.worker.executor": "dockyard",
                # by which buildx knows that archives can be written, and images pushed, from here
                "org.mobyproject.buildkit.worker.snapshotter": self.solver.layers.driver.name,
                "org.mobyproject.buildkit.worker.moby.host-gateway-ip": ",".join(self._host_gateways()),
            },
            platforms=[
                wire.Platform(architecture=one.architecture, os=one.os, variant=one.variant)
                for one in (*native(), *emulated())
            ],
            version=self.version(),
        )

    @staticmethod
    def version() -> wire.BuildkitVersion:
        """What we speak like."""
        return wire.BuildkitVersion(package="dockyard", version=f"v0.25.1+dockyard.{VERSION}", revision="")

    async def _list_workers(self, stream: Stream, message: bytes) -> bytes:
        return wire.ListWorkersResponse(record=[self.worker()]).SerializeToString()

    async def _info(self, stream: Stream, message: bytes) -> bytes:
        return wire.InfoResponse(version=self.version()).SerializeToString()

    async def _disk_usage(self, stream: Stream, message: bytes) -> bytes:
        request = wire.DiskUsageRequest.FromString(message)
        wanted = matcher(list(request.filter))
        entries = [entry for entry in reversed(await self.usage.entries()) if wanted(entry)]
        return wire.DiskUsageResponse(record=[usage_of(entry) for entry in entries]).SerializeToString()

    async def _prune(self, stream: Stream) -> None:
        request = wire.PruneRequest.FromString(await request_of(stream))
        gone: list[CacheEntry] = []
        order = PruneOrder(
            list(request.filter),
            request.keep_duration / 1e9,
            request.all,
            request.reserved_space,
            request.max_used_space,
            request.min_free_space,
        )
        await self.usage.prune(order, gone.append)
        for entry in gone:
            await stream.send(usage_of(entry).SerializeToString())

    async def _listen_history(self, stream: Stream) -> None:
        request = wire.HistoryRequest.FromString(await request_of(stream))
        known = [] if request.active_only else [one for one in self.history.records() if one.ref not in self._builds]
        here = [build for build in self._builds.values() if not build.internal]
        here = [build for build in here if not (request.active_only and build.ended)]
        for build in here:
            if request.ref in ("", build.ref):
                await build.tell_provenance()
        for record in [*known, *map(history_of, here)]:
            if request.ref in ("", record.ref):
                event = wire.HistoryEvent(type=1 if record.completed_at.seconds else 0, record=record)
                await stream.send(event.SerializeToString())
        if not request.early_exit:
            await stream.receive()  # what comes from here on is told to those who ask again

    async def _update_history(self, stream: Stream, message: bytes) -> bytes:
        request = wire.UpdateHistoryRequest.FromString(message)
        build, record = self._builds.get(request.ref), self.history.record(request.ref)
        if build is None and record is None:
            raise CallFailed(status.NOT_FOUND, f"no build record {request.ref}")
        if request.finalize and not (request.pinned or request.delete):
            await self._trace(build, record)
        elif request.delete:
            if build is None or build.ended:
                self._builds.pop(request.ref, None)
                self.history.remove(request.ref)
        else:
            if build is not None:
                build.pinned = request.pinned
            if record is not None:
                self.history.pin(record, pinned=request.pinned)
        return b""

    async def _trace(self, build: Build | None, record: wire.HistoryRecord | None) -> None:
        """Have a trace of a build that has ended, for whoever asks for its record."""
        if build is not None and build.ended and not build.trace:
            build.trace = trace_of(history_of(build), response_of(build.progress.events))
        told = self.history.told(record.ref) if record is not None and not record.trace.digest else None
        if record is not None and told is not None:
            await asyncio.to_thread(self.history.add_trace, record, trace_of(record, told))

    async def _healthy(self, stream: Stream, message: bytes) -> bytes:
        return b"\x08\x01"  # HealthCheckResponse: SERVING

    async def _nothing(self, stream: Stream, message: bytes) -> bytes:
        return b""

    # -- the gateway

    async def _ping(self, stream: Stream, message: bytes) -> bytes:
        return wire.PongResponse(
            frontend=[wire.Capability(id=name, enabled=True) for name in FRONTEND_CAPABILITIES],
            llb=[wire.Capability(id=name, enabled=True) for name in LLB_CAPABILITIES],
            workers=[self.worker()],
        ).SerializeToString()

    async def _convert(self, stream: Stream, message: bytes) -> bytes:
        build = await self._build_of(stream)
        if build.ended:  # (it would be waited for a session that is gone)
            raise CallFailed(status.NOT_FOUND, f"no such job {build.ref}")
        request = wire.SolveRequest.FromString(message)
        try:
            frontend, options = request.frontend or "dockerfile.v0", dict(request.frontend_opt)
            if options.get("requestid"):
                inputs = {name: await self._input(build, one) for name, one in request.frontend_inputs.items()}
                told = await answer(build, options, frontend, inputs)
                return wire.SolveResponse(result=wire.Result(ref=wire.Ref(), metadata=told)).SerializeToString()
            if request.HasField("definition") and request.definition.ops:
                policy = policy_of(request.source_policies)
                await import_caches(build.job, cache_entries(request.cache_imports))
                built = await self._defined(build, request.definition, policy)
                if request.evaluate:
                    await build.job.rootfs(built.vertex)
                return wire.SolveResponse(result=wire.Result(ref=build.remember(built))).SerializeToString()
            if not request.frontend:  # nothing is asked for, and that is what comes
                return wire.SolveResponse(result=wire.Result(ref=wire.Ref())).SerializeToString()
            inputs = {name: await self._input(build, one) for name, one in request.frontend_inputs.items()}
            found = await build.convert(frontend, options, inputs)
            if request.evaluate:
                for built in found.values():
                    await build.job.rootfs(built.vertex)
        except Exception as error:
            raise of_build(error, build) from error
        result = wire.Result()
        if len(found) == 1 and "," not in request.frontend_opt.get("platform", ""):
            built = next(iter(found.values()))
            result.ref.CopyFrom(build.remember(built))
            result.metadata[IMAGE_CONFIG] = encode_config(built.config)
        else:
            for platform, built in found.items():
                result.refs.refs[platform].CopyFrom(build.remember(built))
                result.metadata[f"{IMAGE_CONFIG}/{platform}"] = encode_config(built.config)
            result.metadata["refs.platforms"] = _platforms(found)
        return wire.SolveResponse(result=result).SerializeToString()

    async def _defined(self, build: Build, definition: wire.Definition, policy: SourcePolicy | None = None) -> Built:
        """What a definition means: the result of a build, or what it describes. Raises InvalidParameter."""

        def result(name: str) -> Built | None:
            for other in self._builds.values():
                if name in other.built:
                    if other is not build:
                        build.job.go_on_from(other.job)
                    return other.built[name]
            return None

        build.note_places(definition)
        wanted = name_in(definition) if len(definition.ops) == 2 else None
        found = result(wanted) if wanted is not None else None
        if found is not None:
            return found
        made = build.vertices if not policy else {}
        return await Translation(definition, build.job, result, made, build.entitlements, policy).built()

    async def _input(self, build: Build, definition: wire.Definition) -> Built:
        if not definition.ops:
            raise InvalidParameter("invalid nil input definition to definition op")
        return await self._defined(build, definition)

    @asynccontextmanager
    async def _look(self, stream: Stream, ref: str, path: str) -> AsyncIterator[File]:
        """A file of a result, for as long as it is looked at."""
        build = await self._build_of(stream)
        built = build.built.get(ref)
        if built is None:
            raise CallFailed(status.NOT_FOUND, "no such ref")
        try:
            rootfs = await build.job.rootfs(built.vertex)
        except Exception as error:
            raise of_build(error, build) from error
        async with self.solver.tree(rootfs) as tree:
            found = tree.find(path.strip("/")) if tree is not None else None
            if found is None:
                raise CallFailed(status.NOT_FOUND, f"{path}: no such file or directory")
            yield found

    async def _read_file(self, stream: Stream, message: bytes) -> bytes:
        request = wire.ReadFileRequest.FromString(message)
        async with self._look(stream, request.ref, request.path) as file:
            return wire.ReadFileResponse(data=await asyncio.to_thread(_content, file, request)).SerializeToString()

    async def _stat_file(self, stream: Stream, message: bytes) -> bytes:
        request = wire.StatFileRequest.FromString(message)
        async with self._look(stream, request.ref, request.path) as file:
            stat = stat_of(posixpath.basename(request.path), file, None)
            return wire.StatFileResponse(stat=stat).SerializeToString()

    async def _read_dir(self, stream: Stream, message: bytes) -> bytes:
        request = wire.ReadDirRequest.FromString(message)
        async with self._look(stream, request.ref, request.path) as file:
            found = [
                stat_of(name, one, None)
                for name, one in sorted(file.children().items())
                if not request.include or match(request.include, name)
            ]
            return wire.ReadDirResponse(entries=found).SerializeToString()

    async def _return(self, stream: Stream, message: bytes) -> bytes:
        build = await self._build_of(stream)
        request = wire.ReturnRequest.FromString(message)
        if build.returned.done():
            return b""
        if request.HasField("error") and request.error.code:
            failure = CallFailed(request.error.code, request.error.message, request.error.SerializeToString())
            build.returned.set_exception(failure)
            return b""
        nothing = await self._defined(build, wire.Definition())
        try:
            build.returned.set_result(returned_results(build, request.result, nothing))
        except InvalidParameter as error:
            build.returned.set_exception(error)
        return b""

    async def _resolve_image(self, stream: Stream, message: bytes) -> bytes:
        request = wire.ResolveImageConfigRequest.FromString(message)
        build = await self._build_of(stream)
        policy = policy_of(request.source_policies)
        asked = f"{IMAGE}{Reference.parse(request.ref).or_latest().full()}"
        found = await resolved(build, asked, {}, request.platform, request.resolve_mode, policy)
        return wire.ResolveImageConfigResponse(
            digest=found.image.digest, config=found.image.config, ref=found.source.identifier.removeprefix(IMAGE)
        ).SerializeToString()

    async def _resolve_source(self, stream: Stream, message: bytes) -> bytes:
        request = wire.ResolveSourceRequest.FromString(message)
        build, source = await self._build_of(stream), request.source
        policy = policy_of(request.source_policies)
        asked = (source.identifier, dict(source.attrs), request.platform, request.resolve_mode)
        return (await resolved(build, *asked, policy)).SerializeToString()

    async def _inputs(self, stream: Stream, message: bytes) -> bytes:
        build = await self._build_of(stream)
        return wire.InputsResponse(definitions=build.inputs).SerializeToString()

    async def _evaluate(self, stream: Stream, message: bytes) -> bytes:
        build = await self._build_of(stream)
        built = build.built.get(wire.EvaluateRequest.FromString(message).ref)
        if built is None:
            raise CallFailed(status.NOT_FOUND, "no such ref")
        try:
            await build.job.rootfs(built.vertex)
        except Exception as error:
            raise of_build(error, build) from error
        return b""


def _content(file: File, request: wire.ReadFileRequest) -> bytes:
    """A file's content, or the part of it that is asked for. Raises CallFailed."""
    if file.directory or file.entry.size > LARGEST_FILE:
        raise CallFailed(status.INVALID_ARGUMENT, f"{request.path} is a directory, or too large")
    content = b"".join(file.read())
    part = request.range
    return content[part.offset : part.offset + part.length] if part.length or part.offset else content


def _platforms(found: Mapping[str, Built]) -> bytes:
    """Which result is for which platform (exporter/containerimage/exptypes, Platforms)."""
    rows = []
    for name in found:
        platform = parse_platform(name)
        fields = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
        rows.append({"ID": name, "Platform": {key: value for key, value in fields.items() if value}})
    return json.dumps({"Platforms": rows}).encode()


def _unary(method: Unary) -> Method:
    """A method with one message there and one back, given up when the client gives the call up."""

    async def serve(stream: Stream) -> None:
        message = await request_of(stream)
        work: asyncio.Future[bytes] = asyncio.ensure_future(method(stream, message))

        def ended() -> None:
            if stream.failure is not None:
                work.cancel()

        stream.on_end = ended
        ended()
        try:
            answer = await work
        except asyncio.CancelledError:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            if stream.failure is not None:
                raise StreamReset(str(stream.failure)) from None
            raise
        await stream.send(answer)

    return serve
