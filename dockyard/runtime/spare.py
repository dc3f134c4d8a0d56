"""A container's first process that is there before anybody knows for which container.

A fork of a Python process copies its memory page by page as it writes, which takes half as long as all that it does for
its container. So whoever starts many containers forks the first process of the next one ahead. It is a child of the
caller's parent, in a PID namespace of its own and else where the caller is, and sleeps until it is given its `Birth`.
"""

import os
import socket
import struct
from collections.abc import Callable

import msgspec

from dockyard.linux import descriptors, memory_files, namespaces, syscalls
from dockyard.linux.syscalls import CLONE_NEWPID, CLONE_PARENT
from dockyard.oci import runtime_spec
from dockyard.runtime import channel, groups, init
from dockyard.runtime.filter import Filter
from dockyard.runtime.init import Birth, Stdio

# Of descriptors in one message (SCM_MAX_FD).
MOST_DESCRIPTORS = 250


class Papers(msgspec.Struct, frozen=True, array_like=True):
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


_LENGTHS = struct.Struct("<II")  # of the papers and the spec
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Papers).decode


class Spare:
    """One that waits. `end` is our end of its channel; it ends when that is closed."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        """Fork it; it calls `prepare` before it sleeps. Raises OSError."""
        self.end, theirs = channel.pair()
        with theirs:
            self.pid = namespaces.fork_into(CLONE_PARENT | CLONE_NEWPID)
            if self.pid == 0:
                try:
                    syscalls.close_all_but(0, 1, 2, theirs.fileno())
                    prepare()
                    _wait(theirs)
                finally:
                    os._exit(1)

    def fits(self, birth: Birth) -> bool:
        """Whether it can be this container's: it has a PID namespace of its own, and no other yet."""
        return (
            bool(birth.flags & CLONE_NEWPID)
            and not birth.user_namespace
            and not birth.keep_fds
            and birth.gate is None
            and birth.tell is None
            and not birth.rootless
            and len(birth.joined) + len(birth.sources) < MOST_DESCRIPTORS
        )

    def give(self, birth: Birth, text: bytes) -> bool:
        """Let it be born; `text` is the JSON of the spec. False when it is not there any more."""
        stdio = birth.stdio
        papers = Papers(
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
        head, program = _encode(papers), birth.filter.program if birth.filter is not None else b""
        body = memory_files.hold("papers", _LENGTHS.pack(len(head), len(text)) + head + text + program)
        passed = [stdio.stdin, stdio.stdout, stdio.stderr] if stdio is not None else []
        try:
            joined = [fd for fd, _ in birth.joined]
            socket.send_fds(self.end, [b"."], [body, *passed, *joined, *birth.sources.values()], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            os.close(body)
        return True


def _wait(runtime: socket.socket) -> None:
    """Sleep, then be born. Returns when nobody wants a container."""
    data, passed = descriptors.receive(runtime, 1, MOST_DESCRIPTORS + 4)
    if not data:
        return
    text = memory_files.read(passed[0])
    os.close(passed.pop(0))
    of_papers, of_spec = _LENGTHS.unpack_from(text)
    begin, end = _LENGTHS.size + of_papers, _LENGTHS.size + of_papers + of_spec
    papers = _decode(text[_LENGTHS.size : begin])
    spec = runtime_spec.decode(text[begin:end])
    stdio = None
    if papers.with_stdio:
        stdio, passed = Stdio(*passed[:3]), passed[3:]
    joined, sources = passed[: len(papers.joined)], passed[len(papers.joined) :]
    birth = Birth(
        container_id=papers.container_id,
        bundle=papers.bundle,
        spec=spec,
        flags=papers.flags,
        joined=list(zip(joined, papers.joined, strict=True)),
        user_namespace=False,
        sources=dict(zip(papers.sources, sources, strict=True)),
        group=groups.of_spec(spec, papers.container_id, systemd=papers.systemd),
        stdio=stdio,
        filter=Filter.of_spec(spec.linux.seccomp, text[end:]) if papers.filtered else None,
        last_capability=papers.last_capability,
        keep_fds=(),
        pivot=papers.pivot,
        own_keyring=papers.own_keyring,
        gate=None,
    )
    init.be_born(birth, runtime)
