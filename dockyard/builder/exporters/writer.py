"""A build's results as an image: configurations, manifests, attestations and their index, written to wherever they go.

One platform without attestations is a manifest, else there is an index, as with BuildKit (exporter/containerimage,
writer.go). Documents are laid out as Go's encoder does it, so that digests can be compared.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from dockyard.builder.attestations.statements import Attestation, Subject, digest_set, purl_of
from dockyard.builder.cache.inline import with_steps
from dockyard.builder.exporters.cache import known_steps
from dockyard.builder.exporters.config import image_config
from dockyard.builder.exporters.options import ImageOptions
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.request import Built
from dockyard.engine.images.documents import encode_config
from dockyard.engine.images.layer_store import chains_of
from dockyard.errors import InvalidParameter
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.digest import digest_of
from dockyard.oci.image_config import ImageConfig
from dockyard.oci.manifest import normalized, parse_platform

IN_TOTO = "application/vnd.in-toto+json"
ATTESTATION_ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
REWRITTEN = "buildkit/rewritten-timestamp"
UNKNOWN = Platform("unknown", "unknown")
_EMPTY = b"{}"
_encode = msgspec.json.Encoder().encode


class Destination(Protocol):
    """Where an image is written to."""

    async def layer(self, chain_id: str, *, oci: bool, base: bool) -> Descriptor:
        """Write a layer; what it is there. `base`: it comes from a base image."""

    async def document(self, descriptor: Descriptor, content: bytes) -> None:
        """Write a configuration, a manifest, an index, a statement; what it names is there already."""


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """One platform's image as it was written; `attestations`: the manifest of what is said about it."""

    platform: str
    config: ImageConfig
    raw: bytes
    manifest: Descriptor
    layers: Sequence[Descriptor]
    attestations: Descriptor | None = None

    @property
    def config_digest(self) -> str:
        """Its ID."""
        return digest_of(self.raw)


@dataclass(slots=True)
class Written:
    """All that was written; `top` is the index or the only manifest. `documents`: manifests and index, by digest."""

    top: Descriptor
    images: list[WrittenImage]
    documents: dict[str, bytes] = field(default_factory=dict)

    def told(self) -> dict[str, str]:
        """What clients are told of it."""
        found = {
            "containerimage.digest": self.top.digest,
            "containerimage.descriptor": base64.b64encode(_encode(self.top)).decode(),
        }
        if self.top.media_type not in oci.INDEXES:
            found["containerimage.config.digest"] = self.images[0].config_digest
        return found


class Results:
    """What a build has led to, as exporters are given it. `several`: an index is wanted even for one platform."""

    def __init__(
        self, job: Job, found: Mapping[str, Built], attestations: Mapping[str, Sequence[Attestation]], *, several: bool
    ) -> None:
        self.job = job
        self.found = found
        self.attestations = attestations
        self.several = several

    def wanted(self, platform: str, *, inline: bool) -> list[Attestation]:
        """The attestations about a platform's result; those for images alone only with `inline`."""
        return [one for one in self.attestations.get(platform, ()) if inline or not one.inline_only]


