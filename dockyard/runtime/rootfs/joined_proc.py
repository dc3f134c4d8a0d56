"""A procfs of a PID namespace that the caller is not in.

A procfs shows the PID namespace of whoever mounts it. To send somebody in for that would show those in there a process
of ours with all that it is and has (last_fork.py). Since Linux 6.17 a procfs can be told its namespace (`pidns`);
before that the one is copied that the namespace's first process has mounted.
"""

import contextlib
import errno
import os
import socket
import sys

from dockyard.linux import descriptors, imports, procfs, syscalls
from dockyard.oci.runtime_spec import Mount
from dockyard.runtime import channel
from dockyard.runtime.rootfs import file_systems
from dockyard.runtime.rootfs.mount_options import Options


def mount(pids: int, wanted: Mount, options: Options) -> int:
    """The mount `wanted`, of the PID namespace behind the descriptor `pids`: a detached one. Raises RuntimeFailure."""
    try:
        try:
            return file_systems.new_file_system(wanted, options, options.data, {"pidns": pids})
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return _copy(pids, options)
    except OSError as error:
        raise file_systems.failure(wanted, (error.strerror or "").lower()) from error


def _copy(pids: int, options: Options) -> int:
    """A copy of the one at /proc of the namespace's first process. Raises OSError."""
    first = _first_process(os.fstat(pids))
    made = _opened_by(first)
    try:
        if (
            syscalls.file_system_type(made) != procfs.MAGIC
            or os.fstat(made).st_ino != procfs.ROOT_INODE
            or not os.path.samestat(os.stat("1/ns/pid", dir_fd=made), os.fstat(pids))
        ):
            raise OSError(errno.EINVAL, f"/proc of process {first}, whose PID namespace is joined, is not its procfs")
        set_, clear = options.attributes()
        syscalls.mount_setattr(
            made,
            "",
            syscalls.AT_EMPTY_PATH,
            set_=set_,
            clear=clear | (syscalls.MOUNT_ATTR_RDONLY & ~set_),
            propagation=syscalls.MS_PRIVATE,
        )
    except BaseException:
        os.close(made)
        raise
    return made


def _first_process(namespace: os.stat_result) -> int:
    """Its number here. Raises OSError."""
    for pid in procfs.in_pid_namespace(namespace):
        with contextlib.suppress(OSError):  # it has ended
            if procfs.status_of(pid, "NSpid").split()[-1] == "1":
                return pid
    raise OSError(errno.ESRCH, "the joined PID namespace has no process")


def _opened_by(pid: int) -> int:
    """A detached copy of what the process has at /proc, made by one in its mount namespace. Raises OSError."""
    ours, theirs = channel.pair()
    pidfd = os.pidfd_open(pid)
    helper = os.fork()
    if helper == 0:
        failed = errno.EIO
        imports.import_nothing_more()
        try:
            syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
            root = os.open("/", os.O_PATH | os.O_DIRECTORY)
            place = syscalls.openat2(
                root, "proc", os.O_PATH, resolve=syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
            )
            kind = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
            clone = syscalls.open_tree(place, "", kind).to_bytes(channel.INT, sys.byteorder)
            # not socket.send_fds, which imports
            theirs.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, clone)])
            failed = 0
        except OSError as error:
            failed = error.errno or failed
        finally:
            os._exit(failed)
    os.close(pidfd)
    with ours:
        theirs.close()
        data, passed = descriptors.receive(ours, 1, 1)
    failed = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if not data:
        raise OSError(failed, os.strerror(failed))
    return passed[0]
