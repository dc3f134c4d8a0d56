"""A container from its creation on, and further processes in it (runtime-spec, runtime.md).

Plain blocking code. Whoever creates a container is the parent of its PID 1 and reaps it. What can be done with it once
it is there is in `handle`.
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from dockyard.linux import capabilities, cgroups, idmaps, imports, namespaces, syscalls
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Linux, Process, Spec
from dockyard.runtime import channel
from dockyard.runtime.birth import environment, exec_defaults, hooks, init, scheduling, sync
from dockyard.runtime.birth import namespaces as birth
from dockyard.runtime.birth import program as process
from dockyard.runtime.birth.init import Birth, Stdio
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle import validation
from dockyard.runtime.lifecycle.handle import ContainerHandle, run_poststop
from dockyard.runtime.resources import groups, intel_rdt
from dockyard.runtime.resources.sub_cgroups import directories as sub_cgroups_of
from dockyard.runtime.resources.sub_cgroups import join as join_sub_cgroups
from dockyard.runtime.rootfs import mount_sources
from dockyard.runtime.rootfs import tree as rootfs
from dockyard.runtime.security import labels
from dockyard.runtime.security.seccomp import Filter
from dockyard.runtime.state import record as records
from dockyard.runtime.state.exec_fifo import ExecFifo
from dockyard.runtime.state.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.runtime.birth.prepared_parent import PreparedParent

__all__ = ["Container", "RuntimeFailure", "Started", "Stdio"]


@dataclass(frozen=True, slots=True)
class Started:
    """A process of a container, a child of the caller: its PID here, a pidfd, its terminal's master or None."""

    pid: int
    pidfd: int
    console: int | None


class Joining:
    """A process on its way into a container: a child of ours, until its execve. Readable when `advance` has work."""

    def __init__(self, runtime: socket.socket, parent_sync: sync.ParentSync) -> None:
        self._runtime = runtime
        self._sync = parent_sync

    @property
    def pid(self) -> int:
        """Its number here. Another one's after the last fork, over which `advance` goes."""
        return self._sync.pid

    @property
    def maker(self) -> int:
        """Who was on the way until the last fork, and has ended or does now; 0 before that."""
        return self._sync.maker

    def fileno(self) -> int:
        """To be watched for input."""
        return self._runtime.fileno()

    def advance(self) -> Started | None:
        """Take what it has to say; what was started when that was the last. Raises RuntimeFailure; then `abandon`."""
        if not self._sync.created:
            self._sync.step()
            return None
        # The channel closes by itself when execve succeeds; before that only an error can come.
        message, _ = channel.receive(self._runtime)
        if message is not None:
            raise channel.failure_of(message)
        console = self._sync.console
        return Started(self.pid, self._sync.pidfd, console if console >= 0 else None)

    def release(self) -> None:
        """Close the channel, once the program runs."""
        self._runtime.close()

    def abandon(self) -> None:
        """Kill it and let go of all but the duty to reap it."""
        with contextlib.suppress(ProcessLookupError):
            syscalls.pidfd_send_signal(self._sync.pidfd, signal.SIGKILL)
        os.close(self._sync.pidfd)
        self._sync.abandon()
        self._runtime.close()


