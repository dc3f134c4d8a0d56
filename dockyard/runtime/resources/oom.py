"""Being told when a container's memory has run out."""

import os
import select

from dockyard.linux.cgroups import Cgroup


class OutOfMemory:
    """Tells when the kernel has found no memory for a cgroup: an eventfd on v1, a file that is polled on v2."""

    def __init__(self, group: Cgroup) -> None:
        self._group = group
        self._fd = -1
        self._events = select.POLLIN
        self._seen = group.oom_kills()
        if group.version == 2:
            directory = group.directory("memory")
            if directory is not None and os.path.exists(f"{directory}/memory.events"):
                self._fd = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
                self._events = select.POLLPRI
                os.read(self._fd, 4096)
            return
        directory = group.directory("memory")
        if directory is None:
            return
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            group.write("memory", "cgroup.event_control", f"{self._fd} {control}")
        finally:
            os.close(control)

    def register(self, poll: "select.poll") -> None:
        """Have `poll` wake up for it."""
        if self._fd >= 0:
            poll.register(self._fd, self._events)

    def happened(self) -> bool:
        """Whether it has, after `poll` woke up for it."""
        if self._group.version == 2:
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.read(self._fd, 4096)
            seen, self._seen = self._seen, self._group.oom_kills()
            return self._seen > seen
        os.eventfd_read(self._fd)
        # the cgroup's removal wakes too
        return self._group.exists()
