"""One start: from the daemon's order to a container that runs, or to nothing left of it and the reason told."""

import contextlib
import os
import select
import socket
from dataclasses import dataclass

from dockyard.linux import memory_files, syscalls
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Spec
from dockyard.runtime.birth.prepared_parent import PreparedParent
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.container import Container, Started
from dockyard.runtime.state.record import remove_files, start_time
from dockyard.shim import handover, protocol
from dockyard.shim.ends import Ends, resize
from dockyard.shim.log_writer import open_log
from dockyard.shim.other_runtime import OtherContainer, Program
from dockyard.shim.prefault import Prefault

INIT_PATH = "/sbin/docker-init"
INIT_PROGRAMS = (
    "/usr/libexec/docker/docker-init",
    "/usr/bin/docker-init",
    "/usr/bin/tini-static",
    "/usr/sbin/docker-init",
    "/usr/local/bin/docker-init",
)
# What every runtime knows: crun takes no other.
OLD_VERSION = "1.0.2"


@dataclass(frozen=True, slots=True)
class Task:
    """An order and what has come with it, who gave it, and the shim that it is for.

    `descriptors`: the filter's program if the order has one, then a client for each attachment. `end` is where things
    are left for the shim, `watch` what it watches when it wakes. `spec` is None when nobody has read it yet.
    """

    order: protocol.Start
    specification: bytes
    spec: Spec | None
    descriptors: list[int]
    daemon: socket.socket
    shim: int
    end: socket.socket
    watch: select.epoll


def carry_out(task: Task, parent: PreparedParent | None = None, prefault: Prefault | None = None) -> bool:
    """Start the container, its first process being `parent` if that is given; whether it runs and is left to the shim.

    Without `parent` the first process is a child of the caller's parent, which must be the shim.
    """
    seq = task.order.seq
    try:
        started, ends = _start(task, parent, prefault)
    except Exception as error:
        if isinstance(error, RuntimeFailure):
            reply = protocol.failed(seq, "runtime", error.message, error.exit_code)
        else:
            reply = protocol.failed(seq, "system", str(error), 1)
        send(task.daemon, reply)
        handover.put_outcome(task.end, handover.FAILED)
        return False
    # in this order: once the daemon has been told, the shim must know that it runs, whatever befalls us
    handover.put_outcome(task.end, handover.RUNS)
    send(task.daemon, protocol.Reply(seq, pid=started.pid))
    handover.put_outcome(task.end, handover.TOLD)
    os.close(started.pidfd)
    ends.abandon()  # the shim has its own by now
    return True


def _start(task: Task, parent: PreparedParent | None, prefault: Prefault | None) -> tuple[Started, Ends]:
    order = task.order
    spec = task.spec if task.spec is not None else runtime_spec.decode(task.specification)
    if order.init:
        _add_init(spec)
    enter(order.directory)
    container: Container | OtherContainer | None = None
    try:
        open_log(order.log).close()  # now, when a failure can still be told
        ends = Ends(order.terminal, order.open_stdin)
        cgroup = _cgroup_path(order, spec)
        own_pids = any(kind.type == "pid" and not kind.path for kind in spec.linux.namespaces)

        def leave_to_shim(pid: int, pidfd: int) -> None:
            if not order.terminal:
                ends.settle(None)
            record_shim(task.shim)
            _leave_to_shim(task, handover.Held(pid, cgroup, own_pids, list(ends.sources.values())), pidfd, ends)

        if order.runtime:
            flags = ["--systemd-cgroup"] if order.systemd_cgroup else []
            program = Program([*order.runtime, *flags], order.state_root, cgroup, order.bundle)
            container = OtherContainer(program, order.container_id, order.directory)
            started = _create_other(container, order, spec, ends)
        elif order.checkpoint:
            container = _restore(order, spec, ends)
            assert container.process is not None
            started = container.process
        else:
            container = Container.create(
                order.state_root,
                order.container_id,
                order.bundle,
                spec,
                ends.stdio,
                seccomp_program=memory_files.read(task.descriptors[0]) if order.filtered else None,
                sibling=True,
                systemd=order.systemd_cgroup,
                text=b"" if order.init else task.specification,
                parent=parent,
                meanwhile=None if order.terminal else leave_to_shim,
            )
            assert container.process is not None
            started = container.process
        if order.terminal:
            ends.settle(started.console)
            if order.console_size is not None and started.console is not None:
                resize(started.console, *order.console_size)
        if order.terminal or order.runtime or order.checkpoint:
            leave_to_shim(started.pid, started.pidfd)
        # The next daemon finds the shim by now. If this one has gone before, the next may have looked already, and
        # nobody would know of the container: then it must not run.
        if hung_up(task.daemon):
            raise RuntimeFailure("the daemon has gone")
        if handover.is_over(task.end):
            raise RuntimeFailure("the container's shim has gone")
        if prefault is not None:
            prefault.tell(started.pid)
        if not order.checkpoint:  # what is restored runs already
            container.start()
        return started, ends
    except BaseException:
        if isinstance(container, OtherContainer):
            with contextlib.suppress(RuntimeFailure):  # it may have made nothing
                container.delete(force=True, reap=True)
        elif container is not None:
            container.delete(force=True)
        remove_files(order.directory)
        raise


