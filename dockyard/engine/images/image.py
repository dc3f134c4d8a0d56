"""An image as others see it."""

from collections.abc import Mapping
from dataclasses import dataclass

from dockyard.errors import NotFound
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import ImageConfig
from dockyard.timestamps import parse_time


@dataclass(frozen=True, slots=True)
class Image:
    """An image and what the engine knows of it at this moment; sizes are bytes, `size` with all layers."""

    id: str
    config: ImageConfig
    raw: bytes
    chain_id: str | None
    parent: str | None
    repo_tags: list[str]
    repo_digests: list[str]
    size: int
    last_tag_ns: int

    @property
    def platform(self) -> Platform:
        """What it is made for; without an architecture when it does not say."""
        return Platform(self.config.architecture, self.config.os, self.config.variant)

    @property
    def labels(self) -> Mapping[str, str]:
        """The image's labels; empty when it has none."""
        return (self.config.config.labels if self.config.config else None) or {}

    @property
    def created_ns(self) -> int | None:
        """When it was made, UNIX ns; None when the image does not say."""
        return parse_time(self.config.created)


def of_other_platform(reference: str, found: Platform, wanted: Platform) -> NotFound:
    """The error for an image that is there, and not for the platform that is wanted; clients then pull that one."""
    return NotFound(
        f"image with reference {reference} was found but its platform ({found}) does not match the specified platform "
        f"({wanted})"
    )


@dataclass(frozen=True, slots=True)
class ImageUser:
    """A container that keeps an image in use."""

    container_id: str
    running: bool


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of `docker history`, newest first; `created` is UNIX seconds, `size` bytes."""

    id: str
    created: int
    created_by: str
    tags: list[str] | None
    size: int
    comment: str


def short(image_id: str) -> str:
    """The 12 digits by which people know an image."""
    return image_id.removeprefix("sha256:")[:12]


def is_id(name: str, image_id: str) -> bool:
    """Whether what an image was found by is its ID, whole or shortened."""
    return image_id.startswith(name) or image_id.removeprefix("sha256:").startswith(name)