class Container(ContainerHandle):
    """A container that can be made, and entered."""

    def __init__(self, root: str, record: Record) -> None:
        super().__init__(root, record)
        self.process: Started | None = None  # its first, when we have made it
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
        exec_fifo: bool = False,
        sibling: bool = False,
        tell: Callable[[str], None] | None = None,
        systemd: bool = False,
        rootless: bool = False,
        on_console: Callable[[int], None] | None = None,
        text: bytes = b"",
        parent: "PreparedParent | None" = None,
        meanwhile: Callable[[int, int], None] | None = None,
        hook_environment: int = -1,
        notify: bool = False,
    ) -> "Container":
        """Make the container up to the point before its program runs.

        Its PID 1 is a child of the caller, or with `sibling` of the caller's parent, who then is to reap it.
        With `exec_fifo` another process may start it (through `exec_fifo`); else only this handle can.
        `systemd`: its cgroup is a unit of systemd's; `rootless`: do without a cgroup where the caller may make none.
        `on_console` is called with the terminal's master before anything is written there.
        `text` is the JSON of `spec`, where the caller has it: making it takes a millisecond.
        `parent` is a process that forks the container's first; the spec must fit (`PreparedParent.fits`).
        `meanwhile` is called with its PID and pidfd while it is on its way.
        `hook_environment` holds the environment of hooks that say none (environment.held); -1: ours.
        `notify`: it gets the directory of its notify socket.
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
            if notify:
                from dockyard.runtime.lifecycle import notify as notifications  # only below a service manager

                notifications.offer(spec, directory)
                os.mkdir(os.path.join(directory, notifications.DIRECTORY), 0o755)
            start_fifo = ExecFifo(directory) if exec_fifo else None
            if start_fifo is not None:
                undo.callback(start_fifo.close)
            flags, joined = birth.of_spec(spec, undo)
            users = next((fd for fd, flag in joined if flag == syscalls.CLONE_NEWUSER), -1)
            birth.check_mappings(spec, users)
            pids = next((fd for fd, flag in joined if flag == syscalls.CLONE_NEWPID), -1)
            sources = mount_sources.open_all(spec, bundle, users, undo, pids)
            group = groups.of_spec(spec, container_id, systemd=systemd, rootless=rootless)
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
                exec_fifo=start_fifo,
                tell=tell,
                rootless=rootless,
                crosses=pids >= 0,
            )
            if tell is not None:
                kinds = ", ".join(name for name, flag in namespaces.CLONE_FLAGS.items() if flag & flags)
                tell(f"nsexec container setup: new namespaces: {kinds or 'none'}; joined: {len(joined)}")
                if filter_ is not None:
                    tell(f"seccomp filter flags: {filter_.load_flags}")
            if parent is not None:  # it reads while we make the cgroup
                parent.give(born, text := text or runtime_spec.encode(spec))
            record = Record(
                id=container_id,
                bundle=bundle,
                pid=0,
                started=0,
                cgroup=group.path if group.paths else "",
                created_ns=0,
                oci_version=spec.oci_version,
                rootfs=init.root_path(bundle, spec),
                annotations=spec.annotations,
                late_hooks=spec.hooks is not None and bool(spec.hooks.poststart or spec.hooks.poststop),
                own_mounts=any(namespace.type == "mount" for namespace in spec.linux.namespaces),
                own_pids=any(namespace.type == "pid" and not namespace.path for namespace in spec.linux.namespaces),
                userns=born.user_namespace,
                gated=exec_fifo,
                cgroup_paths=groups.unusual_paths(group),
                unit=group.unit,
                rootless=rootless,
            )
            if not sibling:  # else the shim that is to be its parent knows all this, and takes it away
                records.save_plan(root, record)
            groups.make(group, spec, rootless=rootless)
            # what runs at the end of a container also runs at the end of one that came as far as its namespaces
            born_at_all: list[Birth] = []
            for_hooks: list[str] | None = None
            undo.callback(lambda: [run_poststop(spec, half.state("stopped", 0), for_hooks) for half in born_at_all])
            undo.callback(_remove_group, group)
            if not born.has(syscalls.CLONE_NEWNS):
                undo.callback(rootfs.unmount, init.root_path(bundle, spec))
            if parent is None:
                pid, ours = _bear(born, syscalls.CLONE_PARENT if sibling else 0)
            else:
                pid, ours = parent.go(), parent.end
            undo.callback(ours.close)
            unreaped = [pid]
            undo.callback(_reap, unreaped)
            born_at_all.append(born)
            if hook_environment >= 0:  # only now: the first process has a copy of our memory
                for_hooks = environment.held(hook_environment)
            if born.user_namespace and stdio is not None and spec.process is not None:
                _give_stdio(stdio, spec.process, pid)
            owner = groups.owner(spec, flags)
            if owner is not None:
                group.give(owner)
            parent_sync = sync.ParentSync(
                ours,
                os.pidfd_open(pid),
                pid,
                spec.process,
                filter_,
                born.state("creating", pid),
                lambda: _run_hooks(born, pid, for_hooks),
                on_console,
                lambda number, clone: mount_sources.map_listed(number, clone, spec, users),
                join_cgroup=lambda child: groups.join(group, child),
                make_room=group.step_out,
                spec=spec,
                parent=os.getppid() if sibling else os.getpid(),
                crosses=born.crosses,
            )
            undo.callback(lambda: os.close(parent_sync.pidfd))
            resctrl: list[str] = []
            if spec.linux.intel_rdt is not None:
                resctrl = intel_rdt.join(spec.linux.intel_rdt, container_id, pid)
                undo.callback(intel_rdt.leave, resctrl)
            record = msgspec.structs.replace(
                record,
                pid=pid,
                started=records.start_time(pid),
                cgroup=group.path if group.paths else "",  # it may have been allowed none
                cgroup_paths=groups.unusual_paths(group),
                created_ns=time.time_ns(),
                resctrl=resctrl,
            )
            text = text or runtime_spec.encode(spec)
            if not exec_fifo:  # nobody else may start it: it may be found while its process is on its way
                records.save(root, record, text, group)
            if meanwhile is not None and not born.crosses:
                meanwhile(pid, parent_sync.pidfd)
            sync.serve(parent_sync)
            if born.crosses:
                unreaped.append(parent_sync.pid)
                if parent_sync.keeper < 0:
                    unreaped.remove(parent_sync.maker)  # its number may soon be another's
                    _bury(parent_sync.maker)
                record = msgspec.structs.replace(
                    record, pid=parent_sync.pid, started=records.start_time(parent_sync.pid)
                )
                if not exec_fifo:
                    records.save(root, record, text, group)
                if meanwhile is not None:
                    meanwhile(parent_sync.pid, parent_sync.pidfd)
            container = Container(root, record)
            console = parent_sync.console
            container.process = Started(parent_sync.pid, parent_sync.pidfd, console if console >= 0 else None)
            container._runtime = ours
            container._spec = spec
            container.hook_environment = for_hooks
            container._seccomp = seccomp_program
            if exec_fifo:
                records.save(root, record, text, group)
                if not born.crosses:
                    channel.send(ours, Message("recorded"))
            if start_fifo is not None and parent_sync.keeper >= 0:
                with socket.socket(fileno=parent_sync.keeper) as keeper:
                    socket.send_fds(keeper, [b"."], [*start_fifo.descriptors(), ours.fileno()])
                container._runtime = None
                ours.close()
            undo.pop_all()
            if start_fifo is not None:
                start_fifo.close()
            for fd in (*sources.values(), *(fd for fd, _ in joined)):
                os.close(fd)
            return container

    @classmethod
    def load(cls, root: str, container_id: str, *, seccomp_program: bytes | None = None) -> "Container":
        """The container that another process created, and its filter if it is at hand. Raises RuntimeFailure."""
        container = cls(root, records.load(root, container_id))
        container._seccomp = seccomp_program
        return container

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
        on_console: Callable[[int], None] | None = None,
    ) -> Started:
        """Run one more process in the container, as a child of the caller; returns once its execve has succeeded.

        `sub_cgroups` are cgroups below the container's to join instead of that, by controller ("": of all).
        What `wanted` leaves out is the container's. Raises RuntimeFailure, with exit_code 127 or 126 as `start` does.
        """
        joining = self.join(
            wanted,
            stdio,
            seccomp_program=seccomp_program,
            keep_fds=keep_fds,
            sub_cgroups=sub_cgroups,
            tell=tell,
            on_console=on_console,
        )
        try:
            while (started := joining.advance()) is None:
                pass
            joining.release()
            if joining.maker:
                _bury(joining.maker)
            return started
        except BaseException:
            joining.abandon()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(joining.pid, 0)
            raise

    def join(
        self,
        wanted: Process,
        stdio: Stdio | None,
        *,
        seccomp_program: bytes | None = None,
        keep_fds: Sequence[int] = (),
        sub_cgroups: dict[str, str] | None = None,
        tell: Callable[[str], None] | None = None,
        on_console: Callable[[int], None] | None = None,
    ) -> "Joining":
        """Begin to run one more process in the container, as `execute` does, but wait for nothing.

        What the process needs until its execve may take for ever: a frozen container, a file system that hangs.
        Raises RuntimeFailure.
        """
        groups_to_join = sub_cgroups_of(self.group, sub_cgroups) if sub_cgroups else None
        if tell is not None:
            tell(f"nsexec container setup: joining the namespaces of process {self.record.pid}")
        exec_defaults.complete(wanted, self.spec.process)
        validation.check_process(wanted)
        filter_ = Filter.of_spec(self.spec.linux.seccomp, seccomp_program or self._seccomp)
        pidfd = self.pidfd()
        ours, theirs = channel.pair()
        try:
            flags = self._flags_to_join(pidfd)
            crosses = bool(flags & syscalls.CLONE_NEWPID)
            if crosses and filter_ is not None:
                filter_.lets_cross()  # here, where it is still known the next time
            if self.record.userns and stdio is not None:
                _give_stdio(stdio, wanted, self.record.pid)
            if os.geteuid() == 0:
                init.hide()  # and so the child from its first moment: whoever is in there may be waiting for it
            pid = _fork()
            if pid == 0:
                ours.close()
                _join(
                    theirs,
                    wanted,
                    stdio,
                    self.group,
                    pidfd,
                    flags,
                    filter_,
                    keep_fds,
                    self.record,
                    groups_to_join,
                    tell,
                    self.spec.linux,
                )
            parent_sync = sync.ParentSync(
                ours,
                os.pidfd_open(pid),  # a child of ours that nobody has reaped yet: the number is its own
                pid,
                wanted,
                filter_,
                self.state("running"),
                on_console=on_console,
                join_cgroup=lambda child: groups.join(self.group, child),
                make_room=self.group.step_out if groups_to_join is None else None,
                spec=self.spec,
                crosses=crosses,
            )
            return Joining(ours, parent_sync)
        except BaseException:
            ours.close()
            raise
        finally:
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
        if not self.is_running():
            raise RuntimeFailure("cannot exec in a stopped container")
        return flags


def _bear(born: Birth, parent: int) -> tuple[int, socket.socket]:
    """Fork the first process with `parent` (CLONE_PARENT or 0): its PID and our end of its channel."""
    mappings = born.spec.linux
    ours, theirs = channel.pair()
    try:
        with theirs:
            pid = birth.fork_first(
                born,
                ours,
                theirs,
                parent,
                lambda maker: idmaps.write(maker, mappings.uid_mappings, mappings.gid_mappings),
            )
    except BaseException:
        ours.close()
        raise
    return pid, ours


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
    linux: Linux,
) -> None:
    """The child of `join`: enter the container and become the program. Never returns."""
    crosses = bool(flags & syscalls.CLONE_NEWPID)
    try:
        if tell is not None:
            tell("child process in init()")
        else:
            # It may be held up here, and must not hold open what the caller closes meanwhile.
            stdio_fds = (stdio.stdin, stdio.stdout, stdio.stderr) if stdio is not None else ()
            syscalls.close_all_but(0, 1, 2, runtime.fileno(), pidfd, *stdio_fds, *keep_fds)
        os.setsid()
        scheduling.set_affinity(wanted.exec_cpu_affinity, initial=True)
        if tell is not None:
            tell(f"nsexec: affinity: {sum(1 << cpu for cpu in os.sched_getaffinity(0)):#x}")
        if groups_to_join is not None:
            join_sub_cgroups(groups_to_join)
        elif group.joined_from_outside:
            channel.send(runtime, Message("cgroup"))
            channel.expect(runtime, "done", "joining the cgroup")
        else:
            groups.join(group, like=record.pid)
        scheduling.set_affinity(wanted.exec_cpu_affinity, initial=False)
        last_capability = capabilities.last_known_to_kernel()
        process.set_oom_score(wanted)
        init.hide()
        setgroups = not record.userns or init.may_set_groups(record.pid)
        if crosses:
            labels.of_next_program(wanted)
        if wanted.selinux_label:
            labels.of_next_key(wanted.selinux_label)
        imports.import_nothing_more()
        if flags:
            _enter(pidfd, flags)
        os.close(pidfd)
        if record.userns:
            init.become_root()
        os.chdir("/")
        init.own_keyring(record.id, userns=record.userns)
        if wanted.terminal:
            process.take_terminal(_open_terminal(wanted, runtime))
            if not crosses:
                process.control_terminal()
        else:
            init.take_stdio(stdio, wanted)
        init.set_limits(wanted, runtime, crosses=crosses)
        if linux.personality is not None:
            scheduling.apply_personality(linux.personality)
        if linux.memory_policy is not None:
            scheduling.apply_memory_policy(linux.memory_policy)
        ready = init.become_ready(wanted, linux, filter_, last_capability, setgroups=setgroups, crosses=crosses)
        if tell is not None:
            tell(f"setns_init: about to exec {ready.program}")
        if crosses:
            ready = init.cross(ready, runtime, keep_fds=keep_fds)
        ready = init.with_listener(ready, runtime)
        channel.send(runtime, Message("created"))
        if not crosses:
            process.reset_signals()
        init.become_program(ready, runtime, keep_fds=keep_fds)
    except BaseException as failure:
        channel.send_failure(runtime, failure)
    os._exit(1)


def _enter(pidfd: int, flags: int) -> None:
    """Join the container's namespaces, the PID namespace by the next fork.

    Who is not root is let in only as root of the user namespace that they belong to.
    """
    if flags & syscalls.CLONE_NEWUSER and os.geteuid() != 0:
        syscalls.setns(pidfd, syscalls.CLONE_NEWUSER)
        init.become_root()
        flags &= ~syscalls.CLONE_NEWUSER
    syscalls.setns(pidfd, flags)


def _open_terminal(wanted: Process, runtime: socket.socket) -> int:
    """A terminal of the container's devpts: its master goes to the runtime, its slave is returned."""
    try:
        multiplexer = os.open("/dev/pts/ptmx", process.OPEN_TERMINAL | os.O_NOFOLLOW)
    except OSError as error:
        raise RuntimeFailure(f"cannot allocate a terminal: /dev/pts/ptmx: {error.strerror}") from error
    master, slave = process.open_terminal(wanted, multiplexer)
    init.hand_over(runtime, master)
    return slave


