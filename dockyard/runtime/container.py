"""A container by its life cycle: create, start, execute, kill, pause, update, delete (runtime-spec, runtime.md).

Plain blocking code. Whoever creates a container is the parent of its PID 1 and reaps it. What another process must know
to find the container again is in `<root>/<id>/state.json`; processes are known by PID and start time, signalled by
pidfd.
"""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from dockyard.linux import capabilities, cgroups, idmaps, namespaces, syscalls
from dockyard.oci.runtime_spec import Process, Resources, Spec, State
from dockyard.runtime import (
    birth,
    channel,
    groups,
    hooks,
    init,
    intel_rdt,
    midwife,
    mount_sources,
    process,
    resources,
    resources_v2,
    rootfs,
    scheduling,
    validation,
)
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.filter import Filter
from dockyard.runtime.init import Birth, Stdio
from dockyard.runtime.sub_cgroups import directories as sub_cgroups_of
from dockyard.runtime.sub_cgroups import join as join_sub_cgroups

__all__ = ["Container", "RuntimeFailure", "Started", "Stdio"]

# In the state directory: the socket at which a created container waits for `start`.
GATE = "start.sock"


@dataclass(frozen=True, slots=True)
class Started:
    """A process of a container, a child of the caller: its PID here, a pidfd, its terminal's master or None."""

    pid: int
    pidfd: int
    console: int | None


class Record(msgspec.Struct, omit_defaults=True):
    """state.json: what finds a container again. `started` is PID 1's start time in clock ticks since boot."""

    id: str
    bundle: str
    pid: int
    started: int
    cgroup: str
    spec: Spec
    created_ns: int
    userns: bool = False
    gated: bool = False
    resctrl: list[str] = []  # directories of ours there, to be removed
    cgroup_paths: dict[str, str] = {}  # where they are not the usual ones of `cgroup`
    unit: str = ""  # the systemd unit that keeps the cgroup
    rootless: bool = False


