"""POST /build, /build/prune and /build/cancel: the classic builder."""

import asyncio
from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api import logins
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.api.streams import ProgressStream
from dockyard.builder.builder import Builder
from dockyard.builder.cache.orders import PruneOrder, conditions
from dockyard.builder.doors.classic.options import BuildOptions, check_tags
from dockyard.builder.doors.classic.output import Output
from dockyard.engine.containers.config import HostConfig, Ulimit
from dockyard.oci.manifest import parse_platform

# How soon a build whose client has gone is noticed while it says nothing.
LOOK_AFTER_CLIENT = 1.0


def routes(services: Services) -> list[Route]:
    """Operations of the builder."""
    build = Build(services)
    return [
        Route("POST", "/build", build.build),
        Route("POST", "/build/prune", build.prune),
        Route("POST", "/build/cancel", build.cancel),
    ]


class Build:
    """Handlers of the operations of the builder."""

    def __init__(self, services: Services) -> None:
        self._builder: Builder = services.builder
        self._config = services.system.config
        self._sessions_builds: dict[str, asyncio.Future[str]] = {}

    async def build(self, call: Call) -> web.StreamResponse:
        if call.text("version") == "2":
            return await self._buildkit(call)
        options = _options(call)
        options.squash = call.flag("squash")
        if options.squash and not self._config.experimental:
            raise errors.InvalidParameter("squash is only supported with experimental mode")
        progress = ProgressStream(call)
        quiet = call.flag("q")
        output = Output(progress.send, quiet=quiet, ids=call.version >= (1, 30))
        source = call.text("remote")

        async def work() -> None:
            try:
                image = await self._builder.classic.build(source or call.chunks(), options, output)
            except errors.DockyardError:
                if quiet and output.unsaid:
                    progress.send({"stream": "".join(output.unsaid)})
                raise
            if quiet:
                progress.send({"stream": f"{image.id}\n"})

        building = asyncio.ensure_future(work())
        looking = asyncio.ensure_future(_cancel_when_gone(call, building))
        try:
            return await progress.run(building)
        finally:
            looking.cancel()

    async def _buildkit(self, call: Call) -> web.StreamResponse:
        """BuildKit, for clients without buildx: see builder/doors/buildkit/api_build.py."""
        from dockyard.builder.doors.buildkit.api_build import UPLOAD_REQUEST, exporters_of

        builds = self._builder.api_builds
        build_id = call.text("buildid")
        if build_id.startswith(f"{UPLOAD_REQUEST}:"):
            await builds.upload(build_id, call.chunks())
            return web.Response(200)
        options = _frontend_options(call)
        outputs = _json(call, "outputs", list[dict[str, Any]], "error reading outputs") or []
        exporter = exporters_of(outputs, [tag.full() for tag in check_tags(call.texts("t"))])
        progress = ProgressStream(call)
        remote = call.text("remote")
        work = builds.build(call.text("session"), build_id, options, remote, exporter, progress.send)
        building = asyncio.ensure_future(work)
        looking = asyncio.ensure_future(_cancel_when_gone(call, building))
        self._sessions_builds[build_id] = building
        try:
            return await progress.run(building, errors_in_stream=True)
        finally:
            looking.cancel()
            self._sessions_builds.pop(build_id, None)

    async def prune(self, call: Call) -> web.StreamResponse:
        removed, freed = await self._builder.prune(_prune_order(call))
        return json_response({"CachesDeleted": removed or None, "SpaceReclaimed": freed})

    async def cancel(self, call: Call) -> web.StreamResponse:
        build_id = call.text("id")
        if not build_id:
            raise errors.InvalidParameter("build ID not provided")
        self._builder.classic.cancel(build_id)
        building = self._sessions_builds.get(build_id)
        if building is not None:
            building.cancel()
        return no_content()


async def _cancel_when_gone(call: Call, building: "asyncio.Future[Any]") -> None:
    """A build is worth nothing to a client that has hung up."""
    while not building.done():
        if call.http.gone:
            building.cancel()
            return
        await asyncio.sleep(LOOK_AFTER_CLIENT)