def _run_hooks(birth: Birth, pid: int, environment: list[str] | None) -> None:
    """What runs on this side between the making of the namespaces and the change of root; network devices go first."""
    if birth.spec.linux.net_devices:
        from dockyard.runtime.birth import net_devices

        net_devices.move_all(birth.spec.linux.net_devices, pid)
    wanted = birth.spec.hooks
    if wanted is not None:
        state = birth.state("creating", pid)
        hooks.run("prestart", wanted.prestart, state, directory=birth.bundle, environment=environment)
        hooks.run("createRuntime", wanted.create_runtime, state, directory=birth.bundle, environment=environment)


def _give_stdio(stdio: Stdio, wanted: Process, pid: int) -> None:
    """Give pipes to the user in the user namespace of `pid`, who may then reopen /dev/stdout; only we can."""
    try:
        with open(f"/proc/{pid}/uid_map") as uids, open(f"/proc/{pid}/gid_map") as gids:
            uid, gid = (_outside(rows, inside) for rows, inside in ((uids, wanted.user.uid), (gids, wanted.user.gid)))
    except OSError:
        return  # it has ended: whoever waits for it learns that
    for fd in (stdio.stdin, stdio.stdout, stdio.stderr):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, uid, gid)


def _outside(rows: Iterable[str], inside: int) -> int:
    """What an id is outside, by the rows of uid_map or gid_map; -1 when it is nothing."""
    for row in rows:
        first, host, size = (int(word) for word in row.split())
        if first <= inside < first + size:
            return host + inside - first
    return -1


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise RuntimeFailure(f"cannot fork into the container: {error.strerror}") from error


def _bury(maker: int) -> None:
    """Reap who has ended after the last fork, unless it is our parent's."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(maker, 0)


def _reap(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _remove_group(group: cgroups.Cgroup) -> None:
    with contextlib.suppress(OSError):  # what stays is found by name at the daemon's next start
        group.remove()
