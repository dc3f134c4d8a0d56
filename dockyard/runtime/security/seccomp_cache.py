"""Compiled seccomp filters, kept until the next boot: to compile Docker's takes 17 ms, a third of a whole `create`.

Only root's commands keep them, where only root can write. A file has what it is of, word for word, before the program:
two profiles whose names here are the same are told apart by that; a newer libseccomp, or a newer compiler of ours, by
its own file's time.
"""

import binascii
import os
import struct

from dockyard.linux import newer_calls, seccomp
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Seccomp

FOLDER = "/run/dockyard-filters"
# Nearly every container has the same; whoever gives each its own shall not fill the memory.
MOST = 64
_LENGTH = struct.Struct("<I")  # of what the filter is of


def compiled(profile: Seccomp) -> bytes:
    """The program of `profile`. Raises ValueError and OSError as seccomp.compile_profile does."""
    if os.geteuid() != 0:
        return seccomp.compile_profile(profile)
    text = runtime_spec.encode(profile)
    path = f"{FOLDER}/{binascii.crc32(text):08x}"
    program = _find(path, text)
    if program is None:
        program = seccomp.compile_profile(profile)
        try:
            _keep(path, _head(text, seccomp.library_path()) + program)
        except OSError:
            pass  # no /run, or a full one: the next command compiles it again
    return program


def _head(text: bytes, library: str) -> bytes:
    makers = [os.stat(path) for path in (library, seccomp.__file__, newer_calls.__file__, seccomp.RANGES)]
    times = " ".join(f"{found.st_mtime_ns} {found.st_size}" for found in makers)
    of = b"%s %s\n%s" % (os.fsencode(library), times.encode(), text)
    return _LENGTH.pack(len(of)) + of


def _find(path: str, text: bytes) -> bytes | None:
    try:
        if not _is_ours():
            return None
        with open(path, "rb", buffering=0) as file:
            kept = file.read()
        library = os.fsdecode(kept[_LENGTH.size :].split(b" ", 1)[0])
        head = _head(text, library)
    except (OSError, ValueError):
        return None
    return kept[len(head) :] if kept.startswith(head) else None


def _is_ours() -> bool:
    """Whether nobody else can write there (a link's own mode says that everybody may)."""
    folder = os.stat(FOLDER, follow_symlinks=False)
    return folder.st_uid == 0 and not folder.st_mode & 0o022


def _keep(path: str, content: bytes) -> None:
    try:
        os.mkdir(FOLDER, 0o700)
    except FileExistsError:
        if not _is_ours():
            return
        names = os.listdir(FOLDER)
        if len(names) >= MOST:
            for name in names:
                os.unlink(f"{FOLDER}/{name}")
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        whole = os.write(fd, content) == len(content)
    finally:
        os.close(fd)
    if whole:
        os.rename(temporary, path)
    else:
        os.unlink(temporary)
