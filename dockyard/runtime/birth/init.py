"""A container's PID 1 from its birth to its execve, told in order.

Runs in a freshly forked, single-threaded process that is already in its PID namespace, unless that is another
container's: who `crosses` enters it by the last fork (last_fork.py). What it must know it gets as a `Birth`; it talks
to the runtime through `channel` and ends either by becoming the container's program or with _exit.
"""

import os
import select
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dockyard.linux import capabilities, cgroups, descriptors, imports, loopback, namespaces, syscalls
from dockyard.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
)
from dockyard.oci.runtime_spec import VERSION, Linux, Process, Spec, State
from dockyard.runtime import channel
from dockyard.runtime.birth import hooks, last_fork, scheduling, sysctls
from dockyard.runtime.birth import program as process
from dockyard.runtime.birth import rlimits as limits
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure, doing
from dockyard.runtime.resources import groups
from dockyard.runtime.rootfs import tree as rootfs
from dockyard.runtime.security import labels
from dockyard.runtime.security.seccomp import Filter
from dockyard.runtime.state import exec_fifo
from dockyard.runtime.state.exec_fifo import ExecFifo

# keyctl(2): what runc leaves of a session keyring's permissions, and that a later process may find it by name
KEYRING_PERMISSIONS = 0x3F130000
SEARCH_BY_OWNER, SEARCH_BY_OTHERS = 0x80000, 0x8
NULL = os.makedev(1, 3)
OPEN_NULL = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
LARGEST_PASSWD = 1 << 20  # it is the container's: it could be without end


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
    user_namespace: bool  # whether it is in one of its own or a joined one
    sources: Mapping[int, int]  # what the runtime has opened for its mounts, by their place in the list
    group: cgroups.Cgroup | None
    stdio: Stdio | None
    filter: Filter | None
    last_capability: int
    keep_fds: Sequence[int]
    pivot: bool
    own_keyring: bool
    exec_fifo: ExecFifo | None  # where any process may let the program start; None: the channel does
    tell: Callable[[str], None] | None = None  # each step, for who looks for a mistake
    rootless: bool = False  # the caller may be allowed no cgroup
    crosses: bool = False  # whether it joins a PID namespace: others are there already

    def state(self, status: str, pid: int) -> State:
        """What a hook reads."""
        return State(
            oci_version=VERSION,
            id=self.container_id,
            status=status,
            pid=pid,
            bundle=self.bundle,
            annotations=self.spec.annotations,
        )

    @property
    def runs_hooks(self) -> bool:
        """Whether something is to be done between `start` and the program."""
        return self.spec.hooks is not None and bool(self.spec.hooks.start_container)

    def has(self, flag: int) -> bool:
        """Whether the container has a namespace of that kind that is not simply the runtime's."""
        return any(namespaces.CLONE_FLAGS[kind.type] == flag for kind in self.spec.linux.namespaces)


def be_born(birth: Birth, runtime: socket.socket) -> None:
    """Go all the way to the container's program. Never returns."""
    own_fifo = None if birth.crosses else birth.exec_fifo  # at that of one that crosses its maker waits
    try:
        ready = _be_born(birth, runtime)
        if not birth.crosses and not birth.runs_hooks:
            process.reset_signals()  # now, while whoever is to start us is busy
        if own_fifo is None:
            channel.expect(runtime, "start", "waiting for start")
        else:
            # who has no record yet is known to nobody, should the runtime be killed now
            channel.expect(runtime, "recorded", "being recorded")
            runtime.close()
    except BaseException as failure:
        channel.send_failure(runtime, failure)
        os._exit(1)
    try:
        if own_fifo is not None:
            own_fifo.wait()
        _start(birth, ready, runtime)
    except BaseException as failure:
        if own_fifo is not None:
            own_fifo.fail(failure)
        else:
            channel.send_failure(runtime, failure)
    os._exit(1)


def hide() -> None:
    """Let nobody look into this process while it is on its way into the container.

    Its memory and descriptors are the runtime's; ptrace(2) and /proc/<pid> are closed to all that is not dumpable.
    execve ends it (runc CVE-2016-9962).
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def become_root() -> None:
    """Be the root of the user namespace just entered."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise RuntimeFailure(f"cannot become root in the user namespace: {error.strerror}: is id 0 mapped?") from error


