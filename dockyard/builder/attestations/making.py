"""The attestations of a build, made when the first output wants them and the same for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from dockyard.builder.attestations.provenance import Provenance, Request
from dockyard.builder.attestations.sbom.document import spdx_document
from dockyard.builder.attestations.sbom.scan import packages_in
from dockyard.builder.attestations.statements import PROVENANCE, SPDX, Attestation
from dockyard.builder.attestations.wanted import Wanted
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.progress import now
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.vertex import Rootfs, Vertex
from dockyard.engine.images.layer_store import chains_of
from dockyard.oci.descriptor import Descriptor

Known = Callable[[str], Descriptor | None]


def attestations_of(
    job: Job, found: Mapping[str, Built], known: Known, wanted: Wanted, request: Request
) -> dict[str, Sequence[Attestation]]:
    """What is to be said about each platform's result; `known`: what a layer is as a blob, if it is one by then."""
    made: dict[str, Sequence[Attestation]] = {}
    for platform, built in found.items():
        attestations = []
        if wanted.sbom is not None:
            attestations.append(Attestation(SPDX, "sbom.spdx.json", _once(_sbom(job, built))))
        if wanted.provenance is not None:
            options = wanted.provenance
            attestations.append(
                Attestation(
                    PROVENANCE[options.version],
                    options.file_name,
                    _once(_provenance(Provenance(request, built, options, _layers(job, known)))),
                    options.inline_only,
                )
            )
        made[platform] = attestations
    return made


def _once(make: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """What gives the same to everyone who asks, made when the first does."""
    task: asyncio.Future[Any] | None = None

    async def made() -> Any:
        nonlocal task
        if task is None:
            task = asyncio.ensure_future(make())
        return await asyncio.shield(task)

    return made


def _provenance(provenance: Provenance) -> Callable[[], Awaitable[Any]]:
    async def make() -> Any:
        return provenance.predicate(now())

    return make


def _sbom(job: Job, built: Built) -> Callable[[], Awaitable[Any]]:
    async def make() -> Any:
        async with job.shown(f"[{built.platform}] generating sbom"):
            async with job.solver.tree(await job.rootfs(built.vertex)) as tree:
                packages = await asyncio.to_thread(packages_in, tree) if tree is not None else []
            return spdx_document(packages, built.platform, built.epoch)

    return make


def _layers(job: Job, known: Known) -> Callable[[Vertex], Sequence[Descriptor]]:
    """Tells a step's layers as blobs, if all of them have become some."""

    def layers(vertex: Vertex) -> Sequence[Descriptor]:
        result = job.done(vertex)
        blobs = []
        for chain_id in chains_of(result.diff_ids) if isinstance(result, Rootfs) else ():
            blob = known(chain_id)
            if blob is None:
                return []
            blobs.append(blob)
        return blobs

    return layers