class ImageWriter:
    """Writes what a build has led to."""

    def __init__(
        self,
        results: Results,
        destination: Destination,
        options: ImageOptions,
        part: Any,
        *,
        inline_cache: bool = False,
    ) -> None:
        """`part` tells how far it is (Job.shown)."""
        self._results = results
        self._job = results.job
        self._to = destination
        self._options = options
        self._part = part
        self._inline_cache = inline_cache
        found = results.found
        attested = {platform: results.wanted(platform, inline=True) for platform in found}
        self._indexed = results.several or any(results.wanted(platform, inline=options.inline) for platform in found)
        self._attested = attested if self._indexed else {}
        needs_oci = any(self._attested.values()) or bool(options.annotations) or options.compression.kind == "zstd"
        self._oci = needs_oci if options.oci is None else options.oci
        self._documents: dict[str, bytes] = {}

    async def write(self) -> Written:
        """Write everything. Raises InvalidParameter for what cannot be together."""
        self._check()
        images = [await self._image(platform, built) for platform, built in self._results.found.items()]
        if not self._indexed:
            only = images[0]
            return Written(only.manifest, images, self._documents)
        annotated = self._options.annotated()
        entries = [image.manifest for image in images]
        entries += [image.attestations for image in images if image.attestations is not None]
        index: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_INDEX if self._oci else oci.DOCKER_INDEX,
            "manifests": entries,
        }
        if annotated.index:
            index["annotations"] = dict(sorted(annotated.index.items()))
        top = await self._document(index, annotated.index_descriptor)
        self._part(f"exporting manifest list {top.digest}", 0, 0, True)
        return Written(top, images, self._documents)

    def _check(self) -> None:
        options, found = self._options, self._results.found
        platforms = {str(parse_platform(platform)) for platform in found if platform}
        for platform in options.annotations:
            if platform and platform not in platforms:
                raise InvalidParameter(f"invalid annotation: no platform {platform} found in source")
        annotated = options.annotated()
        if not self._oci and (annotated.index or annotated.index_descriptor or annotated.manifest_descriptor):
            raise InvalidParameter('cannot export annotations with "oci-mediatypes=false"')
        if not self._indexed and (annotated.index or annotated.index_descriptor):
            raise InvalidParameter("index annotations not supported for single platform export")
        if not self._oci and any(self._attested.values()):
            raise InvalidParameter('cannot export attestations with "oci-mediatypes=false"')

    async def _image(self, platform: str, built: Built) -> WrittenImage:
        config, _ = await image_config(self._job, built, self._options, self._part)
        raw = encode_config(config)
        if self._inline_cache:
            raw = with_steps(raw, config.rootfs.diff_ids, known_steps(self._job, built.vertex))
        base = set(chains_of(built.config.rootfs.diff_ids))
        chains = chains_of(config.rootfs.diff_ids)
        layers = await asyncio.gather(
            *(self._to.layer(chain_id, oci=self._oci, base=chain_id in base) for chain_id in chains)
        )
        if self._options.rewrite_times and built.epoch is not None and self._oci:
            layers = [
                layer if chain_id in base else msgspec.structs.replace(layer, annotations={REWRITTEN: str(built.epoch)})
                for chain_id, layer in zip(chains, layers, strict=True)
            ]
        self._part("exporting layers", 0, 0, True)
        about = Descriptor(oci.OCI_CONFIG if self._oci else oci.DOCKER_CONFIG, digest_of(raw), len(raw))
        await self._to.document(about, raw)
        # what was asked for, though the last stage may be on an image of another platform
        own = Platform(config.architecture, config.os, config.variant)
        where = normalized(parse_platform(platform)) if platform else own
        annotated = self._options.annotated(str(where))
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST if self._oci else oci.DOCKER_MANIFEST,
            "config": about,
            "layers": layers,
        }
        if annotated.manifest:
            document["annotations"] = dict(sorted(annotated.manifest.items()))
        manifest = await self._document(document, annotated.manifest_descriptor, where)
        self._part(f"exporting manifest {manifest.digest}", 0, 0, True)
        self._part(f"exporting config {about.digest}", 0, 0, True)
        about_it = self._attested.get(platform, [])
        statements = await self._statements(about_it, built, manifest, where) if about_it else None
        return WrittenImage(platform, config, raw, manifest, layers, statements)

    async def _document(
        self, document: dict[str, Any], annotations: Mapping[str, str], platform: Platform | None = None
    ) -> Descriptor:
        content = pretty(document)
        found = Descriptor(
            document["mediaType"],
            digest_of(content),
            len(content),
            annotations=dict(sorted(annotations.items())),
            platform=platform,
        )
        self._documents[found.digest] = content
        await self._to.document(found, content)
        return found

    async def _statements(
        self, wanted: Sequence[Attestation], built: Built, manifest: Descriptor, where: Platform
    ) -> Descriptor:
        """Write what is said about an image, as a manifest whose layers are in-toto statements."""
        subjects = [Subject(purl_of(name, where), digest_set(manifest.digest)) for name in self._options.names]
        layers = []
        for attestation in wanted:
            content = await attestation.statement(subjects)
            about = Descriptor(
                IN_TOTO,
                digest_of(content),
                len(content),
                annotations={"in-toto.io/predicate-type": attestation.predicate_type},
            )
            await self._to.document(about, content)
            layers.append(about)
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST}
        if self._options.oci_artifact:
            document["artifactType"] = ATTESTATION_ARTIFACT
            kind = "application/vnd.oci.empty.v1+json"
            await self._to.document(Descriptor(kind, digest_of(_EMPTY), len(_EMPTY)), _EMPTY)
            empty = base64.b64encode(_EMPTY).decode()
            document["config"] = {"mediaType": kind, "digest": digest_of(_EMPTY), "size": 2, "data": empty}
            document["layers"] = layers
            document["subject"] = Descriptor(manifest.media_type, manifest.digest, manifest.size)
        else:
            raw = _encode(
                {
                    "architecture": UNKNOWN.architecture,
                    "os": UNKNOWN.os,
                    "config": {},
                    "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
                }
            )
            document["config"] = Descriptor(oci.OCI_CONFIG, digest_of(raw), len(raw))
            await self._to.document(document["config"], raw)
            document["layers"] = layers
        marks = {
            "vnd.docker.reference.digest": manifest.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        }
        found = await self._document(document, marks, UNKNOWN)
        self._part(f"exporting attestation manifest {found.digest}", 0, 0, True)
        return found


def pretty(document: Any) -> bytes:
    """JSON with two blanks for each level, as Go's json.MarshalIndent writes it."""
    return msgspec.json.format(_encode(document), indent=2)
