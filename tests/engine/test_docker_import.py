"""An import from Docker tells of a thing when the disk has it: whoever reads that may remove Docker's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.content.unpack import Worker
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.docker_import import importer
from dockyard.engine.docker_import.importer import DockerImport
from dockyard.engine.docker_import.source import SourceVolume
from dockyard.engine.events.service import Events
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.state.database import Database
from dockyard.engine.volumes.service import VolumeService
from dockyard.linux.durability import sync_file_system
from dockyard.snapshots.choice import choose
from dockyard.volumes.local import LocalDriver

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners, which needs root")


class Source:
    """A data root of Docker's that holds one volume."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def images(self) -> Iterator[tuple[str, bytes]]:
        return iter(())

    names = networks = containers = images

    def volumes(self) -> Iterator[SourceVolume]:
        yield SourceVolume("kept", "local", {}, {}, self.root)


async def test_a_volume_is_told_of_when_its_files_and_its_row_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "file").write_text("data")
    archives = Worker()
    database = Database(tmp_path / "state.db")
    layers = LayerStore(choose("overlay2", tmp_path), archives, database, tmp_path)
    nothing: Any = None
    images = ImageService(layers, nothing, database, Events())
    volumes = VolumeService([LocalDriver(tmp_path / "volumes")], database, Events())
    happened: list[str] = []
    on_disk = database.on_disk

    def sync(path: str) -> None:
        happened.append(f"synced {(Path(path) / 'file').read_text()}")
        sync_file_system(path)

    async def rows_on_disk() -> None:
        await on_disk()
        happened.append("rows")

    monkeypatch.setattr(importer, "DockerRoot", Source)
    monkeypatch.setattr("dockyard.engine.volumes.service.sync_file_system", sync)
    monkeypatch.setattr(database, "on_disk", rows_on_disk)
    try:
        work = DockerImport(images, layers, ContainerLayers(layers, database), volumes, nothing, nothing, archives)
        await work.run(str(tmp_path / "docker"), happened.append)
        row = volumes._rows.get("kept")
        assert row is not None
        assert (row.pending, row.owner) == (False, "")
        assert happened[-3:] == ["synced data", "rows", "volume kept: imported"]
    finally:
        await layers.close()
        archives.close()
        database.close()
