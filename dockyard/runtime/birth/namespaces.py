"""How a container's first process comes to be in its namespaces: what is joined, what is made, who is whose parent.

Only a process's children get into a PID namespace that it makes or joins, and what belongs to a user namespace must be
made by somebody in it. So with a user namespace there is a go-between: forked by the runtime, it joins what is to be
joined, enters the user namespace, forks PID 1 as its sibling, and is gone. Where a PID namespace is joined the first
process is born outside of it, as the go-between if there is one, and gets there by its last fork (last_fork.py).
"""

import contextlib
import dataclasses
import fcntl
import os
import socket
from collections.abc import Callable, Sequence

from dockyard.linux import idmaps, namespaces, syscalls
from dockyard.linux.syscalls import CLONE_NEWPID, CLONE_NEWUSER, CLONE_PARENT
from dockyard.oci.runtime_spec import Spec
from dockyard.runtime import channel
from dockyard.runtime.birth import init
from dockyard.runtime.birth.init import Birth
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure, reason
from dockyard.runtime.security import labels

NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


def of_spec(spec: Spec, undo: contextlib.ExitStack) -> tuple[int, list[tuple[int, int]]]:
    """The spec's namespaces as (flags to make, (descriptor, flag) to join; the user namespace first).

    Raises RuntimeFailure when a path is not a namespace of its type.
    """
    flags = 0
    joined: list[tuple[int, int]] = []
    for wanted in spec.linux.namespaces:
        flag = namespaces.CLONE_FLAGS[wanted.type]
        if not wanted.path:
            flags |= flag
            continue
        try:
            # O_NONBLOCK: whatever else lies there shall not hold us
            fd = os.open(wanted.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"cannot join namespace {wanted.path}: {error.strerror}") from error
        undo.callback(os.close, fd)
        try:
            kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != flag:
            raise RuntimeFailure(f"{wanted.path} is not a namespace of type {wanted.type}")
        joined.append((fd, flag))
    joined.sort(key=lambda entry: entry[1] != CLONE_NEWUSER)
    return flags, joined


def check_mappings(spec: Spec, users: int) -> None:
    """Raise RuntimeFailure where a user namespace is joined, behind `users`, whose mappings are not the spec's.

    containerd and CRI-O give both for pods with `hostUsers: false`.
    """
    given = spec.linux.uid_mappings, spec.linux.gid_mappings
    if users < 0 or not any(given):
        return
    try:
        there = idmaps.of_namespace(users)
    except OSError as error:
        raise RuntimeFailure(f"cannot read the mappings of the user namespace: {reason(error)}") from error
    if there != tuple(sorted((row.container_id, row.host_id, row.size) for row in rows) for rows in given):
        raise RuntimeFailure(
            "user namespaces enabled, but both namespace path and non-matching mapping specified "
            "-- you may only provide one"
        )


def fork_first(
    birth: Birth, ours: socket.socket, theirs: socket.socket, parent: int, map_ids: Callable[[int], None]
) -> int:
    """Fork PID 1 with `parent` (CLONE_PARENT or 0); its PID. Raises RuntimeFailure.

    `map_ids` sets the id mappings of a process that has made its user namespace.
    """
    try:
        if birth.user_namespace:
            return _by_go_between(birth, ours, theirs, parent, map_ids)
        return _directly(birth, ours, theirs, parent)
    except OSError as error:
        raise RuntimeFailure(f"cannot make the container's first process: {error.strerror}") from error


def _directly(birth: Birth, ours: socket.socket, theirs: socket.socket, parent: int) -> int:
    """Go to the PID namespace that is to be made, fork, and come back."""
    flags = birth.flags & CLONE_NEWPID
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if flags else -1
    try:
        if flags:
            syscalls.unshare(flags)
        pid = namespaces.fork_into(parent) if parent else os.fork()
        if pid == 0:
            ours.close()
            if home >= 0:
                os.close(home)
            init.be_born(birth, theirs)
        return pid
    finally:
        if home >= 0:
            syscalls.setns(home, CLONE_NEWPID)
            os.close(home)


def _by_go_between(
    birth: Birth, ours: socket.socket, theirs: socket.socket, parent: int, map_ids: Callable[[int], None]
) -> int:
    here, there = channel.pair()
    with here:
        with there:
            helper = namespaces.fork_into(parent) if parent else os.fork()
            if helper == 0:
                ours.close()
                here.close()
                _go_between(birth, there, theirs)
        pid = -1
        try:
            while True:
                message, _ = channel.receive(here)
                if message is None:
                    raise RuntimeFailure("the container's first process could not be made: its maker ended")
                if message.kind == "error":
                    raise channel.failure_of(message)
                if message.kind == "born":
                    pid = message.pid or helper
                    return pid
                try:
                    map_ids(helper)
                except OSError as error:
                    raise RuntimeFailure(f"failed to write id mappings: {error.strerror}") from error
                channel.send(here, Message("done"))
        finally:
            here.close()
            if not parent and pid != helper:
                os.waitpid(helper, 0)


def _go_between(birth: Birth, runtime: socket.socket, theirs: socket.socket) -> None:
    """Never returns."""
    try:
        init.leave_host(birth)
        joins_user = any(flag == CLONE_NEWUSER for _, flag in birth.joined)
        if joins_user or os.geteuid() == 0:
            init.hide()  # from who is there already; else only once the mappings are written, by who may then see us
        if birth.crosses and birth.spec.process is not None:
            labels.of_next_program(birth.spec.process)
        # Its own root may not be allowed to go to its directory, but it can begin there.
        with contextlib.suppress(OSError):
            os.chdir(init.root_path(birth.bundle, birth.spec))
        rest = _join(birth.joined)
        if birth.flags & CLONE_NEWUSER:
            syscalls.unshare(CLONE_NEWUSER)
            channel.send(runtime, Message("mapped"))
            channel.expect(runtime, "done", "setting up id mappings")
            init.hide()
        for fd, flag in rest:
            if flag == CLONE_NEWUSER:
                syscalls.setns(fd, CLONE_NEWUSER)
        init.become_root()
        for fd, flag in rest:
            if flag != CLONE_NEWUSER:
                syscalls.setns(fd, flag)
        made = birth.flags & ~(CLONE_NEWUSER | CLONE_NEWPID)
        born = dataclasses.replace(birth, flags=made, joined=())
        if birth.crosses:
            channel.send(runtime, Message("born"))
            runtime.close()
            init.be_born(born, theirs)
        pid = namespaces.fork_into(CLONE_PARENT | birth.flags & CLONE_NEWPID)
        if pid == 0:
            runtime.close()
            init.be_born(born, theirs)
        channel.send(runtime, Message("born", pid=pid))
    except BaseException as failure:
        channel.send_failure(runtime, failure)
    os._exit(0)


def _join(wanted: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join what the caller may; the others, and the user namespace, are for later.

    Namespaces that are the host's need the host's privileges, those of a user namespace need that.
    """
    later: list[tuple[int, int]] = []
    for fd, flag in wanted:
        if flag == CLONE_NEWUSER:
            later.append((fd, flag))
            continue
        try:
            syscalls.setns(fd, flag)
        except PermissionError:
            later.append((fd, flag))
    return later