def _be_born(birth: Birth, runtime: socket.socket) -> "Ready | None":
    """Everything up to `start`: what can go wrong shall do so in `create`."""
    spec = birth.spec
    wanted = spec.process
    if birth.tell is not None:
        birth.tell("child process in init()")
    os.setsid()
    if not birth.user_namespace:
        leave_host(birth)
        hide()
    _enter_namespaces(birth, runtime)
    hide()
    if birth.own_keyring:
        if wanted is not None and wanted.selinux_label:
            labels.of_next_key(wanted.selinux_label)
        own_keyring(birth.container_id, userns=birth.user_namespace)
    sysctls.apply(spec.linux.sysctl)
    setgroups = not birth.user_namespace or may_set_groups("self")
    if spec.hooks is not None:
        hooks.prepare()
    root = _build_root(birth, runtime)
    if spec.linux.net_devices or (spec.hooks is not None and (spec.hooks.prestart or spec.hooks.create_runtime)):
        channel.send(runtime, Message("hooks"))
        channel.expect(runtime, "done", "running hooks")
    if spec.hooks is not None:
        os.fchdir(root.fd)
        hooks.run("createContainer", spec.hooks.create_container, birth.state("creating", os.getpid()), environment=[])
    slave = _open_terminal(root, wanted, runtime) if wanted is not None and wanted.terminal else -1
    if wanted is not None and wanted.cwd:
        with doing(f"mkdir {wanted.cwd}"):
            os.close(root.make_directory(wanted.cwd))
    root.protect(spec)
    if birth.crosses and wanted is not None and _joins_pids(birth):
        labels.of_next_program(wanted)
    imports.import_nothing_more()
    with doing("error jailing process inside rootfs"):
        if not birth.has(CLONE_NEWNS):
            root.enter_by_chroot()
        elif birth.pivot:
            root.enter()
        else:
            root.enter_by_move()
    root.close()
    if slave >= 0:
        process.take_terminal(slave)
        if not birth.crosses:
            with doing("taking the terminal"):
                process.control_terminal()
    elif wanted is not None:
        take_stdio(birth.stdio, wanted)
    if spec.hostname:
        with doing("sethostname"):
            syscalls.sethostname(spec.hostname)
    if spec.domainname:
        with doing("setdomainname"):
            syscalls.setdomainname(spec.domainname)
    if spec.linux.personality is not None:
        scheduling.apply_personality(spec.linux.personality)
    if spec.linux.memory_policy is not None:
        scheduling.apply_memory_policy(spec.linux.memory_policy)
    ready = None
    if wanted is not None:
        set_limits(wanted, runtime, crosses=birth.crosses)
        _join_pids(birth)
        crosses = birth.crosses
        ready = become_ready(
            wanted, spec.linux, birth.filter, birth.last_capability, setgroups=setgroups, crosses=crosses
        )
        if crosses:
            stay = _keep_fifo if birth.exec_fifo is not None else None
            ready = cross(ready, runtime, keep_fds=birth.keep_fds, stay=stay, more=birth.runs_hooks)
        ready = with_listener(ready, runtime)
    if birth.tell is not None and not birth.crosses:  # else the log is closed by now
        birth.tell("init: closing the pipe to signal completion")
    channel.send(runtime, Message("created"))
    return ready


def leave_host(birth: Birth) -> None:
    """What the host's root does for itself while it still is that: join the cgroup, be more or less killable."""
    if birth.group is not None:
        if birth.group.unit:
            groups.start(birth.group, birth.spec, rootless=birth.rootless)
        else:
            groups.join(birth.group)
    scheduling.reset_affinity()
    if birth.spec.process is not None:
        process.set_oom_score(birth.spec.process)


