"""The last steps before a container's program runs: terminal, limits, user, capabilities, filter, execve.

The same for PID 1 (init.py) and for a process that joins later (execute.py). The order matters: what needs privileges
comes before they are dropped, and nothing of ours is left open when the program starts.
"""

import fcntl
import os
import resource
import signal
import stat
import struct
import termios
from collections.abc import Sequence

from dockyard.linux import capabilities, syscalls
from dockyard.oci.runtime_spec import Process
from dockyard.runtime.errors import RuntimeFailure

RLIM_INFINITY = (1 << 64) - 1
# ioctl_tty(2); the standard library has no names for them
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def open_terminal(process: Process) -> tuple[int, int]:
    """A new pseudo terminal of the /dev/pts that is mounted here: (master, slave), in the size the spec asks for."""
    # By the ptmx of devpts itself: /dev/ptmx of the image may be anything (runc CVE-2025-52565).
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        # opens the other end without looking at a path
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    if process.console_size is not None and process.console_size.height:
        set_size(master, process.console_size.height, process.console_size.width)
    os.fchown(slave, process.user.uid, process.user.gid)
    return master, slave


def set_size(terminal: int, height: int, width: int) -> None:
    """TIOCSWINSZ; in characters."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def take_terminal(slave: int) -> None:
    """Make `slave` the controlling terminal of the caller's new session, and its stdio."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)


def set_rlimits(process: Process) -> None:
    """setrlimit(2) for each of the spec's limits. Raises RuntimeFailure for an unknown one."""
    for limit in process.rlimits:
        number = getattr(resource, limit.type, None)
        if number is None:
            raise RuntimeFailure(f"invalid rlimit type: {limit.type}")
        try:
            resource.setrlimit(number, (_bound(limit.soft), _bound(limit.hard)))
        except (OSError, ValueError) as error:
            raise RuntimeFailure(f"error setting rlimit type {limit.type}: {error}") from error


def _bound(value: int) -> int:
    return resource.RLIM_INFINITY if value >= RLIM_INFINITY else value


def set_oom_score(process: Process) -> None:
    """How eagerly the kernel kills it for memory; needs the caller's privileges and a /proc."""
    if process.oom_score_adj is not None:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(process.oom_score_adj).encode())
        finally:
            os.close(fd)


def become(process: Process, seccomp: bytes | None, last_capability: int, *, setgroups: bool = True) -> None:
    """Turn the caller into the spec's user with its capabilities and system call filter. There is no way back."""
    user = process.user
    wanted = process.capabilities
    # a capability that the kernel lacks can't be given
    possible = (1 << (last_capability + 1)) - 1
    sets = capabilities.CapabilitySets()
    if wanted is not None:
        sets = capabilities.CapabilitySets(
            bounding=capabilities.bits(wanted.bounding) & possible,
            effective=capabilities.bits(wanted.effective) & possible,
            permitted=capabilities.bits(wanted.permitted) & possible,
            inheritable=capabilities.bits(wanted.inheritable) & possible,
            ambient=capabilities.bits(wanted.ambient) & possible,
        )
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    elif seccomp is not None:
        # without no_new_privs loading a filter takes CAP_SYS_ADMIN, which goes below
        syscalls.seccomp_load(seccomp)
    if wanted is not None:
        capabilities.drop_bounding(sets.bounding, last_capability)
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    if setgroups:
        os.setgroups(user.additional_gids)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if wanted is not None:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
        capabilities.apply(sets)
    if process.no_new_privileges and seccomp is not None:
        syscalls.seccomp_load(seccomp)
    os.umask(0o022 if user.umask is None else user.umask)


def enter_directory(process: Process) -> None:
    """chdir to the process's cwd, and make sure it is inside the container (runc CVE-2024-21626)."""
    try:
        os.chdir(process.cwd)
        inside = os.getcwd()
    except OSError as error:
        failure = f'chdir to cwd ("{process.cwd}") set in config.json failed: {_lower(error)}'
        raise RuntimeFailure(failure, 126) from error
    # getcwd(2) of a directory outside the root begins with "(unreachable)"
    if not inside.startswith("/"):
        raise RuntimeFailure("current working directory is outside of container mount namespace root")


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
        raise RuntimeFailure(f'exec: "{name}": stat {path}: {_lower(error)}', 127) from None
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
    """execve(2); returns never, raises RuntimeFailure."""
    try:
        os.execve(program, process.args, environment)
    except FileNotFoundError as error:
        # the file is there (find_program saw it): its interpreter is not
        raise RuntimeFailure(f"exec {program}: {_lower(error)}", 127) from error
    except OSError as error:
        raise RuntimeFailure(f"exec {program}: {_lower(error)}", 126) from error
    except ValueError as error:
        raise RuntimeFailure(f"exec {program}: invalid argument: {error}", 126) from error


def environment_of(process: Process) -> dict[str, str]:
    """The spec's KEY=value list as a dict; of a key given twice the last counts."""
    return dict(entry.partition("=")[::2] for entry in process.env if "=" in entry and not entry.startswith("="))


def _lower(error: OSError) -> str:
    """The kernel's words as other runtimes print them."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
