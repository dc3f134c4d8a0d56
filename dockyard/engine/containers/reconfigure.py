"""Changing what Docker says can't be changed once a container is made: published ports, environment, mounts, labels.

Ports and mounts change while the container runs. The environment is a process's own, so a running container is started
anew for it, in one transaction: it keeps its ID, name, files, volumes and addresses, and when the new settings do not
start it runs on with the old ones.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.engine.containers.config import HostConfig, MountSpec, PortBinding
from dockyard.engine.containers.container import Container, MountPoint, Record
from dockyard.engine.containers.mounts import host_mounts, live_mounts
from dockyard.engine.containers.mounts.bind_sources import prepare
from dockyard.engine.containers.mounts.container_mounts import MountResolver, spec_mounts
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.containers.spec.users import find_user
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound

log = logging.getLogger("dockyard.containers")


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to change. `publish_remove` are "80/tcp" (all of its bindings) or "8080:80/tcp" (one of them).

    `binds_add` are as `-v` has them, `mounts_remove` destinations.
    """

    publish_add: dict[str, list[PortBinding]]
    publish_remove: Sequence[str] = ()
    env_add: Sequence[str] = ()
    env_remove: Sequence[str] = ()
    mounts_add: Sequence[MountSpec] = ()
    binds_add: Sequence[str] = ()
    mounts_remove: Sequence[str] = ()
    labels_add: dict[str, str] | None = None
    labels_remove: Sequence[str] = ()


class Reconfigurer:
    """Changes containers that are there already."""

    def __init__(
        self, containers: ContainerService, networks: NetworkService, volumes: VolumeService, data_root: Path
    ) -> None:
        self._containers = containers
        self._networks = networks
        self._volumes = volumes
        self._data_root = data_root
        self._mounts = MountResolver(volumes, containers.get, data_root, _no_image)

    async def change(self, reference: str, changes: Changes) -> bool:
        """Make the changes, all or none; returns whether the container was started anew for it.

        Raises NotFound, InvalidParameter for what can't be, Conflict, SystemFailure for a port in use.
        """
        container = self._containers.get(reference)
        async with container.lock:
            if container.removing or container.state.status == "dead":
                raise Conflict(f"Cannot update container {container.id}: it is marked for removal")
            before = _copy(container.record)
            ports = _changed_ports(container.host_config, changes)
            environment = _changed_environment(container.config.env or [], changes)
            removed = [_mount_at(container.record, destination) for destination in changes.mounts_remove]
            try:
                added = await self._resolve(container, changes, removed)
            except BaseException:
                await self._volumes.remove_marked(_owner(container))
                raise
            try:
                await self._change_ports(container, ports)
                await self._change_mounts(container, added, removed, changes)
                await self._volumes.settle(point.name for point in added if point.type == "volume")
            except BaseException:
                await self._undo(container, before, added, removed)
                await self._volumes.remove_marked(_owner(container))
                raise
            self._volumes.unmark([point.name for point in added if point.type == "volume"], _owner(container))
            container.config.labels = {
                key: value
                for key, value in {**(container.config.labels or {}), **(changes.labels_add or {})}.items()
                if key not in changes.labels_remove
            }
            anew = environment != (container.config.env or []) and container.state.running
            if not anew:
                container.config.env = environment
            self._containers.save(container)
        if anew:
            await self._start_anew(container, environment)
        self._containers.emit(container, "update")
        return anew

    # -- ports

    async def _change_ports(self, container: Container, wanted: dict[str, list[PortBinding] | None]) -> None:
        host = container.host_config
        if wanted == (host.port_bindings or {}):
            return
        if host.network_mode == "host" or host.network_mode.startswith("container:"):
            raise Conflict("a container without a network of its own has nothing to publish ports of")
        if container.state.running:
            asked = {
                port: [(binding.host_ip, binding.host_port) for binding in bindings or [PortBinding()]]
                for port, bindings in wanted.items()
            }
            await self._networks.republish(container.id, asked)
            self._containers.note_networks(container)
        host.port_bindings = wanted
        host.publish_all_ports = False

    # -- mounts

    async def _resolve(self, container: Container, changes: Changes, removed: Sequence[MountPoint]) -> list[MountPoint]:
        """The new mounts; volumes that are not there are made. Raises InvalidParameter for a place that is taken."""
        asked = HostConfig(binds=list(changes.binds_add), mounts=list(changes.mounts_add))
        without = msgspec.structs.replace(container.config, volumes=None)
        found = await self._mounts.resolve(without, asked, _owner(container))
        free = {point.destination for point in removed}
        taken = {point.destination for point in container.record.mounts} | set(container.host_config.tmpfs or {})
        for point in found:
            if point.destination in taken - free:
                raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        return found

    async def _change_mounts(
        self, container: Container, added: Sequence[MountPoint], removed: Sequence[MountPoint], changes: Changes
    ) -> None:
        record = container.record
        for point in removed:
            if container.shim is not None:
                await asyncio.to_thread(live_mounts.detach, container.shim.pid, container.id, point.destination)
            record.mounts = [other for other in record.mounts if other.destination != point.destination]
        for point in added:
            await self._populate(container, point)
            await self._attach(container, point)
            record.mounts = [*record.mounts, point]
        for point in removed:
            if point.type == "volume" and container.shim is not None and point.name not in container.volume_names:
                await self._volumes.unmount(point.name, container.id)
        host = record.host_config
        gone = set(changes.mounts_remove)
        host.binds = [bind for bind in host.binds or [] if _destination(bind) not in gone] + list(changes.binds_add)
        host.mounts = [mount for mount in host.mounts or [] if mount.target not in gone] + list(changes.mounts_add)
        host.binds, host.mounts = host.binds or None, host.mounts or None

    async def _populate(self, container: Container, point: MountPoint) -> None:
        """Fill a new volume with what the image has at its place, as when a container is made."""
        if point.type == "volume" and point.copy and container.record.ids is None:
            async with self._containers.rootfs(container) as tree:
                await self._volumes.populate(point.name, tree.path, point.destination, point.subpath)

    async def _attach(self, container: Container, point: MountPoint) -> None:
        """Mount it, if the container runs."""
        if container.shim is None:
            return
        sources = {}
        folder = self._containers.folder(container)
        try:
            if point.type == "volume":
                sources[point.destination] = await self._volumes.mount(point.name, container.id)
            if point.subpath:
                sources[point.destination] = await asyncio.to_thread(
                    host_mounts.mount_subpath, folder, sources[point.destination], point.subpath
                )
            record, pid = container.record, container.shim.pid
            user, _ = await asyncio.to_thread(find_user, f"/proc/{pid}/root", record.config.user, [])
            points = await asyncio.to_thread(prepare, [point], self._data_root, record.ids)
            mount = spec_mounts(points, sources, record.ids, (user.uid, user.gid))[0]
            await asyncio.to_thread(live_mounts.attach, pid, container.id, mount, record.ids)
        except BaseException:
            if point.type == "volume" and point.name not in container.volume_names:
                await self._volumes.unmount(point.name, container.id)
            raise
        finally:
            host_mounts.unmount_subpaths(folder)

    async def _undo(
        self, container: Container, before: Record, added: Sequence[MountPoint], removed: Sequence[MountPoint]
    ) -> None:
        """Put back what was changed before something failed."""
        present = {point.destination: point for point in container.record.mounts}
        for point in added:
            if present.get(point.destination) is point and container.shim is not None:
                await _tried(asyncio.to_thread(live_mounts.detach, container.shim.pid, container.id, point.destination))
                if point.type == "volume":
                    await _tried(self._volumes.unmount(point.name, container.id))
        for point in removed:
            if present.get(point.destination) is not point:
                await _tried(self._attach(container, point))
        record = container.record
        record.mounts, record.host_config.binds = before.mounts, before.host_config.binds
        record.host_config.mounts = before.host_config.mounts
        if record.host_config.port_bindings != before.host_config.port_bindings:
            await _tried(self._change_ports(container, before.host_config.port_bindings or {}))
            record.host_config.publish_all_ports = before.host_config.publish_all_ports
        self._containers.save(container)

    # -- a new start

    async def _start_anew(self, container: Container, environment: list[str]) -> None:
        """Stop it, start it with the new environment at its old addresses; with the old one if that fails."""
        old = container.config.env
        self._networks.keep_addresses(container.id)
        try:
            await self._containers.stop_for_change(container)
            container.config.env = environment
            self._containers.save(container)
            try:
                await self._containers.start(container.id)
            except BaseException:
                container.config.env = old
                self._containers.save(container)
                await _tried(self._containers.start(container.id))
                raise
        finally:
            self._networks.drop_addresses(container.id)


