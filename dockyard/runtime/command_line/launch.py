"""From flags to a process: what `create`, `run`, `exec` and `restore` have in common."""

import contextlib
import os
import socket
from collections.abc import Callable

from dockyard.linux import capabilities, syscalls
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Process, Spec
from dockyard.runtime.birth import environment, hooks
from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.container import Container, Started, Stdio
from dockyard.runtime.resources import sub_cgroups
from dockyard.runtime.startup import protection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.runtime.checkpoint import dump as checkpoint
    from dockyard.runtime.lifecycle import notify

CONFIG = "config.json"


def load_spec(bundle: str) -> Spec:
    """The config.json of `bundle`, checked as far as a runtime must before it does anything. Raises RuntimeFailure."""
    path = os.path.join(bundle, CONFIG)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise RuntimeFailure(f"JSON specification file {CONFIG} not found") from None
    try:
        spec = runtime_spec.decode(data)
    except ValueError as error:
        raise RuntimeFailure(f"invalid {CONFIG}: {error}") from error
    check_process(spec.process)
    return spec


def check_process(process: Process | None) -> None:
    """Raises RuntimeFailure for a process that can't be run."""
    if process is None:
        raise RuntimeFailure("process property must not be empty")
    if not process.cwd:
        raise RuntimeFailure("Cwd property must not be empty")
    if not process.cwd.startswith("/"):
        raise RuntimeFailure("Cwd must be an absolute path")
    if not process.args:
        raise RuntimeFailure("args must not be empty")


def create(session: Session, flags: Flags) -> None:
    """Make the container of the bundle that the flags name; it waits for `start`. Raises RuntimeFailure."""
    protection.protect()
    launch = Launch(session, flags, detach=True)
    bundle, spec = _bundle(flags)
    assert spec.process is not None
    launch.check_terminal(spec.process)
    container = _make(session, flags, launch, bundle, spec, None, launch.descriptors(spec.process), exec_fifo=True)
    launch.announce(container)


def run(session: Session, flags: Flags) -> int:
    """Make the container and start it; detached that is all, else its exit status when it has ended."""
    protection.protect()
    launch = Launch(session, flags, detach=flags.on("detach"))
    bundle, spec = _bundle(flags)
    return run_spec(session, flags, launch, bundle, spec)


def run_rootfs(session: Session, flags: Flags) -> int:
    """Run a command in a plain directory; as `run`."""
    from dockyard.runtime.command_line import bare_rootfs

    protection.protect()
    launch = Launch(session, flags, detach=flags.on("detach"))
    launch.name = flags.text("name") or os.urandom(6).hex()
    launch.forward_input = flags.on("interactive")
    root = os.path.abspath(flags.text("rootfs"))
    return run_spec(session, flags, launch, root, bare_rootfs.spec_of(flags, launch.name))


def run_spec(session: Session, flags: Flags, launch: "Launch", bundle: str, spec: Spec) -> int:
    """As `run`, of a bundle already read."""
    assert spec.process is not None
    if launch.detach:
        launch.check_terminal(spec.process)
        container = _make(session, flags, launch, bundle, spec, None, launch.descriptors(spec.process), exec_fifo=False)
        launch.announce(container)
        notifications = launch.notifications(container)
        failed = _start(session, container)
        if notifications is not None and not failed:
            assert container.process is not None
            with contextlib.suppress(OSError):  # it runs, whatever the manager says
                notifications.await_ready(container.process.pid, container.process.pidfd)
        return failed
    launch.check_terminal(spec.process)
    from dockyard.runtime.command_line.foreground import Foreground

    descriptors = launch.descriptors(spec.process)
    foreground = Foreground(
        terminal=spec.process.terminal, subreaper=launch.subreaper, forward_input=launch.forward_input
    )
    container = _make(
        session,
        flags,
        launch,
        bundle,
        spec,
        foreground.stdio,
        descriptors,
        exec_fifo=False,
        on_console=foreground.prepare_terminal,
    )
    launch.announce(container)
    assert container.process is not None
    notifications = launch.notifications(container)
    failed = _start(session, container)
    if failed:
        return failed
    if notifications is not None:  # the manager is to watch us
        foreground.also(notifications.fileno(), lambda: notifications.pass_on(os.getpid()))
    return foreground.watch(container.process, on_end=lambda: None if launch.keep else _remove(session, container))


