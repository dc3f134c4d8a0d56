"""Entry: options before the command, the command's module, errors and exit codes."""

from __future__ import annotations

import os
import sys

from dockyard.cli.usage import PROGRAM, Flags, UsageError, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.cli.usage import Command

# group -> module of dockyard.cli.commands -> the commands in it
COMMANDS: dict[str, dict[str, str]] = {
    "container": {
        "create": "create run",
        "attach": "attach exec start",
        "container": "kill pause port prune rename restart rm stop top unpause update wait",
        "observe": "diff inspect logs ls stats",
        "copy": "commit cp export",
    },
    "image": {
        "image": "history import inspect load ls prune rm save tag",
        "transfer": "pull push",
        "build": "build",
    },
    "volume": {"volume": "create inspect ls prune rm"},
    "network": {"network": "connect create disconnect inspect ls prune rm"},
    "system": {"system": "df events info prune"},
    "builder": {"build": "build", "system": "builder_prune"},
}
ABOUT = {
    "builder": "Manage builds",
    "container": "Manage containers",
    "image": "Manage images",
    "network": "Manage networks",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}
# a command without a group -> the group and command that it is
SHORT = {
    **{
        word: ("container", word)
        for module in COMMANDS["container"].values()
        for word in module.split()
        if word not in ("ls", "prune", "inspect")
    },
    **{word: ("image", word) for word in ("build", "history", "import", "load", "pull", "push", "save", "tag")},
    **{word: ("", word) for word in ("inspect", "login", "logout", "version")},
    "events": ("system", "events"),
    "images": ("image", "ls"),
    "info": ("system", "info"),
    "ps": ("container", "ls"),
    "rmi": ("image", "rm"),
}
SYNONYMS = {"list": "ls", "ps": "ls", "remove": "rm"}
COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "version", "info")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(rest)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.code
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    from dockyard.cli.session import Failure
    from dockyard.client.errors import APIError, ClientError

    if isinstance(error, APIError):
        print(f"Error response from daemon: {error}", file=sys.stderr)
    elif isinstance(error, (Failure, ClientError)):
        print(error, file=sys.stderr)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{(error.strerror or str(error)).lower()}", file=sys.stderr)
    elif type(error).__name__ in ("TemplateError", "ExecutionError"):
        print(f"template parsing error: {error}", file=sys.stderr)
        return 64 if type(error).__name__ == "TemplateError" else 1
    else:
        raise error
    return getattr(error, "code", 1)


def _run(rest: list[str]) -> int:
    settings = _global_options(rest)
    if settings.get("version"):
        from dockyard.version import VERSION

        print(f"Dockyard version {VERSION}")
        return 0
    if not rest or rest[0] in ("help", "--help", "-h"):
        print(help_text())
        return 0
    word = rest.pop(0)
    if word == "completion":
        from dockyard.cli.completion import script

        print(script(rest[0] if rest else ""))
        return 0
    if word == "__complete":
        from dockyard.cli.completion import candidates
        from dockyard.cli.session import Session

        print("\n".join(candidates(rest, Session({**settings, "no-autostart": "true"}))))
        return 0
    found = _find(word, rest)
    if isinstance(found, str):
        print(found)
        return 0
    from dockyard.cli.session import Session

    flags = Flags(found.usage, rest)  # type: ignore[attr-defined]  # set by @usage
    return int(found(Session(settings), flags) or 0)


def _find(word: str, rest: list[str]) -> Command | str:
    """The command's function; or the help of a group, to be printed."""
    if word in COMMANDS and (word not in SHORT or (rest and SYNONYMS.get(rest[0], rest[0]) in names(word))):
        if not rest or rest[0] in ("--help", "-h"):
            return group_help(word)
        name = rest.pop(0)
        name = SYNONYMS.get(name, name)
        if name not in names(word):
            raise UsageError(
                f"{PROGRAM}: unknown command: {PROGRAM} {word} {name}\n\nUsage:  {PROGRAM} {word} COMMAND\n\n"
                f"Run '{PROGRAM} {word} --help' for more information"
            )
        return load(word, name)
    if word not in SHORT:
        raise UsageError(f"{PROGRAM}: unknown command: {PROGRAM} {word}\n\nRun '{PROGRAM} --help' for more information")
    return load(*SHORT[word])


