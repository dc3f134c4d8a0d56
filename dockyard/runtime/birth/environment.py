"""The environment of the runtime's caller, which containers must not see.

What becomes a container's process is a fork of the runtime, and until its execve its /proc/<pid>/environ and memory are
the runtime's. Engines have secrets in their environment (proxies with passwords, keys of clouds), so a runtime that has
read what it needs overwrites it.
"""

import ctypes
import os

from dockyard.linux import memory_files

# For programs that are run outside of containers, for the user's systemd, and for what containers start as.
KEPT = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR", "HOME")
_BEFORE_BYTES = bytes.__basicsize__ - 1  # of the header of a bytes object; the one is for the zero at the end


def kept() -> dict[str, str]:
    """What of our environment others may have: the rest may hold secrets."""
    return {name: os.environ[name] for name in KEPT if name in os.environ}


def hold() -> int:
    """A descriptor of what our environment is now, which is not in memory: for `held`, after `forget`."""
    return memory_files.hold("environment", b"\0".join(name + b"=" + value for name, value in os.environb.items()))


def held(fd: int) -> list[str]:
    """The environment behind `fd`, which is closed."""
    try:
        return [os.fsdecode(entry) for entry in memory_files.read(fd).split(b"\0")]
    finally:
        os.close(fd)


def forget() -> None:
    """Have nothing of our environment in memory but the variables KEPT."""
    left = kept()
    for value in [os.environb.pop(name) for name in tuple(os.environb)]:
        if len(value) > 1:  # shorter ones are shared by all the program
            _overwrite(id(value) + _BEFORE_BYTES, len(value))
    start, end = _area()
    _overwrite(start, end - start)
    os.environ.update(left)


def _area() -> tuple[int, int]:
    """Where the kernel has put it (proc(5), stat: env_start, env_end)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[47]), int(fields[48])


def _overwrite(address: int, size: int) -> None:
    (ctypes.c_char * size).from_address(address).raw = bytes(size)
