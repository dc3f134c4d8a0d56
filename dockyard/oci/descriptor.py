"""A blob by its type, size and digest (image-spec, descriptor.md)."""

import msgspec


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an image runs, in Go's names: linux, amd64."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a manifest says of a blob; `size` in bytes."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    annotations: dict[str, str] = {}
    urls: list[str] = []
    platform: Platform | None = None
    artifact_type: str = ""