def restore(session: Session, flags: Flags, options: "checkpoint.Options") -> int:
    """Make the container of the bundle again from its checkpoint; then as `run`."""
    from dockyard.runtime.checkpoint import restore as restoring

    launch = Launch(session, flags, detach=flags.on("detach"))
    name = flags.arguments[0]
    check_name(name)
    bundle, spec = _bundle(flags)
    assert spec.process is not None
    launch.check_terminal(spec.process)
    foreground = None
    if not launch.detach:
        from dockyard.runtime.command_line.foreground import Foreground

        foreground = Foreground(terminal=spec.process.terminal, subreaper=launch.subreaper)
    container = restoring.restore(
        session.root,
        name,
        bundle,
        spec,
        foreground.stdio if foreground is not None else None,
        options,
        systemd=session.systemd_cgroup,
        rootless=session.without_root(),
    )
    launch.announce(container)
    if foreground is None:
        return 0
    assert container.process is not None
    if container.process.console is not None:
        foreground.prepare_terminal(container.process.console)
    return foreground.watch(container.process, on_end=lambda: None if launch.keep else _remove(session, container))


def _remove(session: Session, container: Container) -> None:
    container.delete(force=True)
    for warning in container.warnings:
        session.log.warning(warning)


def _start(session: Session, container: Container) -> int:
    """Start what we have made; 0, or the exit status when the program can't be run.

    By then everything of ours has gone well: what is said of it is the program's only output, so it is said plainly.
    """
    try:
        container.start()
    except RuntimeFailure as failure:
        container.delete(force=True)
        session.log.plain_error(failure.message)
        return failure.exit_code
    return 0


def _bundle(flags: Flags) -> tuple[str, Spec]:
    bundle = os.path.abspath(flags.text("bundle") or ".")
    if not os.path.isdir(bundle):
        raise RuntimeFailure(f"chdir {bundle}: no such file or directory")
    return bundle, load_spec(bundle)


def _warn_of_capabilities(session: Session, wanted: Process | None) -> None:
    """Of those that can't be given as asked: the kernel keeps an ambient one only if it is inheritable too."""
    sets = wanted.capabilities if wanted is not None else None
    if sets is None:
        return
    asked = {*sets.bounding, *sets.effective, *sets.permitted, *sets.inheritable, *sets.ambient}
    unknown = sorted(asked - set(capabilities.NAMES[: capabilities.last_known_to_kernel() + 1]))
    if unknown:
        session.log.warning(f"ignoring unknown or unavailable capabilities: [{' '.join(unknown)}]")
    for name in sets.ambient:
        if name not in unknown and (name not in sets.inheritable or name not in sets.permitted):
            session.log.warning(f"can't raise ambient capability {name}: operation not permitted")


def _make(
    session: Session,
    flags: Flags,
    launch: "Launch",
    bundle: str,
    spec: Spec,
    stdio: Stdio | None,
    descriptors: list[int],
    *,
    exec_fifo: bool,
    on_console: Callable[[int], None] | None = None,
) -> Container:
    name = launch.name or flags.arguments[0]
    hook_environment = environment.hold() if hooks.want_environment(spec.hooks) else -1
    environment.forget()
    _warn_of_capabilities(session, spec.process)
    check_name(name)
    container = Container.create(
        session.root,
        name,
        bundle,
        spec,
        stdio,
        keep_fds=descriptors,
        pivot=not flags.on("no-pivot"),
        new_keyring=not flags.on("no-new-keyring"),
        exec_fifo=exec_fifo,
        tell=session.log.teller(),
        on_console=on_console,
        systemd=session.systemd_cgroup,
        rootless=session.without_root(),
        hook_environment=hook_environment,
        notify=bool(launch.notify_socket),
    )
    if session.systemd_cgroup and spec.linux.resources is not None:
        for warning in container.left_out(spec.linux.resources):
            session.log.warning(warning)
    return container


