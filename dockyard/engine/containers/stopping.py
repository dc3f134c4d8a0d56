"""Ending containers: the polite signal, the time to follow it, and the signal that nobody can refuse."""

import asyncio
import logging
import signal
import time
from contextlib import suppress

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.index import ContainerIndex
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure, Unavailable
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim.connection import Shim
from dockyard.signals import parse_signal, signal_to_send
from dockyard.timestamps import nanoseconds

log = logging.getLogger("dockyard.containers")

SETTLING = 1.0  # s after its start that a program has to say which signals it handles
_TERMINAL_STOPS = 1 << (signal.SIGTTIN - 1) | 1 << (signal.SIGTTOU - 1)
LAST_PATIENCE = 5.0  # how long the end of a killed container is waited for, s


class Stopping:
    """Ends the processes of containers."""

    def __init__(self, index: ContainerIndex) -> None:
        self._index = index

    async def stop(
        self, container: Container, timeout: int | None, signal_name: str = "", *, by_user: bool = True
    ) -> None:
        """Send the stop signal and, `timeout` s later, SIGKILL (-1: never). Raises SystemFailure when it does not end.

        `by_user`: it is to stay stopped. The time is given whatever the process seems to do with the signal: it may
        wait for it in a way that /proc does not show (sigwait), or end by itself, and its children with it.
        """
        shim, exited = container.shim, container.exited
        if shim is None:
            return
        if timeout is None:
            timeout = container.stop_patience
        try:
            signo = parse_signal(signal_name) if signal_name else _stop_signal(container)
        except InvalidParameter as error:
            raise InvalidParameter(f"cannot stop container: {container.id}: {error}") from None
        container.record.stopped_by_user |= by_user
        self._index.save_surely(container)
        try:
            await self._resume(container, shim)
            if timeout:
                await _begun(container, signo)
            await shim.signal(signo)
            self._index.emit(container, "kill", signal=str(signo))
            await asyncio.wait_for(shim.wait(), timeout if timeout >= 0 else None)
        except (TimeoutError, Unavailable, NotFound, RuntimeFailure, SystemFailure):
            with suppress(NotFound):
                await shim.signal(signal.SIGKILL)
                self._index.emit(container, "kill", signal=str(int(signal.SIGKILL)))
            if not await self._has_ended(container, shim):
                raise SystemFailure(
                    f"cannot stop container: {container.id}: tried to kill container, but did not receive an exit event"
                ) from None
        await exited.wait()  # whoever stops and starts at once must find all given back

    async def _resume(self, container: Container, shim: Shim) -> None:
        """A frozen process takes no signal."""
        async with container.lock:
            if container.state.status == "paused":
                await shim.resume()
                container.state.status = "running"
                self._index.save_surely(container)
                self._index.emit(container, "unpause")

    @staticmethod
    async def _has_ended(container: Container, shim: Shim) -> bool:
        """Whether a container ends that was killed; a shim that says nothing of it is killed as well."""
        for patience in (LAST_PATIENCE, LAST_PATIENCE):
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                with suppress(TimeoutError):
                    await asyncio.wait_for(shim.wait(), 0.3)
                    return True
                if container.state.status == "paused":  # since the signal; cgroup version 1 holds even the dying
                    with suppress(NotFound, Unavailable, SystemFailure, RuntimeFailure):
                        await shim.resume()
            log.warning("container %s was killed and its shim does not say that it has ended", container.id)
            shim.destroy()
        return False

    async def kill(self, reference: str, signal_name: str = "KILL", *, by_user: bool = True) -> None:
        """Send a signal; `by_user`: if that ends it, it is to stay stopped. Raises Conflict when it does not run.

        In the pause before a restart there is no process: the restart is given up instead.
        """
        try:
            signo = signal_to_send(signal_name or "KILL")
        except InvalidParameter as error:
            raise InvalidParameter(f"cannot kill container: {reference}: {error}") from None
        if await self._in_pause(reference, signo):
            return
        container, shim = self._live(reference)
        if by_user and signo in (signal.SIGKILL, _stop_signal(container)):
            container.record.stopped_by_user = True
            self._index.save_surely(container)
        exited = container.exited
        if signo == signal.SIGKILL and container.state.status == "paused":
            with suppress(NotFound, Unavailable):
                await shim.resume()
        try:
            await shim.signal(signo)
        except NotFound:
            await exited.wait()  # it has just ended by itself, perhaps to be restarted
            await self._in_pause(reference, signo)
            return
        self._index.emit(container, "kill", signal=str(signo))
        if signo == signal.SIGKILL and await self._has_ended(container, shim):
            await exited.wait()

    async def _in_pause(self, reference: str, signo: int) -> bool:
        """Whether the container waits for its restart; then a signal that would end it has ended that."""
        try:
            container = self._index.get(reference)
        except NotFound:
            return False
        if container.state.status == "restarting":
            async with container.lock:  # the restart may be under way at this moment
                pass
        if container.restarter is None:
            return False
        # moby, daemon/kill.go: which signal it is matters only to a container with a stop signal of its own
        if not container.config.stop_signal or signo in (signal.SIGKILL, _stop_signal(container)):
            container.record.stopped_by_user = True
            container.give_up_restart()
            self._index.save_surely(container)
        return True

    def _live(self, reference: str) -> tuple[Container, Shim]:
        try:
            container = self._index.get(reference)
        except NotFound as error:
            raise NotFound(f"cannot kill container: {reference}: {error}") from None
        if not container.state.running or container.shim is None:
            raise Conflict(f"cannot kill container: {reference}: container {container.id} is not running")
        return container, container.shim


async def _begun(container: Container, signo: int) -> None:
    """Give a program that was started only now the moment that it takes to say what it does with the signal.

    The kernel drops a signal that the first process of a PID namespace neither handles nor blocks (pid_namespaces(7)):
    sent before docker-init has come to that, it would be lost, and the whole time to follow it waited for in vain.
    """
    ending = nanoseconds(container.state.started_at) / 1e9 + SETTLING
    while time.time() < ending and not _takes(container.state.pid, signo):  # noqa: ASYNC110  (the kernel tells nobody)
        await asyncio.sleep(0.005)


def _takes(pid: int, signo: int) -> bool:
    """Whether a process does anything with a signal, or is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith("Sig"))
        blocked, ignored, caught = (int(fields[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt"))
        # docker-init waits for its signals by sigtimedwait, in which they do not count as blocked; these it ignores
        waits = ignored & _TERMINAL_STOPS == _TERMINAL_STOPS
        return waits or bool((blocked | ignored | caught) >> (signo - 1) & 1)
    except (OSError, KeyError, ValueError):
        return True


def _stop_signal(container: Container) -> int:
    """The container's own; SIGTERM when that is none, as an earlier release took for one."""
    try:
        return parse_signal(container.config.stop_signal or "TERM")
    except InvalidParameter:
        return signal.SIGTERM
