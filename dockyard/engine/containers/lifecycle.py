"""A container's life between its creation and its removal: started, stopped, ended by itself, started again.

What a run holds is `container_runs`; here is when there is one. Each change happens under the container's own lock and
is in the database before it is acknowledged.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from dockyard.engine.containers.checkpoint_folder import Checkpoint
from dockyard.engine.containers.container import RESTART_DELAY, Container, Record, State
from dockyard.engine.containers.health import Prober
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.oom import OomWatcher
from dockyard.engine.containers.removal import Removal
from dockyard.engine.containers.runs import ContainerRuns
from dockyard.engine.containers.spec.container_spec import SpecMaker
from dockyard.engine.containers.start_failures import StartFailure
from dockyard.engine.containers.stopping import Stopping
from dockyard.engine.system.apparmor import AppArmor
from dockyard.errors import Conflict, DockyardError, NotFound, NotModified, SystemFailure
from dockyard.shim.orders import Attachment, ExitStatus
from dockyard.timestamps import nanoseconds, timestamp

log = logging.getLogger("dockyard.containers")

# Docker's back-off: 100 ms, doubled at every quick death up to a minute; ten good seconds start it over.
LONGEST_RESTART_DELAY, GOOD_RUN = 60.0, 10.0


class Lifecycle:
    """Starts, stops and restarts containers of `index`, and sees to those that end by themselves."""

    def __init__(
        self,
        index: ContainerIndex,
        specs: SpecMaker,
        runs: ContainerRuns,
        stopping: Stopping,
        removal: Removal,
        apparmor: AppArmor,
    ) -> None:
        self._index = index
        self._specs = specs
        self._runs = runs
        self._stopping = stopping
        self._removal = removal
        self._apparmor = apparmor
        self._oom = OomWatcher(index)
        self._tasks: set[asyncio.Task[None]] = set()
        self.restarts_held = False  # while a daemon takes up what it finds: it starts afterwards what is to run
        self._closing = False
        # told of each exec that a container's end has ended
        self.exec_gone: list[Callable[[str], None]] = []

    async def start(self, reference: str, checkpoint: Checkpoint | None = None) -> None:
        """Start a container. Raises NotModified when it runs, StartFailure with an exit code, Conflict, …

        With a `checkpoint` its processes go on from there.
        """
        container = self._index.get(reference)
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.state.running:
                raise NotModified("container already started")
            if container.removing or container.state.status == "dead":
                raise Conflict("container is marked for removal and cannot be started")
            container.cancel_restart()
            container.record.stopped_by_user = False
            container.record.restart_count = 0
            container.restart_delay = RESTART_DELAY
            await self._start(container, checkpoint)

    async def _start(self, container: Container, checkpoint: Checkpoint | None = None) -> None:
        """Start under the lock; on failure everything is undone and the state says what went wrong."""
        record = container.record
        record.to_be_started = False
        try:
            await self._runs.begin(container, checkpoint)
            self.watch(container)
            for attachment in container.waiting:  # they came while it was being started
                self.spawn(self._attach_late(container, attachment))
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
            self._index.save_surely(container)
            container.exited.set()
            container.exited = asyncio.Event()
            if record.host_config.auto_remove:
                self.spawn(self._removal.remove_quietly(container))
            raise

    async def _attach_late(self, container: Container, attachment: Attachment) -> None:
        with suppress(DockyardError):
            if container.shim is None:
                os.close(attachment.fd)
            else:
                await container.shim.attach(attachment)

    def watch(self, container: Container) -> None:
        """See to the end of a container's run, to its health, and to what it does to its memory."""
        self._oom.watch(container, self._specs.cgroup_path(container))
        if container.shim is not None:
            container.shim.on_detach = lambda exec_id: self._detached(container, exec_id)
        container.watcher = asyncio.ensure_future(self._await_exit(container))
        check = container.config.healthcheck
        if check is not None and check.test and check.test[0] != "NONE":
            prober = Prober(container, check, self._apparmor, self._on_health, self._index.emit)
            container.prober = asyncio.ensure_future(prober.run())

    def _detached(self, container: Container, exec_id: str) -> None:
        """A client has typed its detach keys."""
        if exec_id:
            self._index.emit(container, "exec_detach", execID=exec_id)
        else:
            self._index.emit(container, "detach")

    def _on_health(self, container: Container, changed: bool) -> None:
        self._index.save(container, lazy=True)
        health, check = container.state.health, container.config.healthcheck
        if not changed or health is None:
            return
        self._index.emit(container, f"health_status: {health.status}")
        if health.status == "unhealthy" and check is not None and check.on_failure not in ("", "none"):
            # in a task of its own: the prober, who tells us this, ends with the container
            self.spawn(self._cure(container, check.on_failure))

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
            await self.on_exit(container, status)

    async def on_exit(self, container: Container, status: ExitStatus) -> None:
        """Record the end, give back what the run held, tell everyone, then restart or remove.

        Until that is given back the container counts as running: whoever hears of the end may want its port, address,
        volume or network at once.
        """
        record, shim = container.record, container.shim
        if container.prober is not None:
            container.prober.cancel()
            container.prober = None
        self._oom.forget(container)
        told, container.oom_kills = container.oom_kills, 0
        started = nanoseconds(record.state.started_at)
        running, ended = record.state, msgspec.structs.replace(record.state, pid=0, exit_code=status.code)
        ended.finished_at = timestamp(status.exited_at_ns)
        ended.oom_killed = status.oom_killed or told > 0
        self._settle(container, ended, status)
        # on disk it has ended: a daemon that dies before the rest must not lose the code
        self._index.save_surely(container)
        record.state = running
        for execution in container.exec_ids:
            for gone in self.exec_gone:
                gone(execution)
        container.exec_ids.clear()
        remove = record.host_config.auto_remove and not container.removing and not container.restarting
        container.removing |= remove
        await self._runs.end(container, shim)
        container.shim = None
        again = self._settle(container, ended, status)
        if ended.health is not None:
            ended.health.status = "unhealthy"
        self._index.save_surely(container)
        self._index.hasten()
        exited, container.exited = container.exited, asyncio.Event()
        exited.set()
        if status.oom_killed and not told:
            self._index.emit(container, "oom")
        duration = max(status.exited_at_ns - started, 0) // 10**9 if started else 0
        self._index.emit(container, "die", exitCode=str(status.code), execDuration=str(duration))
        if remove:
            self._tell_stop(container)
            await self._remove_ended(container)
        elif again and not self.restarts_held:
            if status.exited_at_ns - started > GOOD_RUN * 1e9:
                container.restart_delay = RESTART_DELAY
            container.restarter = asyncio.ensure_future(self._restart_later(container))

    async def _remove_ended(self, container: Container) -> None:
        try:
            await self._removal.delete(container, volumes=True, freed=False)
        except (SystemFailure, OSError) as failure:  # the disk is full or read-only; the next daemon tries again
            log.error("container %s is not removed: %s", container.id, failure)
            container.removing = False
            container.state.status = "exited"
            with suppress(NotFound):
                await self._runs.unmount(container)

    def _settle(self, container: Container, ended: State, status: ExitStatus) -> bool:
        """Let the container be in the state `ended`; whether it is to run again, which a stop may change meanwhile."""
        again = self.restarts(container.record, status.code) and not container.removing
        ended.status = "restarting" if again else "exited"
        container.record.state = ended
        return again

    def restarts(self, record: Record, code: int) -> bool:
        """Whether its restart policy wants it to run again after this end."""
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
        await self.start_again(container)

    async def start_again(self, container: Container, *, count: bool = True) -> None:
        """Start it because its restart policy says so; `count`: as one of its restarts."""
        async with container.lock:
            if container.state.running or container.removing or self._closing:
                return
            container.restarter = None
            container.record.restart_count += count
            try:
                await self._start(container)
            except Exception as failure:
                log.warning("cannot restart container %s: %s", container.id, failure)

    # -- stop and the like

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Ask it to end and, `timeout` s later, end it (-1: never). Raises NotModified when it does not run."""
        container = self._index.get(reference)
        if container.state.status == "restarting":
            async with container.lock:  # a restart may be under way at this moment
                pass
        if not container.state.running:
            if container.restarter is not None:
                container.record.stopped_by_user = True
                container.cancel_restart()
                self._index.save_surely(container)
                return
            raise NotModified("container already stopped")
        container.being_stopped = True
        try:
            await self._stopping.stop(container, timeout, signal_name)
            self._tell_stop(container)
        finally:
            container.being_stopped = False

    def _tell_stop(self, container: Container) -> None:
        """Tell once that a stop has been done: before the removal, of one that is removed when it ends."""
        if container.being_stopped:
            container.being_stopped = False
            self._index.emit(container, "stop")

    async def kill(self, reference: str, signal_name: str = "KILL") -> None:
        """Send a signal. Raises NotFound, Conflict when it does not run."""
        await self._stopping.kill(reference, signal_name)

    async def restart(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Stop it, if it runs, and start it."""
        container = self._index.get(reference)
        if container.state.running:
            container.restarting = True
            try:
                await self._stopping.stop(container, timeout, signal_name)
            finally:
                container.restarting = False
            self._index.emit(container, "stop")
        with suppress(NotModified):
            await self.start(container.id)
        self._index.emit(container, "restart")

    async def stop_for_change(self, container: Container) -> None:
        """Stop it as the first half of a new start: whatever becomes of us, it is started again."""
        container.record.to_be_started = container.restarting = True
        try:
            await self._stopping.stop(container, None, by_user=False)
        finally:
            container.restarting = False
        self._index.save(container)

    # -- with the daemon

    async def close(self) -> None:
        """Let go of every container; they run on."""
        for container in self._index.all():
            for task in (container.watcher, container.restarter, container.prober):
                if task is not None:
                    task.cancel()
        for task in list(self._tasks):
            task.cancel()
        self._oom.close()
        self._index.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop_all(self) -> None:
        """Stop every running container, side by side: the daemon ends, and they are not to outlive it.

        Each by its own signal and in its own time. Those that are to run always do so again with the next daemon.
        """
        self._closing = True
        await self._stop_each(self._index.all())

    async def stop_outlived(self) -> None:
        """Stop what has outlived an earlier daemon that could not do so itself."""
        outlived = [container for container in self._index.all() if container.state.running]
        if outlived:
            log.info("stopping %d containers that have outlived the daemon: live-restore is off", len(outlived))
        await self._stop_each(outlived)

    async def _stop_each(self, containers: Sequence[Container]) -> None:
        for container, failure in zip(
            containers,
            await asyncio.gather(*map(self._stop_with_daemon, containers), return_exceptions=True),
            strict=True,
        ):
            if isinstance(failure, BaseException):
                log.error("container %s: %s", container.id, failure)

    async def _stop_with_daemon(self, container: Container) -> None:
        async with container.lock:  # a start may be under way at this moment
            if container.restarter is not None:
                container.restarter.cancel()  # and the state says on: the next daemon restarts it
        if container.state.running:
            await self._stopping.stop(container, None, by_user=False)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Do something beside, until it is done or the daemon goes."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