class Container:
    """A handle on one container."""

    def __init__(self, root: str, record: Record, started: Started | None, runtime: socket.socket | None) -> None:
        self.root = root
        self.record = record
        self.process = started
        self.group = groups.found_again(record.cgroup, record.cgroup_paths, record.unit, record.rootless)
        self._runtime = runtime
        self._seccomp: bytes | None = None
        self.warnings: list[str] = []  # what went wrong and yet stops nothing

    # -- birth

    @staticmethod
    def create(
        root: str,
        container_id: str,
        bundle: str,
        spec: Spec,
        stdio: Stdio | None,
        *,
        keep_fds: Sequence[int] = (),
        seccomp_program: bytes | None = None,
        pivot: bool = True,
        new_keyring: bool = True,
        gate: bool = False,
        sibling: bool = False,
        tell: Callable[[str], None] | None = None,
        systemd: bool = False,
        rootless: bool = False,
    ) -> "Container":
        """Make the container up to the point before its program runs.

        Its PID 1 is a child of the caller, or with `sibling` of the caller's parent, who then is to reap it.
        With `gate` another process may start it (by a socket in the state directory); else only this handle can.
        `systemd`: its cgroup is a unit of systemd's; `rootless`: do without a cgroup where the caller may make none.
        Raises RuntimeFailure; then nothing is left.
        """
        validation.check(spec, bundle, pivot=pivot)
        filter_ = Filter.of_spec(spec.linux.seccomp, seccomp_program)
        with contextlib.ExitStack() as undo:
            directory = os.path.join(root, container_id)
            try:
                os.makedirs(directory, mode=0o711)
            except FileExistsError:
                raise RuntimeFailure(f"container with given ID already exists: {container_id}") from None
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            group = groups.of_spec(spec, container_id, systemd=systemd, rootless=rootless)
            groups.make(group, spec, rootless=rootless)
            # what runs at the end of a container also runs at the end of one that came as far as its namespaces
            born_at_all: list[Birth] = []
            undo.callback(lambda: [_run_poststop(spec, half.state("stopped", 0)) for half in born_at_all])
            undo.callback(_remove_group, group)
            start_gate = undo.enter_context(_make_gate(directory)) if gate else None
            flags, joined = birth.of_spec(spec, undo)
            users = next((fd for fd, flag in joined if flag == syscalls.CLONE_NEWUSER), -1)
            sources = mount_sources.open_all(spec, bundle, users, undo)
            born = Birth(
                container_id=container_id,
                bundle=bundle,
                spec=spec,
                flags=flags,
                joined=joined,
                user_namespace=users >= 0 or bool(flags & syscalls.CLONE_NEWUSER),
                sources=sources,
                group=group,
                stdio=stdio,
                filter=filter_,
                last_capability=capabilities.last_known_to_kernel(),
                keep_fds=keep_fds,
                pivot=pivot,
                own_keyring=new_keyring,
                gate=start_gate,
                tell=tell,
                rootless=rootless,
            )
            if tell is not None:
                kinds = ", ".join(name for name, flag in namespaces.CLONE_FLAGS.items() if flag & flags)
                tell(f"nsexec container setup: new namespaces: {kinds or 'none'}; joined: {len(joined)}")
            ours, theirs = channel.pair()
            undo.callback(ours.close)
            if not born.has(syscalls.CLONE_NEWNS):
                undo.callback(rootfs.unmount, init.root_path(bundle, spec))
            with theirs:
                pid = birth.fork_first(
                    born,
                    ours,
                    theirs,
                    syscalls.CLONE_PARENT if sibling else 0,
                    lambda maker: idmaps.write(maker, spec.linux.uid_mappings, spec.linux.gid_mappings),
                )
            undo.callback(_reap, pid)
            born_at_all.append(born)
            owner = groups.owner(spec, flags)
            if owner is not None:
                group.give(owner)
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            resctrl: list[str] = []
            if spec.linux.intel_rdt is not None:
                resctrl = intel_rdt.join(spec.linux.intel_rdt, container_id, pid)
                undo.callback(intel_rdt.leave, resctrl)
            state = born.state("creating", pid)
            console = midwife.attend(ours, pidfd, pid, spec.process, filter_, state, lambda: _run_hooks(born, pid))
            record = Record(
                id=container_id,
                bundle=bundle,
                pid=pid,
                started=_start_time(pid),
                cgroup=group.path,
                spec=spec,
                created_ns=time.time_ns(),
                userns=born.user_namespace,
                gated=gate,
                resctrl=resctrl,
                cgroup_paths=groups.unusual_paths(group),
                unit=group.unit,
                rootless=rootless,
            )
            container = Container(root, record, Started(pid, pidfd, console if console >= 0 else None), ours)
            container._seccomp = seccomp_program
            container._save()
            undo.pop_all()
            if start_gate is not None:
                start_gate.close()
            for fd in (*sources.values(), *(fd for fd, _ in joined)):
                os.close(fd)
            return container

    def start(self) -> None:
        """Let the program run. Raises RuntimeFailure (exit_code 127: not found, 126: not executable) if it can't."""
        spec = self.record.spec
        runtime = self._runtime if self._runtime is not None else self._gate()
        self._runtime = None
        if runtime is None:
            raise RuntimeFailure("cannot start an already running container")
        with runtime:
            channel.send(runtime, Message("start"))
            # It closes by itself when execve succeeds; before that only an error can come.
            message, _ = channel.receive(runtime)
        if self.record.gated:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.root, self.record.id, GATE))
        if message is not None:
            raise RuntimeFailure(message.text, message.exit_code)
        if spec.hooks is not None:
            try:
                hooks.run("poststart", spec.hooks.poststart, self.state("running"), directory=self.record.bundle)
            except RuntimeFailure:
                with contextlib.suppress(RuntimeFailure):
                    self.kill(signal.SIGKILL)
                raise

    def _gate(self) -> socket.socket | None:
        """A connection to the container's first process if that waits for `start`."""
        if not self.record.gated:
            return None
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            directory = os.open(os.path.join(self.root, self.record.id), os.O_PATH | os.O_CLOEXEC)
            try:
                peer.connect(f"/proc/self/fd/{directory}/{GATE}")  # a socket's path may have 108 bytes
            finally:
                os.close(directory)
        except (FileNotFoundError, ConnectionRefusedError):
            peer.close()
            return None
        return peer

    # -- finding again

    @staticmethod
    def load(root: str, container_id: str, *, seccomp_program: bytes | None = None) -> "Container":
        """The container that another process created, and its filter if it is at hand. Raises RuntimeFailure."""
        if not container_id or "/" in container_id or container_id in (".", ".."):
            raise RuntimeFailure("invalid container id format")
        try:
            with open(os.path.join(root, container_id, "state.json"), "rb") as file:
                record = msgspec.json.decode(file.read(), type=Record)
        except FileNotFoundError:
            raise RuntimeFailure("container does not exist") from None
        container = Container(root, record, None, None)
        container._seccomp = seccomp_program
        return container

    def _save(self) -> None:
        path = os.path.join(self.root, self.record.id, "state.json")
        with open(path + ".tmp", "wb") as file:
            file.write(msgspec.json.encode(self.record))
        os.rename(path + ".tmp", path)

    def status(self) -> str:
        """created, running, paused or stopped."""
        if not _is_alive(self.record.pid, self.record.started):
            return "stopped"
        if self.group.frozen():
            return "paused"
        if self._runtime is not None:
            return "created"
        gate = self._gate()
        if gate is None:
            return "running"
        gate.close()
        return "created"

    # -- further processes

    def execute(
        self,
        wanted: Process,
        stdio: Stdio | None,
        *,
        seccomp_program: bytes | None = None,
        keep_fds: Sequence[int] = (),
        sub_cgroups: dict[str, str] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Started:
        """Run one more process in the container, as a child of the caller; returns once its execve has succeeded.

        `sub_cgroups` are cgroups below the container's to join instead of that, by controller ("": of all).
        Raises RuntimeFailure, with exit_code 127 or 126 as `start` does.
        """
        groups_to_join = sub_cgroups_of(self.group, sub_cgroups) if sub_cgroups else None
        if tell is not None:
            tell(f"nsexec container setup: joining the namespaces of process {self.record.pid}")
        validation.check_process(wanted)
        filter_ = Filter.of_spec(self.record.spec.linux.seccomp, seccomp_program or self._seccomp)
        pidfd = self.pidfd()
        ours, theirs = channel.pair()
        try:
            flags = self._flags_to_join(pidfd)
            if os.geteuid() == 0:
                init.hide()  # and so the child from its first moment: whoever is in there may be waiting for it
            own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            try:
                # Only children move to the PID namespace; we come back as soon as there is one.
                if flags & syscalls.CLONE_NEWPID:
                    namespaces.setns(pidfd, syscalls.CLONE_NEWPID)
                pid = -1
                try:
                    pid = os.fork()
                except OSError as error:
                    raise RuntimeFailure(f"cannot fork into the container: {error.strerror}") from error
                finally:
                    if flags & syscalls.CLONE_NEWPID and pid != 0:
                        namespaces.setns(own_pid_namespace, syscalls.CLONE_NEWPID)
            finally:
                os.close(own_pid_namespace)
            if pid == 0:
                ours.close()
                _join(
                    theirs,
                    wanted,
                    stdio,
                    self.group,
                    pidfd,
                    flags & ~syscalls.CLONE_NEWPID,
                    filter_,
                    keep_fds,
                    self.record,
                    groups_to_join,
                    tell,
                )
            theirs.close()
            child = os.pidfd_open(pid)
            console = -1
            try:
                console = midwife.attend(ours, child, pid, wanted, filter_, self.state("running"))
                message, _ = channel.receive(ours)
                if message is not None:
                    raise RuntimeFailure(message.text, message.exit_code)
            except BaseException:
                if console >= 0:
                    os.close(console)
                os.close(child)
                _reap(pid)
                raise
            return Started(pid, child, console if console >= 0 else None)
        finally:
            ours.close()
            theirs.close()
            os.close(pidfd)

    def state(self, status: str) -> State:
        """What hooks and seccomp agents read of it."""
        record = self.record
        return State(
            id=record.id,
            status=status,
            pid=0 if status == "stopped" else record.pid,
            bundle=record.bundle,
            annotations=record.spec.annotations,
        )

    def _flags_to_join(self, pidfd: int) -> int:
        """The namespaces of PID 1 that are not the caller's own already."""
        flags = 0
        for name, flag in namespaces.CLONE_FLAGS.items():
            link = namespaces.PROC_NAMES.get(name, name)
            try:
                if os.stat(f"/proc/{self.record.pid}/ns/{link}").st_ino != os.stat(f"/proc/self/ns/{link}").st_ino:
                    flags |= flag
            except FileNotFoundError:
                continue
        if not _is_alive(self.record.pid, self.record.started):
            raise RuntimeFailure("cannot exec in a stopped container")
        return flags

    def pidfd(self) -> int:
        """A pidfd of PID 1 that is sure to be it. Raises RuntimeFailure when it has ended."""
        try:
            pidfd = os.pidfd_open(self.record.pid)
        except ProcessLookupError:
            raise RuntimeFailure("container not running") from None
        if not _is_alive(self.record.pid, self.record.started):
            os.close(pidfd)
            raise RuntimeFailure("container not running")
        return pidfd

    # -- control

    def kill(self, signo: int, *, all: bool = False) -> None:
        """Signal PID 1, or every process of the container. Raises RuntimeFailure when it has ended."""
        if all:
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

    def update(self, wanted: Resources) -> None:
        """Set new limits. Raises RuntimeFailure naming the one refused."""
        if self.group.version == 2:
            wanted = resources_v2.completed(self.group, wanted)
        resources.apply(self.group, wanted, rootless=self.record.rootless)

    def pids(self) -> list[int]:
        """Every process of the container, as the caller's PID namespace numbers them."""
        return self.group.pids()

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        return self.group.oom_kills()

    def delete(self, *, force: bool = False) -> None:
        """Remove what is left of it: stray processes, cgroup, state; run the poststop hooks.

        Raises RuntimeFailure when it still runs and not `force`.
        """
        if self.status() != "stopped":
            if not force and self.status() != "created":
                raise RuntimeFailure(f"cannot delete container {self.record.id} that is not stopped: {self.status()}")
            with contextlib.suppress(RuntimeFailure):
                self.kill(signal.SIGKILL)
        if self.group.unit or self.group.exists():
            # Without a PID namespace of its own, its processes do not end with PID 1.
            if self.group.pids():
                self._kill_all(signal.SIGKILL)
            try:
                self.group.remove()
            except OSError as error:
                raise RuntimeFailure(f"unable to remove the container's cgroup: {error.strerror}") from error
        spec = self.record.spec
        if spec.hooks is not None:
            self.warnings += _run_poststop(spec, self.state("stopped"))
        intel_rdt.leave(self.record.resctrl)
        if not any(namespace.type == "mount" for namespace in spec.linux.namespaces):
            rootfs.unmount(init.root_path(self.record.bundle, spec))
        shutil.rmtree(os.path.join(self.root, self.record.id), ignore_errors=True)


def _join(
    runtime: socket.socket,
    wanted: Process,
    stdio: Stdio | None,
    group: cgroups.Cgroup,
    pidfd: int,
    flags: int,
    filter_: Filter | None,
    keep_fds: Sequence[int],
    record: Record,
    groups_to_join: list[str] | None,
    tell: Callable[[str], None] | None,
) -> None:
    """The child of `execute`: enter the container and become the program. Never returns."""
    try:
        if tell is not None:
            tell("child process in init()")
        os.setsid()
        scheduling.set_affinity(wanted.exec_cpu_affinity, initial=True)
        if groups_to_join is not None:
            join_sub_cgroups(groups_to_join)
        else:
            groups.join(group, like=record.pid)
        scheduling.set_affinity(wanted.exec_cpu_affinity, initial=False)
        last_capability = capabilities.last_known_to_kernel()
        process.set_oom_score(wanted)
        init.hide()
        setgroups = not record.userns or init.may_set_groups(record.pid)
        init.import_nothing_more()
        if flags:
            syscalls.setns(pidfd, flags)
        os.close(pidfd)
        if record.userns:
            init.become_root()
        os.chdir("/")
        init.own_keyring(record.id, wanted, userns=record.userns)
        if wanted.terminal:
            process.take_terminal(_open_terminal(wanted, runtime))
        elif stdio is not None:
            init.take_stdio(stdio, wanted)
        init.set_limits(wanted, runtime)
        ready = init.become_ready(wanted, filter_, last_capability, runtime, setgroups=setgroups)
        channel.send(runtime, Message("created"))
        if tell is not None:
            tell(f"setns_init: about to exec {ready.program}")
        init.become_program(ready, runtime, keep_fds=keep_fds)
    except BaseException as failure:
        channel.send_failure(runtime, failure)
    os._exit(1)


def _open_terminal(wanted: Process, runtime: socket.socket) -> int:
    """A terminal of the container's devpts: its master goes to the runtime, its slave is returned."""
    try:
        multiplexer = os.open("/dev/pts/ptmx", process.OPEN_TERMINAL | os.O_NOFOLLOW)
    except OSError as error:
        raise RuntimeFailure(f"cannot allocate a terminal: /dev/pts/ptmx: {error.strerror}") from error
    master, slave = process.open_terminal(wanted, multiplexer)
    channel.send(runtime, Message("console"), master)
    os.close(master)
    return slave


def _run_hooks(birth: Birth, pid: int) -> None:
    """Those between the making of the namespaces and the change of root that run on this side."""
    wanted = birth.spec.hooks
    if wanted is not None:
        state = birth.state("creating", pid)
        hooks.run("prestart", wanted.prestart, state, directory=birth.bundle)
        hooks.run("createRuntime", wanted.create_runtime, state, directory=birth.bundle)


def _run_poststop(spec: Spec, state: State) -> list[str]:
    """Run the hooks of the end; what went wrong."""
    if spec.hooks is None:
        return []
    return hooks.run("poststop", spec.hooks.poststop, state, directory=state.bundle, fatal=False)


def _make_gate(directory: str) -> socket.socket:
    """The socket at which PID 1 will wait for `start`; for its owner only."""
    gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inside = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        gate.bind(f"/proc/self/fd/{inside}/{GATE}")
    finally:
        os.umask(mask)
        os.close(inside)
    gate.listen()
    return gate


def _start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot: with the PID it names a process for good."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _is_alive(pid: int, started: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def _reap(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _remove_group(group: cgroups.Cgroup) -> None:
    with contextlib.suppress(OSError):  # what stays is found by name at the daemon's next start
        group.remove()
