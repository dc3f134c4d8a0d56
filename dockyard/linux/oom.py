"""Being told when the kernel kills for want of memory in a cgroup: an eventfd on v1, a pollable file on v2.

Kernel: admin-guide/cgroup-v1/memory.rst, "OOM Control"; admin-guide/cgroup-v2.rst, memory.events.
"""

import os
import select
from contextlib import suppress

from dockyard.linux.cgroups import Cgroup


class OomNotice:
    """`fileno` becomes readable when something may have been killed; also when the cgroup goes."""

    def __init__(self, cgroup: Cgroup) -> None:
        """Raises OSError when the kernel or the cgroup has no such notice."""
        directory = cgroup.directory("memory")
        if directory is None:
            raise FileNotFoundError("no memory controller on this host")
        self._epoll: select.epoll | None = None
        self._file = -1
        if cgroup.version == 2:
            self._file = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            self._epoll = select.epoll()
            self._epoll.register(self._file, select.EPOLLPRI)
            self._fd = self._epoll.fileno()
            os.pread(self._file, 4096, 0)
            return
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                cgroup.write("memory", "cgroup.event_control", f"{self._fd} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """What to wait for."""
        return self._fd

    def clear(self) -> None:
        """Take the notice; the next one makes it readable again."""
        with suppress(OSError):
            if self._epoll is None:
                os.eventfd_read(self._fd)
            else:
                self._epoll.poll(0)
                os.pread(self._file, 4096, 0)

    def close(self) -> None:
        """No more of it."""
        if self._epoll is None:
            os.close(self._fd)
        else:
            self._epoll.close()
            os.close(self._file)
