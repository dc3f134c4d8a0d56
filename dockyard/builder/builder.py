"""The builder: from a context and a Dockerfile to an image, stage by stage.

    Builder        the service; knows the engine's images, layers and containers, and all builds under way
    Build          one build: its context, its options, what it has made so far
    Steps          (steps.py) what the instructions do

Stages form a graph (stages.py) and a stage depends only on those it names; they are built one after another, in
the order of the Dockerfile, because the classic output numbers them so.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import msgspec

from dockyard.builder import context as contexts
from dockyard.builder import stages
from dockyard.builder.arguments import Arguments
from dockyard.builder.cache.records import StepCache
from dockyard.builder.cache.usage import CacheUsage, PruneOrder
from dockyard.builder.context import Context
from dockyard.builder.exec.cache_mounts import CacheMounts
from dockyard.builder.exec.run import Runner
from dockyard.builder.graph.solver import Solver
from dockyard.builder.image_cache import BuildCache, CacheSources, key_of
from dockyard.builder.layer_plan import LayerPlan, Source
from dockyard.builder.sources.contexts import ContextStore
from dockyard.builder.squashing import squashed
from dockyard.builder.stages import Stage
from dockyard.builder.steps import StageState, Steps, base_config
from dockyard.builder.trees import ArchiveFile, ArchiveTree, DirectoryTree
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.instructions import Pairs
from dockyard.dockerfile.substitution import expand
from dockyard.engine.containers.config import HostConfig
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.events.service import Events
from dockyard.engine.images.image import Image, ImageUser
from dockyard.engine.images.layer_store import EMPTY, Layer, LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.state.database import Database
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound
from dockyard.folders import own_folder
from dockyard.generators import from_thread
from dockyard.oci.image_config import ContainerConfig, History, ImageConfig
from dockyard.oci.manifest import parse_platform
from dockyard.oci.reference import Reference
from dockyard.timestamps import timestamp

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.api_build import ApiBuilds
    from dockyard.builder.doors.buildkit.control import Control
    from dockyard.content.registry_auth import Credentials

log = logging.getLogger("dockyard.builder")

R = TypeVar("R")
SCRATCH = "scratch"
RED, PLAIN = "\x1b[91m", "\x1b[0m"


@dataclass(slots=True)
class BuildOptions:
    """What a client may say about a build. `platform`: {BUILDPLATFORM: …, TARGETARCH: …}."""

    dockerfile: str = ""
    tags: Sequence[Reference] = ()
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    pull: bool = False
    no_cache: bool = False
    remove: bool = True
    force_remove: bool = False
    cache_from: Sequence[str] = ()
    host: HostConfig = field(default_factory=HostConfig)
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    build_id: str = ""
    squash: bool = False


class Output:
    """Where a build tells how it goes. `send` takes one message of the API's stream; `ids`: images are told, too."""

    def __init__(self, send: Callable[[dict[str, Any]], None], *, quiet: bool = False, ids: bool = True) -> None:
        self._send = send
        self._quiet = quiet
        self._ids = ids
        self.unsaid: list[str] = []

    def text(self, text: str) -> None:
        """A piece of the log."""
        if self._quiet:
            self.unsaid.append(text)
        else:
            self._send({"stream": text})

    def message(self, message: dict[str, Any]) -> None:
        """Any other message: a pull's progress, an image's ID."""
        if not self._quiet:
            self._send(message)

    def image(self, image_id: str) -> None:
        """What has been built."""
        if self._ids:
            self.message({"aux": {"ID": image_id}})


