"""`dockyard-runc`: the runtime as a program, with the command line that engines know from runc.

Imports next to nothing: a command is over in the time that a few library modules take to load. Each command is a module
of `runtime/commands/` with its help text, which is its grammar too, and a function `command(session, flags)`.
"""

from __future__ import annotations

import os
import sys

from dockyard.runtime.command_line.log import Log
from dockyard.runtime.command_line.usage import Flags, UsageError, parse
from dockyard.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HELP = f"""\
NAME:
   dockyard-runc - Open Container Initiative runtime

dockyard-runc runs applications packaged according to the Open Container Initiative (OCI) runtime specification. An
application is a bundle: a directory with a specification file named "config.json" and a root file system.

To start a new instance of a container:

    # dockyard-runc run [ -b bundle ] <container-id>

Where "<container-id>" is your name for the instance of the container that you are starting, unique on your host.
Providing the bundle directory using "-b" is optional. The default value for "bundle" is the current directory.

To run a command in a directory that holds a root file system, without a bundle:

    # dockyard-runc run -it --rootfs DIR --cpus 1 -m 512m COMMAND [ARG...]

USAGE:
   dockyard-runc [global options] command [command options] [arguments...]

VERSION:
   {VERSION}

COMMANDS:
   checkpoint  checkpoint a running container
   create      create a container
   delete      delete any resources held by the container often used with detached container
   events      display container events such as OOM notifications, cpu, memory, and IO usage statistics
   exec        execute new process inside the container
   features    show the enabled features
   kill        kill sends the specified signal (default: SIGTERM) to the container's init process
   list        lists containers started by dockyard-runc with the given root
   pause       pause suspends all processes inside the container
   ps          ps displays the processes running inside a container
   restore     restore a container from a previous checkpoint
   resume      resumes all processes that have been previously paused
   run         create and run a container
   spec        create a new specification file
   start       executes the user defined process in a created container
   state       output the state of a container
   update      update container resource constraints
   help, h     Shows a list of commands or help for one command

GLOBAL OPTIONS:
   --debug             enable debug logging
   --log value         set the log file to write logs to (default is '/dev/stderr')
   --log-format value  set the log format ('text' (default), or 'json') (default: "text")
   --root value        root directory for storage of container state (best in a tmpfs) (default: "/run/dockyard-runc")
   --criu value        path to the criu binary used for checkpoint and restore (default: "criu")
   --systemd-cgroup    make cgroups through systemd; cgroupsPath is then "slice:prefix:name"
   --rootless value    ignore cgroup permission errors ('true', 'false', or 'auto') (default: "auto")
   --help, -h          show help
   --version, -v       print the version
"""
COMMANDS = frozenset(
    "checkpoint create delete events exec features kill list pause ps "
    "restore resume run spec start state update".split()
)
# Those whose arguments may look like flags, of another program's.
IN_ORDER = ("exec", "ps")


class Session:
    """What the global flags say: what every command may need to know."""

    def __init__(self, flags: Flags, log: Log) -> None:
        self.log = log
        self.root = _root(flags)
        self.criu = flags.text("criu", "criu")
        self.systemd_cgroup = flags.on("systemd-cgroup")
        self.rootless = _bool_or_auto(flags.text("rootless", "auto"))
        self.flags = flags

    def without_root(self) -> bool:
        """Whether cgroups may be out of reach: the caller is not root, or root of a user namespace only."""
        if self.rootless is not None:
            return self.rootless
        if os.geteuid() != 0:
            return True
        with open("/proc/self/uid_map") as rows:
            return rows.read().split() != ["0", "0", "4294967295"]

    def own_root(self) -> bool:
        """Whether `--root` was given."""
        return self.flags.given("root")


def main() -> int:
    """Do what the command line says; returns the exit status."""
    log = Log()
    try:
        flags = parse(HELP.replace("GLOBAL ", ""), sys.argv[1:], in_order=True)
    except UsageError as error:
        print(f"Incorrect Usage. {error}\n\n{HELP}")
        log.error(str(error))
        return 1
    if flags.on("version"):
        _print_version()
        return 0
    if flags.on("help") or not flags.arguments or flags.arguments[0] in ("help", "h"):
        return _help(flags.arguments, log)
    name, *words = flags.arguments
    if name not in COMMANDS:
        print(f"No help topic for '{name}'")
        return 3
    try:
        form = flags.text("log-format", "text")
        if form not in ("text", "json", ""):
            raise ValueError(f"invalid log-format: {form}")
        log = Log(flags.text("log"), form, debug=flags.on("debug"))
        session = Session(flags, log)
    except (OSError, ValueError) as error:
        log.error(_said(error) or "")
        return 1
    return _run(session, name, words)


def _run(session: Session, name: str, words: list[str]) -> int:
    module = _module(name)
    help_text: str = module.HELP
    try:
        if hasattr(module, "grammar"):
            help_text = module.grammar(words)
        flags = parse(help_text, words, in_order=name in IN_ORDER or help_text != module.HELP)
        if flags.on("help"):
            sys.stdout.write(help_text)
            return 0
        status: int | None = module.command(session, flags)
        return status or 0
    except UsageError as error:
        if error.show_help:
            print(f"Incorrect Usage.\n\n{help_text}")
        session.log.error(str(error))
        return error.code
    except BrokenPipeError:
        sys.stdout = None  # nobody reads: nothing more to flush
        return 1
    except Exception as error:
        said = _said(error)
        if said is None:
            raise
        session.log.error(said)
        return getattr(error, "exit_code", 1) if name != "exec" else 255


def _module(name: str) -> Any:
    return __import__(f"dockyard.runtime.commands.{name}", fromlist=["command"])


def _help(arguments: list[str], log: Log) -> int:
    topic = arguments[1] if len(arguments) > 1 and arguments[0] in ("help", "h") else ""
    if not topic:
        sys.stdout.write(HELP)
        return 0
    if topic not in COMMANDS:
        print(f"No help topic for '{topic}'")
        return 3
    sys.stdout.write(_module(topic).HELP)
    return 0


def _print_version() -> None:
    from dockyard.oci.runtime_spec import VERSION as SPEC

    print(f"dockyard-runc version {VERSION}")
    print(f"commit: {VERSION}")
    print(f"spec: {SPEC}")
    print(f"python: {sys.version.split()[0]}")


def _said(error: BaseException) -> str | None:
    """An error in the words for a user; None when it is a mistake of ours, which deserves its traceback."""
    from dockyard.runtime.errors import RuntimeFailure

    if isinstance(error, RuntimeFailure):
        return error.message
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{(error.strerror or str(error)).lower()}"
    if isinstance(error, ValueError):  # msgspec's too
        return str(error)
    return None


def _root(flags: Flags) -> str:
    if flags.given("root"):
        root = os.path.abspath(flags.text("root"))
        if root == "/":
            raise ValueError("Option --root argument should not be set to /")
        return root
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if not folder or (os.geteuid() == 0 and not _in_user_namespace()):
        return "/run/dockyard-runc"
    root = folder + "/dockyard-runc"
    os.makedirs(root, 0o700, exist_ok=True)
    # the XDG base directory specification: what is to be kept for longer than 6 hours is sticky
    os.chmod(root, 0o1700)
    return root


def _in_user_namespace() -> bool:
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def _bool_or_auto(text: str) -> bool | None:
    from dockyard.runtime.command_line.usage import FALSE, TRUE

    if text.lower() in ("", "auto"):
        return None
    if text not in TRUE + FALSE:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in TRUE
