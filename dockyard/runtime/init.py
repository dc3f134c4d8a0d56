"""A container's PID 1 from its birth to its execve, told in order.

Runs in a freshly forked, single-threaded process that is already in its PID namespace. What it must know it gets as a
`Birth`; it talks to the runtime through `channel` and ends either by becoming the container's program or with _exit.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dockyard.linux import cgroups, syscalls
from dockyard.linux.syscalls import CLONE_NEWCGROUP, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER
from dockyard.oci.runtime_spec import Process, Spec
from dockyard.runtime import channel, hooks, process, rootfs
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure


@dataclass(frozen=True, slots=True)
class Stdio:
    """The descriptors that a process without terminal gets as 0, 1 and 2."""

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class Birth:
    """What PID 1 needs to be born: `flags` are the CLONE_NEW* it makes, `joined` (descriptor, flag) those it enters."""

    container_id: str
    bundle: str
    spec: Spec
    flags: int
    joined: Sequence[tuple[int, int]]
    group: cgroups.Cgroup | None
    stdio: Stdio | None
    seccomp: bytes | None
    last_capability: int
    keep_fds: Sequence[int]
    pivot: bool
    own_keyring: bool
    gate: socket.socket | None  # where any process may connect and let the program start; None: the channel does
    tell: Callable[[str], None] | None = None  # each step, for who looks for a mistake


def be_born(birth: Birth, runtime: socket.socket) -> None:
    """Go all the way to the container's program. Never returns."""
    try:
        ready = _be_born(birth, runtime)
        runtime = _wait_for_start(birth, runtime)
        _start(birth, ready)
    except BaseException as failure:
        channel.send_failure(runtime, failure)
    os._exit(1)


def _be_born(birth: Birth, runtime: socket.socket) -> "Ready | None":
    """Everything up to `start`: what can go wrong shall do so in `create`."""
    spec = birth.spec
    wanted = spec.process
    if birth.tell is not None:
        birth.tell("child process in init()")
    os.setsid()
    if birth.group is not None:
        birth.group.join(0)
    if wanted is not None:
        process.set_oom_score(wanted)
    userns = bool(birth.flags & CLONE_NEWUSER)
    _enter_namespaces(birth, runtime)
    if birth.own_keyring:
        _own_keyring(birth.container_id)
    rootfs.set_sysctls(spec.linux.sysctl)
    if birth.flags & CLONE_NEWNS:
        root = _build_root(birth, userns)
        if spec.hooks is not None and (spec.hooks.prestart or spec.hooks.create_runtime):
            channel.send(runtime, Message("hooks"))
            channel.expect(runtime, "done", "running hooks")
        if spec.hooks is not None:
            hooks.run(spec.hooks.create_container, spec, birth.container_id, "creating", os.getpid(), birth.bundle)
        root.protect(spec)
        if birth.pivot:
            root.enter()
        else:
            root.enter_by_move()
        root.close()
    else:
        os.chroot(_root_path(birth))
        os.chdir("/")
    console = _stdio(birth, wanted) if wanted is not None else -1
    if birth.flags & syscalls.CLONE_NEWUTS or spec.hostname:
        if spec.hostname:
            syscalls.sethostname(spec.hostname)
        if spec.domainname:
            syscalls.setdomainname(spec.domainname)
    if wanted is not None:
        process.set_rlimits(wanted)
    ready = None
    if wanted is not None:
        setgroups = not userns or bool(wanted.user.additional_gids)
        ready = become_ready(wanted, birth.seccomp, birth.last_capability, setgroups=setgroups)
    if birth.tell is not None:
        birth.tell("init: closing the pipe to signal completion")
    channel.send(runtime, Message("created"), console)
    if console >= 0:
        os.close(console)
    return ready


def _enter_namespaces(birth: Birth, runtime: socket.socket) -> None:
    """First be root in a user namespace of our own, which owns those made after it; then join; then make."""
    if birth.flags & CLONE_NEWUSER:
        channel.send(runtime, Message("mapped"))
        channel.expect(runtime, "done", "setting up id mappings")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    for fd, flag in birth.joined:
        if flag != CLONE_NEWPID:  # there already: the runtime forked us into it
            syscalls.setns(fd, flag)
        if flag == CLONE_NEWUSER:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.close(fd)
    # The cgroup namespace's root is where the process is now: in the container's cgroup.
    made = birth.flags & ~(CLONE_NEWUSER | CLONE_NEWPID)
    if made:
        syscalls.unshare(made)


def _root_path(birth: Birth) -> str:
    return os.path.realpath(os.path.join(birth.bundle, birth.spec.root.path))


def _own_keyring(container_id: str) -> None:
    try:
        syscalls.keyctl_join_session_keyring(f"_ses.{container_id}")
    except OSError:
        pass  # a kernel without keyrings, or one that forbids them here: then there is none to leak either


