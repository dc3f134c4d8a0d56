"""Starts one container in a process of its own, so that the shim's stays small.

What a start touches in an interpreter (the spec's objects, the code that reads them) would belong to the shim for the
container's whole life: 3 MB each. So a child of the shim takes the daemon's order and carries it out, while the shim
sleeps. The container's first process is the shim's child all the same: it is cloned with CLONE_PARENT. What the starter
has made it leaves to the shim (handover.py), and is gone.

A starter is forked before it is known what for, and waits.
"""

import contextlib
import os
import select
import signal
import socket

from dockyard.linux import memory_files, syscalls
from dockyard.oci import runtime_spec
from dockyard.runtime.container import Container, Started
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.record import start_time
from dockyard.runtime.spare import Spare
from dockyard.shim import handover, protocol
from dockyard.shim.ends import Ends, resize
from dockyard.shim.habits import Habits
from dockyard.shim.log_writer import open_log
from dockyard.shim.other_runtime import OtherContainer, Program

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


def fork(orders: socket.socket, tell: int, zygote: int, habits: Habits) -> tuple[int, socket.socket, select.epoll]:
    """Fork a starter that takes the next order of `orders`, and then says so to `tell`.

    It goes with the process `zygote` (its pidfd) as long as it waits, and with the shim, its parent, always. Returns
    its PID, where it leaves what it has made, and what wakes the shim. It exits with 0 when it has left a container.
    """
    shim = os.getpid()
    ours, theirs = handover.pair()
    watch = select.epoll()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == shim:
                spare = None if _is_ordered(orders) else habits.prepare()
                daemon = _await_order(orders, tell, zygote)
                if daemon is None:
                    os.kill(shim, signal.SIGKILL)  # even one that is stopped is of no use any more
                else:
                    status = serve(daemon, theirs, watch, spare, habits)
        finally:
            os._exit(status)
    theirs.close()
    return pid, ours, watch


def _is_ordered(orders: socket.socket) -> bool:
    return bool(select.select([orders], [], [], 0)[0])


def _await_order(orders: socket.socket, tell: int, zygote: int) -> socket.socket | None:
    """The connection to the daemon that wants a container."""
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    poll.register(zygote, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if orders.fileno() in ready:
            break
        if zygote in ready:
            return None
    data, descriptors = protocol.receive(orders, 64)
    if not data:
        return None
    try:
        os.write(tell, b".")
    except OSError:  # the zygote has just been killed: no reason to fail
        pass
    os.close(tell)
    os.close(zygote)
    orders.close()
    return socket.socket(fileno=descriptors[0])


def serve(daemon: socket.socket, shim: socket.socket, watch: select.epoll, spare: Spare | None, habits: Habits) -> int:
    """Carry out the daemon's order; the exit status: 0 when a container runs and is left to the shim."""
    frame = read_frame(daemon)
    if frame is None:
        return 1
    text, descriptors = frame
    # first of all: whatever befalls us, the shim can take away what we have made, and tell the daemon
    handover.put_order(shim, text, descriptors[0], daemon)
    send(daemon, protocol.Taken(os.getppid(), protocol.VERSION))
    order = handover.decode_order(text)
    try:
        pid = _start(order, descriptors, daemon, shim, watch, spare, habits)
    except RuntimeFailure as failure:
        send(daemon, protocol.failed(order.seq, "runtime", failure.message, failure.exit_code))
        return 1
    except Exception as error:
        send(daemon, protocol.failed(order.seq, "system", str(error), 1))
        return 1
    send(daemon, protocol.Reply(order.seq, pid=pid))
    return 0


def _start(
    order: protocol.Start,
    descriptors: list[int],
    daemon: socket.socket,
    shim: socket.socket,
    watch: select.epoll,
    spare: Spare | None,
    habits: Habits,
) -> int:
    specification, seccomp_program = _read(descriptors.pop(0)), None
    passed: list[int] = []
    if order.filtered:
        passed.append(descriptors.pop(0))
        seccomp_program = memory_files.read(passed[0])
    spec = runtime_spec.decode(specification)
    if order.init:
        _add_init(spec)
    enter(order.directory)
    container: Container | OtherContainer | None = None
    try:
        open_log(order.log).close()  # now, when a failure can still be told
        ends = Ends(order.terminal, order.open_stdin)
        cgroup = _cgroup_path(order, spec)
        if order.runtime:
            flags = ["--systemd-cgroup"] if order.systemd_cgroup else []
            program = Program([*order.runtime, *flags], order.state_root, cgroup)
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
                seccomp_program=seccomp_program,
                sibling=True,
                systemd=order.systemd_cgroup,
                text=b"" if order.init else specification,
                spare=spare,
            )
            assert container.process is not None
            started = container.process
        ends.settle(started.console)
        if order.console_size is not None and started.console is not None:
            resize(started.console, *order.console_size)
        listener = listen()
        held = handover.Held(
            started.pid,
            cgroup,
            any(kind.type == "pid" and not kind.path for kind in spec.linux.namespaces),
            list(ends.sources.values()),
        )
        ours = [started.pidfd, listener.fileno(), *passed]
        if ends.stdin >= 0:
            ours.append(ends.stdin)
        handover.put_container(shim, held, [*ours, *ends.sources, *descriptors])
        for fd in (started.pidfd, listener.fileno(), *ends.sources):
            watch.register(fd, select.EPOLLIN)
        # a client's input is waited for by the shim itself: it wakes at once
        watch.register(daemon, select.EPOLLIN | (select.EPOLLOUT if order.attachments else 0))
        # From here on the next daemon finds the shim. If this one has gone before, the next may have looked already,
        # and nobody would know of the container: then it must not run.
        if hung_up(daemon):
            raise RuntimeFailure("the daemon has gone")
        if spare is not None and started.pid == spare.pid:
            habits.tell(spare)
        if not order.checkpoint:  # what is restored runs already
            container.start()
        return started.pid
    except BaseException:
        if isinstance(container, OtherContainer):
            with contextlib.suppress(RuntimeFailure):  # it may have made nothing
                container.delete(force=True, reap=True)
        elif container is not None:
            container.delete(force=True)
        leave(order.directory)
        raise


