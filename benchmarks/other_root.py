"""Programs of another release, run with the folder it is unpacked in as their /.

Their libraries are newer than this machine's and their files name paths below /: so they get a mount namespace of
their own whose root is that folder. The threads that run them are in it, not the programs: a program is then started
by one vfork, as this machine's own are, and nothing of how it came there is measured with it.
"""

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dockyard.linux import syscalls
from dockyard.linux.syscalls import CLONE_FS, CLONE_NEWNS, MNT_DETACH, MS_BIND, MS_PRIVATE, MS_REC

KERNEL = ("/proc", "/sys", "/dev")
# Engines' roots and sockets, and what clients are given.
SHARED = ("/var/lib/dybench", "/run/dybench")
HYBRID = "/sys/fs/cgroup/unified"

Result = TypeVar("Result")


class OtherRoot:
    """A mount namespace with `folder` as /, and `shared` paths in it the same as outside."""

    def __init__(self, folder: Path, threads: int = 1, shared: Sequence[str] = SHARED) -> None:
        self._folder = str(folder.resolve())
        self._shared = (*KERNEL, *shared)
        self._namespace = -1
        self._entering = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, initializer=self._enter)

    def popen(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":  # options: subprocess.Popen's
        """Start `command`, whose program is looked for inside."""
        return self._inside(subprocess.Popen, command, **options)

    def run(self, command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run `command` to its end."""
        return self._inside(subprocess.run, command, **options)

    def _inside(self, what: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        options.setdefault("env", {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root"})
        return self._threads.submit(what, *arguments, **options).result()

    def close(self) -> None:
        """Leave: the namespace is gone with the last program that runs in it."""
        self._threads.shutdown()
        if self._namespace >= 0:
            os.close(self._namespace)

    def _enter(self) -> None:
        """Take the calling thread inside; the first one makes what is there."""
        with self._entering:
            if self._namespace < 0:
                syscalls.unshare(CLONE_FS | CLONE_NEWNS)
                self._make()
                self._namespace = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/mnt", os.O_RDONLY)
            else:
                syscalls.unshare(CLONE_FS)
                syscalls.setns(self._namespace, CLONE_NEWNS)

    def _make(self) -> None:
        syscalls.mount(None, "/", None, MS_PRIVATE | MS_REC)
        syscalls.mount(self._folder, self._folder, None, MS_BIND)  # pivot_root wants a mount point
        for place in self._shared:
            os.makedirs(place, exist_ok=True)
            os.makedirs(self._folder + place, exist_ok=True)
            syscalls.mount(place, self._folder + place, None, MS_BIND | MS_REC)
        # crun refuses a version 2 hierarchy beside those of version 1
        if os.path.ismount(self._folder + HYBRID):
            syscalls.umount2(self._folder + HYBRID, MNT_DETACH)
        os.chdir(self._folder)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", MNT_DETACH)
        os.chdir("/")