def _enter_namespaces(birth: Birth, runtime: socket.socket) -> None:
    """Join, then make. PID and user namespaces are there already, or come with the last fork."""
    for fd, flag in birth.joined:
        if flag == CLONE_NEWNS:
            imports.import_nothing_more()
        if flag != CLONE_NEWPID:
            with doing("joining the container's namespaces"):
                syscalls.setns(fd, flag)
            os.close(fd)
    # The cgroup namespace's root is where the process is now: in the container's cgroup.
    made = birth.flags & ~(CLONE_NEWUSER | CLONE_NEWPID)
    if made:
        with doing("making the container's namespaces"):
            syscalls.unshare(made)
    if made & CLONE_NEWNET:
        with doing("raising the loopback device"):
            loopback.up()
    if made & CLONE_NEWTIME:
        _enter_time_namespace(birth, runtime)


def _joins_pids(birth: Birth) -> bool:
    """Whether we are the ones who join the PID namespace; a go-between has done it for a user namespace's root."""
    return any(flag == CLONE_NEWPID for _, flag in birth.joined)


def _join_pids(birth: Birth) -> None:
    """Have the next fork go to the joined PID namespace."""
    for fd, flag in birth.joined:
        if flag == CLONE_NEWPID:
            with doing("joining the pid namespace"):
                syscalls.setns(fd, flag)


def _keep_fifo(runtime: int) -> None:
    """Wait at the exec FIFO for the child, who shall have nothing of it; what the runtime gives us is all we know.

    Ends with the child, and with the runtime if that gives nothing: then nobody knows of the container.
    """
    with socket.socket(fileno=runtime) as end:
        data, passed = descriptors.receive(end, 1, 4)
    if not data:
        return
    go, _, answer, channel_to_child = passed
    with socket.socket(fileno=channel_to_child) as child:
        poll = select.poll()
        poll.register(go, select.POLLIN)
        poll.register(child, 0)  # its end alone is told
        if child.fileno() in dict(poll.poll()):
            return
        exec_fifo.accept(go, answer)
        channel.send(child, Message("start"))
        message, _ = channel.receive(child)
        if message is not None:
            exec_fifo.tell(answer, message.text, message.exit_code)


def _enter_time_namespace(birth: Birth, runtime: socket.socket) -> None:
    """unshare(2) puts only children there, for before somebody is in its clocks can be set (time_namespaces(7))."""
    if birth.spec.linux.time_offsets:
        if any(kind.type == "user" and kind.path for kind in birth.spec.linux.namespaces):
            # to open our own files in /proc to us would be to open them to who is there already
            channel.send(runtime, Message("clocks"))
            channel.expect(runtime, "done", "setting time namespace offsets")
        else:
            if birth.user_namespace:
                # Our own files in /proc are closed to us, and the root of a user namespace can't get past that.
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            set_clocks("self", birth.spec)
            hide()
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd, CLONE_NEWTIME)
    finally:
        os.close(fd)