class Builder:
    """Builds images."""

    def __init__(
        self,
        images: ImageService,
        layers: LayerStore,
        container_layers: ContainerLayers,
        runner: Runner,
        database: Database,
        events: Events,
        root: str | Path,
        architecture: str,
        steps: StepCache,
        exec_folder: Path,
        host_gateways: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`root` is a directory for what builds keep; `architecture` in Go's words; `steps`: what is known of old.

        `exec_folder` is on a tmpfs, for what must not reach the disk. `host_gateways`: what host-gateway stands for.
        """
        self._host_gateways = host_gateways
        self.images = images
        self.layers = layers
        self.container_layers = container_layers
        self.runner = runner
        self.cache = BuildCache(images, database)
        self.folder = own_folder(root)
        self.architecture = architecture
        self._events = events
        self.solver = Solver(
            images,
            layers,
            container_layers,
            steps,
            runner,
            CacheMounts(database, self.folder / "cache-mounts"),
            self.folder,
            exec_folder,
        )
        self.contexts = ContextStore(self.folder / "contexts")
        self.usage = CacheUsage(
            steps, self.solver.cache_mounts, self.contexts, layers, self._held_layers, self._image_layers
        )
        self._control: Control | None = None
        self._api_builds: ApiBuilds | None = None
        self._under_way: dict[str, tuple[Build, asyncio.Task[Any] | None]] = {}
        images.users.append(self._users)

    @property
    def control(self) -> Control:
        """BuildKit's door, opened when someone comes: what it needs takes a while to import."""
        if self._control is None:
            from dockyard.builder.doors.buildkit.control import Control

            self._control = Control(self.solver, self.contexts, self.usage, self._host_gateways)
        return self._control

    @property
    def api_builds(self) -> ApiBuilds:
        """The same door for clients that come through `/build`."""
        if self._api_builds is None:
            from dockyard.builder.doors.buildkit.api_build import ApiBuilds

            self._api_builds = ApiBuilds(self.control)
        return self._api_builds

    def _users(self, image_id: str) -> Sequence[ImageUser]:
        """Builds under way keep what they have made and stand on."""
        return [ImageUser(name, True) for name, (build, _) in self._under_way.items() if image_id in build.in_use]

    async def build(self, source: AsyncIterator[bytes] | str, options: BuildOptions, output: Output) -> Image:
        """Build from a tar stream or, when `source` is a string, from where that URL leads.

        Raises InvalidParameter for what is wrong in the Dockerfile, CommandFailed for a RUN that failed.
        """
        if isinstance(source, str):
            context = await contexts.from_url(source, options.dockerfile, self.folder, output.text)
        else:
            file = await contexts.spool(source, self.folder)
            context = await contexts.from_archive(file, options.dockerfile)
        build = Build(self, context, options, output)
        name = options.build_id or secrets.token_hex(32)
        self._under_way[name] = (build, asyncio.current_task())
        try:
            return await build.run()
        finally:
            try:
                await build.clean_up()
            finally:
                del self._under_way[name]
                build.close()

    async def close(self) -> None:
        """End the builds under way and wait until they have tidied up."""
        building = [task for _, task in self._under_way.values() if task is not None]
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)
        if self._control is not None:
            await self._control.close()
        await self.solver.close()

    def cancel(self, build_id: str) -> None:
        """End a build that the client gave this ID. No error when there is none."""
        found = self._under_way.get(build_id)
        if found is not None and found[1] is not None:
            found[1].cancel()

    async def prune(self, order: PruneOrder) -> tuple[list[str], int]:
        """Forget cached steps: ([what has gone], bytes freed). The classic builder's images are `image prune`'s."""
        if self._under_way:
            raise Conflict("cannot prune the build cache while a build is running")
        gone: list[str] = []
        self.cache.prune()
        freed = await self.usage.prune(order, lambda entry: gone.append(entry.id))
        self._events.emit("builder", "prune", "", {"reclaimed": str(freed)})
        return gone, freed

    def _held_layers(self) -> set[str]:
        """The layers that builds under way need, with all below them."""
        return self._with_parents({chain_id for job in self.solver.jobs for chain_id in job.holds})

    def _image_layers(self) -> set[str]:
        """The layers that images have."""
        return self._with_parents({image.chain_id for image in self.images.all() if image.chain_id is not None})

    def _with_parents(self, chains: set[str]) -> set[str]:
        found: set[str] = set()
        for chain_id in chains:
            current: str | None = chain_id
            while current is not None and current not in found and current in self.layers:
                found.add(current)
                current = self.layers.get(current).parent
        return found


