"""A shim's life, played in the zygote before it forks the first one, with a process that only ends.

Python writes to much that it only uses: a function's bytecode is rewritten for the types it meets in its first eight
calls (PEP 659), caches are filled, blocks of memory are handed out. What is written before the fork is shared by all
shims; what each writes after it is its own. A shim forked then needs less memory, and starts its container sooner.
"""

import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import time

import msgspec

from dockyard.linux import memory_files, syscalls
from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import VERSION
from dockyard.runtime.state import record as records
from dockyard.runtime.state.record import Record, start_time
from dockyard.shim import handover, offers, protocol, supervisor
from dockyard.shim.ends import Ends
from dockyard.shim.prefault import Prefault
from dockyard.shim.start import listen

TIMES = 10
NAME, GROUP = "warm-up", "/dockyard-warm-up"  # the container's, and its cgroup's


def warm_up(directory: str) -> None:
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
        with contextlib.suppress(ChildProcessError):  # of a play that was broken off
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        gc.collect()  # a shim closes what it has open by ending
        syscalls.close_range(first_free)
        os.chdir("/")
        shutil.rmtree(directory, ignore_errors=True)


def _play(directory: str) -> None:
    daemon, ours = socket.socketpair()
    client, theirs = socket.socketpair()
    taking, offering = offers.pair()
    prefault = Prefault()
    prefault.descriptors()
    prefault.learn()
    with daemon, ours, client, theirs, taking, offering:
        os.chdir(directory)
        channel, watch, _ = offers.make(offering, lambda: os._exit(0))
        offer = offers.take(taking)
        assert offer is not None
        assert offer.parent is not None
        pid = offer.parent.pid
        ends = Ends(terminal=False, open_stdin=True)
        assert ends.stdio is not None
        os.write(ends.stdio.stdout, b"hello\n")
        os.write(ends.stdio.stderr, b"hello\n")
        ends.settle(None)
        _save_record(directory, pid)
        specification = memory_files.hold("spec", b"")
        handover.put_order(offer.end, msgspec.msgpack.encode(_order(directory)), specification, ours)
        pidfd = os.pidfd_open(pid)
        listener = listen()
        passed = [pidfd, listener.fileno(), ends.stdin, *ends.sources, theirs.fileno()]
        handover.put_container(offer.end, handover.Held(pid, GROUP, True, [1, 2]), passed)
        handover.put_outcome(offer.end, handover.RUNS)
        handover.put_outcome(offer.end, handover.TOLD)
        watch.register(pidfd, select.EPOLLIN)
        offer.end.close()
        handover.sleep(channel)
        left = handover.Left()
        left.take(channel)
        watch.poll()
        watch.close()
        supervisor.run(left)


def _save_record(directory: str, pid: int) -> None:
    """Of the container, as far as a shim needs it; its cgroup is not there, but asked for what each shim asks."""
    group = Cgroup(GROUP)
    with contextlib.suppress(OSError):
        group.pids()
    group.remove()
    os.mkdir(f"{directory}/{NAME}")
    record = Record(NAME, directory, pid, start_time(pid), GROUP, time.time_ns(), VERSION, directory)
    records.save(directory, record, b"{}", group)


def _order(directory: str) -> protocol.Start:
    """A request as the daemon sends it."""
    return protocol.Start(
        seq=1,
        container_id=NAME,
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
