"""docker-py's volumes: `client.volumes`."""

from __future__ import annotations

from typing import Any

from dockyard.compat.models.resource import Collection, Model


class Volume(Model):
    """A volume."""

    id_attribute = "Name"

    @property
    def name(self) -> str:
        """Its name."""
        return self.id

    def remove(self, force: bool = False) -> None:
        """Remove it."""
        self.client.api.remove_volume(self.id, force)


class VolumeCollection(Collection[Volume]):
    """The engine's volumes."""

    model = Volume

    def create(self, name: str | None = None, **options: Any) -> Volume:
        """Create a volume: driver, driver_opts, labels."""
        return self.prepare_model(self.client.api.create_volume(name, **options))

    def get(self, volume_id: str) -> Volume:
        """The volume of that name. Raises NotFound."""
        return self.prepare_model(self.client.api.inspect_volume(volume_id))

    def list(self, **options: Any) -> list[Volume]:
        """The volumes: filters."""
        return [self.prepare_model(row) for row in self.client.api.volumes(**options)["Volumes"] or ()]

    def prune(self, filters: Any = None) -> Any:
        """Remove the volumes that nobody uses."""
        return self.client.api.prune_volumes(filters)
