"""A build's result as an image of the engine, and of registries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dockyard.builder.cache.inline import with_steps
from dockyard.builder.exporters.blobs import PackedLayers
from dockyard.builder.exporters.cache import known_steps
from dockyard.builder.exporters.config import image_config
from dockyard.builder.exporters.destinations import Memory, Registry
from dockyard.builder.exporters.options import ImageOptions, image_options
from dockyard.builder.exporters.writer import ImageWriter, Results, Written
from dockyard.engine.images.documents import encode_config
from dockyard.engine.images.service import ImageService
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.manifest import Manifest
from dockyard.oci.reference import Reference


async def export_image(results: Results, packed: PackedLayers, attributes: Mapping[str, str]) -> dict[str, str]:
    """Make the image, give it its names, and push it if that is asked for; what the client is told."""
    options = image_options(attributes, inline=True)
    inline_cache = bool(attributes.get("inline-cache"))
    told: dict[str, str] = {}
    if options.push and not options.names:
        raise InvalidParameter("tag is needed when pushing to registry")
    if options.store:
        asked = any(results.wanted(platform, inline=False) for platform in results.found)
        if len(results.found) > 1 or options.canonical or (asked and options.names):
            told = await _store_index(results, packed, options, inline_cache=inline_cache)
        else:
            told = await _store(results, options, inline_cache=inline_cache)
    for name in options.names if options.push else ():
        written = await _push(results, packed, options, name, inline_cache=inline_cache)
        told = {**told, **written.told()}
    if options.names:
        told["image.name"] = ",".join(name.full() for name in options.names)
    return told


async def _store(results: Results, options: ImageOptions, *, inline_cache: bool) -> dict[str, str]:
    job, images = results.job, results.job.solver.images
    (built,) = results.found.values()
    async with job.shown("exporting to image") as part:
        config, _ = await image_config(job, built, options, part)
        part("exporting layers", 0, 0, True)
        raw = encode_config(config)
        if inline_cache:
            raw = with_steps(raw, config.rootfs.diff_ids, known_steps(job, built.vertex))
        image_id = images.put(raw)
        part(f"writing image {image_id}", 0, 0, True)
        for reference in options.names:
            images.tag(image_id, reference)
            part(f"naming to {reference.full()}", 0, 0, True)
        await images.on_disk()
    return {"containerimage.config.digest": image_id, "containerimage.digest": image_id}


async def _store_index(
    results: Results, packed: PackedLayers, options: ImageOptions, *, inline_cache: bool
) -> dict[str, str]:
    """Keep the images of several platforms, or of one with attestations; the names stand for the index of them."""
    job, images = results.job, results.job.solver.images
    async with job.shown("exporting to image") as part:
        memory = Memory(packed, options.compression)
        with images.manifests.gathering():
            written = await ImageWriter(results, memory, options, part, inline_cache=inline_cache).write()
            for image in written.images:
                if image.config.os == "linux":  # another system's image can be pushed, and is of no use here
                    images.put(image.raw)
                images.manifests.put(written.documents[image.manifest.digest], image.manifest.media_type)
                if image.attestations is not None:
                    await _keep_attestations(images, memory.documents, image.attestations)
            images.manifests.put(written.documents[written.top.digest], written.top.media_type)
            here = images.platforms.here(written.top.digest)
            if not here:
                raise InvalidParameter("none of the platforms is one of Linux, whose images alone can be kept here")
            for reference in options.names:
                images.tag(here[0], reference)
                images.names.put(reference, here[0], written.top.digest, here[1:])
                if options.canonical:
                    canonical = reference.repository.with_digest(written.top.digest)
                    images.names.put(canonical, here[0], written.top.digest, here[1:])
                part(f"naming to {reference.full()}", 0, 0, True)
        await images.on_disk()
    return {**written.told(), "containerimage.config.digest": here[0]}


async def _keep_attestations(images: ImageService, documents: Mapping[str, bytes], about: Descriptor) -> None:
    """Keep an attestation's manifest and its blobs."""
    manifest = Manifest.decode(documents[about.digest])
    for blob in (manifest.config, *manifest.layers):
        await asyncio.to_thread(images.manifests.statements.put, documents[blob.digest])
    images.manifests.put(documents[about.digest], about.media_type)


async def _push(
    results: Results, packed: PackedLayers, options: ImageOptions, name: Reference, *, inline_cache: bool
) -> Written:
    job, images = results.job, results.job.solver.images
    async with job.shown(f"pushing {name.familiar()}") as part:
        auth = await job.client.credentials(name.domain)
        repository = images.registry.repository(name, auth, push=True)
        registry = Registry(packed, options.compression, images, repository, part)
        writer = ImageWriter(results, registry, options, part, inline_cache=inline_cache)
        written = await writer.write()
        if not options.by_digest:
            await registry.name(name.tag or "latest", written.top, written.documents[written.top.digest])
        await _remember(results, options, name, written)
    return written


async def _remember(results: Results, options: ImageOptions, name: Reference, written: Written) -> None:
    """Know the image here by what it is in the registry, too."""
    images = results.job.solver.images
    here = [image.config_digest for image in written.images if image.config_digest in images]
    if not options.store or not here:
        return
    kinds = {written.top.digest: written.top.media_type}
    for image in written.images:
        for about in (image.manifest, image.attestations):
            if about is not None:
                kinds[about.digest] = about.media_type
    with images.manifests.gathering():
        for digest, kind in kinds.items():
            images.manifests.put(written.documents[digest], kind)
        known = images.platforms.here(written.top.digest) or here
        for reference in (name, name.repository.with_digest(written.top.digest)):
            images.names.put(reference, known[0], written.top.digest, known[1:])
    await images.on_disk()
