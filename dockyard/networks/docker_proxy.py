"""The process behind one published port, for daemons with `"userland-proxy": true`: takes docker-proxy's arguments.

    docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80 -use-listen-fd

Descriptor 4 is the socket to serve, to descriptor 3 goes "0" and a newline once it is served, as between dockerd and
its proxy: so another one may take this one's place. It ends with the daemon.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Sequence

from dockyard.linux.syscalls import prctl, set_process_name
from dockyard.networks.proxy import TcpProxy, UdpProxy

READY, LISTENER = 3, 4
PR_SET_PDEATHSIG = 1
NAME = "docker-proxy"


class ProxyProcess:
    """A running proxy."""

    def __init__(self, program: str, bound: socket.socket, protocol: str, target: tuple[str, int]) -> None:
        """`program`: another docker-proxy, "" for this one. Raises OSError when it cannot be started."""
        host, port = bound.getsockname()[:2]
        told = ["-proto", protocol, "-host-ip", host, "-host-port", str(port)]
        told += ["-container-ip", target[0], "-container-port", str(target[1]), "-use-listen-fd"]
        own = [sys.executable, "-EPs", "-m", "dockyard.networks.docker_proxy"]
        command = [program, *told] if program else [*own, *told]
        self._ready, tell = os.pipe2(os.O_CLOEXEC)  # kept open: who writes to a closed pipe dies
        # above what they become in the child
        copies = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, LISTENER + 1) for one in (tell, bound.fileno())]
        try:
            actions = [(os.POSIX_SPAWN_DUP2, copies[0], READY), (os.POSIX_SPAWN_DUP2, copies[1], LISTENER)]
            self._pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        except OSError:
            os.close(self._ready)
            raise
        finally:
            for descriptor in (tell, *copies):
                os.close(descriptor)

    def close(self) -> None:
        """End it, and what it relays."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._ready)


async def serve(bound: socket.socket, protocol: str, target: tuple[str, int]) -> None:
    """Relay until the daemon has gone."""
    bound.setblocking(False)
    proxy = TcpProxy(bound, target) if protocol == "tcp" else UdpProxy(bound, target)
    with contextlib.suppress(OSError):
        os.write(READY, b"0\n")
        os.close(READY)
    try:
        await asyncio.Event().wait()
    finally:
        proxy.close()


def main(arguments: Sequence[str]) -> None:
    """Serve as the arguments say."""
    parent = os.getppid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died meanwhile
    set_process_name(NAME)
    _show_as([NAME, *arguments])
    said = dict(zip(arguments[::2], arguments[1::2], strict=False))
    target = (said["-container-ip"], int(said["-container-port"]))
    asyncio.run(serve(socket.socket(fileno=LISTENER), said["-proto"], target))


def _show_as(command: Sequence[str]) -> None:
    """Let `ps` show this command in place of the interpreter's: it reads it from this process's own memory."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc(5)
    text = b"\0".join(part.encode() for part in command) + b"\0"
    if start and len(text) <= end - start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, text, len(text))


if __name__ == "__main__":
    main(sys.argv[1:])