def _options(call: Call) -> BuildOptions:
    """The query and headers as the builder takes them. Raises InvalidParameter."""
    if call.texts("securityopt"):
        raise errors.InvalidParameter("security options are not supported on linux")
    if call.text("outputs") and call.version >= (1, 40):
        raise errors.InvalidParameter("custom outputs require BuildKit")
    platform = call.text("platform") if call.version >= (1, 32) else ""
    if platform and parse_platform(platform).os != "linux":
        raise errors.InvalidParameter("operating system is not supported")
    force_remove = call.flag("forcerm")
    return BuildOptions(
        dockerfile=call.text("dockerfile"),
        tags=check_tags(call.texts("t")),
        arguments=_json(call, "buildargs", dict[str, str | None], "error reading build args") or {},
        labels=_json(call, "labels", dict[str, str], "error reading labels") or {},
        target=call.text("target"),
        platform=platform,
        pull=call.flag("pull"),
        no_cache=call.flag("nocache"),
        remove=force_remove or call.flag("rm", True) or not call.text("rm"),
        force_remove=force_remove,
        cache_from=_json(call, "cachefrom", list[str], "error reading cache-from") or [],
        host=_host(call),
        credentials=logins.for_build(call),
        build_id=call.text("buildid"),
    )


def _prune_order(call: Call) -> PruneOrder:
    """What `POST /build/prune` asks for. Raises InvalidParameter."""
    filters, unused_for = conditions(call.filters())
    return PruneOrder(
        filters,
        unused_for,
        call.flag("all"),
        call.integer("reserved-space") or call.integer("keep-storage"),
        call.integer("max-used-space"),
        call.integer("min-free-space"),
    )


def _frontend_options(call: Call) -> dict[str, str]:
    """The query as options of the frontend (moby, builder-next). Raises InvalidParameter."""
    options: dict[str, str] = {}
    arguments = _json(call, "buildargs", dict[str, str | None], "error reading build args") or {}
    options.update((f"build-arg:{name}", value) for name, value in arguments.items() if value is not None)
    labels = _json(call, "labels", dict[str, str], "error reading labels") or {}
    options.update((f"label:{name}", value) for name, value in labels.items())
    for name, text in (
        ("target", call.text("target")),
        ("filename", call.text("dockerfile")),
        ("platform", call.text("platform")),
        ("force-network-mode", call.text("networkmode")),
        ("cgroup-parent", call.text("cgroupparent")),
        ("shm-size", str(call.integer("shmsize") or "")),
        ("add-hosts", ",".join("=".join(host.split(":", 1)) for host in call.texts("extrahosts"))),
        ("image-resolve-mode", "pull" if call.flag("pull") else ""),
    ):
        if text and (name, text) != ("force-network-mode", "default"):
            options[name] = text
    ulimits = _json(call, "ulimits", list[Ulimit], "error reading ulimit settings") or []
    if ulimits:
        options["ulimit"] = ",".join(f"{one.name}={one.soft}:{one.hard}" for one in ulimits)
    if call.flag("nocache"):
        options["no-cache"] = ""
    cache_from = _json(call, "cachefrom", list[str], "error reading cache-from") or []
    if cache_from:
        options["cache-from"] = ",".join(cache_from)
    return options


def _host(call: Call) -> HostConfig:
    """Limits and networking of the containers of RUN."""
    host = HostConfig(
        network_mode=call.text("networkmode"),
        extra_hosts=call.texts("extrahosts") or None,
        ulimits=_json(call, "ulimits", list[Ulimit], "error reading ulimit settings"),
        cgroup_parent=call.text("cgroupparent"),
        cpuset_cpus=call.text("cpusetcpus"),
        cpuset_mems=call.text("cpusetmems"),
        memory=call.integer("memory"),
        memory_swap=call.integer("memswap"),
        cpu_shares=call.integer("cpushares"),
        cpu_period=call.integer("cpuperiod"),
        cpu_quota=call.integer("cpuquota"),
    )
    if call.integer("shmsize"):
        host.shm_size = call.integer("shmsize")
    return host


def _json(call: Call, name: str, kind: Any, trouble: str) -> Any:
    text = call.text(name)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=kind | None)
    except msgspec.DecodeError as error:
        raise errors.InvalidParameter(f"{trouble}: {error}") from None
