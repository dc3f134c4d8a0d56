"""systemd's word that a service is ready (sd_notify(3)), for a container's program, as runc does it.

A runtime that has NOTIFY_SOCKET gives the container a socket of its own, in a directory of the container's state that
is bound at /run/notify: the manager's own would let it say anything. Of what comes there `READY=…` alone is passed on,
with the number of the process that the manager is to watch.
"""

import os
import select
import socket

from dockyard.oci.runtime_spec import Mount, Spec
from dockyard.runtime.errors import doing

VARIABLE = "NOTIFY_SOCKET"
DIRECTORY, NAME = "notify", "notify.sock"  # in the container's state directory
INSIDE = "/run/notify"
LARGEST = 4096
BARRIER_PATIENCE = 30_000  # how long a manager that does not know BARRIER=1 is waited for, ms


def offer(spec: Spec, directory: str) -> None:
    """Tell the container of the socket to come in its state `directory`."""
    source = os.path.join(directory, DIRECTORY)
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    spec.mounts = [*spec.mounts, Mount(destination=INSIDE, type="bind", source=source, options=options)]
    if spec.process is not None:
        spec.process.env = [*spec.process.env, f"{VARIABLE}={INSIDE}/{NAME}"]


class Notifications:
    """The container's socket, of which the manager's, `manager`, is told. Raises RuntimeFailure."""

    def __init__(self, directory: str, manager: str) -> None:
        self._manager = "\0" + manager[1:] if manager.startswith("@") else manager
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        with doing("making the container's notify socket"):
            # by descriptor: a path may be longer than an address
            place = os.open(os.path.join(directory, DIRECTORY), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.bind(f"/proc/self/fd/{place}/{NAME}")
                os.chmod(NAME, 0o777, dir_fd=place)  # the container's user is any
            finally:
                os.close(place)

    def fileno(self) -> int:
        """Readable when there is something to `pass_on`."""
        return self._socket.fileno()

    def pass_on(self, pid: int) -> bool:
        """Read one message; if it says READY, tell the manager, to watch `pid`. Whether it did. Raises OSError."""
        ready = self._socket.recv(LARGEST).partition(b"\n")[0]
        if not ready.startswith(b"READY="):
            return False
        for message in (ready, b"MAINPID=%d" % pid):
            self._tell(message + b"\n")
        return True

    def await_ready(self, pid: int, pidfd: int) -> None:
        """Until the container is ready and the manager has heard of it, or its process has ended. Raises OSError."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while self.fileno() in dict(poll.poll()):
            if self.pass_on(pid):
                self._barrier()
                return

    def _barrier(self) -> None:
        """Wait until the manager has taken what was sent: then it knows the process, and the caller may end."""
        done, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._tell(b"BARRIER=1", theirs)
            finally:
                os.close(theirs)
            poll = select.poll()
            poll.register(done, select.POLLIN)
            poll.poll(BARRIER_PATIENCE)
        finally:
            os.close(done)

    def _tell(self, message: bytes, fd: int = -1) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
            peer.connect(self._manager)
            if fd >= 0:
                socket.send_fds(peer, [message], [fd])
            else:
                peer.send(message)
