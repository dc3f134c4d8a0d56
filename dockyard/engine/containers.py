"""The life of containers: create, start, stop, restart, remove, and what happens when they end by themselves.

Every change of a container happens under its own lock and is in the database before it is acknowledged. Readers take no
lock, so a container that hangs holds up no request about another.
"""

import asyncio
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from dockyard.config import Config
from dockyard.engine import limits, log_options, names, namespace_modes
from dockyard.engine.abilities import abilities
from dockyard.engine.container import Container, Record, nanoseconds, timestamp
from dockyard.engine.container_config import ContainerConfig, EndpointSettings, HostConfig
from dockyard.engine.container_index import ContainerIndex
from dockyard.engine.container_mounts import MountResolver
from dockyard.engine.container_runs import ContainerRuns
from dockyard.engine.container_settings import check_config, check_restart_policy, merge_image_config, settle
from dockyard.engine.container_spec import SpecMaker, unmount_shm
from dockyard.engine.events import Events
from dockyard.engine.health import Prober
from dockyard.engine.images import Image, ImageService, ImageUser
from dockyard.engine.layers import LayerStore, Tree
from dockyard.engine.links import canonical_links, find_link, link_environment, names_by_links, resolve_links
from dockyard.engine.log_forwarding import LogForwarding
from dockyard.engine.networks import NetworkService
from dockyard.engine.oom import OomWatcher
from dockyard.engine.signals import parse_signal
from dockyard.engine.start_failures import StartFailure, translated
from dockyard.engine.stopping import Stopping
from dockyard.engine.user_namespaces import UserNamespaces
from dockyard.engine.volumes import VolumeService
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound, NotModified, SystemFailure
from dockyard.oci import runtime_spec
from dockyard.shim.client import Attachment, ExitStatus, Shim, Shims

log = logging.getLogger("dockyard.containers")

# Docker's back-off: 100 ms, doubled at every quick death up to a minute; ten good seconds start it over.
RESTART_DELAY, LONGEST_RESTART_DELAY, GOOD_RUN = 0.1, 60.0, 10.0


@dataclass(frozen=True, slots=True)
class Origin:
    """What a container stands on if not simply on an image: `fill` puts into its layer and volumes what they hold."""

    image_id: str
    chain_id: str | None
    fill: Callable[[Record], Awaitable[None]] | None = None


