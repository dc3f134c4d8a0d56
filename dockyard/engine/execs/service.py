"""Additional processes in running containers: created, then started once, then remembered until the container ends."""

import asyncio
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.exec_process import exec_process
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.containers.start_failures import CannotRun, Refused, StartFailure, exec_failure
from dockyard.engine.system.apparmor import AppArmor
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure, Unavailable
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Process
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim.connection import ExecProcess
from dockyard.shim.orders import Attachment, ExecRequest

# How many execs that have ended are remembered, for whoever asks for their exit codes.
REMEMBERED = 10_000
# How long a shim is waited for that may be stuck, before an exec is told to run on, s.
PATIENCE = 10.0


@dataclass(eq=False)
class Execution:
    """One exec; `exit_code` is None until it has ended."""

    id: str
    container: Container
    command: list[str]
    process: Process
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool
    user: str
    privileged: bool
    detach_keys: bytes
    console_size: tuple[int, int] | None = None
    failure: str = ""  # why it will not start: its user is not there
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    live: ExecProcess | None = None
    launched: asyncio.Event = field(default_factory=asyncio.Event)  # or known not to start
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def told(self) -> str:
        """The command as events tell it: there is a space after it, also when nothing follows."""
        return f"{self.command[0]} {' '.join(self.command[1:])}"


