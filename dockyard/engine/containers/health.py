"""Health checks: a command run in the container at intervals, and what its exit codes say of it."""

import asyncio
import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from dockyard.engine.containers.config import Healthcheck
from dockyard.engine.containers.container import Container, Health, HealthResult
from dockyard.engine.containers.exec_process import exec_process
from dockyard.engine.system.apparmor import AppArmor
from dockyard.errors import DockyardError
from dockyard.oci import runtime_spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim.connection import ExecProcess
from dockyard.shim.orders import Attachment, ExecRequest
from dockyard.timestamps import nanoseconds, timestamp

SECOND = 10**9
INTERVAL, TIMEOUT, RETRIES, START_INTERVAL = 30 * SECOND, 30 * SECOND, 3, 5 * SECOND
LONGEST_OUTPUT = 4096
REMEMBERED = 5


class Prober:
    """Probes one container for as long as it runs."""

    def __init__(
        self,
        container: Container,
        check: Healthcheck,
        apparmor: AppArmor,
        changed: Callable[[Container, bool], None],
        emit: Callable[..., None],
    ) -> None:
        """`changed` is told of every result, and whether the status is another; `emit` as ContainerIndex.emit."""
        self._container = container
        self._check = check
        self._apparmor = apparmor
        self._changed = changed
        self._emit = emit

    async def run(self) -> None:
        """Probe until cancelled. What an earlier daemon knew of a container's health is out of date, as in Docker."""
        check, state = self._check, self._container.state
        if state.health is None:
            state.health = Health()
        state.health.status, state.health.failing_streak = "starting", 0
        self._changed(self._container, False)
        while True:
            starting = state.health.status == "starting" and self._in_start_period()
            interval = (check.start_interval or START_INTERVAL) if starting else (check.interval or INTERVAL)
            await asyncio.sleep(interval / SECOND)
            if state.status != "running":
                continue
            result = await self._probe()
            if state.status == "running":  # a frozen container is neither well nor ill
                self._judge(result)

    def _in_start_period(self) -> bool:
        return time.time_ns() - nanoseconds(self._container.state.started_at) < self._check.start_period

    async def _probe(self) -> HealthResult:
        begin = timestamp()
        test = self._check.test
        shell = (self._container.config.shell or ["/bin/sh", "-c"]) if test[0] == "CMD-SHELL" else []
        command = [*shell, *test[1:]]
        shim = self._container.shim
        if shim is None:
            return HealthResult(begin, timestamp(), -1, "container is not running")
        exec_id = secrets.token_hex(32)
        try:
            await self._apparmor.ensure(self._container.record.apparmor)
            process = runtime_spec.encode(await exec_process(self._container, command))
        except DockyardError as failure:
            return HealthResult(begin, timestamp(), -1, str(failure))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        request = ExecRequest(exec_id=exec_id, process=process, attachment=Attachment(theirs.detach(), raw=True))
        timeout = (self._check.timeout or TIMEOUT) / SECOND
        output = bytearray()
        execution: ExecProcess | None = None
        told = f"{command[0]} {' '.join(command[1:])}"
        self._emit(self._container, f"exec_create: {told}", execID=exec_id)
        self._emit(self._container, f"exec_start: {told}", execID=exec_id)
        try:
            async with asyncio.timeout(timeout):
                execution = await shim.execute(request)
                await _collect(ours, output)
                code = await execution.wait()
        except TimeoutError:
            if execution is not None:
                with suppress(DockyardError):
                    await execution.signal(signal.SIGKILL)
            said = f"Health check exceeded timeout ({timeout:g}s)"
            if output:
                said += f": {bytes(output).decode(errors='replace')}"
            return HealthResult(begin, timestamp(), -1, said)
        except (RuntimeFailure, DockyardError) as failure:
            return HealthResult(begin, timestamp(), -1, str(failure))
        finally:
            ours.close()
        self._emit(self._container, "exec_die", execID=exec_id, exitCode=str(code))
        return HealthResult(begin, timestamp(), code, bytes(output).decode(errors="replace"))

    def _judge(self, result: HealthResult) -> None:
        health = self._container.state.health
        if health is None:
            return
        before = health.status
        health.log = [*health.log[-(REMEMBERED - 1) :], result]
        if result.exit_code == 0:
            health.failing_streak = 0
            health.status = "healthy"
        else:
            if not (before == "starting" and self._in_start_period()):
                health.failing_streak += 1
            if health.failing_streak >= (self._check.retries or RETRIES):
                health.status = "unhealthy"
        self._changed(self._container, health.status != before)


async def _collect(end: socket.socket, output: bytearray) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(end, 65536):
        room = LONGEST_OUTPUT - len(output)
        output += data[: max(room, 0)]
