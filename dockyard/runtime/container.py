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

from dockyard.linux import capabilities, cgroups, namespaces, seccomp, syscalls
from dockyard.oci.runtime_spec import Process, Resources, Spec
from dockyard.runtime import channel, hooks, init, process, resources, rootfs
from dockyard.runtime.channel import Message
from dockyard.runtime.defaults import DEVICE_RULES
from dockyard.runtime.errors import RuntimeFailure
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


class Container:
    """A handle on one container."""

    def __init__(self, root: str, record: Record, started: Started | None, runtime: socket.socket | None) -> None:
        self.root = root
        self.record = record
        self.process = started
        self.group = cgroups.Cgroup(record.cgroup)
        self._runtime = runtime
        self._seccomp: bytes | None = None

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
    ) -> "Container":
        """Make the container up to the point before its program runs.

        Its PID 1 is a child of the caller, or with `sibling` of the caller's parent, who then is to reap it.
        With `gate` another process may start it (by a socket in the state directory); else only this handle can.
        Raises RuntimeFailure; then nothing is left.
        """
        with contextlib.ExitStack() as undo:
            directory = os.path.join(root, container_id)
            try:
                os.makedirs(directory, mode=0o711)
            except FileExistsError:
                raise RuntimeFailure(f"container with given ID already exists: {container_id}") from None
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            group = cgroups.Cgroup(spec.linux.cgroups_path or f"/{container_id}")
            if group.exists() and group.pids():
                raise RuntimeFailure(f"container's cgroup is not empty: {group.path}")
            group.create()
            undo.callback(_remove_group, group)
            if spec.linux.resources is not None:
                resources.apply(group, _with_default_devices(spec.linux.resources))
            if seccomp_program is None and spec.linux.seccomp is not None:
                try:
                    seccomp_program = seccomp.compile_profile(spec.linux.seccomp)
                except (OSError, ValueError) as error:
                    raise RuntimeFailure(f"error compiling the seccomp profile: {error}") from error
            start_gate = undo.enter_context(_make_gate(directory)) if gate else None
            flags, joined = _namespaces(spec, undo)
            birth = Birth(
                container_id=container_id,
                bundle=bundle,
                spec=spec,
                flags=flags,
                joined=joined,
                group=group,
                stdio=stdio,
                seccomp=seccomp_program,
                last_capability=capabilities.last_known_to_kernel(),
                keep_fds=keep_fds,
                pivot=pivot,
                own_keyring=new_keyring,
                gate=start_gate,
                tell=tell,
            )
            if tell is not None:
                kinds = ", ".join(name for name, flag in namespaces.CLONE_FLAGS.items() if flag & flags)
                tell(f"nsexec container setup: new namespaces: {kinds or 'none'}; joined: {len(joined)}")
            ours, theirs = channel.pair()
            undo.callback(ours.close)
            with theirs:
                pid = _fork_into_pid_namespace(birth, ours, theirs, syscalls.CLONE_PARENT if sibling else 0)
            undo.callback(_reap, pid)
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            console = _midwife(ours, spec, container_id, bundle, pid)
            record = Record(
                id=container_id,
                bundle=bundle,
                pid=pid,
                started=_start_time(pid),
                cgroup=group.path,
                spec=spec,
                created_ns=time.time_ns(),
                userns=bool(flags & syscalls.CLONE_NEWUSER),
                gated=gate,
            )
            container = Container(root, record, Started(pid, pidfd, console if console >= 0 else None), ours)
            container._seccomp = seccomp_program
            container._save()
            undo.pop_all()
            if start_gate is not None:
                start_gate.close()
            for fd, _ in joined:
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
            hooks.run(
                spec.hooks.poststart,
                spec,
                self.record.id,
                "running",
                self.record.pid,
                self.record.bundle,
                fatal=False,
            )

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
        spec = self.record.spec
        groups_to_join = sub_cgroups_of(self.group, sub_cgroups) if sub_cgroups else None
        if tell is not None:
            tell(f"nsexec container setup: joining the namespaces of process {self.record.pid}")
        if seccomp_program is None:
            seccomp_program = self._seccomp
        if seccomp_program is None and spec.linux.seccomp is not None:
            seccomp_program = seccomp.compile_profile(spec.linux.seccomp)
        pidfd = self.pidfd()
        ours, theirs = channel.pair()
        try:
            flags = self._flags_to_join(pidfd)
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
                    seccomp_program,
                    keep_fds,
                    self.record.userns,
                    groups_to_join,
                    tell,
                )
            theirs.close()
            try:
                _, console = channel.expect(ours, "created", "joining the container")
                child = os.pidfd_open(pid)
                message, _ = channel.receive(ours)
                if message is not None:
                    if console >= 0:
                        os.close(console)
                    os.close(child)
                    raise RuntimeFailure(message.text, message.exit_code)
            except BaseException:
                _reap(pid)
                raise
            return Started(pid, child, console if console >= 0 else None)
        finally:
            ours.close()
            theirs.close()
            os.close(pidfd)

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
        resources.apply(self.group, wanted)

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
        if self.group.exists():
            # Without a PID namespace of its own, its processes do not end with PID 1.
            if self.group.pids():
                self._kill_all(signal.SIGKILL)
            try:
                self.group.remove()
            except OSError as error:
                raise RuntimeFailure(f"unable to remove the container's cgroup: {error.strerror}") from error
        spec = self.record.spec
        if spec.hooks is not None:
            hooks.run(spec.hooks.poststop, spec, self.record.id, "stopped", 0, self.record.bundle, fatal=False)
        shutil.rmtree(os.path.join(self.root, self.record.id), ignore_errors=True)


