"""`--cache-to type=local|registry`: what has come of a build's steps, written to where another engine can find it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from dockyard.builder.cache.config import (
    CREATED,
    DIFF_ID,
    MEDIA_TYPE,
    CacheConfig,
    CacheLayer,
    CacheLink,
    CacheRecord,
    CacheResult,
    StepFacts,
)
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.vertex import Rootfs, Vertex, key_of
from dockyard.engine.images.layer_store import chains_of
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import digest_of
from dockyard.timestamps import timestamp

_encode = msgspec.json.Encoder().encode


class Destination(Protocol):
    """Where a cache is written to (exporters/destinations.py)."""

    async def layer(self, chain_id: str, *, oci: bool, base: bool) -> Descriptor:
        """Write a layer."""

    async def document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a document."""


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """A cache as it is wanted. `full`: with the layers of all steps (mode=max), not only those of the result.

    `as_image`: as an image manifest, else as an index of blobs.
    """

    full: bool = False
    oci: bool = True
    as_image: bool = True


class CacheWriter:
    """Writes what has come of the steps of one build."""

    def __init__(self, job: Job, targets: Sequence[Vertex], options: CacheOptions, destination: Destination) -> None:
        self._job = job
        self._targets = targets
        self._options = options
        self._to = destination
        self._layers: list[CacheLayer] = []
        self._descriptors: dict[str, Descriptor] = {}
        self._places: dict[str, int] = {}  # of layers in the list, by their chain IDs
        self._records: list[CacheRecord] = []
        self._known: dict[Vertex, int] = {}

    async def write(self, part: Any) -> tuple[Descriptor, bytes] | None:
        """Write everything; what stands for it, and its content. None when there is no layer."""
        wanted = self._wanted()
        for vertex in dict.fromkeys(one for target in self._targets for one in _upwards(target)):
            await self._record(vertex, wanted, part)
        if not self._layers:
            return None
        raw = _encode(CacheConfig(self._layers, self._records))
        about = Descriptor(MEDIA_TYPE, digest_of(raw), len(raw))
        await self._to.document(about, raw)
        part(f"writing config {about.digest}", 0, 0, True)
        layers = list(self._descriptors.values())
        document: dict[str, Any] = {"schemaVersion": 2}
        if self._options.as_image:
            document |= {"mediaType": oci.OCI_MANIFEST, "config": about, "layers": layers}
        else:
            kind = oci.OCI_INDEX if self._options.oci else oci.DOCKER_INDEX
            document |= {"mediaType": kind, "manifests": [*layers, about]}
        content = _encode(document)
        top = Descriptor(document["mediaType"], digest_of(content), len(content))
        await self._to.document(top, content)
        part(f"writing cache {'image ' if self._options.as_image else ''}manifest {top.digest}", 0, 0, True)
        return top, content

    def _wanted(self) -> set[str]:
        """The layers whose blobs are to be there, by their chain IDs: only such as are here can be."""
        vertices: Iterable[Vertex] = self._targets
        if self._options.full:
            vertices = [vertex for target in self._targets for vertex in _upwards(target) if self._job.keys.get(vertex)]
        found: set[str] = set()
        for vertex in vertices:
            result = self._job.done(vertex)
            if isinstance(result, Rootfs):
                found.update(chains_of(result.diff_ids))
        return {chain_id for chain_id in found if chain_id in self._job.solver.layers}

    async def _record(self, vertex: Vertex, wanted: set[str], part: Any) -> None:
        result = self._job.done(vertex)
        if not isinstance(result, Rootfs):
            return
        inputs = [[CacheLink(self._known[other])] for other in vertex.inputs if other in self._known]
        keys = self._job.keys.get(vertex)
        if not keys:
            self._known[vertex] = len(self._records)
            self._records.append(CacheRecord(digest=f"sha256:{key_of(type(vertex).__name__, vertex.definition())}"))
            return
        facts = facts_of(self._job, vertex, result)
        place = await self._place(result, wanted, part)
        found = [CacheResult(place, result.created or timestamp())] if place is not None else []
        for key in keys:
            self._known[vertex] = len(self._records)
            self._records.append(CacheRecord(found, f"sha256:{key}", inputs, facts))

    async def _place(self, result: Rootfs, wanted: set[str], part: Any) -> int | None:
        """Where a result's topmost layer is in the list; None when it has none that is to be there."""
        place = -1
        for diff_id, chain_id in zip(result.diff_ids, chains_of(result.diff_ids), strict=True):
            if chain_id not in wanted:
                return None
            if chain_id not in self._places:
                blob = await self._blob(diff_id, chain_id, result, part)
                self._places[chain_id] = len(self._layers)
                self._layers.append(CacheLayer(blob, place))
            place = self._places[chain_id]
        return place if result.diff_ids else None

    async def _blob(self, diff_id: str, chain_id: str, result: Rootfs, part: Any) -> str:
        if diff_id not in self._descriptors:
            about = await self._to.layer(chain_id, oci=self._options.oci, base=False)
            part(f"writing layer {about.digest}", about.size, about.size, True)
            annotations = {CREATED: result.created or timestamp(), DIFF_ID: diff_id}
            self._descriptors[diff_id] = msgspec.structs.replace(about, annotations=annotations)
        return self._descriptors[diff_id].digest


def facts_of(job: Job, vertex: Vertex, result: Rootfs) -> StepFacts:
    """What has come of a step."""
    before = job.done(vertex.inputs[vertex.base]) if vertex.inputs else None
    base = before.diff_ids if isinstance(before, Rootfs) else ()
    height = len(result.diff_ids)
    below = len(base) if result.diff_ids[: len(base)] == base and height - len(base) in (0, 1) else max(height - 1, 0)
    row = job.rows.get(vertex)
    return StepFacts(list(result.diff_ids), below, row.name if row is not None else vertex.name, result.created)


def known_steps(job: Job, target: Vertex) -> dict[str, StepFacts]:
    """What has come of all steps that a result stands on, by their keys."""
    found: dict[str, StepFacts] = {}
    for vertex in _upwards(target):
        result = job.done(vertex)
        if isinstance(result, Rootfs):
            found.update((key, facts_of(job, vertex, result)) for key in job.keys.get(vertex, ()))
    return found


def _upwards(target: Vertex) -> list[Vertex]:
    """Everything that a result stands on, inputs first, itself last."""
    found: dict[Vertex, None] = {}

    def visit(vertex: Vertex) -> None:
        for other in vertex.inputs:
            if other not in found:
                visit(other)
        found[vertex] = None

    visit(target)
    return list(found)


def cache_mode(attributes: Mapping[str, str]) -> bool:
    """Whether all steps' layers are wanted; BuildKit takes another word than min and max for min."""
    return attributes.get("mode", "min") == "max"
