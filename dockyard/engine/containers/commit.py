"""From a container to an image: its changes as a new layer, its configuration as the image's."""

from contextlib import suppress

import msgspec

from dockyard.dockerfile.image_config import changed
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.images.image import Image
from dockyard.engine.images.layer_store import EMPTY, LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.errors import NotFound
from dockyard.oci.image_config import ContainerConfig, History, ImageConfig
from dockyard.oci.manifest import host
from dockyard.oci.reference import Reference
from dockyard.shim.connection import Shim
from dockyard.timestamps import timestamp


class CommitService:
    """Makes images of containers."""

    def __init__(
        self, containers: ContainerService, images: ImageService, layers: LayerStore, container_layers: ContainerLayers
    ) -> None:
        self._containers = containers
        self._images = images
        self._layers = layers
        self._container_layers = container_layers

    async def commit(
        self,
        reference: str,
        *,
        name: Reference | None = None,
        changes: list[str],
        config: ContainerConfig | None = None,
        author: str = "",
        comment: str = "",
        pause: bool = True,
    ) -> Image:
        """Make an image of a container as it is now; it stands still meanwhile, unless not `pause`.

        `config` replaces the container's own where it says something; `changes` are Dockerfile instructions on top.
        Raises NotFound, InvalidParameter.
        """
        container = self._containers.get(reference)
        shim: Shim | None = container.shim if pause and container.state.status == "running" else None
        if shim is not None:
            try:
                await shim.pause()
                self._containers.emit(container, "pause")
            except NotFound:  # it has just ended
                shim = None
        try:
            await self._containers.make_whole(container)
            layer = await self._container_layers.commit(container.id)
        except FileNotFoundError:  # it has been removed meanwhile, or is being
            if self._containers.get(container.id).removing:
                raise NotFound(f"No such container: {reference}") from None
            raise
        finally:
            if shim is not None:
                with suppress(NotFound):
                    await shim.resume()
                    self._containers.emit(container, "unpause")
        try:
            await self._layers.settle()
            parent = self._images.find(container.record.image_id) if container.record.image_id else None
            own = _of_image(container.config)
            merged = _of_image(config) if config is not None else _of_image(container.config)
            if changes:
                merged = changed(merged, changes)
            _fill(merged, own)
            created = timestamp()
            here = host()
            old = parent.config if parent is not None else ImageConfig()
            entry = History(
                created=created,
                created_by=" ".join(container.argv),
                author=author,
                comment=comment,
                empty_layer=layer.diff_id == EMPTY,
            )
            image = await self._images.create(
                ImageConfig(
                    architecture=old.architecture or here.architecture,
                    variant=old.variant,
                    os=old.os or here.os,
                    author=author,
                    comment=comment,
                    created=created,
                    container=container.id,
                    config=merged,
                    history=[*(old.history or []), entry],
                ),
                parent,
                layer,
            )
        finally:
            self._layers.drop(layer.chain_id)
        self._images.emit("create", image.id, image.id)
        if name is not None:
            self._images.tag(image.id, name)
        await self._images.on_disk()
        self._containers.emit(
            container, "commit", comment=comment, imageID=image.id, imageRef=name.familiar() if name is not None else ""
        )
        return image


def _of_image(config: ContainerConfig) -> ContainerConfig:
    """A copy without what is a container's alone."""
    fields = msgspec.to_builtins(config) | {"Hostname": "", "Domainname": "", "Image": ""}
    return msgspec.convert(fields, ContainerConfig)


def _fill(config: ContainerConfig, own: ContainerConfig) -> None:
    """What `config` leaves open is as in the container (moby daemon/commit.go, merge)."""
    for name in ("user", "working_dir", "stop_signal"):
        if not getattr(config, name):
            setattr(config, name, getattr(own, name))
    for name in ("exposed_ports", "volumes", "labels"):
        if getattr(own, name):
            setattr(config, name, {**getattr(own, name), **(getattr(config, name) or {})})
    known = {item.partition("=")[0] for item in config.env or ()}
    further = [item for item in own.env or () if item.partition("=")[0] not in known]
    config.env = [*(config.env or ()), *further] or own.env
    if not config.entrypoint:
        config.cmd = config.cmd or own.cmd
        if config.entrypoint is None:
            config.entrypoint = own.entrypoint
    check, whole = config.healthcheck, own.healthcheck
    if check is None:
        config.healthcheck = whole
    elif whole is not None:
        for name in ("test", "interval", "timeout", "start_period", "start_interval", "retries"):
            if not getattr(check, name):
                setattr(check, name, getattr(whole, name))