def _with_default_devices(wanted: Resources) -> Resources:
    """`wanted`, and the devices that every container has may be used (runtime-spec, "Default Devices")."""
    rules = wanted.devices
    last = rules[-1] if rules else None
    if last is None or (last.allow and last.type in ("a", "") and last.major is None):
        return wanted
    missing = [rule for rule in DEVICE_RULES[1:] if rule not in rules]
    return msgspec.structs.replace(wanted, devices=rules + missing) if missing else wanted


def _namespaces(spec: Spec, undo: contextlib.ExitStack) -> tuple[int, list[tuple[int, int]]]:
    """The spec's namespaces as (flags to make, (descriptor, flag) to join; the user namespace first)."""
    flags = 0
    joined: list[tuple[int, int]] = []
    for wanted in spec.linux.namespaces:
        flag = namespaces.CLONE_FLAGS.get(wanted.type)
        if flag is None:
            raise RuntimeFailure(f"namespace {wanted.type!r} does not exist")
        if not wanted.path:
            flags |= flag
            continue
        try:
            fd = os.open(wanted.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"cannot join namespace {wanted.path}: {error.strerror}") from error
        undo.callback(os.close, fd)
        joined.append((fd, flag))
    joined.sort(key=lambda entry: entry[1] != syscalls.CLONE_NEWUSER)
    if flags & syscalls.CLONE_NEWUSER and not spec.linux.uid_mappings:
        raise RuntimeFailure("user namespaces enabled, but no uid mappings found")
    return flags, joined


def _fork_into_pid_namespace(birth: Birth, ours: socket.socket, theirs: socket.socket, parent: int) -> int:
    """Fork PID 1. Only children are moved to a PID namespace, so we go there, fork, and come back."""
    if birth.flags & syscalls.CLONE_NEWUSER:
        # A PID namespace belongs to the user namespace its maker is in, and only there may it be mounted: both at once.
        pid = namespaces.fork_into(parent | birth.flags & (syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID))
        if pid == 0:
            ours.close()
            init.be_born(birth, theirs)
        return pid
    flags = birth.flags & syscalls.CLONE_NEWPID
    joined = [fd for fd, flag in birth.joined if flag == syscalls.CLONE_NEWPID]
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if flags or joined else -1
    try:
        if flags:
            syscalls.unshare(flags)
        for fd in joined:
            syscalls.setns(fd, syscalls.CLONE_NEWPID)
        pid = namespaces.fork_into(parent) if parent else os.fork()
        if pid == 0:
            ours.close()
            if home >= 0:
                os.close(home)
            init.be_born(birth, theirs)
        return pid
    except OSError as error:
        raise RuntimeFailure(f"cannot make the container's first process: {error.strerror}") from error
    finally:
        if home >= 0:
            syscalls.setns(home, syscalls.CLONE_NEWPID)
            os.close(home)


def _midwife(ours: socket.socket, spec: Spec, container_id: str, bundle: str, pid: int) -> int:
    """Do for PID 1 what it can't do itself, until it is created. Returns its terminal's master, or -1."""
    while True:
        message, fd = channel.receive(ours)
        if message is None:
            raise RuntimeFailure("the container's init ended before it was created")
        if message.kind == "created":
            return fd
        if message.kind == "error":
            raise RuntimeFailure(message.text, message.exit_code)
        if message.kind == "mapped":
            try:
                rootfs.write_mappings(pid, spec.linux.uid_mappings, spec.linux.gid_mappings)
            except OSError as error:
                raise RuntimeFailure(f"failed to write id mappings: {error.strerror}") from error
        elif message.kind == "hooks" and spec.hooks is not None:
            for kind in (spec.hooks.prestart, spec.hooks.create_runtime):
                hooks.run(kind, spec, container_id, "creating", pid, bundle)
        channel.send(ours, Message("done"))


def _join(
    runtime: socket.socket,
    wanted: Process,
    stdio: Stdio | None,
    group: cgroups.Cgroup,
    pidfd: int,
    flags: int,
    seccomp_program: bytes | None,
    keep_fds: Sequence[int],
    userns: bool,
    groups_to_join: list[str] | None,
    tell: Callable[[str], None] | None,
) -> None:
    """The child of `execute`: enter the container and become the program. Never returns."""
    try:
        if tell is not None:
            tell("child process in init()")
        os.setsid()
        if groups_to_join is not None:
            join_sub_cgroups(groups_to_join)
        else:
            group.join(0)
        last_capability = capabilities.last_known_to_kernel()
        process.set_oom_score(wanted)
        if flags:
            syscalls.setns(pidfd, flags)
        os.close(pidfd)
        if userns:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.chdir("/")
        console = -1
        if wanted.terminal:
            console, slave = process.open_terminal(wanted)
            process.take_terminal(slave)
        elif stdio is not None:
            init.take_stdio(stdio, wanted)
        process.set_rlimits(wanted)
        channel.send(runtime, Message("created"), console)
        if console >= 0:
            os.close(console)
        setgroups = not userns or bool(wanted.user.additional_gids)
        ready = init.become_ready(wanted, seccomp_program, last_capability, setgroups=setgroups)
        if tell is not None:
            tell(f"setns_init: about to exec {ready.program}")
        init.become_program(ready, keep_fds=keep_fds)
    except BaseException as failure:
        channel.send_failure(runtime, failure)
    os._exit(1)


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