def set_clocks(pid: int | str, spec: Spec) -> None:
    """Write the offsets of the time namespace that the process's children are to be in. Raises RuntimeFailure."""
    offsets = spec.linux.time_offsets or {}
    text = "".join(f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in offsets.items())
    try:
        fd = os.open(f"/proc/{pid}/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise RuntimeFailure(f"failed to set time namespace offsets: {error.strerror}") from error


def may_set_groups(pid: int | str) -> bool:
    """Whether processes in that one's user namespace may change their groups (user_namespaces(7), "setgroups")."""
    try:
        with open(f"/proc/{pid}/setgroups", "rb", buffering=0) as file:
            return file.read(16).strip() != b"deny"
    except FileNotFoundError:
        return True


def root_path(bundle: str, spec: Spec) -> str:
    """Where the container's tree is."""
    return os.path.realpath(os.path.join(bundle, spec.root.path))


def own_keyring(container_id: str, *, userns: bool) -> None:
    """Join the container's session keyring, made if need be: that of the runtime's session would be open to it."""
    try:
        keyring = syscalls.keyctl_join_session_keyring(f"_ses.{container_id}")
        search = SEARCH_BY_OTHERS if userns else SEARCH_BY_OWNER
        syscalls.keyctl_set_permissions(keyring, KEYRING_PERMISSIONS | search)
    except OSError:
        pass  # a kernel without keyrings, or one that forbids them here: then there is none to leak either


def _build_root(birth: Birth, runtime: socket.socket) -> rootfs.Rootfs:
    spec = birth.spec
    path = root_path(birth.bundle, spec)
    try:
        root = rootfs.Rootfs(path, birth.bundle, spec, own_namespace=birth.has(CLONE_NEWNS))
    except OSError as error:
        raise RuntimeFailure(f"error preparing rootfs: {path}: {error.strerror}") from error

    def map_ids(number: int, clone: int) -> None:
        channel.send(runtime, Message("ids", str(number)), clone)
        channel.expect(runtime, "done", "mapping the ids of a mount")

    root.make_mounts(spec, birth.group, bool(birth.flags & CLONE_NEWCGROUP), birth.sources, map_ids)
    root.make_devices(spec, userns=birth.user_namespace)
    return root


def _open_terminal(root: rootfs.Rootfs, wanted: Process, runtime: socket.socket) -> int:
    """A terminal of the container's devpts: its master goes to the runtime, its slave is returned."""
    try:
        multiplexer = root.open("/dev/pts/ptmx", process.OPEN_TERMINAL)
    except OSError as error:
        raise RuntimeFailure(f"cannot allocate a terminal: /dev/pts/ptmx: {error.strerror}") from error
    master, slave = process.open_terminal(wanted, multiplexer)
    root.bind_console(slave)
    hand_over(runtime, master)
    return slave


def hand_over(runtime: socket.socket, master: int) -> None:
    """Give the runtime the terminal's master; it may set it up before anything is written there."""
    channel.send(runtime, Message("console"), master)
    os.close(master)
    channel.expect(runtime, "done", "handing over the terminal")


def set_limits(wanted: Process, runtime: socket.socket, *, crosses: bool = False) -> None:
    """The process's rlimits, if need be by the runtime, which is privileged outside of the user namespace.

    `crosses`: the last fork is yet to come, and some are set after it.
    """
    try:
        if crosses:
            last_fork.set_early_limits(wanted)
        else:
            limits.apply(wanted.rlimits)
    except PermissionError:
        channel.send(runtime, Message("limits"))
        channel.expect(runtime, "done", "setting rlimits")


def take_stdio(stdio: Stdio | None, wanted: Process) -> None:
    """Make the given descriptors 0, 1 and 2; with None those that we have. Raises RuntimeFailure."""
    if stdio is not None:
        # none of the three may be overwritten before it is copied
        copies = [os.dup(fd) for fd in (stdio.stdin, stdio.stdout, stdio.stderr)]
        for number, fd in enumerate(copies):
            os.dup2(fd, number)
            os.close(fd)
    _own_null()
    _own_stdio(wanted)


def _own_null() -> None:
    """Where stdio is the host's /dev/null make it the container's: whose file it is may change its mode and owner."""
    null = -1
    for fd in (0, 1, 2):
        if os.fstat(fd).st_rdev != NULL:
            continue
        if null < 0:
            try:
                null = os.open("/dev/null", OPEN_NULL)
            except OSError as error:
                raise RuntimeFailure(f"can't reopen /dev/null: {error.strerror}") from error
            found = os.fstat(null)
            if not stat.S_ISCHR(found.st_mode) or found.st_rdev != NULL:
                raise RuntimeFailure("can't reopen /dev/null: container's /dev/null is invalid")
            os.set_blocking(null, True)
        os.dup2(null, fd)
    if null >= 0:
        os.close(null)


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


def _start(birth: Birth, ready: "Ready | None", runtime: socket.socket) -> None:
    spec = birth.spec
    if ready is None:
        raise RuntimeFailure("config.json has no process: nothing to start")
    if birth.runs_hooks:
        assert spec.hooks is not None
        ready = filtered(ready, runtime)  # what runs in the container runs under its filter
        state = birth.state("created", os.getpid())
        environment = [f"{name}={value}" for name, value in ready.environment.items()]
        hooks.run("startContainer", spec.hooks.start_container, state, environment=environment)
        process.reset_signals()
    become_program(ready, runtime, keep_fds=birth.keep_fds)


@dataclass(frozen=True, slots=True)
class Ready:
    """A process that is already its user: only its filter, if that is not loaded yet, and execve are missing."""

    wanted: Process
    program: str
    environment: dict[str, str]
    filter: Filter | None
    sets: capabilities.Sets | None  # what it is to have when the filter is loaded


def become_ready(
    wanted: Process,
    linux: Linux,
    filter_: Filter | None,
    last_capability: int,
    *,
    setgroups: bool,
    crosses: bool = False,
) -> Ready:
    """The way from root in the container, `linux`, to its user with the program found. Raises RuntimeFailure.

    `crosses`: the last fork is yet to come. Then the scheduler is set after it, and the labels have been set before the
    container's /proc, where the caller is not, came into sight.
    """
    if not wanted.args:
        raise RuntimeFailure("args must not be empty")
    if crosses:
        scheduling.apply_io_priority(wanted)
    else:
        labels.of_next_program(wanted)
        scheduling.apply(wanted, linux.resources)
    environment = process.environment_of(wanted)
    early: RuntimeFailure | None = None
    try:
        process.enter_directory(wanted)
    except RuntimeFailure as failure:
        if not isinstance(failure.__cause__, PermissionError):
            raise
        early = failure  # perhaps root is kept out (an NFS home) where the user is let in
    sets = process.become(wanted, last_capability, setgroups=setgroups, filters=filter_ is not None)
    os.umask(0o022 if wanted.user.umask is None else wanted.user.umask)
    if early is not None:
        process.enter_directory(wanted)
    if not environment.get("HOME"):
        environment["HOME"] = _home(wanted.user.uid)
    program = process.find_program(wanted.args, environment)
    return Ready(wanted, program, environment, filter_, sets)


def cross(
    ready: Ready,
    runtime: socket.socket,
    *,
    keep_fds: Sequence[int] = (),
    stay: Callable[[int], None] | None = None,
    more: bool = False,
) -> Ready:
    """The last fork of a process that joins a PID namespace; see last_fork.cross. Raises RuntimeFailure.

    `more`: it has more to do then than to execve, and is not ready for that before.
    """
    if not more:
        process.reset_signals()
        if ready.filter is not None and ready.filter.lets_cross():
            ready = filtered(ready, runtime)
    last_fork.cross(runtime, ready.wanted, keep_fds=keep_fds, stay=stay)
    return ready


def with_listener(ready: Ready, runtime: socket.socket) -> Ready:
    """`ready` with its filter loaded if that notifies: now, while there is somebody to take the listener."""
    if ready.filter is not None and ready.filter.notifies:
        return filtered(ready, runtime)
    return ready


def filtered(ready: Ready, runtime: socket.socket) -> Ready:
    """`ready` with its filter loaded. Raises RuntimeFailure."""
    if ready.filter is None:
        return ready
    ready.filter.load(runtime)
    if ready.sets is not None:
        with doing("unable to apply caps"):
            capabilities.apply(ready.sets)
    return Ready(ready.wanted, ready.program, ready.environment, None, None)


def become_program(ready: Ready, runtime: socket.socket, *, keep_fds: Sequence[int]) -> None:
    """With signals reset already. Raises RuntimeFailure, never returns."""
    _close_all_but(keep_fds)
    # as late as can be: the filter need not allow what we do, only what the program does
    ready = filtered(ready, runtime)
    process.execute(ready.wanted, ready.program, ready.environment)


def _close_all_but(keep: Sequence[int]) -> None:
    """Nothing of the runtime's may be open in the container (runc CVE-2024-21626): all but stdio closes at execve."""
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
    for fd in keep:
        os.set_inheritable(fd, True)


def _home(uid: int) -> str:
    """The user's home by the container's /etc/passwd, or /."""
    try:
        # O_NONBLOCK: a FIFO there must not hold us
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as rows:
            for row in rows.read(LARGEST_PASSWD).split(b"\n"):
                fields = row.split(b":")
                if len(fields) >= 6 and fields[2] == b"%d" % uid:
                    return os.fsdecode(fields[5]) or "/"
    except OSError:
        pass
    return "/"
