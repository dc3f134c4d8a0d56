"""A build's result as an archive of images on the client's side: an OCI layout, or one that docker loads, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from dockyard.builder.attributes import flag
from dockyard.builder.exporters.blobs import PackedLayers
from dockyard.builder.exporters.config import of_epoch
from dockyard.builder.exporters.destinations import Archive, ClientStore
from dockyard.builder.exporters.options import image_options
from dockyard.builder.exporters.writer import ImageWriter, Results, Written, WrittenImage
from dockyard.content import tar_format
from dockyard.errors import InvalidParameter
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.reference import Reference
from dockyard.timestamps import timestamp

_encode = msgspec.json.Encoder().encode


async def export_archive(
    results: Results, packed: PackedLayers, attributes: Mapping[str, str], number: int, *, docker: bool
) -> dict[str, str]:
    """Write an OCI layout or, with `docker`, one with docker's manifest.json. What the client is told."""
    job = results.job
    options = image_options(attributes, inline=False)
    if docker and results.several:
        raise InvalidParameter("docker exporter does not currently support exporting manifest lists")
    if not docker and options.oci is None:
        options = replace(options, oci=True)
    kind = "docker" if docker else "oci"
    async with job.shown(f"exporting to {kind} image format") as part:
        if not flag(attributes, "tar", True):
            store = ClientStore(packed, options.compression, await job.client.store("export"))
            written = await ImageWriter(results, store, options, part).write()
            return _told(written, options.names)
        async with job.client.file_to(number, {}) as write:
            archive = Archive(packed, options.compression, write)
            written = await ImageWriter(results, archive, options, part).write()
            entries = _named(_dated(written.top, results), options.names)
            await archive.file(
                "index.json", _encode({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": entries})
            )
            if docker:
                await archive.file("manifest.json", _encode([_for_docker(written.images[0], options.names)]))
            await archive.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o444)
            await write(tar_format.END)
            part("sending tarball", 0, 0, True)
        return _told(written, options.names)


def _told(written: Written, names: Sequence[Reference]) -> dict[str, str]:
    told = written.told()
    if names:
        told["image.name"] = ",".join(name.full() for name in names)
    return told


def _dated(top: Descriptor, results: Results) -> Descriptor:
    """With the time of the export, which is the build's if that is fixed."""
    epochs = [built.epoch for built in results.found.values() if built.epoch is not None]
    moment = of_epoch(epochs[0]) if epochs else timestamp().partition(".")[0] + "Z"
    created = top.annotations.get("org.opencontainers.image.created", moment)
    return msgspec.structs.replace(top, annotations={**top.annotations, "org.opencontainers.image.created": created})


def _named(top: Descriptor, names: Sequence[Reference]) -> list[Descriptor]:
    """An entry of the layout's index for each name."""
    found = []
    for name in names:
        marks = {"io.containerd.image.name": name.full(), "org.opencontainers.image.ref.name": name.tag or "latest"}
        annotations = dict(sorted({**top.annotations, **marks}.items()))
        found.append(msgspec.structs.replace(top, annotations=annotations))
    return found or [top]


def _for_docker(image: WrittenImage, names: Sequence[Reference]) -> dict[str, Any]:
    return {
        "Config": f"blobs/{image.config_digest.replace(':', '/')}",
        "RepoTags": [name.familiar() for name in names] or None,
        "Layers": [f"blobs/{layer.digest.replace(':', '/')}" for layer in image.layers],
    }
