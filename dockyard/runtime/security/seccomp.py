"""A process's system call filter: compiled, with how it is loaded and who decides what it leaves open."""

import functools
import os
import signal
import socket
import termios
from dataclasses import dataclass

from dockyard.linux import filter_answers, seccomp, syscalls
from dockyard.oci.runtime_spec import Seccomp
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.security import seccomp_cache

# What is called between the loading of the filter and execve (last_fork.py).
CALLS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(syscalls.NUMBERS, ()),
    "clone": (syscalls.CLONE_PARENT | signal.SIGCHLD,),
    "ioctl": (0, termios.TIOCSCTTY),
}


@functools.lru_cache(maxsize=4)
def _lets_cross(program: bytes) -> bool:
    return filter_answers.allows(program, CALLS)


@dataclass(frozen=True, slots=True)
class Filter:
    """`program` for seccomp(2) with `flags`; if it `notifies`, its listener goes to who is at `listener_path`."""

    program: bytes
    flags: int
    notifies: bool
    listener_path: str
    listener_metadata: str

    @staticmethod
    def of_spec(profile: Seccomp | None, program: bytes | None) -> "Filter | None":
        """The filter of `profile`, or of the `program` that it has been compiled to. Raises RuntimeFailure."""
        if profile is None:
            return Filter(program, seccomp.load_flags(None), False, "", "") if program is not None else None
        try:
            flags = seccomp.load_flags(profile.flags)
            if program is None:
                program = seccomp_cache.compiled(profile)
        except (OSError, ValueError) as error:
            raise RuntimeFailure(f"error compiling the seccomp profile: {error}") from error
        # a listener costs nothing but is searched for only where there can be one
        notifies = bool(profile.listener_path) and seccomp.notifies(program)
        return Filter(program, flags, notifies, profile.listener_path, profile.listener_metadata)

    @property
    def load_flags(self) -> int:
        """All flags that seccomp(2) gets: who has no listener cannot wait for its answers."""
        if self.notifies:
            return self.flags | syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
        return self.flags & ~syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

    def lets_cross(self) -> bool:
        """Whether it can be loaded before the last fork (last_fork.py).

        One that asks an agent can't: that is told of the process that it is to decide for.
        """
        return not self.notifies and _lets_cross(self.program)

    def load(self, runtime: socket.socket) -> None:
        """Have the kernel apply it to the caller from now on. Raises RuntimeFailure.

        The runtime at the other end of the channel fetches the listener, if there is one, and tells the agent. Under
        the filter as little as possible is done for that: what it asks the agent about, nobody answers yet.
        """
        try:
            listener = syscalls.seccomp_load(self.program, self.load_flags)
        except OSError as error:
            raise RuntimeFailure(f"error loading seccomp filter into kernel: {error.strerror}") from error
        if self.notifies:
            end = runtime.fileno()
            os.write(end, b'{"kind":"seccomp","pid":%d}' % listener)
            answer = os.read(end, 4096)
            os.close(listener)
            if b'"done"' not in answer:
                raise RuntimeFailure("the seccomp agent has not been told of the listener")
