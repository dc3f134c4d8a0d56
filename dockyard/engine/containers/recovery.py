"""What a daemon does with the containers it finds when it starts.

Those that ran on are taken up, of those that ended meanwhile the end is recorded, what a crash left is removed, and
what is to run with the daemon is started.
"""

import asyncio
import logging
import shutil
import time

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.lifecycle import Lifecycle
from dockyard.engine.containers.mounts import host_mounts
from dockyard.engine.containers.mounts.image_mounts import owner_of
from dockyard.engine.containers.removal import Removal
from dockyard.engine.containers.runs import ContainerRuns
from dockyard.engine.containers.spec import namespace_modes
from dockyard.engine.containers.spec.user_namespaces import UserNamespaces
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.volumes.service import VolumeService
from dockyard.shim.client import Shims
from dockyard.shim.connection import Shim
from dockyard.shim.orders import ExitStatus
from dockyard.watchdog import Step

log = logging.getLogger("dockyard.containers")

PATIENCE = 20.0  # how long the start waits for one container, s


class Recovery:
    """Takes up the containers of `index`."""

    def __init__(
        self,
        index: ContainerIndex,
        lifecycle: Lifecycle,
        runs: ContainerRuns,
        removal: Removal,
        layers: ContainerLayers,
        volumes: VolumeService,
        networks: NetworkService,
        shims: Shims,
        user_namespaces: UserNamespaces,
        live_restore: bool,
    ) -> None:
        """`live_restore`: containers may outlive a daemon."""
        self._index = index
        self._lifecycle = lifecycle
        self._runs = runs
        self._removal = removal
        self._layers = layers
        self._volumes = volumes
        self._networks = networks
        self._shims = shims
        self._user_namespaces = user_namespaces
        self._live_restore = live_restore

    async def run(self, step: Step) -> None:
        """Take up the containers of the database: those that ran on, those that ended meanwhile, and the others.

        Nothing is started before all that run are known: their addresses, ports and namespaces are taken.
        """
        self._index.load()
        self._lifecycle.restarts_held = True
        some = asyncio.Semaphore(32)
        left = len(self._index.all())

        async def recover(container: Container) -> None:
            nonlocal left
            async with some:
                await self._recover_or_go_on(container)
            left -= 1
            step(f"containers: {left} are still to be taken up")

        await asyncio.gather(*(recover(container) for container in self._index.all()))
        if not self._live_restore:
            step("containers that have outlived an earlier daemon to end", 0)
            await self._lifecycle.stop_outlived()
        step("what earlier daemons have left to be removed")
        await self._sweep()
        self._lifecycle.restarts_held = False
        self._start_those_to_run()

    async def _recover_or_go_on(self, container: Container) -> None:
        """Take it up; what it uses may hang (a volume on a dead server), and must not hold up all others for ever."""

        async def recover() -> None:
            try:
                await self._recover(container)
            except Exception:
                log.exception("cannot take up container %s", container.id)

        _, late = await asyncio.wait({self._lifecycle.spawn(recover())}, timeout=PATIENCE)
        if late:
            log.error("container %s is not taken up after %d seconds: going on without", container.id, PATIENCE)

    async def _recover(self, container: Container) -> None:
        record = container.record
        found = await self._shims.recover(container.id)
        if isinstance(found, Shim):
            await self._runs.take_up(container, found)
            self._lifecycle.watch(container)
        elif record.state.running or found is not None:
            status = found or ExitStatus(255, time.time_ns())
            await self._runs.send_rest(container)
            async with container.lock:
                await self._lifecycle.on_exit(container, status)
        elif record.sandbox is not None:
            # a crash came in the middle of a start, or of giving back what a run held
            await self._runs.end(container)
            self._index.save(container)
        if container.id not in self._index:
            return
        if record.to_be_removed:
            await self._removal.remove(container.id, force=True, volumes=record.volumes_too)
            return
        if not record.scratch and (record.state.running or record.to_be_started):
            return
        last, owned = record.state.status, record.host_config.auto_remove or record.scratch
        if last == "removing" or (owned and last != "created") or record.scratch:
            await self._removal.remove(container.id, force=True, volumes=owned)
        elif last == "exited":
            await self._runs.send_rest(container)

    async def _sweep(self) -> None:
        """Remove what a crash left: what belongs to no container, and what one that does not run still holds."""
        lost = self._index.lost()
        for container_id in lost:
            log.warning("container %s is whole, but the database does not know it: it is kept", container_id)
        running = {container.id for container in self._index.all() if container.state.running} | lost
        await self._shims.end_strays(running)
        for folder in self._index.root.iterdir():
            if not folder.is_dir():
                continue  # no container's: somebody else has put it there
            if folder.name not in running:
                host_mounts.unmount_all(str(folder))
            if folder.name not in self._index and folder.name not in lost:
                shutil.rmtree(folder, ignore_errors=True)
        await self._layers.unmount_idle(lost)
        for container_id in self._layers.ids():
            if owner_of(container_id) not in self._index and owner_of(container_id) not in lost:
                self._lifecycle.spawn(self._layers.release(container_id))
        self._user_namespaces.sweep(running)
        await self._volumes.sweep({container.id for container in self._index.all()} | lost)
        if not lost:
            await self._networks.sweep()

    def _start_those_to_run(self) -> None:
        """Start what its restart policy wants to run with the daemon, each after those whose namespaces it joins."""
        starting: dict[str, asyncio.Task[None]] = {}
        waiting = [container for container in self._index.all() if self._starts_with_daemon(container)]
        wanted = {container.id for container in waiting}

        async def start(container: Container, needed: list[str]) -> None:
            await asyncio.gather(*(starting[other] for other in needed), return_exceptions=True)
            await self._lifecycle.start_again(container, count=False)

        while waiting:
            ready = []
            for container in waiting:
                needed = [other for other in self._needed(container) if other in wanted]
                if all(other in starting for other in needed):
                    ready.append((container, needed))
            if not ready:  # they need each other
                ready = [(container, []) for container in waiting]
            for container, needed in ready:
                starting[container.id] = self._lifecycle.spawn(start(container, needed))
                waiting.remove(container)

    def _starts_with_daemon(self, container: Container) -> bool:
        record, state = container.record, container.state
        if state.running or state.status in ("created", "dead", "removing"):
            return False
        if record.to_be_started:
            return True
        always = record.host_config.restart_policy.name == "always"
        return always or state.status == "restarting" or self._lifecycle.restarts(record, state.exit_code)

    def _needed(self, container: Container) -> list[str]:
        """The containers without which this one can't start, by id."""
        host = container.host_config
        modes = (host.network_mode, host.pid_mode, host.ipc_mode)
        found = [other for mode in modes if (other := namespace_modes.joined(mode))]
        return [*found, *container.record.links.values()]
