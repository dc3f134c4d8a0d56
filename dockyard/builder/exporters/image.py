"""A build's result as an image of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dockyard.builder.cache.inline import with_steps
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.solver import Job
from dockyard.builder.graph.vertex import Rootfs
from dockyard.engine.images.documents import encode_config
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import History, ImageConfig, RootFS
from dockyard.oci.reference import Reference
from dockyard.timestamps import timestamp

COMMENT = "buildkit.dockerfile.v0"


async def image_config(job: Job, built: Built) -> tuple[ImageConfig, Rootfs]:
    """The configuration of the image that the build leads to, whose steps are done when this returns, and its files."""
    rootfs = await job.rootfs(built.vertex)
    history = list(built.config.history or ())
    created = built.config.created or ""
    fixed = timestamp(built.epoch * 10**9) if built.epoch is not None else ""
    for line in built.history:
        layers = False
        if line.vertex is not None:
            after, before = await job.rootfs(line.vertex), await job.rootfs(line.vertex.inputs[0])
            layers = len(after.diff_ids) > len(before.diff_ids)
            created = after.created or created
        created = fixed or created or timestamp()
        history.append(History(created=created, created_by=line.created_by, comment=COMMENT, empty_layer=not layers))
    config = msgspec.structs.replace(
        built.config,
        created=fixed or created or timestamp(),
        history=history,
        rootfs=RootFS(diff_ids=list(rootfs.diff_ids)),
        container="",
        docker_version="",
        container_config=None,
    )
    return config, rootfs


async def export_image(job: Job, built: Built, attributes: Mapping[str, str]) -> dict[str, str]:
    """Make the image, give it its names, and push it if that is asked for; what the client is told."""
    names = [name for name in attributes.get("name", "").split(",") if name]
    config, _ = await image_config(job, built)
    images = job.solver.images
    async with job.shown("exporting to image") as part:
        part("exporting layers", 0, 0, True)
        raw = encode_config(config)
        if attributes.get("inline-cache"):
            raw = with_steps(raw, list(config.rootfs.diff_ids), job.solver.cache)
        image_id = images.put(raw)
        part(f"writing image {image_id}", 0, 0, True)
        references = [check_name(name) for name in names]
        for reference in references:
            images.tag(image_id, reference)
            part(f"naming to {reference.full()}", 0, 0, True)
        await images.on_disk()
    told = {"containerimage.config.digest": image_id, "containerimage.digest": image_id}
    if attributes.get("push", "") in ("true", "1"):
        for reference in references:
            await _push(job, reference)
    if references:
        told["image.name"] = ",".join(reference.full() for reference in references)
    return told


async def _push(job: Job, name: Reference) -> None:
    async with job.shown(f"pushing {name.familiar()}") as part:

        def progress(message: dict[str, Any]) -> None:
            detail = message.get("progressDetail") or {}
            if message.get("id"):
                done = message.get("status") in ("Pushed", "Layer already exists")
                part(str(message["id"]), detail.get("current", 0), detail.get("total", 0), done)

        auth = await job.client.credentials(name.domain)
        await job.solver.images.push(name, auth=auth, progress=progress)


def check_name(name: str) -> Reference:
    """A name for an image. Raises InvalidParameter."""
    reference = Reference.parse(name)
    if reference.digest is not None:
        raise InvalidParameter("build tag cannot contain a digest")
    return reference.or_latest()
