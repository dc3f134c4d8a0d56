"""The last steps before a container's program runs: terminal, limits, user, capabilities, filter, execve.

The same for PID 1 (init.py) and for a process that joins later. The order matters: what needs privileges
comes before they are dropped, and nothing of ours is left open when the program starts.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import signal
import stat
import struct
import termios
from collections.abc import Sequence

from dockyard.linux import capabilities, syscalls
from dockyard.oci.runtime_spec import Process
from dockyard.runtime.errors import RuntimeFailure, doing, reason

# ioctl_tty(2); the standard library has no names for them
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
OPEN_TERMINAL = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
PTMX = os.makedev(5, 2)
DEVPTS_MAGIC = 0x1CD1
# The exit status of a process whose execve the kernel refuses, as with runc.
NOT_EXECUTED = 255


def open_terminal(process: Process, multiplexer: int) -> tuple[int, int]:
    """A new pseudo terminal: (master, slave), in the size the spec asks for.

    `multiplexer` is a descriptor of what should be the /dev/pts/ptmx that is mounted in the container, and becomes the
    master; in the tree of an image, and even more of a running container, it may be anything (runc CVE-2025-52565).
    Raises RuntimeFailure.
    """
    if os.fstat(multiplexer).st_rdev != PTMX or syscalls.file_system_type(multiplexer) != DEVPTS_MAGIC:
        os.close(multiplexer)
        raise RuntimeFailure("cannot allocate a terminal: the container's /dev/pts/ptmx is not one of a devpts")
    slave = -1
    try:
        os.set_blocking(multiplexer, True)  # it was opened with care, but who gets it does not expect that
        fcntl.ioctl(multiplexer, TIOCSPTLCK, struct.pack("i", 0))
        # opens the other end without looking at a path
        slave = fcntl.ioctl(multiplexer, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if process.console_size is not None and process.console_size.height:
            set_size(multiplexer, process.console_size.height, process.console_size.width)
        with contextlib.suppress(PermissionError):  # a user whom the user namespace can't name
            os.fchown(slave, process.user.uid, -1)
    except BaseException:
        os.close(multiplexer)
        if slave >= 0:
            os.close(slave)
        raise
    return multiplexer, slave


def set_size(terminal: int, height: int, width: int) -> None:
    """TIOCSWINSZ; in characters."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def take_terminal(slave: int) -> None:
    """Make the terminal `slave` the caller's stdio."""
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)


def control_terminal() -> None:
    """Make the terminal that is our stdin the controlling one of the session that we lead."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def set_oom_score(process: Process) -> None:
    """How eagerly the kernel kills it for memory; needs the caller's privileges and a /proc."""
    if process.oom_score_adj is not None:
        path = "/proc/self/oom_score_adj"
        with doing(f"failed to update {path}"):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(process.oom_score_adj).encode())
            finally:
                os.close(fd)


def become(process: Process, last_capability: int, *, setgroups: bool, filters: bool) -> "capabilities.Sets | None":
    """Turn the caller into the spec's user with its capabilities. There is no way back.

    A filter that is yet to be loaded (`filters`) takes CAP_SYS_ADMIN where no_new_privs is not set; then that is still
    held, and the sets to be applied after loading are returned. Raises RuntimeFailure.
    """
    user = process.user
    wanted = process.capabilities
    later = filters and not process.no_new_privileges
    sets = _sets(process, last_capability) if wanted is not None else None
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if sets is not None:
        with doing("unable to apply bounding set"):
            capabilities.drop_bounding(sets.bounding, last_capability)
    if sets is not None or later:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    try:
        if setgroups:
            os.setgroups(user.additional_gids)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        why = "an id is not mapped in the user namespace" if error.errno == errno.EINVAL else reason(error)
        raise RuntimeFailure(f"unable to setup user {user.uid}:{user.gid}: {why}") from error
    if sets is not None or later:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    if sets is None:
        if not later:
            return None
        # what the kernel does at a change from root to another user: all are lost
        everything = 0 if user.uid else (1 << last_capability + 1) - 1
        sets = capabilities.Sets(everything, everything, everything)
    if later:
        loading = 1 << capabilities.NUMBERS["CAP_SYS_ADMIN"]
        capabilities.apply(dataclasses.replace(sets, effective=loading, permitted=sets.permitted | loading, ambient=0))
        return sets
    with doing("unable to apply caps"):
        capabilities.apply(sets)
    return None


