"""LLB definitions as far as clients need them beside Dockerfiles: sources, and files copied from them (solver/pb).

buildx reads the bake files of an address so, and hands on parts of it as contexts. What runs commands is not among it.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Mapping

from dockyard.builder.doors.buildkit.definitions import SCHEME
from dockyard.builder.files import Copy, CopyOrder, From, MakeDirectory, Selection
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.solver import Job
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, Repository
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ContainerConfig, ImageConfig
from dockyard.oci.manifest import host

MOST_OPS = 1000
CONTEXT_SOURCES = (LocalDirectory, Repository, Download)


class Translation:
    """One definition, becoming vertices."""

    def __init__(self, definition: wire.Definition, job: Job, result: Callable[[str], Built | None]) -> None:
        """`result`: what a client means by the name of a result that it was given. Raises InvalidParameter."""
        if len(definition.ops) > MOST_OPS:
            raise InvalidParameter("the LLB definition is too large")
        self._job = job
        self._result = result
        self._encoded = {f"sha256:{hashlib.sha256(one).hexdigest()}": one for one in definition.ops}
        self._last = definition.ops[-1] if definition.ops else b""
        self._names = {
            digest: about.description.get("llb.customname", "") for digest, about in definition.metadata.items()
        }
        self._made: dict[tuple[str, int], Vertex] = {}
        self._under_way: set[str] = set()

    async def built(self) -> Built:
        """What the definition leads to. Raises InvalidParameter."""
        ends = wire.Op.FromString(self._last).inputs
        if len(ends) != 1:
            raise InvalidParameter("invalid nil input definition to definition op")
        vertex = as_layer(await self._vertex(ends[0].digest, ends[0].index))
        here = host()
        config = ImageConfig(architecture=here.architecture, os=here.os, config=ContainerConfig())
        return Built(vertex, config, [], f"{here.os}/{here.architecture}")

    async def _vertex(self, digest: str, index: int) -> Vertex:
        if (digest, index) not in self._made:
            if digest in self._under_way or digest not in self._encoded:
                raise InvalidParameter(f"invalid LLB definition: {digest} is not in it, or needs itself")
            self._under_way.add(digest)
            await self._translate(digest, wire.Op.FromString(self._encoded[digest]))
            self._under_way.discard(digest)
        try:
            return self._made[digest, index]
        except KeyError:
            raise InvalidParameter(f"invalid LLB definition: {digest} has no output {index}") from None

    async def _translate(self, digest: str, op: wire.Op) -> None:
        if op.HasField("source"):
            source = op.source
            self._made[digest, 0] = await self._source(
                source.identifier, dict(source.attrs), self._names.get(digest, "")
            )
        elif op.HasField("file"):
            await self._file(digest, op)
        else:
            raise InvalidParameter("only Dockerfiles are built here, and LLB definitions of sources and copied files")

    async def _source(self, identifier: str, attributes: Mapping[str, str], name: str) -> Vertex:
        kind, _, rest = identifier.partition("://")
        if f"{kind}://" == SCHEME:
            found = self._result(rest)
            if found is None:
                raise InvalidParameter("invalid LLB definition: it is of a build that is gone")
            return found.vertex
        if kind == "git":
            return _repository(rest, attributes, name)
        if kind in ("http", "https"):
            return Download(name or identifier, identifier, attributes.get("http.checksum", ""))
        if kind == "docker-image":
            images = ImageResolver(self._job, pull=attributes.get("image.resolvemode") == "pull")
            return images.files(rest, await images.resolve(rest, ""))
        if kind == "local":
            local = LocalDirectory(name or f"[internal] load {rest}", self._job.client, rest)
            local.want("/")
            return local
        raise InvalidParameter(f"unknown source {identifier}")

    async def _file(self, digest: str, op: wire.Op) -> None:
        results: list[Vertex] = []

        async def at(index: int) -> Vertex:
            if index < 0:
                return Scratch()
            if index < len(op.inputs):
                return await self._vertex(op.inputs[index].digest, op.inputs[index].index)
            if index - len(op.inputs) < len(results):
                return results[index - len(op.inputs)]
            raise InvalidParameter(f"invalid LLB definition: {digest} has no input {index}")

        name = self._names.get(digest, "")
        for action in op.file.actions:
            base = as_layer(await at(action.input))
            kind = action.WhichOneof("action")
            if kind == "copy":
                made: Vertex = _copy(base, await at(action.secondary_input), action.copy, name)
            elif kind == "make_file":
                folder, file = posixpath.split(_absolute(action.make_file.path))
                content = action.make_file.data.decode("utf-8", "surrogateescape")
                mode = f"{action.make_file.mode & 0o7777:o}"
                order = CopyOrder("COPY", (), f"{folder.rstrip('/')}/", mode=mode, documents=((file, content),))
                made = Copy(name or f"mkfile {action.make_file.path}", (base,), order)
            elif kind == "make_dir":
                made = MakeDirectory(name or f"mkdir {action.make_dir.path}", base, _absolute(action.make_dir.path))
            else:
                raise InvalidParameter("files are copied and made by LLB definitions here, and nothing else")
            results.append(made)
            if action.output >= 0:
                self._made[digest, action.output] = made


def as_layer(vertex: Vertex) -> Vertex:
    """Files of a directory or an address as a root file system."""
    return Selection(vertex, ".") if isinstance(vertex, CONTEXT_SOURCES) else vertex


def _absolute(path: str) -> str:
    return posixpath.normpath(f"/{path}").replace("//", "/")


def _repository(rest: str, attributes: Mapping[str, str], name: str) -> Vertex:
    """A git source: the address in full is an attribute, what is to be checked out is in the identifier."""
    place, _, fragment = rest.partition("#")
    url = attributes.get("git.fullurl") or f"https://{place}"
    keep = attributes.get("git.keepgitdir") == "true"
    shown = f"{url}#{fragment}" if fragment else url
    return Repository(name or shown, shown, keep_git=keep, commit=attributes.get("git.checksum", ""))


def _copy(base: Vertex, source: Vertex, action: wire.FileCopy, name: str) -> Vertex:
    wanted = action.source.strip("/") or "."
    order = CopyOrder(
        "ADD" if action.unpack else "COPY",
        (From(1, _patterns(wanted, action, source), unpack=action.unpack, fetched=isinstance(source, Download)),),
        _absolute(action.destination) + ("/" if action.destination.endswith("/") else ""),
        mode=f"{action.mode & 0o7777:o}" if action.mode > 0 else "",
        # a directory goes there itself, not what is in it
        parents=not action.contents_only and wanted != "." and not action.unpack,
        excludes=tuple(action.exclude),
        keeps_owners=True,
    )
    if isinstance(source, LocalDirectory):
        source.want(wanted)
    return Copy(name or f"copy {action.source} {action.destination}", (base, source), order)


def _patterns(wanted: str, action: wire.FileCopy, source: Vertex) -> tuple[str, ...]:
    if isinstance(source, Download):
        return ()  # there is one file in it
    if action.contents_only or action.unpack or wanted == ".":
        return (wanted,)
    folder, _, last = wanted.rpartition("/")
    return (f"{folder}/./{last}" if folder else f"./{re.sub('^[.]/', '', last)}",)