def not_started(command: str, failure: RuntimeFailure) -> RuntimeFailure:
    """`failure` as programs that read a runtime's errors know it."""
    return RuntimeFailure(f"runc {command} failed: {_stage(failure)}{failure.message}", 1)


def not_executed(failure: RuntimeFailure) -> RuntimeFailure:
    """`failure` of an exec, as programs that read a runtime's errors know it."""
    stage = "unable to start container process: " if failure.inside else ""
    return RuntimeFailure(f"exec failed: {stage}{failure.message}", 255)


def _stage(failure: RuntimeFailure) -> str:
    if not failure.inside:
        return ""
    if failure.message.startswith(("exec:", "exec ", "chdir ")):
        return "unable to start container process: "
    return "unable to start container process: error during container init: "


def check_name(name: str) -> None:
    """Raises RuntimeFailure for a name that can't be a directory's here or stands for another."""
    if not name:
        raise RuntimeFailure("container id cannot be empty")
    if name in (".", "..") or not all(letter.isascii() and (letter.isalnum() or letter in "_+-.") for letter in name):
        raise RuntimeFailure("invalid container id format")


def execute(session: Session, flags: Flags) -> int:
    """Run one more process in a container; its exit status, or 0 at once when detached."""
    protection.protect()
    launch = Launch(session, flags, detach=flags.on("detach"))
    container = Container.load(session.root, flags.arguments[0])
    status = container.status()
    if status == "stopped":
        raise RuntimeFailure("cannot exec in a stopped container")
    if status == "paused" and not flags.on("ignore-paused"):
        raise RuntimeFailure("cannot exec in a paused container (use --ignore-paused to override)")
    process = _wanted(flags, container.spec)
    launch.check_terminal(process)
    descriptors = launch.descriptors(process)
    environment.forget()
    _warn_of_capabilities(session, process)
    foreground = None
    if not launch.detach:
        from dockyard.runtime.command_line.foreground import Foreground

        foreground = Foreground(terminal=process.terminal)
    started = container.execute(
        process,
        foreground.stdio if foreground is not None else None,
        keep_fds=descriptors,
        sub_cgroups=sub_cgroups.parse(flags.all("cgroup")),
        on_console=foreground.prepare_terminal if foreground is not None else None,
        tell=session.log.teller(),
    )
    launch.announce_process(started)
    if foreground is None:
        return 0
    return foreground.watch(started, on_end=lambda: None)


def _wanted(flags: Flags, spec: Spec) -> Process:
    """The process that the flags describe: a process.json, or the container's own with changes."""
    if flags.given("process"):
        with open(flags.text("process"), "rb") as file:
            process = runtime_spec.decode_process(file.read())
        check_process(process)
        return process
    assert spec.process is not None
    process = spec.process
    process.args = flags.arguments[1:]
    if not process.args:
        raise RuntimeFailure("exec args cannot be empty")
    process.cwd = flags.text("cwd") or process.cwd
    process.apparmor_profile = flags.text("apparmor") or process.apparmor_profile
    process.selinux_label = flags.text("process-label") or process.selinux_label
    process.env = process.env + flags.all("env")
    process.terminal = flags.on("tty")
    if flags.given("no-new-privs"):
        process.no_new_privileges = flags.on("no-new-privs")
    _add_capabilities(process, flags.all("cap"))
    if flags.text("user"):
        uid, colon, gid = flags.text("user").partition(":")
        if colon:
            process.user.gid = _id(gid, "gid")
        process.user.uid = _id(uid, "uid")
    for group in flags.all("additional-gids"):
        process.user.additional_gids = [*process.user.additional_gids, _id(group, "additional-gids")]
    check_process(process)
    return process


def _add_capabilities(process: Process, names: list[str]) -> None:
    if not names:
        return
    if process.capabilities is None:
        process.capabilities = runtime_spec.Capabilities()
    sets = process.capabilities
    sets.bounding = sets.bounding + names
    sets.effective = sets.effective + names
    sets.permitted = sets.permitted + names
    if sets.inheritable:
        # what is not inheritable can't be ambient
        sets.ambient = sets.ambient + names