def _sets(process: Process, last_capability: int) -> capabilities.Sets:
    """The spec's five sets, without what this kernel does not have or does not let us have."""
    wanted = process.capabilities
    assert wanted is not None
    bounding, permitted = capabilities.bits(wanted.bounding), capabilities.bits(wanted.permitted)
    effective, inheritable = capabilities.bits(wanted.effective), capabilities.bits(wanted.inheritable)
    known = (1 << last_capability + 1) - 1
    possible = known & capabilities.permitted_now()
    return capabilities.Sets(
        bounding=bounding & known,
        effective=effective & permitted & possible,
        permitted=permitted & possible,
        inheritable=inheritable & possible,
        ambient=capabilities.bits(wanted.ambient) & possible,
    )


def enter_directory(process: Process) -> None:
    """chdir to the process's cwd, and make sure it is inside the container (runc CVE-2024-21626)."""
    try:
        os.chdir(process.cwd)
    except OSError as error:
        failure = f'chdir to cwd ("{process.cwd}") set in config.json failed: {reason(error)}'
        raise RuntimeFailure(failure, 126 if error.errno in (errno.EACCES, errno.EPERM) else 127) from error
    # getcwd(2) of a directory outside the root begins with "(unreachable)", of which the C library makes ENOENT
    try:
        inside = os.getcwd()
    except FileNotFoundError:
        inside = ""
    except OSError as error:
        raise RuntimeFailure(f"failed to verify if current working directory is safe: {reason(error)}") from error
    if not inside.startswith("/"):
        os.chdir("/")
        raise RuntimeFailure(
            "current working directory is outside of container mount namespace root "
            "-- possible container breakout detected"
        )


def find_program(args: Sequence[str], environment: dict[str, str]) -> str:
    """The file that args[0] means, looked up in the container's PATH. Raises RuntimeFailure in exec's words."""
    name = args[0]
    if "/" in name:
        _check_program(name, name)
        return name
    denied: RuntimeFailure | None = None
    for folder in environment.get("PATH", "").split(":"):
        path = f"{folder or '.'}/{name}"
        try:
            _check_program(path, name)
            return path
        except RuntimeFailure as failure:
            if failure.exit_code == 126 and denied is None and not os.path.isdir(path):
                denied = failure
    raise denied or RuntimeFailure(f'exec: "{name}": executable file not found in $PATH', 127)


def _check_program(path: str, name: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise RuntimeFailure(f'exec: "{name}": permission denied', 126) from None
    except OSError as error:
        raise RuntimeFailure(f'exec: "{name}": stat {path}: {reason(error)}', 127) from None
    if stat.S_ISDIR(mode):
        raise RuntimeFailure(f'exec: "{name}": is a directory', 126)
    if not os.access(path, os.X_OK, effective_ids=True):
        raise RuntimeFailure(f'exec: "{name}": permission denied', 126)


def reset_signals() -> None:
    """Every signal as a fresh program expects it: what is ignored or blocked would stay so across execve.

    The interpreter ignores SIGPIPE, for one, and a `yes | head` in the container would then never end.
    """
    syscalls.default_signal_actions()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def execute(process: Process, program: str, environment: dict[str, str]) -> None:
    """execve(2); returns never, raises RuntimeFailure for what cannot even be asked of the kernel.

    What the kernel refuses (no interpreter, a foreign architecture, too many arguments) is the program's end, not a
    failure of the start: it stands in the container's log, and a restart policy heeds it. (runc: StartInitialization)
    """
    try:
        os.execve(program, process.args, environment)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(2, f"exec {program}: {reason(error)}\n".encode(errors="surrogateescape"))
        os._exit(NOT_EXECUTED)
    except ValueError as error:
        raise RuntimeFailure(f"exec {program}: invalid argument: {error}", 126) from error


def environment_of(process: Process) -> dict[str, str]:
    """The spec's KEY=value list as a dict; of a key given twice the last counts."""
    return dict(entry.partition("=")[::2] for entry in process.env if "=" in entry and not entry.startswith("="))
