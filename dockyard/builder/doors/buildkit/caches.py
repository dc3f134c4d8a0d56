"""Caches that a client names: what is read before a build (`--cache-from`) and written after it (`--cache-to`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from dockyard.builder.attributes import flag
from dockyard.builder.cache.config import ImportedStep
from dockyard.builder.cache.inline import steps_in
from dockyard.builder.doors.buildkit.options import CacheEntry
from dockyard.builder.exporters.blobs import PackedLayers
from dockyard.builder.exporters.cache import CacheOptions, CacheWriter, cache_mode
from dockyard.builder.exporters.destinations import ClientStore, Registry
from dockyard.builder.exporters.options import compression_of
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.request import Built
from dockyard.builder.sources.caches import CacheContent, Place, RegistryPlace, StorePlace, read_cache
from dockyard.errors import DockyardError, InvalidParameter, NotFound
from dockyard.oci.reference import Reference

log = logging.getLogger("dockyard.builder")

EXPORTED = ("registry", "local")


async def import_caches(job: Job, entries: Sequence[CacheEntry]) -> None:
    """Take up the steps that caches tell of; a cache that can't be had is gone on without."""
    for entry in entries:
        shown = entry.attrs.get("ref") or f"{entry.type}:{entry.attrs.get('src', '')}"
        try:
            async with job.shown(f"importing cache manifest from {shown}") as part:
                known = _local_image(job, entry)
                if known is not None:
                    job.take_up(known, {})
                    continue
                content = await _read(job, entry)
                part(f"inferred cache manifest type: {content.kind}", 0, 0, True)
                job.take_up(content.steps, content.layers)
        except DockyardError as error:
            log.info("no cache from %s: %s", shown, error)


def _local_image(job: Job, entry: CacheEntry) -> dict[str, ImportedStep] | None:
    """The steps that an image of the engine tells of; None when there is none of that name."""
    if entry.type != "registry":
        return None
    try:
        image = job.solver.images.find(entry.attrs.get("ref", ""))
    except NotFound:
        return None
    if image.chain_id is not None:
        job.hold(image.chain_id)
    return steps_in(image.raw, list(image.config.rootfs.diff_ids))


async def _read(job: Job, entry: CacheEntry) -> CacheContent:
    place: Place
    if entry.type == "registry":
        reference = Reference.parse(entry.attrs.get("ref", "")).or_latest()
        auth = await job.client.credentials(reference.domain)
        repository = job.solver.images.registry.repository(reference, auth)
        place = RegistryPlace(repository, reference.digest or reference.tag or "latest")
    elif entry.type == "local":
        if not entry.attrs.get("digest") or not entry.attrs.get("src"):
            raise InvalidParameter("local cache importer requires src and an explicit digest")
        store = await job.client.store(f"local:{entry.attrs['src']}")
        place = StorePlace(store, entry.attrs["digest"])
    else:
        raise InvalidParameter(f'unknown cache importer: "{entry.type}"')
    return await read_cache(place)


def check_exports(entries: Sequence[CacheEntry]) -> None:
    """Say what cannot be written before anything is built. Raises InvalidParameter."""
    known = [entry.attrs["ref"] if entry.attrs.get("ref") else repr((entry.type, entry.attrs)) for entry in entries]
    twice = [entry.type for entry, name in zip(entries, known, strict=True) if known.count(name) > 1]
    if twice:
        raise InvalidParameter(f"duplicate cache exports [{' '.join(dict.fromkeys(twice))}]")
    for entry in entries:
        if entry.type not in EXPORTED:
            raise InvalidParameter(f'unknown cache exporter: "{entry.type}"')
        need = "dest" if entry.type == "local" else "ref"
        if not entry.attrs.get(need):
            raise InvalidParameter(f"failed to configure {entry.type} cache exporter: {entry.type} needs {need}")
        _options(entry.attrs)
        compression_of(entry.attrs)
        flag(entry.attrs, "ignore-error")


def _options(attributes: Mapping[str, str]) -> CacheOptions:
    oci = flag(attributes, "oci-mediatypes", True)
    as_image = flag(attributes, "image-manifest", oci)
    if as_image and not oci:
        raise InvalidParameter(
            "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format"
        )
    return CacheOptions(cache_mode(attributes), oci, as_image)


async def export_caches(
    job: Job, found: Mapping[str, Built], packed: PackedLayers, entries: Sequence[CacheEntry]
) -> dict[str, str]:
    """Write what has come of the build's steps to every cache. What the client is told."""
    told: dict[str, str] = {}
    for entry in entries:
        try:
            told.update(await _export(job, found, packed, entry))
        except DockyardError as error:
            if not flag(entry.attrs, "ignore-error"):
                raise
            log.info("a cache could not be written: %s", error)
    return told


async def _export(job: Job, found: Mapping[str, Built], packed: PackedLayers, entry: CacheEntry) -> dict[str, str]:
    targets = [built.vertex for built in found.values()]
    options, compression = _options(entry.attrs), compression_of(entry.attrs)
    place = "client directory" if entry.type == "local" else "registry"
    async with job.shown(f"exporting cache to {place}") as part:
        if entry.type == "local":
            store = await job.client.store(f"local:{entry.attrs['dest']}")
            written = await CacheWriter(job, targets, options, ClientStore(packed, compression, store)).write(part)
        else:
            reference = Reference.parse(entry.attrs["ref"]).or_latest()
            auth = await job.client.credentials(reference.domain)
            repository = job.solver.images.registry.repository(reference, auth, push=True)
            registry = Registry(packed, compression, job.solver.images, repository, part)
            written = await CacheWriter(job, targets, options, registry).write(part)
            if written is not None:
                await registry.name(reference.tag or "latest", *written)
        if written is None:
            part("skipping cache export for empty result", 0, 0, True)
            return {}
    return {"cache.manifest": msgspec.json.encode(written[0]).decode()}
