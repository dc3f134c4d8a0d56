"""Making a state database from what is left: the damaged one's readable rows, a copy, the documents in the folders.

    <data root>/aside/<time>/    what could not be given a place again: the old database, snapshots, folders

Nothing is deleted. Each thing's newest witness counts: its row, then the document beside it, then its row in the copy.
"""

import hashlib
import logging
import os
import shutil
import sqlite3
import time
from collections import abc
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from dockyard.engine.containers.container import Record, State
from dockyard.engine.containers.index import DOCUMENT
from dockyard.engine.containers.layers import ContainerRow
from dockyard.engine.images import names as image_names
from dockyard.engine.images.layer_store import LayerDocument, LayerRow
from dockyard.engine.images.manifests import ManifestRow
from dockyard.engine.images.names import NameRow
from dockyard.engine.images.service import ImageRow
from dockyard.engine.state import copies as state_copies
from dockyard.engine.state import schema
from dockyard.engine.state.data_root import DATABASE, DRIVERS, container_folders, refuse_dockers, snapshots
from dockyard.engine.state.database import Collection, Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import SystemFailure
from dockyard.linux import mounts
from dockyard.networks.model import Network
from dockyard.oci.digest import digest_of
from dockyard.timestamps import timestamp

log = logging.getLogger("dockyard.database")

T = TypeVar("T")

Keys = abc.Collection[tuple[str, str]]  # (collection, key)
Rows = dict[str, dict[str, bytes]]  # {collection: {key: document}}


