"""What clients say of an image that a build is to become: names, compression, media types, annotations.

The attributes are BuildKit's (exporter/containerimage, exptypes/keys.go and annotations.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dockyard.builder.attributes import flag
from dockyard.errors import InvalidParameter
from dockyard.oci.manifest import parse_platform
from dockyard.oci.reference import Reference

KINDS = ("uncompressed", "gzip", "zstd")
_ANNOTATION = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)")
_LEVELS = {"uncompressed": range(1), "gzip": range(10), "zstd": range(23)}


@dataclass(frozen=True, slots=True)
class Compression:
    """How layers are packed; `level` None: a fast one. `force`: also those that are known otherwise."""

    kind: str = "gzip"
    level: int | None = None
    force: bool = False


@dataclass(slots=True)
class Annotations:
    """What is written on a manifest or index, and on what points to it."""

    manifest: dict[str, str] = field(default_factory=dict)
    manifest_descriptor: dict[str, str] = field(default_factory=dict)
    index: dict[str, str] = field(default_factory=dict)
    index_descriptor: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """An image as it is wanted. `annotations`: by platform, "" for all. `oci` None: whichever media types suit.

    `inline`: attestations that are only wanted where they take no further file are wanted.
    """

    names: tuple[Reference, ...] = ()
    compression: Compression = Compression()
    oci: bool | None = None
    oci_artifact: bool = False
    annotations: Mapping[str, Annotations] = field(default_factory=dict)
    rewrite_times: bool = False
    push: bool = False
    by_digest: bool = False
    store: bool = True
    canonical: bool = False
    squash: bool = False
    inline: bool = False

    def annotated(self, platform: str = "") -> Annotations:
        """What is to be written on the image for `platform`, and on the index."""
        found = Annotations()
        for other in self.annotations.values():
            found.index |= other.index
            found.index_descriptor |= other.index_descriptor
        for name in dict.fromkeys(("", platform)):
            if name in self.annotations:
                found.manifest |= self.annotations[name].manifest
                found.manifest_descriptor |= self.annotations[name].manifest_descriptor
        return found


def image_options(attributes: Mapping[str, str], *, inline: bool) -> ImageOptions:
    """What an exporter's attributes ask for. Raises InvalidParameter."""
    oci = flag(attributes, "oci-mediatypes") if "oci-mediatypes" in attributes else None
    compression = compression_of(attributes)
    artifact = flag(attributes, "oci-artifact")
    if oci is False and compression.kind == "zstd":
        raise InvalidParameter('exporter option "compression=zstd" conflicts with "oci-mediatypes=false"')
    if oci is False and artifact:
        raise InvalidParameter('exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"')
    return ImageOptions(
        tuple(check_name(name) for name in attributes.get("name", "").split(",") if name),
        compression,
        oci,
        artifact,
        _annotations(attributes),
        flag(attributes, "rewrite-timestamp"),
        flag(attributes, "push"),
        flag(attributes, "push-by-digest"),
        flag(attributes, "store", True),
        flag(attributes, "name-canonical"),
        flag(attributes, "squash"),
        flag(attributes, "attestation-inline", inline),
    )


def compression_of(attributes: Mapping[str, str]) -> Compression:
    """How layers are to be packed. Raises InvalidParameter."""
    kind = attributes.get("compression", "gzip")
    if kind not in KINDS:
        raise InvalidParameter(f"unsupported compression type {kind}")
    level = None
    if text := attributes.get("compression-level", ""):
        if not re.fullmatch(r"-?\d{1,3}", text):
            raise InvalidParameter(f"non-integer value {text} specified for compression-level")
        level = int(text)
        if level not in _LEVELS[kind]:
            raise InvalidParameter(f"compression-level {level} is none of {kind}")
    return Compression(kind, level, flag(attributes, "force-compression"))


def check_name(name: str) -> Reference:
    """A name for an image. Raises InvalidParameter."""
    reference = Reference.parse(name)
    if reference.digest is not None:
        raise InvalidParameter("build tag cannot contain a digest")
    return reference.or_latest()


def _annotations(attributes: Mapping[str, str]) -> dict[str, Annotations]:
    found: dict[str, Annotations] = {}
    for attribute, value in attributes.items():
        match = _ANNOTATION.fullmatch(attribute)
        if match is None:
            continue
        kind, platform, key = match[1] or "manifest", match[2] or "", match[3]
        if kind not in ("manifest", "manifest-descriptor", "index", "index-descriptor"):
            raise InvalidParameter(f"unrecognized annotation type {kind}")
        if platform:
            platform = str(parse_platform(platform))
        getattr(found.setdefault(platform, Annotations()), kind.replace("-", "_"))[key] = value
    return found
