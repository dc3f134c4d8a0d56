"""Image manifests and indexes, OCI's and Docker's (image-spec manifest.md, image-index.md; distribution's schema 2)."""

import platform as host_platform
import re
from typing import Any, TypeVar

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

_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}
# containerd/platforms, which these texts come from
_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_OS_COMPONENT = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
_SYSTEMS = frozenset(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris wasip1 "
    "windows zos".split()
)
_KNOWN = frozenset("386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split())


def host() -> Platform:
    """The platform of this machine."""
    machine = host_platform.machine()
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform(architecture, "linux", variant)


def parse_platform(text: str) -> Platform:
    """os[/architecture[/variant]] as `--platform` takes it. Raises InvalidParameter."""
    parts = text.lower().split("/")
    if parts[0] == "macos":
        parts[0] = "darwin"
    for at, part in enumerate(parts):
        if not (_COMPONENT if at else _OS_COMPONENT).fullmatch(part):
            kind = "OS component" if at == 0 else "component"
            rule = f'OSAndVersion specifier component must match "^{_OS_COMPONENT.pattern}$"'
            if at:
                rule = f'platform specifier component must match "^{_COMPONENT.pattern}$"'
            raise InvalidParameter(f'"{part}" is an invalid {kind} of "{text}": {rule}: invalid argument')
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    here = host()
    if parts[0] == "linux" and len(parts) == 1:
        return here
    if len(parts) == 1:
        if _ALIASES.get(parts[0], parts[0]) in _KNOWN:
            parts.insert(0, "linux")
        elif parts[0] in _SYSTEMS:
            parts.append(here.architecture)
        else:
            raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    return Platform(_ALIASES.get(parts[1], parts[1]), parts[0], parts[2] if len(parts) == 3 else "")


def normalized(platform: Platform) -> Platform:
    """A platform as indexes name it (containerd/platforms, Normalize): arm is v7 unless it says so, arm64 is v8."""
    if (platform.architecture, platform.variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        return msgspec.structs.replace(platform, variant="")
    if platform.architecture == "arm" and not platform.variant.startswith("v"):
        return msgspec.structs.replace(platform, variant=f"v{platform.variant or 7}")
    return platform


def runs_on(found: Platform, wanted: Platform) -> bool:
    """Whether what is made for `found` runs on `wanted`: by containerd's rules, what is left open fits."""
    if found.os != wanted.os:
        return False
    if found.architecture != wanted.architecture:
        return (found.architecture, wanted.architecture) in (("386", "amd64"), ("arm", "arm64"))
    if not found.variant or not wanted.variant or found.variant == wanted.variant:
        return True
    return found.architecture == "arm" and found.variant < wanted.variant


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
        _check_kind(data, found.media_type, MANIFESTS, ("manifests", "fsLayers"))
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
        _check_kind(data, found.media_type, INDEXES, ("config", "layers", "fsLayers"))
        for descriptor in found.manifests:
            check_digest(descriptor.digest)
        return found

    def choose(self, wanted: Platform) -> Descriptor | None:
        """The manifest that runs on `wanted`: the same variant before one that names none; None when there is none."""
        fitting = [entry for entry in self.manifests if entry.platform is None or runs_on(entry.platform, wanted)]
        fitting.sort(key=lambda entry: distance(entry.platform, wanted))
        return fitting[0] if fitting else None


def distance(found: Platform | None, wanted: Platform) -> tuple[bool, bool]:
    """How far a platform is from the one that is wanted, to sort by."""
    if found is None:
        return False, True
    return found.architecture != wanted.architecture, found.variant != wanted.variant


def _check_kind(data: bytes, media_type: str, kinds: tuple[str, ...], of_others: tuple[str, ...]) -> None:
    """Raise InvalidParameter for a document that another reader may take for one of another kind (CVE-2021-41190).

    What was signed or scanned as one thing must not run as another.
    """
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    ambiguous = [name for name in of_others if name in fields and bytes(fields[name]) != b"null"]
    if ambiguous or (media_type and media_type not in kinds):
        reason = f"it has {' and '.join(ambiguous)}" if ambiguous else f"it calls itself {media_type}"
        raise InvalidParameter(f"invalid {'index' if kinds is INDEXES else 'manifest'}: {reason}")


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            # to Go null is as good as nothing
            return msgspec.convert(_without_nulls(msgspec.json.decode(data)), kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid {kind.__name__.lower()}: {error}") from None


def _without_nulls(value: Any) -> Any:
    """A document without the members that are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