class ContainerService:
    """What can be done to the containers of `index`."""

    def __init__(
        self,
        config: Config,
        index: ContainerIndex,
        events: Events,
        images: ImageService,
        layers: LayerStore,
        volumes: VolumeService,
        networks: NetworkService,
        shims: Shims,
        user_namespaces: UserNamespaces,
    ) -> None:
        self._config = config
        self._index = index
        self._events = events
        self._images = images
        self._layers = layers
        self._volumes = volumes
        self._networks = networks
        self._shims = shims
        self._user_namespaces = user_namespaces
        self._specs = SpecMaker(config, index, user_namespaces)
        self._logs = LogForwarding()
        self._runs = ContainerRuns(index, self._specs, layers, volumes, networks, shims, self._logs, user_namespaces)
        self._stopping = Stopping(index)
        self._oom = OomWatcher(index)
        self._mounts = MountResolver(volumes, self.get)
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = False
        self._closing = False
        self.exec_gone: list[Callable[[str], None]] = []
        # each may refuse a new container by its labels
        self.label_checks: list[Callable[[Mapping[str, str]], None]] = []
        images.users.append(self._users_of_image)
        volumes.users.append(self._users_of_volume)

    # -- life of the service

    async def open(self) -> None:
        """Take up the containers of the database: those that ran on, those that ended meanwhile, and the others.

        Nothing is started before all that run are known: their addresses, ports and namespaces are taken.
        """
        self._index.load()
        self._opening = True
        some = asyncio.Semaphore(32)

        async def recover(container: Container) -> None:
            async with some:
                try:
                    await self._recover(container)
                except Exception:
                    log.exception("cannot take up container %s", container.id)

        await asyncio.gather(*(recover(container) for container in self._index.all()))
        await self._sweep()
        self._opening = False
        self._start_those_to_run()

    def _start_those_to_run(self) -> None:
        """Start what its restart policy wants to run with the daemon, each after those whose namespaces it joins."""
        starting: dict[str, asyncio.Task[None]] = {}
        waiting = [container for container in self._index.all() if self._starts_with_daemon(container)]
        wanted = {container.id for container in waiting}

        async def start(container: Container, needed: list[str]) -> None:
            await asyncio.gather(*(starting[other] for other in needed), return_exceptions=True)
            await self._start_again(container, count=False)

        while waiting:
            ready = []
            for container in waiting:
                needed = [other for other in self._needed(container) if other in wanted]
                if all(other in starting for other in needed):
                    ready.append((container, needed))
            if not ready:  # they need each other
                ready = [(container, []) for container in waiting]
            for container, needed in ready:
                starting[container.id] = self._spawn(start(container, needed))
                waiting.remove(container)

    def _starts_with_daemon(self, container: Container) -> bool:
        record, state = container.record, container.state
        if state.running or state.status in ("created", "dead", "removing"):
            return False
        if record.to_be_started:
            return True
        always = record.host_config.restart_policy.name == "always"
        return always or state.status == "restarting" or self._restarts(record, state.exit_code)

    def _needed(self, container: Container) -> list[str]:
        """The containers without which this one can't start, by id."""
        host = container.host_config
        modes = (host.network_mode, host.pid_mode, host.ipc_mode)
        found = [other for mode in modes if (other := namespace_modes.joined(mode))]
        return [*found, *container.record.links.values()]

    async def close(self) -> None:
        """Let go of every container; they run on."""
        for container in self._index.all():
            for task in (container.watcher, container.restarter, container.prober):
                if task is not None:
                    task.cancel()
        for task in list(self._tasks):
            task.cancel()
        self._oom.close()
        await self._logs.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop_all(self) -> None:
        """Stop every running container, side by side (a daemon without live-restore that ends)."""
        self._closing = True
        running = [container for container in self._index.all() if container.state.running]
        # not by the user: those that are to run always do so again with the next daemon
        await asyncio.gather(
            *(self._stopping.stop(container, None, by_user=False) for container in running), return_exceptions=True
        )

    def reload(self, config: Config) -> None:
        """Take up new settings."""
        self._config = config
        self._specs.reload(config)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _recover(self, container: Container) -> None:
        record = container.record
        found = await self._shims.recover(container.id)
        if isinstance(found, Shim):
            await self._runs.take_up(container, found)
            self._watch(container)
        elif record.state.running or found is not None:
            status = found or ExitStatus(255, time.time_ns())
            await self._runs.send_rest(container)
            async with container.lock:
                await self._on_exit(container, status)
        elif record.sandbox is not None:
            # a crash came in the middle of a start, or of giving back what a run held
            await self._runs.end(container)
            self.save(container)
        if container.id not in self._index:
            return
        if not record.scratch and (record.state.running or record.to_be_started):
            return
        last, owned = record.state.status, record.host_config.auto_remove or record.scratch
        if last == "removing" or (owned and last != "created") or record.scratch:
            await self.remove(container.id, force=True, volumes=owned)

    async def _sweep(self) -> None:
        """Remove what a crash left: what belongs to no container, and what one that does not run still holds."""
        running = {container.id for container in self._index.all() if container.state.running}
        await self._shims.end_strays(running)
        for folder in self._index.root.iterdir():
            if folder.name not in running:
                unmount_shm(str(folder))
            if folder.name not in self._index:
                shutil.rmtree(folder, ignore_errors=True)
        await self._layers.unmount_idle()
        for container_id in self._layers.container_ids():
            if container_id not in self._index:
                self._spawn(self._layers.release(container_id))
        self._user_namespaces.sweep(running)
        await self._volumes.sweep({container.id for container in self._index.all()})
        await self._networks.sweep()

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
        ]

    def _users_of_volume(self, name: str) -> Sequence[str]:
        return [container.id for container in self._index.all() if name in container.volume_names]

    def folder(self, container: Container) -> str:
        """Where a container's own files are: log, hosts, hostname, resolv.conf."""
        return self._index.folder(container)

    def cgroup_path(self, container: Container) -> str:
        """The container's cgroup below every hierarchy's top."""
        return self._specs.cgroup_path(container)

    def save(self, container: Container) -> None:
        """Store what others have changed of a container's record, under its lock."""
        self._index.save(container)

    def note_networks(self, container: Container) -> None:
        """Take over what a running container has been given by its networks."""
        self._runs.note_networks(container)

    def emit(self, container: Container, action: str, **further: str) -> None:
        """Tell what happened to a container, with its labels, image and name."""
        self._index.emit(container, action, **further)

    # -- create

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
        *,
        scratch: bool = False,
        origin: Origin | None = None,
    ) -> Container:
        """Make a container: of the image that `config` names, or of `origin`.

        Raises NotFound for the image, Conflict for the name, InvalidParameter.

        `scratch`: it is the engine's own, and is removed when a daemon finds it at its start.
        """
        name = names.check_name(name) if name else names.choose_name(self._index.names)
        image = await self._images.get(config.image) if config.image and origin is None else None
        container_id = secrets.token_hex(32)
        self._index.reserve(name, container_id)
        try:
            return await self._create(container_id, name, config, host, networks, image, scratch, origin)
        except BaseException:
            self._index.free(name)
            raise
        finally:
            self._user_namespaces.settled(container_id)

    async def _create(
        self,
        container_id: str,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
        image: Image | None,
        scratch: bool,
        origin: Origin | None,
    ) -> Container:
        if origin is None:
            origin = Origin(image.id if image else "", image.chain_id if image else None)
        warnings = namespace_modes.verify(config, host)
        namespace_modes.name_by_id(host, lambda other: self.get(other).id)
        check_config(config)
        merge_image_config(config, image)
        if not config.entrypoint and not config.cmd:
            raise InvalidParameter("no command specified")
        config.hostname = config.hostname or self._hostname(host, container_id)
        warnings += settle(host, self._config)
        if config.stop_signal:
            parse_signal(config.stop_signal)
        ids, ids_of = self._user_namespaces.choose(container_id, host, self._index.all(), self.get)
        try:
            points = await self._mounts.resolve(config, host, container_id)
            record = Record(
                id=container_id,
                name=name,
                created=timestamp(),
                image_id=origin.image_id,
                chain_id=origin.chain_id,
                config=config,
                host_config=host,
                networks=self._wanted_networks(host, networks),
                mounts=points,
                links=resolve_links(self._index, host),
                ids=ids,
                ids_of=ids_of,
                scratch=scratch,
            )
            return await self._make(record, warnings, origin)
        except BaseException:
            await self._volumes.remove_marked(container_id)
            raise

    async def _make(self, record: Record, warnings: list[str], origin: Origin) -> Container:
        """Its layer and its folder, then the row."""
        container_id, host, ids = record.id, record.host_config, record.ids
        await self._layers.create_container_layer(
            container_id, record.chain_id, volatile=host.auto_remove, options=host.storage_opt, ids=ids
        )
        folder = self._index.root / container_id
        try:
            folder.mkdir(mode=0o710)
            file = log_options.log_file(host.log_config.type, host.log_config.config or {})
            if file is not None:
                record.log_path = str(folder / (file.path or f"{container_id}-json.log"))
                os.makedirs(os.path.dirname(record.log_path), 0o710, exist_ok=True)
            container = Container(record, warnings=warnings)
            fresh = [point for point in record.mounts if point.type == "volume" and point.copy]
            if origin.fill is not None:
                await origin.fill(record)
            elif fresh:
                async with self._layers.mounted(container_id) as tree:
                    for point in fresh:
                        await self._volumes.populate(point.name, tree.path, point.destination)
            for check in self.label_checks:
                check(record.config.labels or {})
            self._index.add(container)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            await self._layers.release(container_id)
            raise
        with suppress(SystemFailure):  # the next daemon does it then
            self._volumes.unmark(container.volume_names, container_id)
        if not host.auto_remove:  # such a one is gone after a power cut in any case
            await self._index.on_disk()
        self.emit(container, "create")
        return container

    def _hostname(self, host: HostConfig, container_id: str) -> str:
        """The name of a container that was not told one: whose network it has, that one's."""
        other = namespace_modes.joined(host.network_mode)
        if other:
            return self.get(other).config.hostname
        return os.uname().nodename if host.network_mode == "host" else container_id[:12]

    def _wanted_networks(self, host: HostConfig, networks: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
        """The networks by name; the one of `--net` is among them. Raises NotFound for an unknown one."""
        mode = host.network_mode
        if mode.startswith("container:"):
            self.get(mode.removeprefix("container:"))
            return {}
        found: dict[str, EndpointSettings] = {}
        wanted = dict(networks)
        first = "bridge" if mode == "default" else mode
        for alias in ("default", mode):
            if alias in wanted and alias != first:
                wanted[first] = wanted.pop(alias)
        for reference in [first, *(name for name in wanted if name != first)]:
            name = reference
            with suppress(NotFound):  # it may come to be before the start, which then says what is missing
                name = self._networks.get(reference).name
            found[name] = wanted.get(reference) or EndpointSettings()
        return found

    # -- start

    async def start(self, reference: str, checkpoint: str = "") -> None:
        """Start a container. Raises NotModified when it runs, StartFailure with an exit code, Conflict, …

        With the directory of a `checkpoint` its processes go on from there.
        """
        container = self.get(reference)
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.state.running:
                raise NotModified("container already started")
            if container.removing or container.state.status == "dead":
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            container.record.stopped_by_user = False
            container.record.restart_count = 0
            container.restart_delay = RESTART_DELAY
            await self._start(container, checkpoint)

    async def _start(self, container: Container, checkpoint: str = "") -> None:
        """Start under the lock; on failure everything is undone and the state says what went wrong."""
        record = container.record
        record.to_be_started = False
        try:
            await self._runs.begin(container, checkpoint)
            self._watch(container)
            for attachment in container.waiting:  # they came while it was being started
                self._spawn(self._attach_late(container, attachment))
            container.waiting.clear()
        except BaseException as failure:
            for attachment in container.waiting:
                os.close(attachment.fd)
            container.waiting.clear()
            record.state.exit_code = failure.exit_code if isinstance(failure, StartFailure) else 128
            record.state.error = str(failure)
            if record.state.status in ("restarting", "exited"):
                record.state.status = "exited"
            await self._runs.end(container)
            self._save_surely(container)
            container.exited.set()
            container.exited = asyncio.Event()
            if record.host_config.auto_remove:
                self._spawn(self._remove_quietly(container))
            raise

    async def _attach_late(self, container: Container, attachment: Attachment) -> None:
        with suppress(DockyardError):
            if container.shim is None:
                os.close(attachment.fd)
            else:
                await container.shim.attach(attachment)

    def _watch(self, container: Container) -> None:
        self._oom.watch(container, self.cgroup_path(container))
        if container.shim is not None:
            container.shim.on_detach = lambda exec_id: self._detached(container, exec_id)
        container.watcher = asyncio.ensure_future(self._await_exit(container))
        check = container.config.healthcheck
        if check is not None and check.test and check.test[0] != "NONE":
            prober = Prober(container, check, self._on_health, self.emit)
            container.prober = asyncio.ensure_future(prober.run())

    def _detached(self, container: Container, exec_id: str) -> None:
        """A client has typed its detach keys."""
        if exec_id:
            self.emit(container, "exec_detach", execID=exec_id)
        else:
            self.emit(container, "detach")

    def _on_health(self, container: Container, changed: bool) -> None:
        self.save(container)
        health, check = container.state.health, container.config.healthcheck
        if not changed or health is None:
            return
        self.emit(container, f"health_status: {health.status}")
        if health.status == "unhealthy" and check is not None and check.on_failure not in ("", "none"):
            # in a task of its own: the prober, who tells us this, ends with the container
            self._spawn(self._cure(container, check.on_failure))

    async def _cure(self, container: Container, action: str) -> None:
        """What is to be done with a container that is unhealthy (--health-on-failure)."""
        log.warning("container %s is unhealthy: %s", container.id, action)
        try:
            if action == "restart":
                await self.restart(container.id)
            elif action == "stop":
                await self.stop(container.id)
            else:
                await self._stopping.kill(container.id, by_user=False)  # a restart policy may start it again
        except (NotModified, Conflict, NotFound) as over:
            log.debug("container %s: %s", container.id, over)
        except DockyardError as failure:
            log.error("cannot %s the unhealthy container %s: %s", action, container.id, failure)

    # -- the end of a run

    async def _await_exit(self, container: Container) -> None:
        assert container.shim is not None
        status = await container.shim.wait()
        async with container.lock:
            container.watcher = None
            await self._on_exit(container, status)

    async def _on_exit(self, container: Container, status: ExitStatus) -> None:
        """Record the end, tell everyone, give back what the run held, then restart or remove."""
        record, shim = container.record, container.shim
        container.shim = None
        if container.prober is not None:
            container.prober.cancel()
            container.prober = None
        state = record.state
        started = nanoseconds(state.started_at)
        state.status, state.pid, state.exit_code = "exited", 0, status.code
        state.finished_at = timestamp(status.exited_at_ns)
        self._oom.forget(container)
        told, container.oom_kills = container.oom_kills, 0
        state.oom_killed = status.oom_killed or told > 0
        if state.health is not None:
            state.health.status = "unhealthy"
        again = self._restarts(record, status.code) and not container.removing
        if again:
            state.status = "restarting"
        self._save_surely(container)
        if status.oom_killed and not told:
            self.emit(container, "oom")
        duration = max(status.exited_at_ns - started, 0) // 10**9 if started else 0
        self.emit(container, "die", exitCode=str(status.code), execDuration=str(duration))
        exited, container.exited = container.exited, asyncio.Event()
        for execution in container.exec_ids:
            for gone in self.exec_gone:
                gone(execution)
        container.exec_ids.clear()
        if record.host_config.auto_remove and not container.removing and not container.restarting:
            container.removing = True
            exited.set()
            await self._runs.end(container, shim)
            await self._delete(container, volumes=True)
            return
        exited.set()
        await self._runs.end(container, shim)
        self._save_surely(container)
        if again and not self._opening:
            if status.exited_at_ns - started > GOOD_RUN * 1e9:
                container.restart_delay = RESTART_DELAY
            container.restarter = asyncio.ensure_future(self._restart_later(container))

    def _save_surely(self, container: Container) -> None:
        """Save what has happened whether or not it can be written down now (the disk may be full)."""
        try:
            self.save(container)
        except SystemFailure as failure:
            log.error("the state of container %s cannot be stored yet: %s", container.id, failure)
            self._spawn(self._save_later(container))

    async def _save_later(self, container: Container) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                async with container.lock:
                    self.save(container)
                return
            except SystemFailure as failure:
                log.debug("container %s: %s", container.id, failure)

    def _restarts(self, record: Record, code: int) -> bool:
        policy = record.host_config.restart_policy
        if record.stopped_by_user or self._closing:
            return False
        if policy.name in ("always", "unless-stopped"):
            return True
        most = policy.maximum_retry_count
        return policy.name == "on-failure" and code != 0 and (not most or record.restart_count < most)

    async def _restart_later(self, container: Container) -> None:
        await asyncio.sleep(container.restart_delay)
        container.restart_delay = min(container.restart_delay * 2, LONGEST_RESTART_DELAY)
        await self._start_again(container)

    async def _start_again(self, container: Container, *, count: bool = True) -> None:
        async with container.lock:
            if container.state.running or container.removing:
                return
            container.restarter = None
            container.record.restart_count += count
            try:
                await self._start(container)
            except Exception as failure:
                log.warning("cannot restart container %s: %s", container.id, failure)

    def _cancel_restart(self, container: Container) -> None:
        if container.restarter is not None:
            container.restarter.cancel()
            container.restarter = None
            container.state.status = "exited"

    # -- stop and the like

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Ask it to end and, `timeout` s later, end it (-1: never). Raises NotModified when it does not run."""
        container = self.get(reference)
        if container.state.status == "restarting":
            async with container.lock:  # a restart may be under way at this moment
                pass
        if not container.state.running:
            if container.restarter is not None:
                container.record.stopped_by_user = True
                self._cancel_restart(container)
                self.save(container)
                return
            raise NotModified("container already stopped")
        await self._stopping.stop(container, timeout, signal_name)
        self.emit(container, "stop")

    async def kill(self, reference: str, signal_name: str = "KILL") -> None:
        """Send a signal. Raises NotFound, Conflict when it does not run."""
        await self._stopping.kill(reference, signal_name)

    async def restart(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Stop it, if it runs, and start it."""
        container = self.get(reference)
        if container.state.running:
            container.restarting = True
            try:
                await self._stopping.stop(container, timeout, signal_name)
            finally:
                container.restarting = False
            self.emit(container, "stop")
        with suppress(NotModified):
            await self.start(container.id)
        self.emit(container, "restart")

    async def stop_for_change(self, container: Container) -> None:
        """Stop it as the first half of a new start: whatever becomes of us, it is started again."""
        container.record.to_be_started = container.restarting = True
        try:
            await self._stopping.stop(container, None, by_user=False)
        finally:
            container.restarting = False
        self.save(container)

    async def pause(self, reference: str) -> None:
        """Freeze it. Raises Conflict when it does not run or is paused."""
        container, shim = self.running(reference)
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is already paused")
            await translated(shim.pause())
            container.state.status = "paused"
            self.save(container)
        self.emit(container, "pause")

    async def unpause(self, reference: str) -> None:
        """Let it go on. Raises Conflict when it is not paused."""
        container = self.get(reference)
        async with container.lock:
            if container.state.status != "paused" or container.shim is None:
                raise Conflict(f"Container {container.id} is not paused")
            await translated(container.shim.resume())
            container.state.status = "running"
            self.save(container)
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
        warnings = limits.verify(wanted, abilities(), update=True)
        check_restart_policy(wanted)
        async with container.lock:
            try:
                host = limits.updated(container.host_config, wanted)
            except Conflict as conflict:
                raise Conflict(f"Cannot update container {container.id}: {conflict.message}") from None
            if container.shim is not None:
                try:
                    await translated(container.shim.update(runtime_spec.encode(limits.resources(host))))
                except SystemFailure as failure:
                    raise SystemFailure(f"Cannot update container {container.id}: {failure.message}") from failure
            container.record.host_config = host
            self.save(container)
        await self._index.on_disk()
        self.emit(container, "update")
        return warnings

    # -- remove

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; with `volumes` its anonymous volumes too. Raises Conflict while it runs, unless `force`."""
        container = self.get(reference)
        if container.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        if (container.state.running or container.state.status == "restarting") and not force:
            what = "paused" if container.state.status == "paused" else container.state.status
            hint = "unpause and then stop" if what == "paused" else "stop"
            raise Conflict(
                f'cannot remove container "/{container.name}": container is {what}: '
                f"{hint} the container before removing or force remove"
            )
        container.removing = True
        try:
            self._cancel_restart(container)
            while True:
                if container.state.running:
                    await self._end_for_removal(container)
                async with container.lock:
                    # a start that was under way has been waited for
                    if not container.state.running:
                        await self._delete(container, volumes=volumes)
                        return
                if not force:
                    raise Conflict(
                        f'cannot remove container "/{container.name}": container is running: '
                        "stop the container before removing or force remove"
                    )
        except BaseException:
            container.removing = False
            raise

    async def _end_for_removal(self, container: Container) -> None:
        with suppress(Conflict, NotFound):
            await self.kill(container.id)
            if container.state.running:
                raise SystemFailure(
                    f'cannot remove container "/{container.name}": could not kill container: '
                    "tried to kill container, but did not receive an exit event"
                )

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

    async def _remove_quietly(self, container: Container) -> None:
        try:
            await self.remove(container.id, force=True, volumes=True)
        except (NotFound, Conflict):
            pass

    async def _delete(self, container: Container, *, volumes: bool) -> None:
        """Take away all that the container was; under its lock."""
        if container.id not in self._index:
            raise NotFound(f"No such container: {container.id}")
        container.state.status = "removing"
        self.save(container)
        for attachment in container.waiting:
            os.close(attachment.fd)
        container.waiting.clear()
        if volumes:
            # if the daemon dies before the last line, the next one finishes
            self._volumes.mark(container.nameless_volumes, container.id)
        await self._layers.release(container.id)
        await self._logs.sent(container.id)
        self._index.remove(container)
        unmount_shm(self.folder(container))
        shutil.rmtree(self.folder(container), ignore_errors=True)
        self.emit(container, "destroy")
        container.exited.set()
        container.removed.set()
        if volumes:
            await self._volumes.remove_marked(container.id)
        if not container.host_config.auto_remove:
            await self._index.on_disk()

    async def prune(self, matches: Callable[[Container], bool]) -> tuple[list[str], int]:
        """Remove every stopped container that `matches`: (their ids, bytes freed)."""
        removed, freed = [], 0
        for container in self.all():
            if container.state.running or container.state.status == "restarting" or not matches(container):
                continue
            with suppress(Conflict, NotFound):
                size = (await self._layers.sizes(container.id))[0]
                await self.remove(container.id)
                removed.append(container.id)
                freed += size
        self._events.emit("container", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

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
            yield tree
