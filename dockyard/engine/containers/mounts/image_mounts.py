"""Images that containers have mounted (`--mount type=image`), read-only.

Each is a snapshot of its own on the image's layers, as every storage driver can make and mount one; nobody writes to
it. Its name begins with the container's id, so that what belongs to no container is found.
"""

import secrets
from collections.abc import Iterable

from dockyard.engine.containers.container import MountPoint, Record
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.images.service import ImageService


def owner_of(layer: str) -> str:
    """The id of the container that a layer belongs to, its own or a mounted image's."""
    return layer.partition("-")[0]


def image_points(record: Record) -> list[MountPoint]:
    """The images among a container's mounts."""
    return [point for point in record.mounts if point.type == "image"]


class ImageMounts:
    """Makes, mounts and removes them; each under its container's lock."""

    def __init__(self, images: ImageService, layers: ContainerLayers) -> None:
        self._images = images
        self._layers = layers

    async def make(self, record: Record) -> None:
        """For a container that is being made; what was made before a failure is known by `point.layer`.

        Raises NotFound when an image is gone.
        """
        for point in image_points(record):
            image = await self._images.get(point.image_id)
            layer = f"{record.id}-{secrets.token_hex(6)}"
            await self._layers.create(
                layer,
                image.chain_id,
                volatile=record.passing,
                bare=True,
                options=record.host_config.storage_opt,
                ids=record.ids,
            )
            point.layer = layer

    async def mount(self, points: Iterable[MountPoint]) -> dict[str, str]:
        """Mount them on the host: where they are, by their destinations. `unmount` undoes it, in part too."""
        for point in points:
            point.source = await self._layers.mount(point.layer)
        return {point.destination: point.source for point in points}

    async def unmount(self, points: Iterable[MountPoint]) -> None:
        """Undo `mount`; no error for what is not mounted."""
        for point in points:
            await self._layers.unmount(point.layer)

    async def release(self, points: Iterable[MountPoint]) -> None:
        """Give them up; no error for what is not there."""
        for point in points:
            if point.layer:
                await self._layers.release(point.layer)