class Build:
    """One build under way."""

    def __init__(self, builder: Builder, context: Context, options: BuildOptions, output: Output) -> None:
        self._builder = builder
        self._images = builder.images
        self._layers = builder.layers
        self._container_layers = builder.container_layers
        self._context = context
        self._files: list[BinaryIO] = []  # what ADD has fetched
        self._options = options
        self._output = output
        self._results: dict[int, Image | None] = {}
        self._stages: list[Stage] = []
        self._base_image: Image | None = None  # what the stage is on that was begun last
        self._cache_sources = CacheSources(())
        # the containers that RUN made and that are still there
        self._containers: list[str] = []
        self._removing: list[asyncio.Task[None]] = []
        # after a step that was not in the cache, none of the stage's can be
        self._cache_on = True
        self.in_use: set[str] = set()

    def close(self) -> None:
        """Close the files that it has been given and has fetched: its end has come, however."""
        self._context.close()
        for file in self._files:
            file.close()

    def say(self, text: str) -> None:
        """Add to the build's log."""
        self._output.text(text)

    async def in_thread(self, work: Callable[[], R]) -> R:
        """Do blocking work without holding others up."""
        return await asyncio.to_thread(work)

    # -- the story

    async def run(self) -> Image:
        """Build everything that is wanted; the last stage's image."""
        options = self._options
        file = dockerfile.parse(self._context.dockerfile, self._context.dockerfile_name)
        plan = stages.plan(file)
        target = plan.target(options.target)
        wanted = plan.needed(target) if options.target else plan.stages
        self._stages = plan.stages
        for name in sorted(options.labels):
            value = options.labels[name]
            target.steps.append(Pairs(f"LABEL {name}={value}", "LABEL", ((name, value),), literal=True))
        for warning in file.warnings:
            self.say(warning)
        self._cache_sources = CacheSources(self._known_images(options.cache_from))
        total = len(plan.arguments) + sum(1 + len(stage.steps) for stage in wanted)
        numbers = iter(range(1, total + 1))
        arguments = Arguments(options.arguments, self._platform())
        for argument in plan.arguments:
            self.say(f"Step {next(numbers)}/{total} : {argument.code}\n")
            for name, default in argument.arguments:
                if default is not None:
                    default = expand(default, arguments.global_values(), file.escape)
                arguments.declare_global(name, default)
        image: Image | None = None
        for stage in wanted:
            image = await self._stage(stage, arguments, file.escape, numbers, total)
        unused = arguments.unused()
        if unused:
            self.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        await self._containers_gone()
        if image is None:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        if options.squash:
            image = await self._squash(image)
        await self._finish(image)
        return image

    async def _squash(self, image: Image) -> Image:
        """The image with its own layers as one; itself when it has fewer than two."""
        base = list(self._base_image.config.rootfs.diff_ids) if self._base_image is not None else []
        layers = self._builder.layers
        one = await squashed(layers, image.config.rootfs.diff_ids, base, self._builder.folder)
        if one is None:
            return image
        try:
            config = msgspec.json.decode(image.raw, type=ImageConfig)
            inherited = len(self._base_image.config.history or []) if self._base_image is not None else 0
            history = config.history or []
            own = [msgspec.structs.replace(line, empty_layer=True) for line in history[inherited:]]
            what = f"merge {image.id} to {self._base_image.id if self._base_image is not None else SCRATCH}"
            merged = History(created=config.created or "", comment=what)
            config.history = [*history[:inherited], *own, merged]
            config.rootfs.diff_ids = [*base, one.diff_id]
            return self._images.find(self._images.put(msgspec.json.encode(config)))
        finally:
            layers.drop(one.chain_id)

    async def _finish(self, image: Image) -> None:
        self.say(f"Successfully built {image.id.removeprefix('sha256:')[:12]}\n")
        for tag in self._options.tags:
            self._images.tag(image.id, tag)
        await self._images.on_disk()
        for tag in self._options.tags:
            self.say(f"Successfully tagged {tag.familiar()}\n")

    async def _stage(
        self, stage: Stage, arguments: Arguments, escape: str, numbers: Iterator[int], total: int
    ) -> Image | None:
        self.say(f"Step {next(numbers)}/{total} : {stage.start.code}\n")
        self._cache_on = not self._options.no_cache
        image = self._base_image = await self._base(stage, arguments, escape)
        state = StageState(image, base_config(image), arguments.stage())
        steps = Steps(self, state, escape)
        await steps.run_triggers()
        self._tell(state.image)
        for step in stage.steps:
            self.say(f"Step {next(numbers)}/{total} : {step.code}\n")
            try:
                await steps.do(step)
            except BaseException as failure:
                # A client that goes while what its RUN made is written: the RUN itself has not failed.
                cancelled = isinstance(failure, asyncio.CancelledError)
                if self._options.force_remove or (cancelled and self._options.remove):
                    self._remove_containers()
                raise
            if self._options.remove or self._options.force_remove:
                self._remove_containers()
            self._tell(state.image)
        self._results[stage.index] = state.image
        if state.image is not None:
            await self._images.on_disk()
            self._output.image(state.image.id)
        return state.image

    def _tell(self, image: Image | None) -> None:
        self.say(f" ---> {image.id.removeprefix('sha256:')[:12] if image is not None else ''}\n")

    # -- where stages and copies come from

    def _platform(self) -> dict[str, str]:
        architecture = self._builder.architecture
        system, target, variant = "linux", architecture, ""
        if self._options.platform:
            parts = [*self._options.platform.split("/"), "", ""]
            system, target, variant = parts[0], parts[1] or architecture, parts[2]
        full = "/".join(part for part in (system, target, variant) if part)
        return {
            "BUILDPLATFORM": f"linux/{architecture}",
            "BUILDOS": "linux",
            "BUILDARCH": architecture,
            "BUILDVARIANT": "",
            "TARGETPLATFORM": full,
            "TARGETOS": system,
            "TARGETARCH": target,
            "TARGETVARIANT": variant,
        }

    async def _base(self, stage: Stage, arguments: Arguments, escape: str) -> Image | None:
        name = expand(stage.start.base, arguments.global_values(), escape)
        if not name:
            raise InvalidParameter(f"base name ({stage.start.base}) should not be blank")
        platform = expand(stage.start.platform, arguments.global_values(), escape) or self._options.platform
        for other in stage_names(self._stages, stage.index):
            if self._stages[other].name == name.lower():
                image = self._results.get(other)
                if image is None:
                    raise InvalidParameter(f"stage {name} is empty")
                return image
        if name == SCRATCH:
            return None
        return await self._image(name, platform)

    async def _image(self, name: str, platform: str) -> Image:
        """The image `name`, pulled when it is not here or when asked to."""
        image: Image | None = None
        wanted = parse_platform(platform) if platform else None
        if not self._options.pull:
            try:
                image = self._images.platforms.choose(name, wanted)
            except NotFound:
                image = None
        if image is None:
            reference = Reference.parse(name)
            await self._images.pull(
                reference,
                auth=self._credentials(reference),
                platform=platform,
                progress=self._output.message,
            )
            image = self._images.platforms.choose(name, wanted)
        self.in_use.add(image.id)
        self._images.note_use(image.id)
        return image

    def _credentials(self, reference: Reference) -> Credentials | None:
        known = self._options.credentials
        if reference.domain == "docker.io":
            return known.get("https://index.docker.io/v1/") or known.get("docker.io")
        return known.get(reference.domain) or known.get(f"https://{reference.domain}")

    def _known_images(self, names: Sequence[str]) -> list[Image]:
        found = []
        for name in names:
            try:
                found.append(self._images.find(name))
            except (NotFound, InvalidParameter):
                log.debug("no image %s to take cached steps from", name)
        return found

    @asynccontextmanager
    async def source_tree(self, stage: str) -> AsyncIterator[ArchiveTree | DirectoryTree]:
        """What COPY reads from: the context, or with `--from` the files of a stage or an image."""
        if not stage:
            yield self._context.tree
            return
        current = len(self._results)
        earlier = stages.find(self._stages, stage)
        if earlier is not None:
            if earlier.index not in self._results:
                raise InvalidParameter(f"invalid from flag value {stage}: refers to current build stage")
            image = self._results[earlier.index]
        elif stage.isdigit() and int(stage) >= current:
            raise InvalidParameter(f"invalid from flag value {stage}: index out of bounds")
        else:
            try:
                image = await self._image(stage, self._options.platform)
            except DockyardError as error:
                raise type(error)(f"invalid from flag value {stage}: {error}") from None
        async with self.image_tree(image) as tree:
            yield tree if tree is not None else ArchiveTree()

    @asynccontextmanager
    async def image_tree(self, image: Image | None) -> AsyncIterator[DirectoryTree | None]:
        """The files of an image, to look at; None for one without files."""
        if image is None or image.chain_id is None:
            yield None
            return
        name = f"build-{secrets.token_hex(16)}"
        await self._container_layers.create(name, image.chain_id, volatile=True, bare=True)
        try:
            async with self._container_layers.mounted(name) as mounted:
                tree = DirectoryTree(mounted.path)
                try:
                    yield tree
                finally:
                    tree.close()
        finally:
            await self._container_layers.release(name)

    async def download(self, url: str, destination: str, checksum: str) -> Source:
        """The file behind a URL, for ADD; `checksum` is what its digest has to be, "" for anything."""
        file, _, name, time_ns = await contexts.fetch(url, self._builder.folder)
        self._files.append(file)
        if checksum:
            digest = await self.in_thread(lambda: f"sha256:{_digest(file)}")
            if digest != checksum:
                raise InvalidParameter(f"digest mismatch for {url}: {digest} (expected: {checksum})")
        if not name and destination.endswith("/"):
            raise InvalidParameter(f"cannot determine filename for source {url}")
        self.say("\n")
        return Source(name or "__unnamed__", _downloaded(file, time_ns))

    async def clone(self, url: str, *, keep_git: bool, commit: str) -> Source:
        """The files of a git repository, for ADD; `commit` is what has to be checked out, "" for anything."""
        archive, _ = await contexts.git_archive(url, self._builder.folder, keep_git=keep_git, commit=commit)
        self._files.append(archive)
        return Source("", (await self.in_thread(lambda: ArchiveTree(archive))).root)

    # -- making images

    def probe(self, state: StageState, created_by: str) -> tuple[str, bool]:
        """(the step's cache key, whether it was found there; then it is done)."""
        key = key_of(state.image.id if state.image is not None else "", created_by, state.config)
        if not self._cache_on:
            return key, False
        image = self._builder.cache.find(key)
        if self._options.cache_from and image is not None and not self._cache_sources.descend_from(image, self._images):
            image = None  # who names sources wants their steps and no others
        if image is None:
            image = self._from_cache_source(state, created_by)
        if image is None:
            self._cache_on = False
            return key, False
        self.say(" ---> Using cache\n")
        self._take(state, image)
        return key, True

    def _from_cache_source(self, state: StageState, created_by: str) -> Image | None:
        """The step's image: an image of `--cache-from` itself, or put together from what it has."""
        found = self._cache_sources.find(state.image, created_by)
        if found is None:
            return None
        source, step, diff_id = found
        if source.config.history and source.config.history[-1] is step:
            if source.parent is None and state.image is not None:
                self._images.set_parent(source.id, state.image.id)
            return source
        config = self._child_config(state, created_by, diff_id is None)
        config = msgspec.structs.replace(config, created=step.created or config.created)
        diff_ids = list(state.image.config.rootfs.diff_ids) if state.image is not None else []
        config.rootfs.diff_ids = [*diff_ids, diff_id] if diff_id is not None else diff_ids
        try:
            image_id = self._images.put(
                msgspec.json.encode(config), parent=state.image.id if state.image is not None else None
            )
        except NotFound:
            return None
        return self._images.find(image_id)

    def _take(self, state: StageState, image: Image) -> None:
        state.image = image
        self.in_use.add(image.id)

    async def configure(self, state: StageState, created_by: str, key: str | None = None) -> None:
        """Make the image of a step without files; with `key` the cache has been asked already."""
        if key is None:
            key, known = self.probe(state, created_by)
            if known:
                return
        config = self._child_config(state, created_by, True)
        image = await self._images.create(config, state.image, None)
        self._images.emit("create", image.id, image.id)
        self._made(state, key, image)

    async def add_layer(self, state: StageState, key: str, created_by: str, plan: LayerPlan) -> None:
        """Make the image of a step that writes files."""
        parent = state.image.chain_id if state.image is not None else None
        layer = await self._layers.register(parent, from_thread(plan.pieces()))
        await self._make(state, key, created_by, layer)

    async def commit_container(self, state: StageState, key: str, created_by: str, container_id: str) -> None:
        """Make the image of a RUN from what its container changed."""
        image = await self._make(state, key, created_by, await self._container_layers.commit(container_id))
        self._images.emit("create", image.id, image.id)  # (as in moby, which commits a container for all but copies)

    async def _make(self, state: StageState, key: str, created_by: str, layer: Layer) -> Image:
        try:
            config = self._child_config(state, created_by, layer.diff_id == EMPTY)
            image = await self._images.create(config, state.image, layer)
        finally:
            self._layers.drop(layer.chain_id)
        self._made(state, key, image)
        return image

    def _made(self, state: StageState, key: str, image: Image) -> None:
        self._take(state, image)
        self._builder.cache.put(key, image.id)

    def _child_config(self, state: StageState, created_by: str, empty: bool) -> ImageConfig:
        parent = state.image.config if state.image is not None else ImageConfig(
            architecture=self._builder.architecture, os="linux"
        )  # fmt: skip
        now = timestamp()
        author = state.maintainer or parent.author
        step = History(created=now, created_by=created_by, author=state.maintainer, empty_layer=empty)
        # a copy: the stage goes on changing its own
        config = msgspec.json.decode(msgspec.json.encode(state.config), type=ContainerConfig)
        return ImageConfig(
            architecture=parent.architecture or self._builder.architecture,
            variant=parent.variant,
            os=parent.os or "linux",
            os_version=parent.os_version,
            os_features=parent.os_features,
            author=author,
            created=now,
            config=config,
            history=[*(parent.history or ()), step],
        )

    # -- containers

    async def create_container(self, config: ContainerConfig) -> str:
        """Make the container of a RUN."""
        container_id = await self._builder.runner.create(config, self._options.host)
        self._containers.append(container_id)
        return container_id

    async def run_container(self, container_id: str) -> int:
        """Run it with its output in the log; its exit code."""
        try:
            return await self._builder.runner.run(container_id, self._painter())
        except asyncio.CancelledError:
            self.say("Build cancelled\n")
            self._remove_containers()
            raise

    def _painter(self) -> Callable[[int, bytes], None]:
        """What adds a command's output to the log: Docker paints what comes on its standard error."""
        decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}

        def output(stream: int, data: bytes) -> None:
            text = decoders[stream].decode(data)
            if text:
                self.say(f"{RED}{text}{PLAIN}" if stream == 2 else text)

        return output

    def _remove_containers(self) -> None:
        """Remove the containers of the step; meanwhile the next step begins."""
        for container_id in self._containers:
            self._removing.append(self._builder.solver.remove_container(container_id))
            self.say(f" ---> Removed intermediate container {container_id[:12]}\n")
        self._containers.clear()

    async def _containers_gone(self) -> None:
        removing, self._removing = self._removing, []
        if removing:
            await asyncio.wait(removing)  # not gather: a build that is cancelled must not cancel its own tidying

    async def clean_up(self) -> None:
        """Called however the build ended."""
        await self._containers_gone()


def stage_names(known: Sequence[Stage], before: int) -> list[int]:
    """The indices of the named stages before another."""
    return [stage.index for stage in known[:before] if stage.name]


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def _downloaded(file: BinaryIO, time_ns: int) -> ArchiveFile:
    size = file.seek(0, 2)
    return ArchiveFile(Entry("", tar_format.REGULAR, 0o600, size=size, mtime_ns=time_ns), file, 0)


def check_tags(names: Sequence[str]) -> list[Reference]:
    """The names a build is to get. Raises InvalidParameter."""
    tags: dict[Reference, None] = {}
    for name in names:
        if not name:
            continue
        reference = Reference.parse(name)
        if reference.digest is not None:
            raise InvalidParameter("build tag cannot contain a digest")
        tags[reference if reference.tag is not None else reference.with_tag("latest")] = None
    return list(tags)


__all__ = ["Build", "BuildOptions", "Builder", "Output", "check_tags"]