def _id(text: str, what: str) -> int:
    if not text.isdigit():
        raise RuntimeFailure(f'bad {what}: parsing "{text}": invalid syntax')
    return int(text)


class Launch:
    """How a process is to be started, by the flags: detached or watched, with which terminal and descriptors."""

    def __init__(self, session: Session, flags: Flags, *, detach: bool) -> None:
        self.notify_socket = os.environ.get("NOTIFY_SOCKET", "")  # the service manager's
        self.name = ""  # of the container, where it is not the first argument
        self.forward_input = True
        self.own_fds = [session.log.fd]
        self.detach = detach
        self.pid_file = os.path.abspath(flags.text("pid-file")) if flags.text("pid-file") else ""
        self.console_socket = flags.text("console-socket")
        self.pidfd_socket = flags.text("pidfd-socket")
        self.subreaper = not flags.on("no-subreaper")
        self.keep = flags.on("keep")
        self.preserved = flags.number("preserve-fds")

    def check_terminal(self, process: Process) -> None:
        """Raises RuntimeFailure when terminal and console socket don't go together."""
        if self.detach and process.terminal and not self.console_socket:
            raise RuntimeFailure("cannot allocate tty if runc will detach without setting console socket")
        if self.console_socket and (not self.detach or not process.terminal):
            raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")

    def descriptors(self, process: Process) -> list[int]:
        """What stays open in the program besides its stdio: systemd's sockets, then `--preserve-fds`.

        Everything else that our caller left open is closed: a container that waits for `start` keeps nothing of it.
        """
        listening = _listen_fds()
        if listening:
            process.env += [f"LISTEN_FDS={listening}", "LISTEN_PID=1"]
        first = 3 + listening
        for fd in range(first, first + self.preserved):
            try:
                os.fstat(fd)
            except OSError as error:
                raise RuntimeFailure(
                    f"unable to stat preserved-fd {fd - first} (of {self.preserved}): {(error.strerror or '').lower()}"
                ) from error
        self.close_inherited(first + self.preserved)
        return list(range(3, first + self.preserved))

    def close_inherited(self, first: int) -> None:
        """Close what is open from `first` on, but what we have opened ourselves."""
        low = first
        for fd in sorted(fd for fd in self.own_fds if fd >= first):
            if fd > low:
                syscalls.close_range(low, fd - 1)
            low = fd + 1
        syscalls.close_range(low)

    def notifications(self, container: Container) -> "notify.Notifications | None":
        """What is to be passed on to our service manager, if we have one. Raises RuntimeFailure as `announce`."""
        if not self.notify_socket:
            return None
        from dockyard.runtime.lifecycle import notify

        try:
            return notify.Notifications(container.directory, self.notify_socket)
        except BaseException:
            container.delete(force=True)
            raise

    def announce(self, container: Container) -> None:
        """Tell whoever waits for a new container. Raises RuntimeFailure or OSError; then the container is gone."""
        assert container.process is not None
        try:
            self.announce_process(container.process)
        except BaseException:
            container.delete(force=True)
            raise

    def announce_process(self, process: Started) -> None:
        """Tell whoever waits for it: the console's master, its pidfd, its PID in a file."""
        if self.console_socket and process.console is not None:
            send_descriptor(self.console_socket, process.console, b"/dev/ptmx")
            os.close(process.console)
        if self.pidfd_socket:
            send_descriptor(self.pidfd_socket, process.pidfd, b"pidfd")
        if self.pid_file:
            write_pid_file(self.pid_file, process.pid)


def _listen_fds() -> int:
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdigit() and os.environ.get("LISTEN_PID") == str(os.getpid()) else 0


def send_descriptor(path: str, fd: int, name: bytes) -> None:
    """Hand `fd` to whoever listens at the UNIX socket `path`. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(path)
        socket.send_fds(peer, [name], [fd])


def write_pid_file(path: str, pid: int) -> None:
    """Put `pid` into a file that is there complete or not at all."""
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}"
    with open(temporary, "x") as file:
        file.write(str(pid))
    os.rename(temporary, path)
