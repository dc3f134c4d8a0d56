"""Paths in somebody else's tree, resolved as if we were chrooted there.

A container may put any symlink anywhere and swap it while we look: every access goes through openat2(2) with
RESOLVE_IN_ROOT, so whatever a path turns out to be, it is inside the tree.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable

from dockyard.linux import syscalls

# As many as the kernel follows at most (path_resolution(7)), and some more.
MOST_LINKS = 255


class Root:
    """A directory that is the root of a tree."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises OSError when `path` is no directory."""
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the root."""
        os.close(self.fd)

    def open(self, path: str, flags: int) -> int:
        """The descriptor of `path`, whether it begins with a slash or not. Raises OSError."""
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        return syscalls.openat2(self.fd, path or "/", flags, resolve=resolve)

    def lstat(self, path: str) -> os.stat_result:
        """stat of `path` itself, not of what it links to. Raises OSError."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def readlink(self, path: str) -> str:
        """Where the symlink `path` points. Raises OSError."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)

    def resolve(self, path: str) -> str:
        """`path` from the root without symlinks, as far as it exists; what is missing stays as it is.

        Raises OSError (ELOOP) for links in a circle.
        """
        return resolved(path, self._target)

    def make(self, place: str, directory: bool) -> int:
        """A descriptor (O_PATH) of `place` (resolved), which is made, with all above it, when it is missing.

        Raises OSError.
        """
        parts = [part for part in place.split("/") if part]
        for height in range(1, len(parts) + 1):
            above = self.open("/" + "/".join(parts[: height - 1]), os.O_PATH | os.O_DIRECTORY)
            try:
                if height < len(parts) or directory:
                    os.mkdir(parts[height - 1], 0o755, dir_fd=above)
                else:
                    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(parts[height - 1], flags, 0o644, dir_fd=above))
            except FileExistsError:
                continue
            finally:
                os.close(above)
        return self.open(place, os.O_PATH)

    def _target(self, place: str) -> str | None:
        """Where `place` points when it is a symlink; None for anything else and for nothing."""
        try:
            fd = self.open(place, os.O_PATH | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)


def resolved(path: str, target: Callable[[str], str | None]) -> str:
    """`path` from the root without symlinks; what is missing stays as it is, and `..` does not lead out.

    `target` says where a place (absolute, without symlinks above) points, None when it is no symlink or not there.
    Raises OSError (ELOOP) for links in a circle.
    """
    done = "/"
    waiting = _parts(path)
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            done = posixpath.dirname(done)
            continue
        place = posixpath.join(done, part)
        link = target(place)
        if link is None:
            done = place
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if link.startswith("/"):
            done = "/"
        waiting.extend(_parts(link))
    return done


def _parts(path: str) -> list[str]:
    """The components of a path, last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
