"""A shim's life, played in the zygote before it forks the first one: with a process that only says hello.

Python writes to much that it only uses: a function's bytecode is rewritten for the types it meets in its first eight
calls (PEP 659), caches are filled, blocks of memory are handed out. What is written before the fork is shared by all
shims; what each writes after it is its own. A rehearsed shim needs less memory, and starts its container sooner.
"""

import gc
import os
import signal
import socket

from dockyard.linux import namespaces, syscalls
from dockyard.shim import protocol, supervisor
from dockyard.shim.starter import Created, Running, Starter, read_frame, send

TIMES = 10


def rehearse(directory: str) -> None:
    """Play it in `directory`, which is made and is gone again afterwards. Raises OSError when it can't be."""
    os.mkdir(directory, 0o700)
    handler = signal.getsignal(signal.SIGCHLD)
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
    with daemon, client:
        with theirs:
            # in the place of the specification, which only a real starter reads, the client's socket
            files = [theirs.fileno(), theirs.fileno()]
            socket.send_fds(daemon, [protocol.pack(_order(directory), len(files))], files)
        supervisor.Shim(ours, Starter(_understudy)).run()


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


def _understudy(shim: socket.socket) -> None:
    """What the starter does: its container is a process that says hello once it may."""
    frame = read_frame(shim)
    assert frame is not None
    _, stdin, stdout, stderr = frame[1]
    gate, opening = os.pipe()
    pid = namespaces.fork_into(syscalls.CLONE_PARENT)
    if pid == 0:
        os.read(gate, 1)
        os.write(stdout, b"hello\n")
        os.write(stderr, b"hello\n")
        os._exit(0)
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    send(shim, Created(pid, "", True), [])
    shim.recv(8)
    os.write(opening, b".")
    send(shim, Running(), [])
