"""Entry: options before the command, the command's module, errors and exit statuses."""

from __future__ import annotations

import os
import sys

from dockyard.cli.errors import HelpWanted, UsageError
from dockyard.cli.usage import PROGRAM, Flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# module of dockyard.cli.compose -> the commands in it
COMMANDS = {
    "life": "create down kill pause restart rm scale start stop unpause up wait",
    "look": "events images logs ls port ps stats top version volumes",
    "config": "config convert",
    "images": "build pull push",
    "inside": "attach commit cp exec export run",
    "plan": "diff graph viz",
    "publish": "bridge publish",
    "watch": "watch",
}
HIDDEN = ("bridge", "convert", "viz")
OPTIONS = """\
      --all-resources              Include all resources, even those not used by services
      --ansi string                When to print ANSI control characters ("never"|"always"|"auto") (default "auto")
      --compatibility              Run compose in backward compatibility mode
      --dry-run                    Execute command in dry run mode
      --env-file list              Specify an alternate environment file
  -f, --file list                  Compose configuration files
      --parallel int               Control max parallelism, -1 for unlimited (default -1)
      --profile list               Specify a profile to enable
      --progress string            Set type of progress output (auto, tty, plain, json, quiet)
      --project-directory string   Specify an alternate working directory (default: that of the first Compose file)
  -p, --project-name string        Project name"""
HIDDEN_OPTIONS = """\
      --no-ansi
      --verbose
  -v, --version
      --workdir string
      --log-level string
      --skip-hostname-check
  -H, --host list
  -c, --context string
      --config string
  -D, --debug
      --tls
      --tlscacert string
      --tlscert string
      --tlskey string
      --tlsverify
      --no-autostart"""
GRAMMAR = f"{PROGRAM} compose [OPTIONS] COMMAND [ARG...]\n\nOptions:\n{OPTIONS}\n{HIDDEN_OPTIONS}"
ABOUT = "Define and run applications of several containers"
DRY_RUN = "      --dry-run   Execute command in dry run mode"
GRACE = 0.5  # s from the end of docker to ours
PLUGIN_METADATA = "docker-cli-plugin-metadata"