def _changed_ports(host: HostConfig, changes: Changes) -> dict[str, list[PortBinding] | None]:
    """The bindings by port. Raises NotFound for one to be removed that is not there."""
    wanted = {port: list(bindings or [PortBinding()]) for port, bindings in (host.port_bindings or {}).items()}
    for text in changes.publish_remove:
        head, colon, last = text.rpartition(":")
        port = last if "/" in last else f"{last}/tcp"
        host_port = head.rpartition(":")[2] if colon else ""
        present = wanted.get(port, [])
        left = [binding for binding in present if host_port and binding.host_port != host_port]
        if len(left) == len(present):
            raise NotFound(f"port {text} is not published")
        wanted[port] = left
        if not left:
            del wanted[port]
    for port, bindings in changes.publish_add.items():
        key = port if "/" in port else f"{port}/tcp"
        wanted[key] = wanted.get(key, []) + [binding for binding in bindings if binding not in wanted.get(key, [])]
    return dict(wanted)


def _changed_environment(present: Sequence[str], changes: Changes) -> list[str]:
    for entry in changes.env_add:
        if "=" not in entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
    replaced = {entry.partition("=")[0] for entry in changes.env_add} | set(changes.env_remove)
    return [entry for entry in present if entry.partition("=")[0] not in replaced] + list(changes.env_add)


def _owner(container: Container) -> str:
    """Who holds new volumes until the change is made."""
    return f"{container.id}-change"


def _no_image(name: str) -> str:
    raise InvalidParameter(f"cannot mount image {name}: that can be done only when a container is made")


def _mount_at(record: Record, destination: str) -> MountPoint:
    for point in record.mounts:
        if point.destination == destination.rstrip("/"):
            return point
    raise NotFound(f"nothing is mounted at {destination} in container {record.name}")


def _destination(bind: str) -> str:
    parts = bind.split(":")
    return parts[1] if len(parts) > 1 and parts[1].startswith("/") else parts[0]


def _copy(record: Record) -> Record:
    return msgspec.convert(msgspec.to_builtins(record), Record)


async def _tried(work: Awaitable[object]) -> None:
    """Undoing goes on, whatever fails."""
    try:
        await work
    except (DockyardError, OSError) as error:
        log.warning("cannot undo a change of a container: %s", error)