def _build_root(birth: Birth, userns: bool) -> rootfs.Rootfs:
    spec = birth.spec
    root = rootfs.Rootfs(_root_path(birth), spec.linux.rootfs_propagation)
    own_cgroupns = bool(birth.flags & CLONE_NEWCGROUP)
    owns_dev = False
    for wanted in spec.mounts:
        root.make_mount(wanted, birth.group, own_cgroupns=own_cgroupns, userns=userns)
        if wanted.destination.rstrip("/") == "/dev":
            owns_dev = wanted.type != "bind" and "bind" not in wanted.options and "rbind" not in wanted.options
    if owns_dev:
        root.make_devices(spec.linux.devices, userns=userns)
    return root


def _stdio(birth: Birth, wanted: Process) -> int:
    """Give the process its stdio; returns the terminal's master to be handed to the runtime, or -1."""
    if wanted.terminal:
        master, slave = process.open_terminal(wanted)
        _bind_console(slave)
        process.take_terminal(slave)
        return master
    if birth.stdio is not None:
        take_stdio(birth.stdio, wanted)
    return -1


def take_stdio(stdio: Stdio, wanted: Process) -> None:
    """Make the given descriptors 0, 1 and 2."""
    # none of the three may be overwritten before it is copied
    copies = [os.dup(fd) for fd in (stdio.stdin, stdio.stdout, stdio.stderr)]
    for number, fd in enumerate(copies):
        os.dup2(fd, number)
        os.close(fd)
    _own_stdio(wanted)


def _own_stdio(wanted: Process) -> None:
    """Give pipes that are our stdio to the process's user, so that it may reopen /dev/stdout (as runc does)."""
    if wanted.user.uid == 0 and wanted.user.gid == 0:
        return
    for fd in (0, 1, 2):
        try:
            if os.fstat(fd).st_rdev == 0:
                os.fchown(fd, wanted.user.uid, wanted.user.gid)
        except OSError:
            pass  # a read-only file or one whose owner the user namespace can't name


def _bind_console(slave: int) -> None:
    """/dev/console is the terminal too, where there is a /dev of the container's own."""
    try:
        flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        target = os.open("/dev/console", flags, 0o600)
    except OSError:
        return
    try:
        syscalls.mount(f"/proc/self/fd/{slave}", f"/proc/self/fd/{target}", None, syscalls.MS_BIND)
    finally:
        os.close(target)


def _wait_for_start(birth: Birth, runtime: socket.socket) -> socket.socket:
    """Sleep until `start`; returns the way to whoever said so."""
    if birth.gate is None:
        channel.expect(runtime, "start", "waiting for start")
        return runtime
    runtime.close()
    while True:
        peer, _ = birth.gate.accept()
        message, _ = channel.receive(peer)
        if message is not None and message.kind == "start":
            birth.gate.close()
            return peer
        peer.close()  # somebody who only looked whether we are still waiting, or was killed


def _start(birth: Birth, ready: "Ready | None") -> None:
    spec = birth.spec
    if ready is None:
        raise RuntimeFailure("config.json has no process: nothing to start")
    if spec.hooks is not None:
        hooks.run(spec.hooks.start_container, spec, birth.container_id, "created", os.getpid(), birth.bundle)
    become_program(ready, keep_fds=birth.keep_fds)


@dataclass(frozen=True, slots=True)
class Ready:
    """A process that is already its user: only execve is missing."""

    wanted: Process
    program: str
    environment: dict[str, str]


def become_ready(wanted: Process, seccomp: bytes | None, last_capability: int, *, setgroups: bool) -> Ready:
    """The way from root in the container to its user with the program found. Raises RuntimeFailure."""
    if not wanted.args:
        raise RuntimeFailure("args must not be empty")
    environment = process.environment_of(wanted)
    early: RuntimeFailure | None = None
    try:
        process.enter_directory(wanted)
    except RuntimeFailure as failure:
        early = failure  # perhaps root is kept out (an NFS home) where the user is let in
    process.become(wanted, seccomp, last_capability, setgroups=setgroups)
    if early is not None:
        process.enter_directory(wanted)
    environment.setdefault("HOME", _home(wanted.user.uid))
    return Ready(wanted, process.find_program(wanted.args, environment), environment)


def become_program(ready: Ready, *, keep_fds: Sequence[int]) -> None:
    """Raises RuntimeFailure, never returns."""
    process.reset_signals()
    _close_all_but(keep_fds)
    process.execute(ready.wanted, ready.program, ready.environment)


def _close_all_but(keep: Sequence[int]) -> None:
    """Nothing of the runtime's may be open in the container (runc CVE-2024-21626): all but stdio closes at execve."""
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
    for fd in keep:
        os.set_inheritable(fd, True)


def _home(uid: int) -> str:
    """The user's home by the container's /etc/passwd, or /."""
    try:
        with open("/etc/passwd", "rb") as rows:
            for row in rows:
                fields = row.rstrip(b"\n").split(b":")
                if len(fields) >= 6 and fields[2] == str(uid).encode():
                    return os.fsdecode(fields[5]) or "/"
    except OSError:
        pass
    return "/"