def main(arguments: list[str] | None = None) -> int:
    """Run one command as a program of its own; its exit status."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    if rest[:1] == [PLUGIN_METADATA]:
        print(_metadata())
        return 0
    options: list[str] = []
    if "compose" in rest and (position := _plugin_word(rest)) is not None:
        # docker hands all of its own arguments to a plugin
        options, rest = rest[:position], rest[position + 1 :]
        if place := os.environ.get("DOCKER_CLI_PLUGIN_SOCKET"):
            _end_with_docker(place)
    return run(Flags(GRAMMAR, options) if options else None, rest)


def _end_with_docker(place: str) -> None:
    """End when docker does, which closes its socket then: as its plugin we are told nothing else."""
    import signal
    import socket
    import threading
    import time

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("\0" + place[1:] if place.startswith("@") else place)
    except OSError:
        return

    def follow() -> None:
        try:
            while connection.recv(1):
                pass
        except OSError:
            pass
        time.sleep(GRACE)  # Ctrl-C on a terminal has told us, too
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # docker's exit status is ours, which a signal's would not be
    threading.Thread(target=follow, daemon=True).start()


def _plugin_word(rest: list[str]) -> int | None:
    """Where `compose` stands when docker calls us as its plugin."""
    values = (
        "-H",
        "--host",
        "-c",
        "--context",
        "--config",
        "-l",
        "--log-level",
        "--tlscacert",
        "--tlscert",
        "--tlskey",
    )
    index = 0
    while index < len(rest) and rest[index].startswith("-"):
        index += 2 if rest[index] in values else 1
    return index if index < len(rest) and rest[index] == "compose" else None


def _metadata() -> str:
    import json

    from dockyard.version import VERSION

    return json.dumps(
        {
            "SchemaVersion": "0.1.0",
            "Vendor": "Dockyard",
            "Version": f"v{VERSION}",
            "ShortDescription": "Docker Compose",
        }
    )


def run(outer: Flags | None, rest: list[str]) -> int:
    """Run one command; `outer` are the options before `compose`. Its exit status."""
    try:
        status = _run(outer, rest)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1 if error.code == 125 else error.code
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    from dockyard.cli.errors import Failure
    from dockyard.client.errors import APIError, ClientError

    sys.stdout.flush()
    if isinstance(error, APIError):
        text = f"Error response from daemon: {error}"
    elif isinstance(error, (Failure, ClientError)):
        text = str(error)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{(error.strerror or str(error)).lower()}"
    else:
        raise error
    if text and os.environ.get("DOCKYARD_COMPOSE_PROGRESS") == "json":
        import json

        text = json.dumps({"error": True, "message": text}, separators=(",", ":"))
    if text:
        print(text, file=sys.stderr)
    return int(getattr(error, "code", 1))


def _run(outer: Flags | None, rest: list[str]) -> int:
    try:
        settings = Flags(GRAMMAR, rest)
    except HelpWanted:
        words = [word for word in rest if not word.startswith("-")]
        return _help(words[:1] if words and words[0] in names() else [])
    if settings.on("version") and not settings.arguments:
        settings.arguments = ["version"]
    if not settings.arguments or settings.arguments[0] == "help":
        return _help(settings.arguments[1:])
    name, *rest = settings.arguments
    if name == "__complete":
        return _complete(rest)
    name = {"list": "ls", "remove": "rm"}.get(name, name)
    if name not in names():
        print(main_help(), file=sys.stderr)
        raise UsageError(f'unknown docker command: "compose {name}"')
    command = load(name)
    try:
        flags = Flags(grammar(command), rest, f"compose {name}")
    except HelpWanted:
        return _help([name])
    from dockyard.cli.compose.session import ComposeSession

    session = ComposeSession(outer, settings, flags)
    status = command(session, flags)
    return int(status or 0)


def _complete(words: list[str]) -> int:
    # not above: completion needs this module's tables
    found = __import__("dockyard.cli.compose.completion", fromlist=["candidates"]).candidates(words)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 0


def grammar(command: Any) -> str:
    """A command's help text, with what all commands take."""
    text: str = command.usage
    if "--dry-run" in text:
        return text
    return f"{text}\n{DRY_RUN}" if "\nOptions:\n" in text else f"{text}\n\nOptions:\n{DRY_RUN}"


def names() -> list[str]:
    """All commands."""
    return sorted(word for words in COMMANDS.values() for word in words.split())


def shown() -> list[str]:
    """The commands that people type."""
    return [name for name in names() if name not in HIDDEN]


def load(name: str) -> Any:
    """A command's function, its module imported only now."""
    for module, words in COMMANDS.items():
        if name in words.split():
            found = __import__(f"dockyard.cli.compose.{module}", fromlist=["x"])
            return getattr(found, f"{name}_" if name == "exec" else name)
    raise KeyError(name)


def main_help() -> str:
    """What `dockyard compose --help` prints."""
    from dockyard.cli.help import flag_table
    from dockyard.cli.usage import summary

    width = max(len(name) for name in shown())
    listed = "\n".join(f"  {name:<{width}}  {summary(load(name))}" for name in shown())
    return (
        f"Usage:  {PROGRAM} compose [OPTIONS] COMMAND\n\n{ABOUT}\n\nOptions:\n{flag_table(OPTIONS)}\n\n"
        f"Commands:\n{listed}\n\nRun '{PROGRAM} compose COMMAND --help' for more information on a command."
    )


def _help(words: list[str]) -> int:
    if not words or words[0] not in names():
        print(main_help())
        return 0
    from dockyard.cli.help import command_help

    print(command_help(grammar(load(words[0])), f"compose {words[0]}", []))
    return 0


if __name__ == "__main__":
    from dockyard.ending import end

    end(main())