def names(group: str) -> list[str]:
    """The commands of a group."""
    return sorted(word.removeprefix("builder_") for words in COMMANDS[group].values() for word in words.split())


def load(group: str, name: str) -> Command:
    """A command's function, its module imported only now."""
    module, function = "system", name
    for candidate, words in COMMANDS.get(group, {}).items():
        for word in words.split():
            if word.removeprefix("builder_") == name:
                module, function = candidate, word
    function = function + "_" if function in ("import", "exec") else function
    found = __import__(f"dockyard.cli.commands.{module}", fromlist=["x"])
    command: Command = getattr(found, function)
    return command


def _global_options(rest: list[str]) -> dict[str, str]:
    """Take the options before the command off `rest`."""
    settings: dict[str, str] = {}
    with_value = {"-H": "host", "--host": "host", "--tlscacert": "ca", "--tlscert": "cert", "--tlskey": "key"}
    with_value |= {"--config": "config", "-l": "log", "--log-level": "log", "-c": "context", "--context": "context"}
    flags = {"-D": "debug", "--debug": "debug", "--tls": "tls", "--tlsverify": "tlsverify", "-v": "version"}
    flags |= {"--version": "version", "--no-autostart": "no-autostart"}
    while rest and rest[0].startswith("-") and rest[0] not in ("-h", "--help"):
        option, equals, value = rest.pop(0).partition("=")
        if option in flags:
            settings[flags[option]] = value if equals else "true"
        elif option in with_value:
            if not equals:
                if not rest:
                    raise UsageError(f"flag needs an argument: {option}", 125)
                value = rest.pop(0)
            settings[with_value[option]] = value
        else:
            name = option.lstrip("-")
            kind = "unknown flag: --" if option.startswith("--") else "unknown shorthand flag: "
            raise UsageError(
                f"{kind}{name}\n\nUsage:  {PROGRAM} [OPTIONS] COMMAND [ARG...]\n\n"
                f"Run '{PROGRAM} --help' for more information",
                125,
            )
    return settings


def group_help(group: str) -> str:
    """What `dockyard container` prints."""
    listed = "\n".join(f"  {name:<12}{summary(load(group, name))}" for name in names(group))
    return (
        f"Usage:  {PROGRAM} {group} COMMAND\n\n{ABOUT[group]}\n\nCommands:\n{listed}\n\n"
        f"Run '{PROGRAM} {group} COMMAND --help' for more information on a command."
    )


def help_text() -> str:
    """What `dockyard --help` prints."""
    common = "\n".join(f"  {word:<12}{summary(load(*SHORT[word]))}" for word in COMMON)
    groups = "\n".join(f"  {group:<12}{about}" for group, about in ABOUT.items())
    others = "\n".join(f"  {word:<12}{summary(load(*SHORT[word]))}" for word in sorted(SHORT) if word not in COMMON)
    return f"""Usage:  {PROGRAM} [OPTIONS] COMMAND

A container platform, compatible with Docker

Common Commands:
{common}

Management Commands:
{groups}

Commands:
{others}
  completion  Print a completion script for bash, zsh or fish

Global Options:
  -c, --context string     Name of the context to use
  -D, --debug              Enable debug mode
  -H, --host string        Engine to talk to (default unix:///run/dockyard/docker.sock)
      --no-autostart       Do not start an engine when none answers
      --tls                Use TLS; implied by --tlsverify
      --tlscacert string   Trust certificates signed by this CA only
      --tlscert string     TLS certificate file
      --tlskey string      TLS key file
      --tlsverify          Use TLS and verify the engine
  -v, --version            Print version information and quit

Run '{PROGRAM} COMMAND --help' for more information on a command."""


if __name__ == "__main__":
    sys.exit(main())
