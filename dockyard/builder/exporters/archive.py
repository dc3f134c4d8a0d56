"""A build's result as an archive of images on the client's side: an OCI layout, or one that docker loads, too."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import zstandard
from isal import isal_zlib

from dockyard.builder.exporters.image import check_name, image_config
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.solver import Job
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.engine.images.documents import encode_config
from dockyard.engine.images.layer_store import chains_of
from dockyard.errors import InvalidParameter
from dockyard.generators import closing
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.digest import digest_of
from dockyard.oci.image_config import ImageConfig
from dockyard.oci.reference import Reference

COMPRESSIONS = ("uncompressed", "gzip", "zstd")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One platform's image in an archive."""

    config: ImageConfig
    config_digest: str
    manifest: Descriptor
    layers: list[Descriptor]


class ImageArchive:
    """Writes an archive; every blob once."""

    def __init__(self, job: Job, write: Callable[[bytes], Any], compression: str) -> None:
        if compression not in COMPRESSIONS:
            raise InvalidParameter(f"unsupported layer compression type {compression}")
        self._job = job
        self._write = write
        self._compression = compression
        self._written: dict[str, Descriptor] = {}
        self._begun = False

    async def file(self, name: str, content: bytes) -> None:
        """Add a file."""
        if not self._begun:
            self._begun = True
            for folder in ("blobs/", "blobs/sha256/"):
                await self._write(tar_format.header(Entry(folder, tar_format.DIRECTORY, 0o755)))
        head = tar_format.header(Entry(name, size=len(content)))
        await self._write(head + content + bytes(tar_format.padding(len(content))))

    async def blob(self, content: bytes) -> str:
        """Add a document; its digest."""
        digest = digest_of(content)
        if digest not in self._written:
            self._written[digest] = Descriptor()
            await self.file(f"blobs/{digest.replace(':', '/')}", content)
        return digest

    async def image(self, built: Built) -> ArchivedImage:
        """Add an image: its layers, its configuration, its manifest."""
        config, _ = await image_config(self._job, built)
        raw = encode_config(config)
        layers = [await self._layer(chain_id) for chain_id in chains_of(config.rootfs.diff_ids)]
        digest = await self.blob(raw)
        document = _encode(
            {
                "schemaVersion": 2,
                "mediaType": oci.OCI_MANIFEST,
                "config": Descriptor(oci.OCI_CONFIG, digest, len(raw)),
                "layers": layers,
            }
        )
        platform = Platform(config.architecture, config.os, config.variant)
        descriptor = Descriptor(oci.OCI_MANIFEST, await self.blob(document), len(document), platform=platform)
        return ArchivedImage(config, digest, descriptor, layers)

    async def _layer(self, chain_id: str) -> Descriptor:
        store = self._job.solver.layers
        diff_id = store.get(chain_id).diff_id
        if diff_id in self._written:
            return self._written[diff_id]
        if self._compression == "uncompressed":
            size = await store.packed_size(chain_id)
            found = Descriptor(oci.OCI_LAYER, diff_id, size)
            await self._write(tar_format.header(Entry(f"blobs/{diff_id.replace(':', '/')}", size=size)))
            async with closing(store.pack(chain_id)) as pieces:
                async for piece in pieces:
                    await self._write(piece)
            await self._write(bytes(tar_format.padding(size)))
        else:
            content = b"".join([piece async for piece in self._compressed(store.pack(chain_id))])
            found = Descriptor(f"{oci.OCI_LAYER}+{self._compression}", await self.blob(content), len(content))
        self._written[diff_id] = found
        return found

    async def _compressed(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        packer: Any = (
            isal_zlib.compressobj(2, zlib.DEFLATED, 31)
            if self._compression == "gzip"
            else zstandard.ZstdCompressor().compressobj()
        )
        async with closing(pieces) as given:
            async for piece in given:
                if packed := packer.compress(piece):
                    yield packed
        yield packer.flush()


async def export_archive(
    job: Job, found: Mapping[str, Built], attributes: Mapping[str, str], number: int, *, docker: bool
) -> dict[str, str]:
    """Write an OCI layout or, with `docker`, one with docker's manifest.json. What the client is told."""
    names = [check_name(name) for name in attributes.get("name", "").split(",") if name]
    if docker and len(found) > 1:
        raise InvalidParameter("docker exporter does not currently support exporting manifest lists")
    kind = "docker" if docker else "oci"
    async with job.shown(f"exporting to {kind} image format") as part, job.client.file_to(number, {}) as write:
        archive = ImageArchive(job, write, attributes.get("compression", "uncompressed"))
        images = [await archive.image(built) for built in found.values()]
        part("exporting layers", 0, 0, True)
        top = images[0].manifest
        if len(images) > 1:
            document = _encode(
                {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [image.manifest for image in images]}
            )
            top = Descriptor(oci.OCI_INDEX, await archive.blob(document), len(document))
        part(f"exporting manifest {top.digest}", 0, 0, True)
        entries = _named(top, names)
        await archive.file(
            "index.json", _encode({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": entries})
        )
        await archive.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        if docker:
            await archive.file("manifest.json", _encode([_for_docker(images[0], names)]))
        await write(tar_format.END)
        part("sending tarball", 0, 0, True)
    told = {
        "containerimage.config.digest": images[0].config_digest,
        "containerimage.digest": top.digest,
        "containerimage.descriptor": base64.b64encode(_encode(top)).decode(),
    }
    if names:
        told["image.name"] = ",".join(name.full() for name in names)
    return told


def _named(top: Descriptor, names: Sequence[Reference]) -> list[Descriptor]:
    if not names:
        return [top]
    return [
        msgspec.structs.replace(
            top,
            annotations={
                "io.containerd.image.name": name.full(),
                "org.opencontainers.image.ref.name": name.tag or "latest",
            },
        )
        for name in names
    ]


def _for_docker(image: ArchivedImage, names: Sequence[Reference]) -> dict[str, Any]:
    return {
        "Config": f"blobs/{image.config_digest.replace(':', '/')}",
        "RepoTags": [name.familiar() for name in names] or None,
        "Layers": [f"blobs/{layer.digest.replace(':', '/')}" for layer in image.layers],
    }
