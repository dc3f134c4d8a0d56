"""Every container of this engine, by id and by name, in memory and in the database."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dockyard.engine.containers.container import Container, Record, State
from dockyard.engine.events.service import Events
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from dockyard.folders import own_folder
from dockyard.networks.claims import AddressClaims
from dockyard.shim.connection import Shim

log = logging.getLogger("dockyard.containers")

DOCUMENT = "container.json"  # in a container's folder: all but what changes with every run


def _without_state(record: Record) -> Record:
    return msgspec.structs.replace(record, state=State(), restart_count=0)


class ContainerIndex:
    """Finds containers, keeps their records and tells what happens to them. Readers need no lock."""

    def __init__(self, root: Path, database: Database, events: Events, claims: AddressClaims) -> None:
        """`claims` are kept in step: the addresses that containers have been given by `--ip`."""
        self._claims = claims
        self.root = own_folder(root, 0o710)
        self._database = database
        self._rows = database.collection("containers", Record)
        self._documents = Documents(lambda container_id: self.root / container_id / DOCUMENT, Record)
        self._events = events
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self._unsaved: dict[str, asyncio.Task[None]] = {}

    def load(self) -> None:
        """Take over the containers of the database."""
        for container_id, record in list(self._rows.all()):
            self._containers[container_id] = Container(record)
            self._names[record.name] = container_id
            self._claim(record)
        for container in self._containers.values():
            self.document(container)

    def lost(self) -> set[str]:
        """The containers on the disk that are no leftovers of a crash, but not known to the database, by id.

        Where the database has rows that can't be read, that may be any.
        """
        folders = (folder for folder in self.root.iterdir() if folder.name not in self._containers)
        return {folder.name for folder in folders if self._database.unreadable or (folder / DOCUMENT).exists()}

    # -- finding

    def all(self) -> list[Container]:
        """Every container, the oldest first."""
        return list(self._containers.values())

    def get(self, reference: str) -> Container:
        """The container of that id, name or unambiguous id prefix. Raises NotFound, InvalidParameter when ambiguous."""
        if not reference:
            raise InvalidParameter('invalid name or ID supplied: ""')
        found = self._containers.get(reference)
        if found is not None:
            return found
        name = reference.removeprefix("/")
        if (found := self._named(name)) is not None:
            return found
        parent, _, alias = name.partition("/")  # a legacy link's name for another container
        if alias and (linking := self._named(parent)) is not None:
            linked = self._containers.get(linking.record.links.get(alias, ""))
            if linked is not None:
                return linked
        matches = [found for key, found in self._containers.items() if key.startswith(reference)]
        if len(matches) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {reference}")
        if not matches:
            raise NotFound(f"No such container: {reference}")
        return matches[0]

    def _named(self, name: str) -> Container | None:
        """The container of that name; None while the name is only reserved for one that is being made."""
        return self._containers.get(self._names.get(name, ""))

    def running(self, reference: str) -> tuple[Container, Shim]:
        """The container and its shim. Raises NotFound, Conflict when it does not run."""
        container = self.get(reference)
        if not container.state.running or container.shim is None:
            raise Conflict(f"container {container.id} is not running")
        return container, container.shim

    def folder(self, container: Container) -> str:
        """Where a container's own files are: log, hosts, hostname, resolv.conf."""
        return str(self.root / container.id)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._containers

    # -- names

    @property
    def names(self) -> Mapping[str, str]:
        """Every name that is taken, and the id of its container."""
        return self._names

    def reserve(self, name: str, container_id: str) -> None:
        """Take a name, so that of two requests for it only one goes on. Raises Conflict."""
        if name in self._names:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{self._names[name]}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id

    def free(self, name: str) -> None:
        """Give a name back."""
        self._names.pop(name, None)

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name. Raises Conflict when that is taken."""
        old = container.name
        self.reserve(name, container.id)
        container.record.name = name
        self.save(container)
        self.free(old)

    # -- keeping

    def add(self, container: Container) -> None:
        """Keep a new container, whose name is reserved; it is in the database when this returns."""
        self._rows.put(container.id, container.record, lazy=container.passing)
        self._containers[container.id] = container
        self._claim(container.record)

    def save_surely(self, container: Container) -> None:
        """Store what has happened, or is about to, whether or not it can be written down now.

        What ends or freezes processes must not depend on a disk that is full, or read-only since an error.
        """
        try:
            self.save(container)
        except SystemFailure as failure:
            if container.id not in self._unsaved:
                log.error("the state of container %s cannot be stored yet: %s", container.id, failure)
                self._unsaved[container.id] = asyncio.ensure_future(self._save_later(container))

    async def _save_later(self, container: Container) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                async with container.lock:
                    self.save(container)
            except SystemFailure as failure:
                log.debug("container %s: %s", container.id, failure)
            else:
                del self._unsaved[container.id]
                return

    def close(self) -> None:
        """Give up what could not be stored."""
        for saving in self._unsaved.values():
            saving.cancel()

    def _claim(self, record: Record) -> None:
        addresses = [
            (network, address)
            for network, settings in record.networks.items()
            if settings.ipam_config is not None
            for address in (settings.ipam_config.ipv4_address, settings.ipam_config.ipv6_address)
            if address
        ]
        self._claims.put(record.id, addresses)

    def document(self, container: Container) -> None:
        """Write into its folder what it is, once the disk has its row; of one that outlives a power cut."""
        if not container.passing:
            self._documents.put_all([(container.id, _without_state(container.record))])

    async def on_disk(self) -> None:
        """Until everything kept so far survives a power cut; containers that do not (`passing`) are not waited for."""
        await self._database.on_disk()

    async def directories_on_disk(self) -> None:
        """Until the folders that containers have and have no more are so after a power cut. Raises SystemFailure."""
        await self._database.names.reach(self.root)

    def hasten(self) -> None:
        """Let everything kept so far reach the disk soon: no client waits for it, but it has happened."""
        self._database.hasten()

    def save(self, container: Container, *, lazy: bool = False) -> None:
        """Store what has changed of a container's record, under its lock. `lazy`: nobody is told of it."""
        if container.id in self._containers:
            self._rows.put(container.id, container.record, lazy=lazy or container.passing)
            if not container.passing:
                self._documents.put(container.id, _without_state(container.record))
            self._claim(container.record)

    def remove(self, container: Container) -> None:
        """Forget a container and its name."""
        self._documents.delete(container.id)
        self._rows.delete(container.id, lazy=container.passing)
        del self._containers[container.id]
        self._claims.drop(container.id)
        self.free(container.name)

    def emit(self, container: Container, action: str, **further: str) -> None:
        """Tell what happened to a container, with its labels, image and name."""
        if container.hidden:
            return
        attributes = {**(container.config.labels or {}), "image": container.config.image, "name": container.name}
        self._events.emit("container", action, container.id, {**attributes, **further})
