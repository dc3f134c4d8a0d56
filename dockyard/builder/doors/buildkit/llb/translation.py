"""Definitions of LLB becoming vertices: sources, commands, acts on files, merges and differences (solver/pb).

Clients that make their own definitions send them to be solved, or hand parts of them on as contexts of Dockerfiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from dockyard.builder.doors.buildkit.llb.commands import Commands
from dockyard.builder.doors.buildkit.llb.file_acts import FileActs
from dockyard.builder.doors.buildkit.llb.sources import Sources
from dockyard.builder.files import Selection
from dockyard.builder.frontend.bases import DEFAULT_PATH
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.merging import Difference, Merge
from dockyard.builder.source_policy import SourcePolicy
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, RemoteContext, Repository
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ContainerConfig, ImageConfig
from dockyard.oci.manifest import host

MOST_OPS = 5000
CONTEXT_SOURCES = (LocalDirectory, Repository, Download, RemoteContext)


class Translation:
    """One definition, becoming vertices."""

    def __init__(
        self,
        definition: wire.Definition,
        job: Job,
        result: Callable[[str], Built | None],
        made: dict[tuple[str, int], Vertex],
        entitlements: Sequence[str] = (),
        policy: SourcePolicy | None = None,
    ) -> None:
        """`result`: what a client means by the name of a result that it was given.

        `made`: the outputs of steps that the same build has already, to which this adds. Raises InvalidParameter.
        """
        if len(definition.ops) > MOST_OPS:
            raise InvalidParameter("the LLB definition is too large")
        self._encoded = {f"sha256:{hashlib.sha256(one).hexdigest()}": one for one in definition.ops}
        self._last = definition.ops[-1] if definition.ops else b""
        self._about = dict(definition.metadata)
        self._made = made
        self._sources = Sources(job, result, policy)
        self._commands = Commands(entitlements, job.solver.runner.device_directories)
        self._scratch = Scratch()

    async def built(self) -> Built:
        """What the definition leads to. Raises InvalidParameter."""
        here = host()
        config = ImageConfig(
            architecture=here.architecture, os=here.os, config=ContainerConfig(env=[DEFAULT_PATH], working_dir="/")
        )
        platform = f"{here.os}/{here.architecture}"
        if not self._last:
            return Built(self._scratch, config, [], platform)
        ends = wire.Op.FromString(self._last).inputs
        if len(ends) != 1:
            raise InvalidParameter("invalid nil input definition to definition op")
        known = {digest for digest, _ in self._made}
        for digest in self._order(ends[0].digest):
            if digest in known:
                continue
            await self._translate(digest, wire.Op.FromString(self._encoded[digest]))
        return Built(as_layer(self._output(ends[0].digest, ends[0].index)), config, [], platform)

    def _order(self, last: str) -> list[str]:
        """The steps that `last` needs, each after those that it needs itself. Raises InvalidParameter."""
        done: dict[str, None] = {}
        waiting, under_way = [(last, False)], set[str]()
        while waiting:
            digest, ready = waiting.pop()
            if ready:
                under_way.discard(digest)
                done[digest] = None
            elif digest not in done:
                if digest in under_way or digest not in self._encoded:
                    raise InvalidParameter(f"invalid LLB definition: {digest} is not in it, or needs itself")
                under_way.add(digest)
                waiting.append((digest, True))
                needs = [one.digest for one in wire.Op.FromString(self._encoded[digest]).inputs]
                waiting += [(one, False) for one in reversed(needs) if one not in done]
        return list(done)

    def _output(self, digest: str, index: int) -> Vertex:
        try:
            return self._made[digest, index]
        except KeyError:
            raise InvalidParameter(f"invalid LLB definition: {digest} has no output {index}") from None

    async def _translate(self, digest: str, op: wire.Op) -> None:
        about = self._about.get(digest, wire.OpMetadata())
        name = about.description.get("llb.customname", "")
        inputs = [self._output(one.digest, one.index) for one in op.inputs]
        for number, vertex in (await self._outputs(op, name, inputs, anew=about.ignore_cache)).items():
            vertex.ignore_cache = vertex.ignore_cache or about.ignore_cache
            self._made[digest, number] = vertex
            if not op.HasField("source"):
                vertex.call(digest)

    async def _outputs(self, op: wire.Op, name: str, inputs: Sequence[Vertex], *, anew: bool) -> dict[int, Vertex]:
        """The vertices of a step, by the number of the output that each makes."""
        match op.WhichOneof("op"):
            case "source":
                return {0: await self._sources.vertex(op, name)}
            case "exec":
                return self._commands.outputs(op, name, [as_layer(one) for one in inputs], anew=anew)
            case "file":
                return FileActs(op, name, inputs, self._scratch, as_layer).outputs()
            case "merge":
                merged = [self._input(inputs, one.input) for one in op.merge.inputs]
                return {0: Merge(name or f"merge ({', '.join(one.name for one in merged)})", merged)}
            case "diff":
                lower = self._input(inputs, op.diff.lower.input)
                upper = self._input(inputs, op.diff.upper.input)
                return {0: Difference(name or f"diff ({lower.name} -> {upper.name})", lower, upper)}
        raise InvalidParameter("invalid LLB definition: builds inside of builds, and unknown steps, are not done here")

    def _input(self, inputs: Sequence[Vertex], number: int) -> Vertex:
        if number < 0:
            return self._scratch
        if number >= len(inputs):
            raise InvalidParameter(f"invalid LLB definition: there is no input {number}")
        return as_layer(inputs[number])


def as_layer(vertex: Vertex) -> Vertex:
    """Files of a directory or an address as a root file system."""
    return Selection(vertex, ".") if isinstance(vertex, CONTEXT_SOURCES) else vertex