class ExecService:
    """Every exec of the running containers."""

    def __init__(self, containers: ContainerService, apparmor: AppArmor) -> None:
        self._containers = containers
        self._apparmor = apparmor
        self._execs: dict[str, Execution] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        containers.when_exec_ends(self._gone)

    def get(self, exec_id: str) -> Execution:
        """The exec of that id. Raises NotFound, also when its container is gone."""
        found = self._execs.get(exec_id) or self._find(exec_id)
        if found is not None and found.container.removed.is_set():
            del self._execs[exec_id]
            found = None
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        if found.running and found.live is not None and found.live.code is not None:
            self._ended(found, found.live.code)  # whoever asks may be faster than the watcher
        return found

    async def seen(self, exec_id: str) -> Execution:
        """The exec as it is now, with an end that its client has seen already. Raises NotFound.

        The client's stream ends at the shim. What that has told us, that the exec runs or has ended, may still be
        unread when the client, faster than we, asks for the exit code.
        """
        found = self.get(exec_id)
        if found.started and not found.launched.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(found.launched.wait(), PATIENCE)
        if found.running and found.live is not None:
            with suppress(Unavailable, RuntimeFailure, SystemFailure, TimeoutError):
                try:
                    # the answer comes after whatever was said before
                    await asyncio.wait_for(found.live.signal(0), PATIENCE)
                except NotFound:  # it has ended, which is told when its output has been passed on
                    await asyncio.wait_for(found.live.wait(), PATIENCE)
        return self.get(exec_id)

    def _find(self, exec_id: str) -> Execution | None:
        """An exec that an earlier daemon started; its shim knows whether it runs and how it ended, no more."""
        for container in self._containers.all():
            shim = container.shim
            if shim is None:
                continue
            live, code = shim.execs.get(exec_id), shim.exec_codes.get(exec_id)
            if live is None and code is None:
                continue
            execution = Execution(
                id=exec_id,
                container=container,
                command=_command_of(live.pid) if live is not None else [""],
                process=Process(),
                tty=False,
                stdin=False,
                stdout=True,
                stderr=True,
                user="",
                privileged=False,
                detach_keys=b"",
                running=live is not None,
                started=True,
                exit_code=code,
                live=live,
            )
            self._execs[exec_id] = execution
            container.exec_ids.append(exec_id)
            if live is not None:
                self._watch_over(execution)
            return execution
        return None

    async def signal(self, exec_id: str, signo: int) -> None:
        """Send its process a signal. Raises NotFound, Conflict when it does not run."""
        execution = self.get(exec_id)
        if not execution.running or execution.live is None:
            raise Conflict(f"exec {exec_id} is not running")
        await execution.live.signal(signo)

    async def create(
        self,
        reference: str,
        command: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        env: Sequence[str] = (),
        user: str = "",
        working_dir: str = "",
        privileged: bool = False,
        detach_keys: bytes = b"",
        console_size: tuple[int, int] | None = None,
    ) -> Execution:
        """Prepare a process. Raises NotFound, Conflict when the container does not run or is paused."""
        if not command:
            raise InvalidParameter("No exec command specified")
        container = self._containers.get(reference)
        if container.state.status == "restarting":
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        self._containers.running(reference)
        if container.state.status == "paused":
            raise Conflict(f"Container {reference} is paused, unpause the container before exec")
        await self._apparmor.ensure(container.record.apparmor)
        process, failure = Process(), ""
        try:
            process = await exec_process(
                container,
                command,
                tty=tty,
                env=env,
                user=user,
                working_dir=working_dir,
                privileged=privileged,
                link_variables=self._containers.link_variables(container),
            )
        except InvalidParameter as error:
            if user:
                raise
            failure = str(error)  # the container's own user, of whom the client has said nothing
        execution = Execution(
            id=secrets.token_hex(32),
            container=container,
            command=list(command),
            process=process,
            tty=tty,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            user=user,
            privileged=privileged,
            detach_keys=detach_keys,
            console_size=console_size,
            failure=failure,
        )
        self._execs[execution.id] = execution
        container.exec_ids.append(execution.id)
        if len(self._execs) > REMEMBERED:
            self._forget_oldest()
        self._containers.emit(container, f"exec_create: {execution.told}", execID=execution.id)
        return execution

    def _forget_oldest(self) -> None:
        for exec_id, execution in list(self._execs.items()):
            if execution.started and not execution.running:
                del self._execs[exec_id]
                with suppress(ValueError):
                    execution.container.exec_ids.remove(exec_id)
                return

    def check_startable(self, exec_id: str) -> Execution:
        """The exec, if it can be started. Raises NotFound, Conflict."""
        execution = self.get(exec_id)
        _check_running(execution.container)
        if execution.exit_code is not None:
            raise Conflict(f"exec command {exec_id} has already run")
        if execution.started:
            raise Conflict(f"exec command {exec_id} is already running")
        return execution

    async def start(
        self, execution: Execution, attachment: Attachment | None, console_size: tuple[int, int] | None = None
    ) -> None:
        """Start it; with `attachment` (ours from here on) its streams go there.

        Raises StartFailure with an exit code when the program can't run.
        """
        shim = execution.container.shim
        paused = execution.container.state.status == "paused"
        if shim is None or execution.started or paused:
            if attachment is not None:
                os.close(attachment.fd)
            if paused:
                raise Conflict(f"container {execution.container.id} is paused, unpause the container before exec")
            raise Conflict(f"container {execution.container.id} is not running")
        execution.started = True
        size = console_size or execution.console_size
        process = execution.process
        if size is not None and execution.tty:  # before it runs: it may ask at once
            process = msgspec.structs.replace(process, console_size=runtime_spec.Box(*size))
        request = ExecRequest(
            exec_id=execution.id,
            process=runtime_spec.encode(process),
            terminal=execution.tty,
            open_stdin=execution.stdin,
            attachment=attachment,
            console_size=size,
        )
        self._containers.emit(execution.container, f"exec_start: {execution.told}", execID=execution.id)
        try:
            refusal = _refusal(execution)
            if refusal is not None:
                if attachment is not None:
                    os.close(attachment.fd)
                execution.exit_code = refusal.exit_code
                execution.ended.set()
                raise refusal
            execution.live = await shim.execute(request)
        except RuntimeFailure as failure:
            refused = exec_failure(failure)
            execution.exit_code = refused.exit_code
            execution.ended.set()
            raise refused from failure
        except NotFound:  # it has met the container's end
            raise Conflict(f"container {execution.container.id} is not running") from None
        finally:
            execution.launched.set()
        execution.running = True
        self._watch_over(execution)

    def _watch_over(self, execution: Execution) -> None:
        watcher = asyncio.ensure_future(self._watch(execution))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, execution: Execution) -> None:
        assert execution.live is not None
        self._ended(execution, await execution.live.wait())

    def _ended(self, execution: Execution, code: int) -> None:
        if execution.running:
            execution.running, execution.exit_code = False, code
            execution.ended.set()
            self._containers.emit(execution.container, "exec_die", execID=execution.id, exitCode=str(code))

    def _gone(self, exec_id: str) -> None:
        """The container has ended, and the exec with it."""
        execution = self._execs.get(exec_id)
        if execution is not None and execution.running:
            execution.running, execution.exit_code = False, 137
            execution.ended.set()

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """Set its terminal's size.

        Raises NotFound when it has ended, InvalidParameter when it could not be started, Conflict when its container
        does not run.
        """
        execution = self.get(exec_id)
        _check_running(execution.container)
        if execution.started:  # and perhaps on its way: whoever asks next, in the terminal, sees the new size
            await execution.launched.wait()
            if execution.live is None:
                raise InvalidParameter("exec process is not started")
        if execution.exit_code is not None:
            raise _ended(exec_id)
        if execution.live is None or not execution.running:
            # a client may ask before the process is there: it then starts in that size
            execution.console_size = (height, width)
            return
        try:
            await execution.live.resize(height, width)
        except NotFound:
            raise _ended(exec_id) from None
        except RuntimeFailure as failure:
            raise Conflict(failure.message) from failure


def _check_running(container: Container) -> None:
    if not container.state.running:
        raise Conflict(f"container {container.id} is not running")
    if container.state.status == "paused":
        raise Conflict(f"Container {container.id} is paused, unpause the container before exec")


def _ended(exec_id: str) -> NotFound:
    return NotFound(f"NotFound: process does not exist {exec_id}: not found")


def _refusal(execution: Execution) -> StartFailure | None:
    """Why it can't be started, as far as that is known without the container."""
    if execution.failure:
        return CannotRun(execution.failure, 126)
    if not execution.process.cwd.startswith("/"):
        return Refused("OCI runtime exec failed: exec failed: Cwd must be an absolute path", 128)
    return None


def _command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return [""]