def _leave_to_shim(task: Task, held: handover.Held, pidfd: int, ends: Ends) -> None:
    """Give the shim what it needs to keep the container, and something to wake by."""
    order, descriptors = task.order, task.descriptors
    passed, clients = (descriptors[:1], descriptors[1:]) if order.filtered else ([], descriptors)
    with listen() as listener:
        ours = [pidfd, listener.fileno(), *passed]
        if ends.stdin >= 0:
            ours.append(ends.stdin)
        handover.put_container(task.end, held, [*ours, *ends.sources, *clients])
        for fd in (pidfd, listener.fileno(), *ends.sources):
            task.watch.register(fd, select.EPOLLIN)
    # a client's input is waited for by the shim itself: it wakes at once
    task.watch.register(task.daemon, select.EPOLLIN | (select.EPOLLOUT if order.attachments else 0))


def _cgroup_path(order: protocol.Start, spec: runtime_spec.Spec) -> str:
    """The container's cgroup below every hierarchy's top; "" when it has none of its own."""
    if not order.systemd_cgroup:
        return spec.linux.cgroups_path
    from dockyard.linux import systemd  # only where systemd keeps the cgroups

    return systemd.scope_path(spec.linux.cgroups_path)


def _restore(order: protocol.Start, spec: runtime_spec.Spec, ends: Ends) -> Container:
    """Let the container go on from a checkpoint. Its process is ours, and the shim's when we go."""
    # here alone: a start that restores nothing need not bring it along
    from dockyard.runtime.checkpoint import dump as checkpoint
    from dockyard.runtime.checkpoint import restore

    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    # what of the outside it may hold on to: see engine/containers/checkpoints/service.py, which has made it
    options = checkpoint.Options(
        order.checkpoint,
        tcp_established=not order.moved,
        tcp_close=order.moved,
        external_unix_sockets=True,
        file_locks=True,
        cgroup_mode="ignore" if order.moved else "",
        moved=order.moved,
    )
    return restore.restore(
        order.state_root,
        order.container_id,
        order.bundle,
        spec,
        ends.stdio,
        options,
        systemd=order.systemd_cgroup,
    )


def _create_other(container: OtherContainer, order: protocol.Start, spec: runtime_spec.Spec, ends: Ends) -> Started:
    """Have another runtime make the container."""
    # Its process, an orphan then, comes to us, so that we can take it away again; when we go, the shim inherits it.
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    if os.path.basename(order.runtime[0]).startswith("runsc"):
        _hide_network_settings()
    spec.oci_version = OLD_VERSION
    text = runtime_spec.encode(spec)
    if order.checkpoint:
        return container.restore(order.bundle, text, order.terminal, ends.stdio, order.checkpoint)
    return container.create(order.bundle, text, order.terminal, ends.stdio)


def _hide_network_settings() -> None:
    """From this process and the programs it runs.

    gVisor up to 2023 looks for /proc/sys/net/core/rmem_default to tell the host's network namespace from others, and
    refuses the host's; newer kernels show that file in every namespace.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    syscalls.mount("tmpfs", "/proc/sys/net", "tmpfs", syscalls.MS_RDONLY)


def send(peer: socket.socket, message: object) -> None:
    """Send a message to the daemon, if it is still there: it hears of our end in any case."""
    try:
        peer.sendall(protocol.pack(message))
    except OSError:
        pass


def hung_up(daemon: socket.socket) -> bool:
    """Whether the daemon has gone, looked up at once."""
    try:
        return not daemon.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def listen() -> socket.socket:
    """Be found by daemons to come."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind("shim.sock")  # relative to our directory: a full path may exceed sun_path's 108 bytes
    os.chmod("shim.sock", 0o600)
    listener.listen(16)
    return listener


def enter(directory: str) -> None:
    """Make a shim's directory, and make it ours."""
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:  # of an earlier life of the container
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
    os.chdir(directory)


def record_shim(pid: int) -> None:
    """Say in its directory which process the shim is: a daemon may have to end it."""
    with open("pid", "w") as file:
        file.write(f"{pid} {start_time(pid)}")


def _add_init(spec: runtime_spec.Spec) -> None:
    """Make PID 1 docker-init, which reaps and passes signals on, in front of the command."""
    if spec.process is None:
        return
    program = next((path for path in INIT_PROGRAMS if os.path.exists(path)), None)
    if program is None:
        raise RuntimeFailure("docker-init is not installed: install the package tini", 125)
    spec.mounts.append(runtime_spec.Mount(destination=INIT_PATH, type="bind", source=program, options=["bind", "ro"]))
    spec.process.args = [INIT_PATH, "--", *spec.process.args]
