"""What can be done to containers: found, created, started, stopped, changed, attached to, removed.

Every change of a container happens under its own lock and is in the database before it is acknowledged. Readers take no
lock, so a container that hangs holds up no request about another.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from dockyard.config import Config
from dockyard.engine.containers import names, working_directory
from dockyard.engine.containers.checkpoint_folder import Checkpoint
from dockyard.engine.containers.config import ContainerConfig, EndpointSettings, HostConfig
from dockyard.engine.containers.container import Container
from dockyard.engine.containers.creation import ContainerMaker, Origin
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers, Tree
from dockyard.engine.containers.lifecycle import Lifecycle
from dockyard.engine.containers.logs.forwarding import LogForwarding
from dockyard.engine.containers.mounts.image_mounts import ImageMounts, image_points
from dockyard.engine.containers.networks.links import canonical_links, find_link, link_environment, names_by_links
from dockyard.engine.containers.recovery import Recovery
from dockyard.engine.containers.removal import Removal
from dockyard.engine.containers.runs import ContainerRuns
from dockyard.engine.containers.settings import check_restart_policy
from dockyard.engine.containers.spec import limits
from dockyard.engine.containers.spec.container_spec import SpecMaker
from dockyard.engine.containers.spec.user_namespaces import UserNamespaces
from dockyard.engine.containers.start_failures import translated
from dockyard.engine.containers.stopping import Stopping
from dockyard.engine.events.service import Events
from dockyard.engine.images.image import ImageUser
from dockyard.engine.images.service import ImageService
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.system.apparmor import AppArmor
from dockyard.engine.system.host_limits import host_limits
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, InvalidParameter, SystemFailure
from dockyard.oci import runtime_spec
from dockyard.shim.client import Shims
from dockyard.shim.connection import Shim
from dockyard.shim.orders import Attachment
from dockyard.watchdog import Step, unwatched


class ContainerService:
    """What can be done to the containers of `index`."""

    def __init__(
        self,
        config: Config,
        index: ContainerIndex,
        events: Events,
        images: ImageService,
        layers: ContainerLayers,
        volumes: VolumeService,
        networks: NetworkService,
        shims: Shims,
        user_namespaces: UserNamespaces,
        apparmor: AppArmor,
        open_files: tuple[int, int] | None,
    ) -> None:
        self._index = index
        self._layers = layers
        self._networks = networks
        self._specs = SpecMaker(config, index, user_namespaces, open_files)
        self._logs = LogForwarding()
        image_mounts = ImageMounts(images, layers)
        self._maker = ContainerMaker(config, index, images, layers, volumes, networks, user_namespaces, image_mounts)
        self._runs = ContainerRuns(
            index, self._specs, layers, volumes, networks, shims, self._logs, user_namespaces, apparmor, image_mounts
        )
        stopping = Stopping(index)
        self._removal = Removal(index, stopping, layers, volumes, self._logs, events, image_mounts)
        self._lifecycle = Lifecycle(index, self._specs, self._runs, stopping, self._removal, apparmor)
        self._recovery = Recovery(
            index,
            self._lifecycle,
            self._runs,
            self._removal,
            layers,
            volumes,
            networks,
            shims,
            user_namespaces,
            config.live_restore,
        )
        images.users.append(self._users_of_image)
        volumes.users.append(self._users_of_volume)

    # -- with the daemon

    async def open(self, step: Step = unwatched) -> None:
        """Take up the containers of the database: those that ran on, those that ended meanwhile, and the others.

        `step` is told how far that is.
        """
        await self._recovery.run(step)

    async def close(self) -> None:
        """Let go of every container; they run on."""
        await self._lifecycle.close()
        await self._logs.close()

    async def stop_all(self) -> None:
        """Stop every running container, side by side: the daemon ends, and they are not to outlive it."""
        await self._lifecycle.stop_all()

    def reload(self, config: Config) -> None:
        """Take up new settings."""
        self._maker.reload(config)
        self._specs.reload(config)

    def refuse_if(self, check: Callable[[Mapping[str, str]], None]) -> None:
        """Have each new container's labels seen by `check`, which may raise."""
        self._maker.label_checks.append(check)

    def when_exec_ends(self, told: Callable[[str], None]) -> None:
        """Have `told` called with the id of each exec that its container's end has ended."""
        self._lifecycle.exec_gone.append(told)

    # -- finding

    def all(self) -> list[Container]:
        """Every container, the oldest first."""
        return self._index.all()

    def get(self, reference: str) -> Container:
        """The container of that id, name or unambiguous id prefix. Raises NotFound, InvalidParameter when ambiguous."""
        return self._index.get(reference)

    def running(self, reference: str) -> tuple[Container, Shim]:
        """The container and its shim. Raises NotFound, Conflict when it does not run."""
        return self._index.running(reference)

    def _users_of_image(self, image_id: str) -> Sequence[ImageUser]:
        return [
            ImageUser(container.id, container.state.running)
            for container in self._index.all()
            if container.record.image_id == image_id
            or any(point.image_id == image_id for point in image_points(container.record))
        ]

    def _users_of_volume(self, name: str) -> Sequence[str]:
        return [container.id for container in self._index.all() if name in container.volume_names]

    def folder(self, container: Container) -> str:
        """Where a container's own files are: log, hosts, hostname, resolv.conf."""
        return self._index.folder(container)

    def folder_of(self, container_id: str) -> str:
        """As `folder`, of one that is being made."""
        return str(self._index.root / container_id)

    def cgroup_path(self, container: Container) -> str:
        """The container's cgroup below every hierarchy's top."""
        return container.state.cgroup or self._specs.cgroup_path(container)

    def save(self, container: Container) -> None:
        """Store what others have changed of a container's record, under its lock."""
        self._index.save(container)

    def note_networks(self, container: Container) -> None:
        """Take over what a running container has been given by its networks."""
        self._runs.note_networks(container)

    def emit(self, container: Container, action: str, **further: str) -> None:
        """Tell what happened to a container, with its labels, image and name."""
        self._index.emit(container, action, **further)

    # -- life

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
        *,
        platform: str = "",
        scratch: bool = False,
        read_only_once: bool = False,
        origin: Origin | None = None,
    ) -> Container:
        """Make a container, see ContainerMaker.make."""
        return await self._maker.make(
            name,
            config,
            host,
            networks,
            platform=platform,
            scratch=scratch,
            read_only_once=read_only_once,
            origin=origin,
        )

    async def start(self, reference: str, checkpoint: Checkpoint | None = None) -> None:
        """Start a container, see Lifecycle.start."""
        await self._lifecycle.start(reference, checkpoint)

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Ask it to end and, `timeout` s later, end it (-1: never). Raises NotModified when it does not run."""
        await self._lifecycle.stop(reference, timeout, signal_name)

    async def kill(self, reference: str, signal_name: str = "KILL") -> None:
        """Send a signal. Raises NotFound, Conflict when it does not run."""
        await self._lifecycle.kill(reference, signal_name)

    async def restart(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Stop it, if it runs, and start it."""
        await self._lifecycle.restart(reference, timeout, signal_name)

    async def stop_for_change(self, container: Container) -> None:
        """Stop it as the first half of a new start: whatever becomes of us, it is started again."""
        await self._lifecycle.stop_for_change(container)

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; with `volumes` its anonymous volumes too. Raises Conflict while it runs, unless `force`."""
        await self._removal.remove(reference, force=force, volumes=volumes)

    async def prune(self, matches: Callable[[Container], bool]) -> tuple[list[str], int]:
        """Remove every stopped container that `matches`: (their ids, bytes freed)."""
        return await self._removal.prune(matches)

    # -- changes

    async def pause(self, reference: str) -> None:
        """Freeze it. Raises Conflict when it does not run or is paused."""
        container, shim = self.running(reference)
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is already paused")
            await translated(shim.pause())
            container.state.status = "paused"
            self._index.save_surely(container)
        self.emit(container, "pause")

    async def unpause(self, reference: str) -> None:
        """Let it go on. Raises Conflict when it is not paused."""
        container = self.get(reference)
        async with container.lock:
            if container.state.status != "paused" or container.shim is None:
                raise Conflict(f"Container {container.id} is not paused")
            await translated(container.shim.resume())
            container.state.status = "running"
            self._index.save_surely(container)
        self.emit(container, "unpause")

    async def resize(self, reference: str, height: int, width: int) -> None:
        """Set its terminal's size, in characters."""
        container, shim = self.running(reference)
        await translated(shim.resize(height, width))
        self.emit(container, "resize", height=str(height), width=str(width))

    def rename(self, reference: str, name: str) -> None:
        """Give it another name. Raises Conflict when that is taken."""
        container = self.get(reference)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        try:
            name, old = names.check_name(name), container.name
        except InvalidParameter as error:
            raise InvalidParameter(f"Error when allocating new name: {error}") from None
        if name == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        self._index.rename(container, name)
        self._networks.rename(container.id, name)
        self.emit(container, "rename", oldName=f"/{old}")

    async def update(self, reference: str, wanted: HostConfig) -> list[str]:
        """Change limits and restart policy, live when it runs; what is empty in `wanted` stays. Returns warnings."""
        container = self.get(reference)
        if container.removing or container.state.status == "dead":
            raise Conflict(
                f'Cannot update container {container.id}: container is marked for removal and cannot be "update"'
            )
        warnings = limits.verify(wanted, host_limits(), update=True)
        check_restart_policy(wanted)
        async with container.lock:
            try:
                host = limits.updated(container.host_config, wanted)
            except Conflict as conflict:
                raise Conflict(f"Cannot update container {container.id}: {conflict.message}") from None
            if container.shim is not None:
                try:
                    await translated(container.shim.update(runtime_spec.encode(limits.resources(host))))
                except (SystemFailure, InvalidParameter) as failure:
                    raise type(failure)(f"Cannot update container {container.id}: {failure.message}") from failure
            container.record.host_config = host
            self.save(container)
        await self._index.on_disk()
        self.emit(container, "update")
        return warnings

    # -- legacy links

    async def remove_link(self, reference: str) -> None:
        """Take away the name `parent/alias` that a legacy link gives a container. Raises NotFound, Conflict."""
        found = find_link(self._index, reference)
        if found is None:
            self.get(reference)
            raise Conflict("Conflict, cannot remove the default link name of the container")
        container, alias = found
        async with container.lock:
            container.record.links.pop(alias, None)
            self.save(container)

    def names_by_links(self) -> dict[str, list[str]]:
        """{a container's id: the further names that legacy links give it}."""
        return names_by_links(self._index)

    def links(self, container: Container) -> list[str]:
        """A container's legacy links, as /linked:/container/alias."""
        return canonical_links(self._index, container)

    def link_variables(self, container: Container) -> list[str]:
        """What a container's processes are told of those it is linked to; nothing of one that has stopped."""
        with suppress(Conflict):
            return link_environment(self._index, container)
        return []

    # -- waiting and streams

    async def wait(self, reference: str, condition: str = "not-running") -> tuple[int, str]:
        """(exit code, error) once it does not run, has exited the next time, or is removed.

        Who waits for an end is not told why a start failed: that is the answer to the start.
        """
        container = self.get(reference)
        if condition == "removed":
            await container.removed.wait()
            return container.state.exit_code, ""
        if condition == "next-exit" or container.state.running or container.state.status == "restarting":
            if condition == "not-running" and not container.state.running and container.restarter is None:
                return container.state.exit_code, container.state.error
            await container.exited.wait()
            return container.state.exit_code, ""
        return container.state.exit_code, container.state.error

    async def attach(
        self,
        reference: str,
        attachment: Attachment,
        first: Callable[[int, int], Awaitable[None]] | None = None,
    ) -> None:
        """Connect a client to the streams: now, or when it starts. The descriptor is ours from here on.

        `first` is awaited once the client is sure to be served, before it gets anything of the streams; it may tell
        what the log holds, see Shim.attach. Who waits for the start runs the container in the foreground: then it
        waits for this client as well.
        """
        try:
            container = self.get(reference)
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        except BaseException:
            os.close(attachment.fd)
            raise
        self.emit(container, "attach")
        if container.shim is not None:
            await container.shim.attach(attachment, first=first)
        else:
            container.waiting.append(replace(attachment, blocking=True))
            if first is not None:  # up to its first await, which is what counts, before anyone could start it
                await first(0, 0)

    @asynccontextmanager
    async def rootfs(self, container: Container) -> AsyncIterator[Tree]:
        """The container's root file system on the host, mounted for the time of the block."""
        async with self._layers.mounted(container.id) as tree:
            if working_directory.is_due(container):
                await asyncio.to_thread(working_directory.make, tree, container.config.working_dir)
            yield tree

    async def make_whole(self, container: Container) -> None:
        """Have all that a container has from its creation on in its layer, before that is looked at by itself."""
        if working_directory.is_due(container):
            async with self.rootfs(container):
                pass
