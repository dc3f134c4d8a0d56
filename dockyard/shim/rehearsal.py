"""A shim's life, played in the zygote before it forks the first one: with a process that only says hello.

Python writes to much that it only uses: a function's bytecode is rewritten for the types it meets in its first eight
calls (PEP 659), caches are filled, blocks of memory are handed out. What is written before the fork is shared by all
shims; what each writes after it is its own. A rehearsed shim needs less memory, and starts its container sooner.
"""

import gc
import os
import select
import signal
import socket

import msgspec

from dockyard.linux import syscalls
from dockyard.shim import handover, protocol, supervisor
from dockyard.shim.ends import Ends
from dockyard.shim.habits import Habits
from dockyard.shim.starter import listen

TIMES = 10


def rehearse(directory: str) -> None:
    """Play it in `directory`, which is made and is gone again afterwards.

    Raises whatever stopped it; the process is then as it was before.
    """
    os.mkdir(directory, 0o700)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    first_free = os.dup(0)
    os.close(first_free)
    try:
        for _ in range(TIMES):
            _play(directory)
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, handler)
        gc.collect()  # a shim closes what it has open by ending
        syscalls.close_range(first_free)
        os.chdir("/")
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)


def _play(directory: str) -> None:
    daemon, ours = socket.socketpair()
    client, theirs = socket.socketpair()
    channel, starter = handover.pair()
    gate, opening = os.pipe()
    habits = Habits()
    habits.descriptors()
    habits.learn()
    habits.close()
    with daemon, ours, client, theirs, channel, starter:
        os.chdir(directory)
        ends = Ends(terminal=False, open_stdin=True)
        pid = os.fork()
        if pid == 0:
            os.close(opening)  # so that it ends, too, if nobody ever opens the gate
            try:
                _say_hello(gate, ends)
            finally:
                os._exit(0)
        ends.settle(None)
        handover.put_order(starter, msgspec.msgpack.encode(_order(directory)), gate, ours)
        pidfd = os.pidfd_open(pid)
        listener = listen()
        passed = [pidfd, listener.fileno(), ends.stdin, *ends.sources, theirs.fileno()]
        handover.put_container(starter, handover.Held(pid, "", True, [1, 2]), passed)
        watch = select.epoll()
        watch.register(pidfd, select.EPOLLIN)
        os.write(opening, b".")
        watch.poll()
        supervisor.run(channel)


def _say_hello(gate: int, ends: Ends) -> None:
    """The container."""
    assert ends.stdio is not None
    os.read(gate, 1)
    os.write(ends.stdio.stdout, b"hello\n")
    os.write(ends.stdio.stderr, b"hello\n")


def _order(directory: str) -> protocol.Start:
    """A request as the daemon sends it."""
    return protocol.Start(
        seq=1,
        container_id="rehearsal",
        directory=directory,
        state_root=directory,
        bundle=directory,
        filtered=False,
        terminal=False,
        open_stdin=True,
        stdin_once=True,
        log=protocol.LogOptions("json-file", f"{directory}/log", 20 << 20, 5, {}),
        attachments=[protocol.AttachmentOptions(1, False, True, True, b"\x10\x11", False)],
        init=False,
        console_size=None,
    )
