"""The contexts of a build by name: the main one that COPY reads from, and those that stand for stages and images."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dockyard.builder.files import Selection
from dockyard.builder.graph.request import BuildRequest, Line
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.source_policy import IMAGE
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.sources.layout import layout_image
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, Inside, Repository
from dockyard.dockerfile import git_source
from dockyard.dockerfile.dockerignore import BadPattern, IgnoreRules
from dockyard.engine.images.documents import decode_config, encode_config
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ContainerConfig, ImageConfig
from dockyard.oci.manifest import host, normalized, parse_platform
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.builder.graph.job import Job


@dataclass(slots=True)
class Named:
    """What a name stands for: files, and the configuration of the image if it is one."""

    vertex: Vertex
    config: ImageConfig = field(default_factory=lambda: ImageConfig(os="linux", config=ContainerConfig()))
    history: list[Line] = field(default_factory=list)


class ContextResolver:
    """Finds contexts; `main` is the build's own, made when it is first wanted."""

    def __init__(self, job: Job, main: Callable[[], Vertex]) -> None:
        self._job = job
        self._make_main = main
        self._main: Vertex | None = None
        self._locals: dict[str, Vertex] = {}
        self.ignored: IgnoreRules | None = None  # of the main context, if it is the client's

    def main(self) -> Vertex:
        """The main context."""
        if self._main is None:
            self._main = self._make_main()
        return self._main

    def want(self, vertex: Vertex, path: str) -> None:
        """Note that a step reads `path` of a context: a client then sends that, and not all it has."""
        if isinstance(vertex, LocalDirectory):
            vertex.want(path)

    def as_base(self, vertex: Vertex) -> Vertex:
        """A named context as what a stage begins with: files of a directory or an address as a layer."""
        if not isinstance(vertex, LocalDirectory | Repository | Download | Inside):
            return vertex
        self.want(vertex, "/")
        return Selection(vertex, ".")

    async def named(self, name: str, images: ImageResolver, request: BuildRequest) -> Named | None:
        """What the client says that `name` stands for, if anything. Raises InvalidParameter."""
        known = f"{name}::{normalized(parse_platform(request.platform)) if request.platform else host()}"
        known = known if known in request.contexts else name if name in request.contexts else _full(name)
        value = request.contexts.get(known)
        if value is None or name.lower() in ("scratch", "context"):
            return None
        kind, _, rest = value.partition(":")
        if kind == "docker-image":
            wanted = rest.removeprefix("//")
            if wanted == "scratch":
                return Named(Scratch())
            other = await self._instead(wanted)
            if other is not None:
                return Named(other)
            image = await images.resolve(wanted, request.platform)
            return Named(images.files(wanted, image, shown=f"[context {name}] {wanted}"), image.config)
        if kind == "oci-layout":
            layout = await layout_image(self._job, name, rest, request.platform)
            return Named(layout, layout.config)
        if kind == "input":
            built = request.inputs.get(rest)
            if built is None:
                raise InvalidParameter(f"invalid input {rest} for {name}")
            said = request.input_configs.get(known)
            if said is not None and said != encode_config(built.config):
                return Named(built.vertex, decode_config(said))
            return Named(built.vertex, built.config, list(built.history))
        if kind == "local":
            if rest not in self._locals:
                self._locals[rest] = await self._local(name, rest)
            return Named(self._locals[rest])
        if git_source.is_git(value):
            return Named(Repository(f"[context {name}] {value}", value))
        if re.match(r"https?://", value):
            return Named(Download(f"[context {name}] {value}", value))
        raise InvalidParameter(f"unsupported context source {kind} for {name}")

    async def _instead(self, name: str) -> Vertex | None:
        """What the client's policy has in the place of an image that is none itself."""
        job = self._job
        if not job.policy or job.open_source is None:
            return None
        source = job.policy.applied(f"{IMAGE}{Reference.parse(name).or_latest().full()}", {})
        return None if source[0].startswith(IMAGE) else await job.open_source(*source)

    async def _local(self, name: str, directory: str) -> Vertex:
        async with self._job.shown(f"[context {name}] load .dockerignore"):
            found = await self._job.client.files(directory, [".dockerignore"])
        excludes = ignore_patterns(found.get(".dockerignore", b""))
        return LocalDirectory(f"[context {name}] load from client", self._job.client, directory, excludes=excludes)


def _full(name: str) -> str:
    """An image's name as a client may have written it."""
    return name if ":" in posixpath.basename(name) else f"{name}:latest"


def ignore_patterns(content: bytes) -> list[str]:
    """The patterns of a .dockerignore file, as the client is told them. Raises InvalidParameter."""
    text = content.decode(errors="replace")
    try:
        if any(line.strip() == "!" for line in text.splitlines()):
            raise BadPattern('illegal exclusion pattern: "!"')
        IgnoreRules.parse(text)
    except BadPattern as error:
        raise InvalidParameter(f"failed to read .dockerignore: {error}") from None
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        back = pattern.startswith("!")
        cleaned = posixpath.normpath(pattern.removeprefix("!").strip())
        cleaned = cleaned.lstrip("/") if len(cleaned) > 1 else cleaned
        found.append(("!" if back else "") + cleaned)
    return found
