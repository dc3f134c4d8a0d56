"""The process that touches archives: started once, it forks a child per job, and the child makes the tree its root.

Nothing else runs in the child, it has just the capabilities that files need, and what it is given are descriptors: the
archive's stream, the record, and a pipe for the one JSON line that it answers with. The daemon's side is unpack.py.
"""

import array
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Literal

import msgspec

from dockyard.content import packing
from dockyard.content.extraction import CHUNK, Extractor, Options, Record, Stream
from dockyard.errors import DockyardError, InvalidParameter, words
from dockyard.linux import capabilities, imports, syscalls, userns
from dockyard.oci.runtime_spec import IDMapping

# What making files of any owner, kind and attribute takes; trusted.* attributes are SYS_ADMIN's.
KEPT = ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "SYS_ADMIN")


class Job(msgspec.Struct, omit_defaults=True):
    """What to do. `root` becomes the root directory, `inside` is the place in it.

    `ids` are the host's (uid, gid, how many) that stand for the tree's own 0 and on: the work is then done in a user
    namespace, so that owners in the archive are the tree's own.

    Descriptors that come along: the answer's pipe, the archive's stream (read or written) and, with `record`, the
    record.
    """

    action: Literal["unpack", "pack_tree", "pack_record"]
    root: str
    inside: str = "/"
    name: str = ""
    whiteouts: str = "none"
    record: bool = False
    owner: tuple[int, int] | None = None
    keep_directories: bool = False
    ids: tuple[int, int, int] | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """How it went; `failure` is empty or says what went wrong, `invalid` whether the archive is to blame."""

    digest: str = ""
    size: int = 0
    failure: str = ""
    invalid: bool = False


# What it says when it is there.
READY = b"ready"
# malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (as high as it goes) and M_ARENA_MAX
MALLOPT = {-1: 256 << 20, -3: 32 << 20, -8: 1}
SERVE = "dockyard.content.worker:serve"  # for whoever forks it


def main() -> None:
    """Serve jobs at descriptor 0."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = os.dup(0)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    serve(connection)


def serve(connection: int) -> None:
    """Serve jobs from a socket until its other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children answer through their pipe, nobody waits for them
    _keep_freed_memory()
    jobs = socket.socket(fileno=connection)
    syscalls.set_process_name("dockyard-tar")
    jobs.send(READY)
    while True:
        try:
            data, rights, _, _ = jobs.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # closed before it was heard that we are there
            return
        if not data:
            return
        fds = array.array("i")
        for _, _, payload in rights:
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
        if os.fork() == 0:
            jobs.close()
            _child(data, list(fds))
        for fd in fds:
            os.close(fd)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: pieces of a megabyte come and go, and fresh pages cost more than copying there."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for option, value in MALLOPT.items():
            mallopt(option, value)


def _child(data: bytes, fds: list[int]) -> None:
    answer_fd = fds[0]
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        answer = _work(msgspec.json.decode(data, type=Job), fds)
    except DockyardError as error:
        answer = Answer(failure=error.message, invalid=isinstance(error, InvalidParameter))
    except BrokenPipeError:
        answer = Answer(failure="the reader went away")
    except OSError as error:
        answer = Answer(failure=words(error))
    except BaseException as error:
        answer = Answer(failure=repr(error))
    try:
        os.write(answer_fd, msgspec.json.encode(answer))
    finally:
        os._exit(0)


def _work(job: Job, fds: list[int]) -> Answer:
    _, stream_fd, *others = fds
    # What is needed is imported before the root changes.
    # Who keeps no record of a stream, to make it again, has no use for its digest.
    stream = Stream.open(stream_fd, hashed=job.record) if job.action == "unpack" else None
    namespace = -1 if job.ids is None else _user_namespace(*job.ids)
    imports.import_nothing_more()
    os.chroot(job.root)
    os.chdir("/")
    os.umask(0)
    if namespace >= 0:
        syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    _drop_privileges()
    if job.action == "unpack":
        assert stream is not None
        options = Options(job.whiteouts, job.owner, job.keep_directories)
        base = _inside(job.inside)
        extractor = Extractor(stream, options, Record(others[0]) if job.record else None, base)
        digest = extractor.run()
        return Answer(digest, extractor.size)
    write = _writer(stream_fd)
    if job.action == "pack_record":
        packing.pack_record(write, others[0])
    else:
        packing.pack_tree(write, job.inside, job.name, whiteouts=job.whiteouts != "none")
    write(b"")
    return Answer()


def _user_namespace(uid: int, gid: int, size: int) -> int:
    uids = [IDMapping(container_id=0, host_id=uid, size=size)]
    gids = [IDMapping(container_id=0, host_id=gid, size=size)]
    return userns.open_namespace(uids, gids)


def _inside(path: str) -> str:
    """The directory meant, with symlinks followed, which here can't lead out of the root."""
    found = os.path.realpath(path)
    if not os.path.isdir(found):
        raise InvalidParameter(f"extraction point is not a directory: {path}")
    return found


def _drop_privileges() -> None:
    kept = capabilities.bits(tuple(f"CAP_{name}" for name in KEPT))
    syscalls.capset(kept, kept, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _writer(fd: int) -> Callable[[bytes], None]:
    """Gathers small pieces; an empty one flushes."""
    pending: list[bytes] = []
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        pending.append(data)
        size += len(data)
        if size < CHUNK and data:
            return
        view = memoryview(b"".join(pending))
        pending.clear()
        size = 0
        while view:
            view = view[os.write(fd, view) :]

    return write


if __name__ == "__main__":
    main()
    sys.exit(0)