def _cgroup_path(order: protocol.Start, spec: runtime_spec.Spec) -> str:
    """The container's cgroup below every hierarchy's top; "" when it has none of its own."""
    if not order.systemd_cgroup:
        return spec.linux.cgroups_path
    from dockyard.linux import systemd  # only where systemd keeps the cgroups

    return systemd.scope_path(spec.linux.cgroups_path)


def _restore(order: protocol.Start, spec: runtime_spec.Spec, ends: Ends) -> Container:
    """Let the container go on from a checkpoint. Its process is ours, and the shim's when we go."""
    # here alone: a start that restores nothing need not bring it along
    from dockyard.runtime import checkpoint, restore

    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    # what of the outside it may hold on to: see engine/checkpoints.py, which has made it
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


def read_frame(peer: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors; None when the other has gone."""
    inbox = protocol.Inbox()
    while (frame := inbox.frame()) is None:
        try:
            data, descriptors = protocol.receive(peer, 1 << 13)
        except ConnectionResetError:
            return None
        inbox.descriptors += descriptors
        if not data:
            return None
        inbox.feed(data)
    return frame


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
    """Make the shim's directory ours."""
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:  # of an earlier life of the container
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
    os.chdir(directory)
    shim = os.getppid()
    with open("pid", "w") as file:
        file.write(f"{shim} {start_time(shim)}")


def leave(directory: str) -> None:
    """Take it away."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except OSError:  # the daemon does it at its next start
        pass


def _read(fd: int) -> bytes:
    try:
        return memory_files.read(fd)
    finally:
        os.close(fd)


def _add_init(spec: runtime_spec.Spec) -> None:
    """Make PID 1 docker-init, which reaps and passes signals on, in front of the command."""
    if spec.process is None:
        return
    program = next((path for path in INIT_PROGRAMS if os.path.exists(path)), None)
    if program is None:
        raise RuntimeFailure("docker-init is not installed: install the package tini", 125)
    spec.mounts.append(runtime_spec.Mount(destination=INIT_PATH, type="bind", source=program, options=["bind", "ro"]))
    spec.process.args = [INIT_PATH, "--", *spec.process.args]