class Rebuilder:
    """Rebuilds the state of the data root `root`, which no daemon may be using; `told` gets a line for each thing."""

    def __init__(self, root: Path, told: Callable[[str], None]) -> None:
        self._root = root
        self._path = root / DATABASE
        self._told = told
        self._aside = root / "aside" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())

    def rebuild(self) -> None:
        """Do it all. Raises SystemFailure when a daemon uses the database, or it is a newer daemon's."""
        if not self._root.is_dir():
            raise SystemFailure(f"there is no data root {self._root}")
        refuse_dockers(self._root)
        self._refuse_if_used()
        fresh = self._root / f"{DATABASE}.rebuilt"
        _remove(fresh)
        rows, doubtful, version = self._gather()
        _write(fresh, rows, version)
        database = Database(fresh)
        try:
            for line in Adoption(self._root, database, doubtful).adopt():
                self._told(line)
            for line in _drop_what_is_gone(self._root, database, doubtful):
                self._told(line)
            known = _known(self._root, database)
        finally:
            database.close()
        self._put_in_place(fresh)
        self._put_aside(known)
        self._told(f"the state database {self._path} is rebuilt")

    def _refuse_if_used(self) -> None:
        if not self._path.is_file():
            return
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=0)) as present:
                present.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise SystemFailure(f"the state database {self._path} is in use: stop the daemon first") from error

    # -- gathering rows

    def _gather(self) -> tuple[Rows, Keys, int]:
        """The rows that there are, those of them that may be out of date, and the schema of the oldest."""
        rows: Rows = {}
        certain: Rows = {}
        versions = [schema.VERSION]
        good = state_copies.last_good(str(self._path))
        if good is not None:
            with closing(sqlite3.connect(f"file:{good}?mode=ro&immutable=1", uri=True)) as copy:
                versions.append(_checked_version(copy, good))
                _read_into(rows, copy)
            self._told(f"taking what is in the copy {good}")
        if self._path.is_file() and self._path.stat().st_size:
            # read from another copy of it: SQLite changes what it opens
            self._aside.mkdir(mode=0o700, parents=True, exist_ok=True)
            study = self._aside / "study.db"
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError, IsADirectoryError):
                    shutil.copyfile(f"{self._path}{suffix}", f"{study}{suffix}")
            try:
                with closing(sqlite3.connect(study)) as damaged:
                    versions.append(_checked_version(damaged, self._path))
                    count = _read_into(certain, damaged)
                self._told(f"taking {count} rows that can be read in {self._path}")
            except sqlite3.Error as error:
                self._told(f"nothing can be read in {self._path}: {error}")
            for suffix in ("", "-wal", "-shm"):
                Path(f"{study}{suffix}").unlink(missing_ok=True)
        doubtful = {(table, key) for table, found in rows.items() for key in found if key not in certain.get(table, {})}
        for table, found in certain.items():
            rows.setdefault(table, {}).update(found)
        return rows, doubtful, min(versions)

    # -- putting things where they belong

    def _put_in_place(self, fresh: Path) -> None:
        self._aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._path.is_dir() or not self._path.exists():
            self._move_aside(self._path)
        else:
            os.link(self._path, self._aside / DATABASE)
        for suffix in ("-wal", "-shm", "-journal"):  # it would be taken for the new one's
            self._move_aside(Path(f"{self._path}{suffix}"))
        fresh.rename(self._path)
        os.sync()
        self._told(f"the old database is kept in {self._aside}")

    def _put_aside(self, known: set[str]) -> None:
        """Take out of the way what nothing knows of: a daemon would sweep it."""
        mounted = {mount.target for mount in mounts.mount_table()}
        for driver, place in DRIVERS.items():
            for name in snapshots(self._root, driver):
                path = self._root / place / name
                if name.removesuffix("-init") in known or name.endswith("-removing"):
                    continue
                if any(target.startswith(f"{path}/") for target in mounted):
                    self._told(f"{path} is not known, but mounted: it stays")
                else:
                    self._move_aside(path)
        for name in container_folders(self._root):
            if name not in known:
                self._move_aside(self._root / "containers" / name)

    def _move_aside(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        target = self._aside / path.relative_to(self._root)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(target)
        self._told(f"put aside: {path} is {target} now")


class Adoption:
    """Enters into a database what the documents on the disk speak of and it does not know, or not for certain."""

    def __init__(self, root: Path, database: Database, doubtful: Keys = (), *, dry: bool = False) -> None:
        """`doubtful` are rows that may be out of date; `dry`: only say what would be entered."""
        self._root = root
        self._database = database
        self._doubtful = doubtful
        self._dry = dry

    def _enter(self, rows: Collection[T], key: str, document: T) -> None:
        if not self._dry:
            rows.put(key, document)

    def adopt(self) -> Iterator[str]:
        """A line for each thing that is known again."""
        for driver in DRIVERS:
            yield from self._layers(driver)
        yield from self._images()
        yield from self._networks()
        yield from self._containers()

    def _wanted(self, collection: str, key: str, present: object) -> bool:
        """Whether the document counts for more than the row."""
        return present is None or (collection, key) in self._doubtful

    def _layers(self, driver: str) -> Iterator[str]:
        records = self._root / "image" / driver / "layerdb"
        rows = self._database.collection(f"layers_{driver}", LayerRow)
        known = {chain_id for chain_id, _ in rows.all()}
        there = set(snapshots(self._root, driver))
        found = {}
        for path, layer in _documents(sorted(records.glob("*.json")), LayerDocument):
            if layer.chain_id not in known and path.stem in there:
                found[layer.chain_id] = LayerRow(layer.diff_id, layer.size, layer.parent, path.stem)
        while found:  # parents before children
            ready = [chain_id for chain_id, row in found.items() if row.parent is None or row.parent in known]
            if not ready:
                break
            for chain_id in ready:
                self._enter(rows, chain_id, found.pop(chain_id))
                known.add(chain_id)
                yield f"layer {chain_id} is known again"
        containers = self._database.collection(f"container_layers_{driver}", ContainerRow)
        for path, container in _documents(sorted(records.glob("*.container.json")), ContainerRow):
            container_id = path.name.partition(".")[0]
            if container_id in there and containers.get(container_id) is None:
                self._enter(containers, container_id, container)

    def _images(self) -> Iterator[str]:
        folder = self._root / "image"
        rows = self._database.collection("images", ImageRow)
        for path, image in _documents(sorted((folder / "imagedb").glob("*.json")), ImageRow):
            image_id = f"sha256:{path.stem}"
            present = rows.get(image_id)
            if hashlib.sha256(image.config).hexdigest() == path.stem and self._wanted("images", image_id, present):
                self._enter(rows, image_id, image)
                if present is None:
                    yield f"image {image_id} is known again"
        self._manifests(folder)
        names = self._database.collection("image_names", NameRow)
        behind = [row for _, row in _documents([folder / image_names.TARGETS_DOCUMENT], dict[str, NameRow])]
        for _, given in _documents([folder / image_names.DOCUMENT], dict[str, str]):
            for name, image_id in given.items():
                present_name = names.get(name)
                if rows.get(image_id) is not None and self._wanted("image_names", name, present_name):
                    row = behind[0].get(name) if behind else None
                    self._enter(names, name, row if row and row.image_id == image_id else NameRow(image_id))
                    if present_name is None:
                        yield f"image {image_id} is called {name} again"

    def _manifests(self, folder: Path) -> None:
        """Nothing is said of them: without them an image is as good, and only not known to be of an index."""
        rows = self._database.collection("manifests", ManifestRow)
        for path, document in _documents(sorted((folder / "manifests").glob("*.json")), ManifestRow):
            digest = digest_of(document.raw)
            if digest.partition(":")[2] == path.stem and self._wanted("manifests", digest, rows.get(digest)):
                self._enter(rows, digest, document)

    def _networks(self) -> Iterator[str]:
        rows = self._database.collection("networks", Network)
        names = {network.name for _, network in rows.all()}
        for _, network in _documents(sorted((self._root / "networks").glob("*.json")), Network):
            if rows.get(network.id) is None and network.name not in names:
                self._enter(rows, network.id, network)
                names.add(network.name)
                yield f"network {network.name} is known again"

    def _containers(self) -> Iterator[str]:
        rows = self._database.collection("containers", Record)
        names = {record.name: container_id for container_id, record in rows.all()}
        for path, record in _documents(sorted((self._root / "containers").glob(f"*/{DOCUMENT}")), Record):
            present = rows.get(record.id)
            if record.id != path.parent.name or not self._wanted("containers", record.id, present):
                continue
            if names.get(record.name, record.id) != record.id:
                record.name = f"{record.name}_{record.id[:12]}"
            # how its last run ended only the database knew; if it runs, its shim says so
            ended = State(status="exited", finished_at=timestamp(path.stat().st_mtime_ns))
            record.state = present.state if present is not None else ended
            self._enter(rows, record.id, record)
            names[record.name] = record.id
            if present is None:
                yield f"container {record.id} is known again, as {record.name}"


def _documents(paths: list[Path], kind: type[T]) -> Iterator[tuple[Path, T]]:
    return Documents(lambda _: Path(), kind).read_all(paths)


def _drop_what_is_gone(root: Path, database: Database, doubtful: Keys) -> Iterator[str]:
    """Forget what a copy knows and what has been removed since it was taken."""
    there = {name for driver in DRIVERS for name in snapshots(root, driver)}
    containers = database.collection("containers", Record)
    folders = set(container_folders(root))
    for container_id, record in list(containers.all()):
        if container_id not in folders and ("containers", container_id) in doubtful:
            containers.delete(container_id)
            yield f"container {record.name} ({container_id}) is not there any more"
    for driver in DRIVERS:
        layers = database.collection(f"layers_{driver}", LayerRow)
        for chain_id, row in list(layers.all()):
            if row.snapshot not in there and (f"layers_{driver}", chain_id) in doubtful:
                layers.delete(chain_id)
                yield f"layer {chain_id} is not there any more"
        writable = database.collection(f"container_layers_{driver}", ContainerRow)
        for container_id, _ in list(writable.all()):
            if container_id not in there and (f"container_layers_{driver}", container_id) in doubtful:
                writable.delete(container_id)
    images = database.collection("images", ImageRow)
    written = {f"sha256:{path.stem}" for path in (root / "image" / "imagedb").glob("*.json")}
    for image_id, _ in list(images.all()):
        if written and image_id not in written and ("images", image_id) in doubtful:
            images.delete(image_id)
            yield f"image {image_id} is not there any more"
    networks = database.collection("networks", Network)
    known = {path.stem for path in (root / "networks").glob("*.json")}
    for network_id, network in list(networks.all()):
        if known and network_id not in known and ("networks", network_id) in doubtful:
            networks.delete(network_id)
            yield f"network {network.name} is not there any more"


def _known(root: Path, database: Database) -> set[str]:
    """The names of the snapshots and folders that the database speaks of."""
    known = {container_id for container_id, _ in database.collection("containers", Record).all()}
    for driver in DRIVERS:
        known |= {row.snapshot for _, row in database.collection(f"layers_{driver}", LayerRow).all()}
        known |= {key for key, _ in database.collection(f"container_layers_{driver}", ContainerRow).all()}
    return known


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    version = schema.version_of(connection)
    if version > schema.VERSION:
        raise SystemFailure(f"{path} was written by a newer Dockyard (schema {version}): recover with that version")
    return version


def _read_into(rows: Rows, connection: sqlite3.Connection) -> int:
    """Add every row that can be read, over those that are there; how many."""
    count = 0
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        if not table.isidentifier():
            continue
        found = rows.setdefault(table, {})
        with suppress(sqlite3.DatabaseError):  # up to the damage
            for key, document in connection.execute(f"SELECT key, document FROM {table} ORDER BY rowid"):
                if isinstance(key, str) and isinstance(document, bytes):
                    found[key] = document
                    count += 1
    return count


def _write(path: Path, rows: Rows, version: int) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path)) as fresh:
        for table, documents in rows.items():
            fresh.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY NOT NULL, document BLOB NOT NULL)")
            fresh.executemany(f"INSERT INTO {table} VALUES (?, ?)", documents.items())
        fresh.execute(f"PRAGMA user_version={version}")
        fresh.commit()


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
