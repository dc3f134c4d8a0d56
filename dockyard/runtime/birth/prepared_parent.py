"""The parent of a container's first process, there before anybody knows for which container.

A fork of a Python process copies its memory page by page as it writes, which takes half as long as all that it does for
its container. So who is going to be the parent of a container's first process forks one ahead (`fork`) that has copied
what will be written to. It sleeps until whoever makes the container gives it its `Birth`, reads that, forks the first
process into a PID namespace as its sibling, and is gone. The memory is then the child's, without another copy. It is
free of the state of its making: no namespace is made ahead, since a network's settings would be the host's of then.

The fork is not made ahead as well: a process's start time is that of its fork, and programs tell from that of PID 1 how
long the container has run.
"""

import os
import select
import socket
import struct
from collections.abc import Callable

import msgspec

from dockyard.linux import descriptors, memory_files, namespaces, syscalls
from dockyard.linux.syscalls import CLONE_NEWPID, CLONE_PARENT
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Spec
from dockyard.runtime import channel
from dockyard.runtime.birth import init
from dockyard.runtime.birth.init import Birth, Stdio
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import groups
from dockyard.runtime.security.seccomp import Filter

# Of descriptors in one message (SCM_MAX_FD).
MOST_DESCRIPTORS = 250


class BirthMessage(msgspec.Struct, frozen=True, array_like=True):
    """A `Birth`: this, then the spec's JSON and the filter's program, in a file in memory.

    Its descriptors come beside the file: stdio, if it has them, then what is joined, then the sources.
    """

    container_id: str
    bundle: str
    systemd: bool
    filtered: bool
    flags: int
    joined: list[int]
    sources: list[int]
    with_stdio: bool
    last_capability: int
    pivot: bool
    own_keyring: bool


_LENGTHS = struct.Struct("<II")  # of the message and the spec
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(BirthMessage).decode


def fork(prepare: Callable[[], None]) -> "PreparedParent":
    """Fork one that calls `prepare` and sleeps; it ends when the channel's end is closed. Raises OSError.

    `prepare`: its child calls it too, before it is born.
    """
    end, theirs = channel.pair()
    with theirs:
        pid = os.fork()
        if pid == 0:
            try:
                syscalls.close_all_but(0, 1, 2, theirs.fileno())
                prepare()
                _wait(theirs, prepare)
            finally:
                os._exit(1)
    return PreparedParent(pid, end)


class PreparedParent:
    """One that waits: its PID here, and our end of its channel."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.end = end

    @staticmethod
    def fits(spec: Spec) -> bool:
        """Whether such a process's child can be this container's first.

        That is in a PID namespace of its own, made in the host's user namespace; and a hook that its maker runs would
        be no child of its parent, who could not end it.
        """
        kinds = {kind.type: kind for kind in spec.linux.namespaces}
        return (
            "pid" in kinds
            and not kinds["pid"].path
            and "user" not in kinds
            and spec.hooks is None
            and len(kinds) + len(spec.mounts) < MOST_DESCRIPTORS
        )

    def is_there(self) -> bool:
        """Whether it waits, and has not been killed."""
        poll = select.poll()
        poll.register(self.end, 0)
        return not poll.poll(0)

    def give(self, birth: Birth, text: bytes) -> None:
        """Tell it what its child will be; `text` is the JSON of the spec.

        What `birth` names need not be there before `go`. Who closes the channel instead wants it no more.
        Raises RuntimeFailure when it is not there any more.
        """
        stdio = birth.stdio
        message = BirthMessage(
            birth.container_id,
            birth.bundle,
            bool(birth.group is not None and birth.group.unit),
            birth.filter is not None,
            birth.flags,
            [flag for _, flag in birth.joined],
            list(birth.sources),
            stdio is not None,
            birth.last_capability,
            birth.pivot,
            birth.own_keyring,
        )
        head, program = _encode(message), birth.filter.program if birth.filter is not None else b""
        body = memory_files.hold("message", _LENGTHS.pack(len(head), len(text)) + head + text + program)
        passed = [stdio.stdin, stdio.stdout, stdio.stderr] if stdio is not None else []
        try:
            joined = [fd for fd, _ in birth.joined]
            socket.send_fds(self.end, [b"."], [body, *passed, *joined, *birth.sources.values()], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise _gone() from None
        finally:
            os.close(body)

    def go(self) -> int:
        """Let the first process be born as what has been given; its PID. `end` is our end of its channel from now on.

        Raises RuntimeFailure when it is not there any more, or could not be made.
        """
        try:
            message, _ = channel.receive(self.end)
            if message is None:
                raise _gone()
            if message.kind == "error":
                raise channel.failure_of(message)
            self.end.send(b"!", socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise _gone() from None
        return message.pid


def _gone() -> RuntimeFailure:
    return RuntimeFailure("the container's process ended before it was created")


def _wait(runtime: socket.socket, prepare: Callable[[], None]) -> None:
    """Sleep, then have a child that is born. Returns in the parent, and when nobody wants a container."""
    data, passed = descriptors.receive(runtime, 1, MOST_DESCRIPTORS + 4)
    if not data:
        return
    text = memory_files.read(passed[0])
    os.close(passed.pop(0))
    of_papers, of_spec = _LENGTHS.unpack_from(text)
    begin, end = _LENGTHS.size + of_papers, _LENGTHS.size + of_papers + of_spec
    message = _decode(text[_LENGTHS.size : begin])
    spec = runtime_spec.decode(text[begin:end])
    stdio = None
    if message.with_stdio:
        stdio, passed = Stdio(*passed[:3]), passed[3:]
    joined, sources = passed[: len(message.joined)], passed[len(message.joined) :]
    birth = Birth(
        container_id=message.container_id,
        bundle=message.bundle,
        spec=spec,
        flags=message.flags,
        joined=list(zip(joined, message.joined, strict=True)),
        user_namespace=False,
        sources=dict(zip(message.sources, sources, strict=True)),
        group=groups.of_spec(spec, message.container_id, systemd=message.systemd),
        stdio=stdio,
        filter=Filter.of_spec(spec.linux.seccomp, text[end:]) if message.filtered else None,
        last_capability=message.last_capability,
        keep_fds=(),
        pivot=message.pivot,
        own_keyring=message.own_keyring,
        exec_fifo=None,
    )
    try:
        pid = namespaces.fork_into(CLONE_NEWPID | CLONE_PARENT)
    except OSError as error:
        failure = RuntimeFailure(f"cannot make the container's first process: {(error.strerror or '').lower()}")
        channel.send_failure(runtime, failure)
        return
    if pid:
        channel.send(runtime, Message("born", pid=pid))
    elif runtime.recv(1):
        prepare()  # our parent is gone: the pages are ours alone, and to be told so for all at once is quicker
        init.be_born(birth, runtime)
