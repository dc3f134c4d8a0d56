"""kill: send a signal to a container's first process."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc kill - kill sends the specified signal (default: SIGTERM) to the container's init process

USAGE:
   dockyard-runc kill [command options] <container-id> [signal]

Where "<container-id>" is the name of the container and "[signal]" a signal's name or number.

OPTIONS:
   --all, -a  send the signal to every process of the container, and succeed when it has ended
"""


def command(session: Session, flags: Flags) -> None:
    """Send it."""
    check_arguments("kill", flags.arguments, 1)
    check_arguments("kill", flags.arguments, 0, 2)
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    container = ContainerHandle.load(session.root, flags.arguments[0])
    signo = signal_number(flags.arguments[1] if len(flags.arguments) > 1 else "SIGTERM")
    container.kill(signo, all=flags.on("all"))


def signal_number(text: str) -> int:
    """TERM, SIGTERM, sigterm or 15. Raises ValueError."""
    import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations first, which takes 2 ms

    if text.lstrip("-").isdigit():
        return int(text)
    name = text.upper()
    name = name if name.startswith("SIG") else "SIG" + name
    number = getattr(_signal, name, None)
    if not isinstance(number, int) or name.startswith("SIG_"):
        raise ValueError(f'unknown signal "{text}"')
    return number
