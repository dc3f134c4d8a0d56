"""The configuration of the image that a build leads to."""

from __future__ import annotations

from typing import Any

import msgspec

from dockyard.builder.exporters.options import ImageOptions
from dockyard.builder.exporters.rewriting import with_rewritten_times
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.vertex import Rootfs, Vertex
from dockyard.builder.squashing import squashed
from dockyard.oci.image_config import History, ImageConfig, RootFS
from dockyard.timestamps import parse_time, timestamp

SQUASHED = "the layers above as one"
COMMENT = "buildkit.dockerfile.v0"
EXPORTED = "buildkit.exporter.image.v0"


async def image_config(job: Job, built: Built, options: ImageOptions, part: Any) -> tuple[ImageConfig, Rootfs]:
    """The configuration of the image that the build leads to, whose steps are done when this returns, and its files.

    By `options` its own layers are one, or as if nothing in them were younger than the epoch.
    """
    rootfs = await job.rootfs(built.vertex)
    epoch = built.dated if built.epoch is None else built.epoch
    one = None
    if options.squash:
        solver = job.solver
        one = await squashed(solver.layers, rootfs.diff_ids, built.config.rootfs.diff_ids, solver.folder)
    if one is not None:
        job.holds.append(one.chain_id)
        rootfs = Rootfs((*built.config.rootfs.diff_ids, one.diff_id), rootfs.created)
    if options.rewrite_times and built.epoch is not None:
        rootfs = await with_rewritten_times(job, rootfs, built.config.rootfs.diff_ids, built.epoch)
        part(f"rewriting layers with source-date-epoch {built.epoch}", 0, 0, True)
    history = list(built.config.history or ())
    inherited = len(history)
    created = built.config.created or ""
    for line in built.history:
        layers = False
        if line.vertex is not None:
            after, before = await job.rootfs(line.vertex), await job.rootfs(line.vertex.inputs[0])
            layers = len(after.diff_ids) > len(before.diff_ids)
            created = after.created or created
        created = created or timestamp()
        moment = not_after(created, epoch)
        history.append(History(created=moment, created_by=line.created_by, comment=COMMENT, empty_layer=not layers))
    if one is None:
        moment = not_after(created or rootfs.created or timestamp(), epoch)
        history = _fitting(history, _makers(job, built, rootfs), moment)
    else:
        history[inherited:] = [msgspec.structs.replace(line, empty_layer=True) for line in history[inherited:]]
        history.append(History(created=not_after(created or timestamp(), epoch), comment=SQUASHED))
    config = msgspec.structs.replace(
        built.config,
        created=not_after(created or timestamp(), epoch),
        history=history,
        rootfs=RootFS(diff_ids=list(rootfs.diff_ids)),
        container="",
        docker_version="",
        container_config=None,
    )
    return config, rootfs


def _makers(job: Job, built: Built, rootfs: Rootfs) -> list[str]:
    """The names of the steps that have made the layers, as far as that is known."""
    names = [""] * len(rootfs.diff_ids)
    vertex: Vertex | None = built.vertex
    while vertex is not None and vertex.inputs:
        base, made = vertex.inputs[vertex.base], job.done(vertex)
        below = job.done(base)
        if isinstance(made, Rootfs) and isinstance(below, Rootfs):
            for number in range(len(below.diff_ids), min(len(made.diff_ids), len(names))):
                names[number] = vertex.name
        vertex = base
    return names


def _fitting(history: list[History], makers: list[str], moment: str) -> list[History]:
    """History with as many lines as there are layers: a client that has made the graph itself may have given none."""
    told = sum(not line.empty_layer for line in history)
    more = [History(created=moment, created_by=name, comment=EXPORTED) for name in makers[told:]]
    fitting = list(history)
    for number, line in enumerate(fitting):
        if told > len(makers) and not line.empty_layer:
            fitting[number] = msgspec.structs.replace(line, empty_layer=True)
            told -= 1
    return fitting + more


def not_after(moment: str, epoch: int | None) -> str:
    """A time, RFC 3339, but no later one than `epoch`, UNIX s."""
    if epoch is None:
        return moment
    found = parse_time(moment)
    return of_epoch(epoch) if found is None or found > epoch * 10**9 else moment


def of_epoch(epoch: int) -> str:
    """UNIX s as RFC 3339, without decimals."""
    return timestamp(epoch * 10**9).partition(".")[0].removesuffix("Z") + "Z"
