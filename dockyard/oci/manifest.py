"""Image manifests and indexes, OCI's and Docker's (image-spec manifest.md, image-index.md; distribution's schema 2)."""

import platform as host_platform
from typing import TypeVar

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.digest import check_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
T = TypeVar("T")

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)

# uname's names of machines in Go's
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
}


def host() -> Platform:
    """The platform of this machine."""
    machine = host_platform.machine()
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform(architecture, "linux", variant)


def parse_platform(text: str) -> Platform:
    """os[/architecture[/variant]] as `--platform` takes it. Raises InvalidParameter."""
    parts = text.lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise InvalidParameter(f'"{text}": invalid platform')
    here = host()
    if len(parts) == 1:
        return here if parts[0] == "linux" else Platform(parts[0], "linux")
    architecture = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(parts[1], parts[1])
    return Platform(architecture, parts[0], parts[2] if len(parts) == 3 else "")


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image: its config and its layers, bottom first."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    annotations: dict[str, str] = {}

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Parse a manifest. Raises InvalidParameter, also for digests that are none."""
        found = _decode(data, cls)
        for descriptor in (found.config, *found.layers):
            check_digest(descriptor.digest)
        return found


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """Several manifests, usually the same image for several platforms."""

    manifests: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    annotations: dict[str, str] = {}

    @classmethod
    def decode(cls, data: bytes) -> "Index":
        """Parse an index. Raises InvalidParameter, also for digests that are none."""
        found = _decode(data, cls)
        for descriptor in found.manifests:
            check_digest(descriptor.digest)
        return found

    def choose(self, wanted: Platform) -> Descriptor | None:
        """The manifest that runs on `wanted`: the same variant before one that names none; None when there is none."""
        fitting = [
            entry
            for entry in self.manifests
            if entry.platform is None
            or (
                entry.platform.os == wanted.os
                and entry.platform.architecture == wanted.architecture
                and (not wanted.variant or entry.platform.variant in ("", wanted.variant))
            )
        ]
        fitting.sort(key=lambda entry: entry.platform is None or entry.platform.variant != wanted.variant)
        return fitting[0] if fitting else None


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid {kind.__name__.lower()}: {error}") from None
