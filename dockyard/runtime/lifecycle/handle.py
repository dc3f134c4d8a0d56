"""A container that is there: told how it is, started, signalled, frozen, limited, deleted (runtime-spec, runtime.md).

Whatever process does this has found the container by its record, and knows its first process by PID and start time,
and signals it by pidfd. Imports little: most commands of the command line need no more than this.
"""

import contextlib
import errno
import os
import signal

from dockyard.linux.cgroups import Cgroup
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.state import exec_fifo
from dockyard.runtime.state import record as records
from dockyard.runtime.state.record import SPEC, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from dockyard.oci.runtime_spec import Resources, Spec, State


class ContainerHandle:
    """A handle on one container."""

    def __init__(self, root: str, record: Record) -> None:
        self.root = root
        self.record = record
        self.group = _group(record)
        self.warnings: list[str] = []  # what went wrong and yet stops nothing
        self.hook_environment: list[str] | None = None  # of hooks that say none; None: ours
        self._runtime: socket.socket | None = None  # to the first process, when we have made it
        self._spec: Spec | None = None

    @classmethod
    def load(cls, root: str, container_id: str) -> "ContainerHandle":
        """The container that another process created. Raises RuntimeFailure."""
        return cls(root, records.load(root, container_id))

    @classmethod
    def load_remains(cls, root: str, container_id: str) -> "ContainerHandle | None":
        """What there may be of one whose maker was killed before it was recorded, or whose record is damaged."""
        plan = records.load_plan(root, container_id)
        return cls(root, plan) if plan is not None else None

    @property
    def directory(self) -> str:
        """Where its state is kept."""
        return os.path.join(self.root, self.record.id)

    @property
    def spec(self) -> "Spec":
        """Its config.json."""
        if self._spec is None:
            from dockyard.oci import runtime_spec

            with open(os.path.join(self.directory, SPEC), "rb") as file:
                self._spec = runtime_spec.decode(file.read())
        return self._spec

    def state(self, status: str) -> "State":
        """What hooks and seccomp agents read of it."""
        from dockyard.oci.runtime_spec import State

        record = self.record
        return State(
            id=record.id,
            status=status,
            pid=0 if status == "stopped" else record.pid,
            bundle=record.bundle,
            annotations=record.annotations,
        )

    # -- how it is

    def is_running(self) -> bool:
        """Whether its first process is there, waiting for `start` or not."""
        return records.is_alive(self.record.pid, self.record.started)

    def status(self) -> str:
        """created, running, paused or stopped."""
        if not self.is_running():
            return "stopped"
        if self.group.frozen():
            return "paused"
        if self._runtime is not None:
            return "created"
        return "created" if self.record.gated and exec_fifo.is_waiting(self.directory) else "running"

    def pidfd(self) -> int:
        """A pidfd of PID 1 that is sure to be it. Raises RuntimeFailure when it has ended."""
        try:
            pidfd = os.pidfd_open(self.record.pid)
        except ProcessLookupError:
            raise RuntimeFailure("container not running") from None
        if not self.is_running():
            os.close(pidfd)
            raise RuntimeFailure("container not running")
        return pidfd

    def pids(self) -> list[int]:
        """Every process of the container, as the caller's PID namespace numbers them."""
        found = self.group.pids()
        # without a cgroup of its own (its maker was not root) nothing else is known
        return found or ([self.record.pid] if not self.group.paths and self.is_running() else [])

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        return self.group.oom_kills()

    # -- start

    def start(self) -> None:
        """Let the program run. Raises RuntimeFailure (exit_code 127: not found, 126: not executable) if it can't."""
        if self.record.gated:
            exec_fifo.start(self.directory)
        elif self._runtime is None:
            raise RuntimeFailure("cannot start an already running container")
        else:
            from dockyard.runtime import channel

            with self._runtime as runtime:
                self._runtime = None
                channel.send(runtime, channel.Message("start"))
                # It closes by itself when execve succeeds; before that only an error can come.
                message, _ = channel.receive(runtime)
            if message is not None:
                raise channel.failure_of(message)
        if self.record.late_hooks and self.spec.hooks is not None:
            from dockyard.runtime.birth import hooks

            try:
                hooks.run(
                    "poststart",
                    self.spec.hooks.poststart,
                    self.state("running"),
                    directory=self.record.bundle,
                    environment=self.hook_environment,
                )
            except RuntimeFailure:
                with contextlib.suppress(RuntimeFailure):
                    self.kill(signal.SIGKILL)
                raise

    # -- control

    def kill(self, signo: int, *, all: bool = False) -> None:
        """Signal PID 1, or every process of the container. Raises RuntimeFailure when it has ended.

        SIGKILL goes to every process also when the container has no PID namespace of its own: only there do the
        others end with PID 1.
        """
        if all:
            self._kill_all(signo)
            return
        if signo == signal.SIGKILL and not self.record.own_pids:
            if not self.is_running() and not self.pids():
                raise RuntimeFailure("container not running")
            self._kill_all(signo)
            return
        pidfd = self.pidfd()
        try:
            signal.pidfd_send_signal(pidfd, signo)
        except ProcessLookupError:
            raise RuntimeFailure("container not running") from None
        finally:
            os.close(pidfd)
        if signo == signal.SIGKILL and self.group.version == 1 and self.group.frozen():
            # a v1 freezer holds even SIGKILL back
            self.group.freeze(False)

    def _kill_all(self, signo: int) -> None:
        if signo == signal.SIGKILL and self.group.kill():
            return
        frozen = self.group.frozen()
        if not frozen:
            # nobody can fork away while the round is made
            with contextlib.suppress(OSError):
                self.group.freeze(True)
        try:
            for pid in self.group.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signo)
        finally:
            if not frozen or signo == signal.SIGKILL:
                with contextlib.suppress(OSError):
                    self.group.freeze(False)

    def pause(self) -> None:
        """Freeze every process. Raises RuntimeFailure."""
        try:
            self.group.freeze(True)
        except OSError as error:
            raise RuntimeFailure(f"unable to freeze: {error.strerror}") from error

    def resume(self) -> None:
        """Let the processes go on. Raises RuntimeFailure."""
        try:
            self.group.freeze(False)
        except OSError as error:
            raise RuntimeFailure(f"unable to thaw: {error.strerror}") from error

    def update(self, wanted: "Resources") -> None:
        """Set new limits. Raises RuntimeFailure naming the one refused."""
        from dockyard.runtime.resources import limits as resources
        from dockyard.runtime.resources import v2 as resources_v2

        if self.group.version == 2:
            wanted = resources_v2.completed(self.group, wanted)
        resources.apply(self.group, wanted, rootless=self.record.rootless)

    def left_out(self, wanted: "Resources") -> list[str]:
        """What of new limits systemd cannot be told, for warnings. Raises RuntimeFailure."""
        if not self.group.unit:
            return []
        from dockyard.runtime.resources import systemd_properties

        return systemd_properties.left_out(self.group, wanted)

    # -- end

    def delete(self, *, force: bool = False) -> None:
        """Remove what is left of it: stray processes, cgroup, state; run the poststop hooks.

        Raises RuntimeFailure when it still runs and not `force`.
        """
        status = self.status()
        if status != "stopped":
            if not force and status != "created":
                raise RuntimeFailure(f"cannot delete container {self.record.id} that is not stopped: {status}")
            with contextlib.suppress(RuntimeFailure):
                self.kill(signal.SIGKILL)
        try:
            self._remove_group()
        except OSError as error:
            raise RuntimeFailure(f"unable to remove the container's cgroup: {error.strerror or error}") from error
        if self.record.late_hooks:
            self.warnings += run_poststop(self.spec, self.state("stopped"), self.hook_environment)
        if self.record.resctrl:
            from dockyard.runtime.resources import intel_rdt

            intel_rdt.leave(self.record.resctrl)
        if not self.record.own_mounts:
            from dockyard.runtime.rootfs import tree as rootfs

            rootfs.unmount(self.record.rootfs)
        records.remove_files(self.directory)

    def _remove_group(self) -> None:
        if not self.group.unit:
            try:
                self.group.remove(patience=0)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
        # Without a PID namespace of its own, its processes do not end with PID 1.
        if self.group.pids():
            self._kill_all(signal.SIGKILL)
        self.group.remove()


def _group(record: Record) -> Cgroup:
    if not record.cgroup:
        nowhere = Cgroup("/")
        nowhere.paths = {}
        return nowhere
    if not record.unit:
        return Cgroup(record.cgroup, paths=record.cgroup_paths)
    from dockyard.linux.systemd import Scope

    return Scope("", record.unit, user=record.rootless, paths=record.cgroup_paths)


def run_poststop(spec: "Spec", state: "State", environment: "list[str] | None" = None) -> list[str]:
    """Run the hooks of the end; what went wrong. `environment` as for hooks.run."""
    if spec.hooks is None:
        return []
    from dockyard.runtime.birth import hooks

    return hooks.run(
        "poststop", spec.hooks.poststop, state, directory=state.bundle, environment=environment, fatal=False
    )
