"""Looking for damage in a data root, and mending what can be mended without losing anything.

What is looked at: rows that can't be read, layers and containers whose files are missing or do not lead to one another,
images that stand on such, and things on the disk that the database has lost. With `content`, every layer is read and
held against its digest, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.repair.rebuild import Adoption
from dockyard.engine.state.database import Database, Unreadable
from dockyard.engine.state.documents import write_private
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import DockyardError, words
from dockyard.folders import own_folder
from dockyard.linux.durability import sync_names, sync_path

log = logging.getLogger("dockyard.fsck")

AGAIN = "restart the daemon to see it"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is broken; `mend` does what `remedy` says, blocking, or is None where only the user can do that.

    `mended` says what has been done.
    """

    kind: str
    name: str
    problem: str
    remedy: str
    mend: Callable[[], str] | None = None
    mended: str = ""


class Fsck:
    """Checks the data root `root`, beside the daemon's work."""

    def __init__(
        self,
        root: Path,
        database: Database,
        layers: LayerStore,
        container_layers: ContainerLayers,
        images: ImageService,
        volumes: VolumeService,
        index: ContainerIndex,
    ) -> None:
        self._root = root
        self._database = database
        self._layers = layers
        self._container_layers = container_layers
        self._images = images
        self._volumes = volumes
        self._index = index

    async def check(self, *, content: bool = False) -> list[Finding]:
        """What is broken, parents before what stands on them."""
        found = list(self._rows())
        found += [
            Finding("lost", line, "the database does not know it", AGAIN)
            for line in await asyncio.to_thread(self._unknown)
        ]
        if found:
            found += [replace(finding, mend=None) for finding in await self._things(content)]
            return found
        return await self._things(content)

    async def _things(self, content: bool) -> list[Finding]:
        layers = await asyncio.to_thread(lambda: list(self._layer_files()))
        found: list[Finding] = []
        if content:
            layers += [finding async for finding in self._contents({finding.name for finding in layers})]
        damaged = {finding.name: finding for finding in layers if finding.name in self._layers}
        found += layers
        found += self._image_layers(damaged)
        found += self._lost_targets()
        found += await asyncio.to_thread(lambda: list(self._statements()))
        found += [
            Finding(
                "packed layer", digest, "it is missing, or not what its digest says", "removed", self._unpacker(digest)
            )
            for digest in await asyncio.to_thread(lambda: self._images.packed.damaged(content=content))
        ]
        found += await asyncio.to_thread(lambda: list(self._container_files(damaged)))
        found += [
            Finding("volume", name, f"its directory {path} is missing", f"dockyard volume rm {name}")
            for name, path in self._volumes.missing()
        ]
        return found

    async def repair(self, *, content: bool = False) -> list[Finding]:
        """Mend what can be; all that was found, with what has been done about it.

        Where the database has lost something, only that is mended: what else is missing shows after the next start.
        """
        rows = [self._mended(finding) for finding in self._rows()]
        for line in list(Adoption(self._root, self._database).adopt()):
            rows.append(Finding("lost", line.partition(" is ")[0], "the database did not know it", "", mended=AGAIN))
        if rows:
            return rows
        done: dict[tuple[str, str, str], Finding] = {}
        progress = True
        while progress:  # what is mended may show what else has to be, one layer higher
            progress = False
            for finding in await self.check(content=content):
                key = finding.kind, finding.name, finding.problem
                if key not in done:
                    done[key] = self._mended(finding)
                    progress |= bool(done[key].mended)
        return list(done.values())

    def _mended(self, finding: Finding) -> Finding:
        if finding.mend is None:
            return finding
        try:
            return replace(finding, mended=finding.mend())
        except (OSError, DockyardError) as error:
            return replace(finding, remedy=f"{finding.remedy} ({words(error)})")

    async def name_at_start(self) -> None:
        """Say in the log what is broken."""
        for finding in await self.check():
            log.warning("%s %s is damaged: %s; see dockyard system fsck", finding.kind, finding.name, finding.problem)

    # -- rows

    def _rows(self) -> Iterator[Finding]:
        for row in list(self._database.unreadable.values()):
            yield Finding(
                "row",
                f"{row.collection}/{row.key}",
                f"cannot be read: {row.reason}",
                "put aside; what lies beside the thing itself is taken instead",
                lambda row=row: self._put_row_aside(row),  # type: ignore[misc]  # binds this turn's row
            )

    def _put_row_aside(self, row: Unreadable) -> str:
        folder = own_folder(own_folder(self._root / "aside") / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        path = folder / f"{row.collection}-{row.key.replace('/', '_')}"
        write_private(os.fspath(path), self._database.raw(row))
        sync_path(os.fspath(path))
        sync_names(os.fspath(folder))
        self._database.remove(row)
        return f"put aside: {path}; {AGAIN}"

    # -- layers

    def _layer_files(self) -> Iterator[Finding]:
        driver, layers = self._layers.driver, self._layers.snapshots()
        for chain_id, (snapshot, parent) in layers.items():
            if parent is not None and parent not in layers:
                yield Finding("layer", chain_id, f"the layer below it, {parent}, is missing", "pull or build it again")
                continue
            below = None if parent is None else layers[parent][0]
            damage = self._layers.damage(chain_id)
            if damage:
                yield Finding("layer", chain_id, damage, "pull or build again what stands on it")
                continue
            problem = driver.problem(snapshot, below)
            if problem is not None:
                if driver.mendable(snapshot):
                    yield Finding("layer", chain_id, problem, "made anew", self._mender(snapshot, below))
                else:
                    yield Finding("layer", chain_id, problem, f"remove what stands on it ({AGAIN}) and pull it again")
            elif not self._layers.has_record(snapshot):
                yield Finding(
                    "layer",
                    chain_id,
                    "how its archive was laid out is lost: it cannot be pushed or saved",
                    "remove the images on it and pull them again",
                )

    def _mender(self, snapshot: str, below: str | None) -> Callable[[], str]:
        def mend() -> str:
            self._layers.driver.mend(snapshot, below)
            return "made anew"

        return mend

    async def _contents(self, known: set[str]) -> AsyncIterator[Finding]:
        for chain_id, layer in self._layers.all().items():
            if chain_id in known or chain_id not in self._layers:
                continue
            digest = hashlib.sha256()
            try:
                async for piece in self._layers.pack(chain_id):
                    digest.update(piece)
            except (DockyardError, OSError) as error:
                problem = words(error)
            else:
                if f"sha256:{digest.hexdigest()}" == layer.diff_id:
                    continue
                problem = f"its files are not those of {layer.diff_id} any more"
            yield Finding("layer", chain_id, problem, "remove the images on it and pull them again")

    # -- what stands on them

    def _image_layers(self, damaged: dict[str, Finding]) -> Iterator[Finding]:
        for image_id, name, chains in self._images.stacks():
            missing = next((chain for chain in chains if chain not in self._layers), None)
            broken = next((chain for chain in chains if chain in damaged), None)
            again = f"pull or build it again: {name}"
            if missing is not None:
                yield Finding("image", image_id, f"its layer {missing} is missing", again, self._forgetter(image_id))
            elif broken is not None and damaged[broken].mend is None:
                yield Finding("image", image_id, f"its layer {broken} is damaged", f"dockyard rmi -f, then {again}")

    def _lost_targets(self) -> Iterator[Finding]:
        """Names whose index is lost: their images are whole."""
        for digest, names in self._images.names.targets().items():
            if self._images.manifests.get(digest) is None:
                name = names[0].familiar()
                problem = f"the index or manifest {digest} that it stands for is missing"
                yield Finding("name", name, problem, f"to have it again, pull {name}", self._untargeter(digest))

    def _statements(self) -> Iterator[Finding]:
        """What is said about images and is not what it was."""
        statements = self._images.manifests.statements
        for digest in statements.damaged():

            def forget(digest: str = digest) -> str:
                statements.remove(digest)
                return "removed; the image is whole without it"

            yield Finding("attestation", digest, "its content is not what its digest says", "removed", forget)

    def _unpacker(self, digest: str) -> Callable[[], str]:
        def forget() -> str:
            self._images.packed.forget(digest)
            return "removed; it is packed again when it is wanted"

        return forget

    def _untargeter(self, digest: str) -> Callable[[], str]:
        def forget() -> str:
            self._images.names.forget_target(digest)
            return "it stands for its one image now; those of other platforms have no name any more"

        return forget

    def _forgetter(self, image_id: str) -> Callable[[], str]:
        def forget() -> str:
            self._images.forget_lost(image_id)
            return "forgotten; its layers that are whole go with the next start"

        return forget

    def _container_files(self, damaged: dict[str, Finding]) -> Iterator[Finding]:
        driver, layers = self._layers.driver, self._layers.snapshots()
        stacked = self._container_layers.parents()
        for container in self._index.all():
            name = f"{container.name} ({container.id[:12]})"
            remove = f"dockyard rm -f {container.name}"
            folder = Path(self._index.folder(container))
            if not folder.is_dir():
                yield Finding("container", name, f"its folder {folder} is missing", "made anew", _maker(folder))
            if container.id not in stacked:
                yield Finding("container", name, "its own layer is missing", remove)
                continue
            chain_id = stacked[container.id]
            if chain_id is not None and (chain_id not in layers or chain_id in damaged):
                missing = f"its image's layer {chain_id} is missing or damaged"
                if chain_id not in damaged or damaged[chain_id].mend is None:
                    yield Finding("container", name, missing, remove)
                    continue
            below = None if chain_id is None else layers[chain_id][0]
            if driver.exists(f"{container.id}-init"):
                problem = driver.problem(f"{container.id}-init", below)
                if problem is not None and driver.mendable(f"{container.id}-init"):
                    mend = self._mender(f"{container.id}-init", below)
                    yield Finding("container", name, problem, "made anew", mend)
                below = f"{container.id}-init"
            problem = driver.problem(container.id, below)
            if problem is None:
                continue
            if driver.mendable(container.id):
                yield Finding("container", name, problem, "made anew", self._mender(container.id, below))
            else:
                yield Finding("container", name, problem, remove)

    # -- what the database has lost

    def _unknown(self) -> list[str]:
        return [line.partition(" is ")[0] for line in Adoption(self._root, self._database, dry=True).adopt()]


def _maker(folder: Path) -> Callable[[], str]:
    def make() -> str:
        own_folder(folder, 0o710)
        return "made anew; what was in it (its log) is lost"

    return make
