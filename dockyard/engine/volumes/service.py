"""Volumes: which there are, who made them, who uses them, and when they may go."""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dockyard.engine.events.service import Events
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound, SystemFailure
from dockyard.linux.durability import loses_writes, sync_file_system
from dockyard.volumes.copy_up import copy_up
from dockyard.volumes.driver import Driver
from dockyard.volumes.subpath import open_subpath

if TYPE_CHECKING:
    from dockyard.engine.containers.container import MountPoint

log = logging.getLogger("dockyard.volumes")

ANONYMOUS = "com.docker.volume.anonymous"
LIST_FILTERS = ("dangling", "driver", "label", "name")
PRUNE_FILTERS = ("label", "label!", "all")
DOCUMENT = "volume.json"


class VolumeRow(msgspec.Struct, frozen=True):
    """A volume as the database keeps it, under its name."""

    driver: str
    options: dict[str, str]
    labels: dict[str, str]
    created_ns: int
    # The container for which alone the volume is there, while that is being made or removed: the volume goes with it,
    # also when a crash comes in between.
    owner: str = ""
    pending: bool = False  # it may be that its directory has not been on the disk yet
    removing: bool = False  # it was to be removed, and may have lost data by that


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume; `created_at` is RFC 3339, `options` those it was made with."""

    name: str
    driver: str
    mountpoint: str
    labels: Mapping[str, str]
    options: Mapping[str, str]
    created_at: str
    scope: str

    @property
    def anonymous(self) -> bool:
        """Whether the engine chose the name, because nobody else did."""
        return ANONYMOUS in self.labels


@dataclass(slots=True)
class _Held:
    """Who has a volume mounted, and the lock under which that changes."""

    row: VolumeRow
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    mounted_by: set[str] = field(default_factory=set)
    filled: bool = False  # from an image, since it has been on the disk
    lost: str = ""  # why what it was filled with may never be there


class VolumeService:
    """The volumes of this engine."""

    def __init__(self, drivers: Sequence[Driver], database: Database, events: Events) -> None:
        """`drivers`: the first is the one used when nobody names another."""
        self._drivers = {driver.name: driver for driver in drivers}
        self._default = drivers[0].name
        self._database = database
        self._rows = database.collection("volumes", VolumeRow)
        self._documents = Documents(self._document, VolumeRow)
        self._events = events
        self._pruning = False
        # asked before a volume is removed: the IDs of the containers that use it; the container service adds itself
        self.users: list[Callable[[str], Sequence[str]]] = []
        self._volumes: dict[str, _Held] = {}
        # volumes that are being removed: one of the same name can be made when that is done
        self._going: dict[str, asyncio.Future[None]] = {}
        for name, row in list(self._rows.all()):
            driver = self._drivers.get(row.driver)
            if driver is not None and row.removing:  # a crash came in between
                driver.remove(name)
                self._rows.delete(name)
                continue
            if driver is not None and not driver.exists(name):
                if row.pending:  # a crash came between the row and the directory
                    self._rows.delete(name)
                    continue
                log.error("the data of volume %s are gone: %s is not there", name, driver.path(name))
            self._volumes[name] = _Held(row)
        for driver in drivers:
            self._adopt(driver)
        self._documents.put_all((name, held.row) for name, held in self._volumes.items())

    def _document(self, name: str) -> Path:
        """Where it is written what the volume is: beside its data."""
        return Path(self._drivers[self._volumes[name].row.driver].path(name)).with_name(DOCUMENT)

    def _adopt(self, driver: Driver) -> None:
        """Take up volumes that are on disk but not in the database: their data must not be out of reach."""
        for name in driver.sweep(self._volumes):
            row = self._documents.read(Path(driver.path(name)).with_name(DOCUMENT))
            if row is None or row.driver != driver.name:
                row = VolumeRow(driver.name, {}, {}, driver.created_ns(name))
            self._rows.put(name, row)
            self._volumes[name] = _Held(row)
            log.info("found volume %s on disk", name)

    def missing(self) -> builtins.list[tuple[str, str]]:
        """(name, path) of those whose directory has gone since they were found or made."""
        held = [(name, self._drivers.get(held.row.driver)) for name, held in self._volumes.items()]
        return [(name, driver.path(name)) for name, driver in held if driver is not None and not driver.exists(name)]

    @property
    def drivers(self) -> list[str]:
        """The names of the volume drivers."""
        return sorted(self._drivers)

    def _driver(self, name: str) -> Driver:
        driver = self._drivers.get(name)
        if driver is None:
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')
        return driver

    def _held(self, name: str) -> _Held:
        held = self._volumes.get(name)
        if held is None:
            raise NotFound(f"get {name}: no such volume")
        return held

    def _describe(self, name: str) -> Volume:
        row = self._held(name).row
        driver = self._driver(row.driver)
        return Volume(
            name=name,
            driver=row.driver,
            mountpoint=driver.path(name),
            labels=row.labels,
            options=row.options,
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.created_ns // 1_000_000_000)),
            scope=driver.scope,
        )

    def __contains__(self, name: str) -> bool:
        return name in self._volumes

    async def create(
        self,
        name: str | None = None,
        driver: str | None = None,
        driver_opts: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        owner: str = "",
    ) -> Volume:
        """Make a volume, under a name of the engine's choice when given none; an existing one is returned as it is.

        With `owner`, a container that is being made, it is held for that until `unmark` or `remove_marked`.

        Raises InvalidParameter, NotFound for an unknown driver, Conflict when the name is taken by another driver's.
        """
        labels = dict(labels or {})
        marked = owner if not name else ""
        if not name:
            name = secrets.token_hex(32)
            labels[ANONYMOUS] = ""
        try:
            chosen = self._driver(driver or self._default)
            while name in self._going:
                await asyncio.shield(self._going[name])
            existing = self._volumes.get(name)
            if existing is not None:
                if driver and existing.row.driver != driver:
                    raise Conflict("volume name must be unique")
                self._hold(existing, owner)
                if not owner:
                    await self.settle([name])
                return self._describe(name)
            options = dict(driver_opts or {})
            chosen.check(name, options)
            row = VolumeRow(chosen.name, options, labels, time.time_ns(), marked, pending=True)
            self._rows.put(name, row, lazy=True)
            try:
                chosen.create(name, options)
            except BaseException:
                self._rows.delete(name)
                raise
        except DockyardError as error:
            raise type(error)(f"create {name}: {error}") from error
        self._volumes[name] = _Held(row)
        self._documents.put(name, row)
        self._hold(self._volumes[name], owner)
        if not owner:  # else it is acknowledged with its container
            await self.settle([name])
            await self._database.on_disk()
        self._events.emit("volume", "create", name, {"driver": chosen.name})
        return self._describe(name)

    async def settle(self, names: Iterable[str], *, marked_too: bool = True) -> None:
        """Until those volumes are on the disk, and what has been put into them from images.

        Not `marked_too`: but for those that go with a container that a power cut may take. Raises SystemFailure.
        """
        new: dict[str, _Held] = {}
        for name in names:
            held = self._volumes.get(name)
            if held is None or (held.row.owner and not marked_too):
                continue
            if held.filled:
                await self._sync(name, held)
            if held.row.pending:
                new[name] = held
        if not new:
            return
        # by the folder of all of them: a volume may be removed meanwhile, or have a file system of its own mounted
        places = (self._driver(held.row.driver).path(name) for name, held in new.items())
        await self._database.names.reach(*{os.path.dirname(os.path.dirname(place)) for place in places})
        for name, held in new.items():
            if held.row.pending and self._volumes.get(name) is held:
                held.row = msgspec.structs.replace(held.row, pending=False)
                self._rows.put(name, held.row)

    async def _sync(self, name: str, held: _Held) -> None:
        """Until what a volume was filled with is on the disk. Raises SystemFailure; once it may be lost, always."""
        async with held.lock:
            if not held.filled:
                return
            if held.lost:
                raise SystemFailure(held.lost)
            try:
                await asyncio.to_thread(sync_file_system, self._driver(held.row.driver).path(name))
            except OSError as error:
                failure = f"cannot write volume {name} to the disk: {error.strerror}"
                held.lost = failure if loses_writes(error) else ""
                raise SystemFailure(failure) from error
            held.filled = False

    def note_filled(self, name: str) -> None:
        """Somebody else has put something into a volume, for `settle` to see to."""
        self._held(name).filled = True

    @staticmethod
    def _hold(held: _Held, owner: str) -> None:
        if owner:
            held.mounted_by.add(owner)

    def mark(self, names: Sequence[str], owner: str) -> None:
        """Let anonymous volumes go with the container `owner`, which is about to be removed."""
        for name in names:
            held = self._volumes.get(name)
            if held is not None and ANONYMOUS in held.row.labels:
                self._own(name, held, owner)

    def unmark(self, names: Sequence[str], owner: str) -> None:
        """The container for which they were made or held is there now."""
        for name in names:
            held = self._volumes.get(name)
            if held is not None:
                held.mounted_by.discard(owner)
                if held.row.owner:
                    self._own(name, held, "")

    def _own(self, name: str, held: _Held, owner: str) -> None:
        held.row = msgspec.structs.replace(held.row, owner=owner)
        self._rows.put(name, held.row, lazy=True)  # of no weight without the container's row, which comes after it
        self._documents.put(name, held.row)

    async def remove_marked(self, owner: str) -> None:
        """Remove the volumes that go with `owner`; one that others use by now stays."""
        for name, held in list(self._volumes.items()):
            held.mounted_by.discard(owner)
            if held.row.owner == owner:
                try:
                    await self.remove(name)
                except Conflict:
                    self._own(name, held, "")
                except NotFound:
                    pass

    async def sweep(self, containers: Container[str]) -> None:
        """Finish what a crash has interrupted. Called at start, when all running containers' volumes are mounted."""
        for owner in {held.row.owner for held in self._volumes.values() if held.row.owner}:
            if owner in containers:
                self.unmark([name for name, held in self._volumes.items() if held.row.owner == owner], "")
            else:
                await self.remove_marked(owner)
        for name, held in list(self._volumes.items()):
            if held.row.options and not held.mounted_by and held.row.driver in self._drivers:
                await asyncio.to_thread(self._drivers[held.row.driver].unmount, name, held.row.options)

    async def get(self, name: str) -> Volume:
        """The volume called `name`. Raises NotFound."""
        return self._describe(name)

    async def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Volume]:
        """The volumes that match, by name. Raises InvalidParameter for an unknown filter."""
        filters = filters or {}
        _check_filters(filters, LIST_FILTERS)
        dangling = _truth(filters, "dangling")
        found = []
        for name in sorted(self._volumes):
            volume = self._describe(name)
            if dangling is not None and bool(self.users_of(name)) == dangling:
                continue
            if "driver" in filters and volume.driver not in filters["driver"]:
                continue
            if not _has_labels(filters.get("label", ()), volume.labels):
                continue
            if filters.get("name") and not any(_name_matches(pattern, name) for pattern in filters["name"]):
                continue
            found.append(volume)
        return found

    def users_of(self, name: str) -> Sequence[str]:
        """IDs of the containers that use the volume, running or not."""
        held = self._volumes.get(name)
        found = dict.fromkeys(user for users in self.users for user in users(name))
        if held is not None:
            found.update(dict.fromkeys(held.mounted_by))
        return list(found)

    async def size(self, name: str) -> int:
        """Bytes the volume takes; -1 when its driver can't tell."""
        driver = self._driver(self._held(name).row.driver)
        return await asyncio.to_thread(driver.size, name)

    async def remove(self, name: str, force: bool = False) -> None:
        """Remove a volume and its data. `force`: no error when there is none. Raises NotFound, Conflict when in use."""
        held = self._volumes.get(name)
        if held is None and force:
            return
        held = self._held(name)
        async with held.lock:
            if self._volumes.get(name) is not held:
                raise NotFound(f"get {name}: no such volume")
            users = self.users_of(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            driver = self._driver(held.row.driver)
            del self._volumes[name]
            going = self._going[name] = asyncio.get_running_loop().create_future()
            try:
                if not held.row.owner:  # else whoever removes it has written that down
                    self._rows.put(name, msgspec.structs.replace(held.row, removing=True))
                    await self._database.on_disk()
                await asyncio.to_thread(driver.remove, name)
                self._rows.delete(name, lazy=bool(held.row.owner))
            except BaseException:
                self._volumes[name] = held
                with suppress(SystemFailure):
                    self._rows.put(name, held.row)
                raise
            finally:
                del self._going[name]
                going.set_result(None)
        await self._database.on_disk()
        self._events.emit("volume", "destroy", name, {"driver": held.row.driver})

    async def prune(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, named_too: bool = False
    ) -> tuple[Sequence[str], int]:
        """Remove volumes nobody uses, only anonymous ones unless `named_too` or filter all=true: (names, bytes freed).

        Raises InvalidParameter for an unknown filter, Conflict when another prune is at work.
        """
        filters = filters or {}
        _check_filters(filters, PRUNE_FILTERS)
        if self._pruning:
            raise Conflict("a prune operation is already running")
        every = named_too or bool(_truth(filters, "all"))
        removed = []
        freed = 0
        self._pruning = True
        try:
            for volume in await self.list({"dangling": ["true"]}):
                if not every and not volume.anonymous:
                    continue
                if not _has_labels(filters.get("label", ()), volume.labels):
                    continue
                if filters.get("label!") and _has_labels(filters["label!"], volume.labels):
                    continue
                try:
                    size = await self.size(volume.name)
                    await self.remove(volume.name)
                except (Conflict, NotFound):
                    continue  # taken into use, or gone, since it was listed
                removed.append(volume.name)
                freed += max(size, 0)
        finally:
            self._pruning = False
        self._events.emit("volume", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def mount(self, name: str, container_id: str) -> str:
        """Make the volume's data reachable for a container and return their path on the host.

        Each container counts once, however often it asks; the last `unmount` unmounts. Calling it again after the
        daemon was restarted finds a running container's volume mounted and takes it up. Raises NotFound, SystemFailure.
        """
        held = self._held(name)
        driver = self._driver(held.row.driver)
        if not held.row.options and driver.exists(name):
            held.mounted_by.add(container_id)
            return driver.path(name)
        async with held.lock:
            if self._volumes.get(name) is not held:
                raise NotFound(f"get {name}: no such volume")
            path = await asyncio.to_thread(driver.mount, name, held.row.options)
            held.mounted_by.add(container_id)
            return path

    def tell_mounts(self, points: Iterable[MountPoint], container_id: str) -> None:
        """Let listeners know that a container that starts has these."""
        for point in points:
            attributes = {"destination": point.destination, "driver": point.driver, "propagation": point.propagation}
            attributes |= {"container": container_id, "read/write": "true" if point.rw else "false"}
            self._events.emit("volume", "mount", point.name, attributes)

    def tell_unmounts(self, points: Iterable[MountPoint], container_id: str) -> None:
        """Let listeners know that a container that has ended gives these back."""
        for point in points:
            self._events.emit("volume", "unmount", point.name, {"container": container_id, "driver": point.driver})

    async def unmount(self, name: str, container_id: str) -> None:
        """The container needs the volume no more; no error when it never did or the volume is gone."""
        held = self._volumes.get(name)
        if held is None or container_id not in held.mounted_by:
            return
        if not held.row.options:
            held.mounted_by.discard(container_id)
            return
        async with held.lock:
            held.mounted_by.discard(container_id)
            if not held.mounted_by:
                await asyncio.to_thread(self._driver(held.row.driver).unmount, name, held.row.options)

    async def populate(self, name: str, rootfs: str, path: str, subpath: str = "") -> None:
        """Fill an empty volume with what is at `path` (absolute) in the container whose root is `rootfs`.

        With `subpath` that part of the volume, if it is there; where it leads out of the volume, the start will say so.
        Raises InvalidParameter when a whole volume is to be mounted over a file.
        """
        held = self._held(name)
        user = f"populate-{secrets.token_hex(8)}"
        target = await self.mount(name, user)
        try:
            async with held.lock:
                held.filled |= await asyncio.to_thread(_populate, rootfs, path, target, subpath)
        finally:
            await self.unmount(name, user)

    async def disk_usage(self) -> Sequence[tuple[Volume, int, int]]:
        """(volume, bytes, how many containers use it) of every volume."""
        usage = []
        for volume in await self.list():
            usage.append((volume, await self.size(volume.name), len(self.users_of(volume.name))))
        return usage


def _populate(rootfs: str, path: str, volume: str, subpath: str) -> bool:
    """Whether there was anything to fill it with."""
    if not subpath:
        return copy_up(rootfs, path, volume)
    try:
        part = open_subpath(volume, subpath)
    except (InvalidParameter, SystemFailure):
        return False
    try:
        return stat.S_ISDIR(os.fstat(part).st_mode) and copy_up(rootfs, path, f"/proc/self/fd/{part}")
    finally:
        os.close(part)


def _check_filters(filters: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def _truth(filters: Mapping[str, Sequence[str]], name: str) -> bool | None:
    """What a filter that is true or false says; None when it is not given."""
    values = filters.get(name)
    if not values:
        return None
    words = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}
    truths = {words.get(value.lower()) for value in values}
    if len(truths) != 1 or None in truths:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return truths.pop()


def _has_labels(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    for item in wanted:
        key, separator, value = item.partition("=")
        if key not in labels or (separator and labels[key] != value):
            return False
    return True


def _name_matches(pattern: str, name: str) -> bool:
    """As Docker: part of the name, or a regular expression that is found in it."""
    if pattern in name:
        return True
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False
