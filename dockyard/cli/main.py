"""Entry: options before the command, the command's module, errors and exit codes."""

from __future__ import annotations

import os
import sys

from dockyard.cli.command_table import ABOUT, ABSENT, GLOBAL, SHORT, SYNONYMS, WHOLE, aliases, load, names
from dockyard.cli.errors import Failure, HelpWanted, UsageError
from dockyard.cli.usage import PROGRAM, Flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_LEVELS = ("debug", "info", "warn", "warning", "error", "fatal", "panic", "trace")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_streams()
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
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


def _open_streams() -> None:
    """Have somewhere to write to where a stream was closed: else the engine's socket would be it."""
    for number, name, how in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_RDWR)
            if place != number:
                os.dup2(place, number)
                os.close(place)
            setattr(sys, name, open(number, how, closefd=False))  # noqa: SIM115  (as long as we live)


def _report(error: Exception) -> int:
    from dockyard.client.errors import APIError, ClientError

    sys.stdout.flush()
    if isinstance(error, APIError):
        own = error.message.startswith("invalid reference format")  # docker's client finds this out by itself
        print(error if own else f"Error response from daemon: {error}", file=sys.stderr)
    elif isinstance(error, (Failure, ClientError)):
        if str(error):
            print(error, file=sys.stderr)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{(error.strerror or str(error)).lower()}", file=sys.stderr)
    else:
        raise error
    return getattr(error, "code", 1)


def _run(rest: list[str]) -> int:
    given = list(rest)
    try:
        settings = Flags(GLOBAL, rest)
    except HelpWanted as wanted:
        plain = Flags(GLOBAL, [word for word in rest if word not in ("--help", "-h")])
        return _help(plain.arguments, str(wanted))
    if settings.given("log-level") and settings.text("log-level").lower() not in _LEVELS:
        raise UsageError(f"Unable to parse logging level: {settings.text('log-level')}")
    if not settings.arguments:
        return _version() if settings.on("version") else _help([], to=sys.stderr)
    word, *rest = settings.arguments
    if word == "help":
        return _help(rest)
    if word == "__complete":
        from dockyard.cli.completion import candidates

        sys.stdout.writelines(f"{line}\n" for line in candidates(rest))
        return 0
    if word in WHOLE:
        return _compose(settings, rest)
    if word not in ABOUT and word not in SHORT:
        _become_plugin(settings, word, given)
        if word == "buildx" and rest[:1] in (["build"], ["bake"]):
            word, *rest = rest  # without the plugin it is ours
    words = word
    if word in ABOUT:
        name = SYNONYMS.get(rest[0], rest[0]) if rest and not rest[0].startswith("-") else ""
        if not name or (name not in names(word) and ("--help" in rest or "-h" in rest)):
            return _help_of_group(word, rest)
        if name not in names(word):
            if (word, name) != ("container", "ps"):
                raise UsageError(
                    f"{PROGRAM}: unknown command: {PROGRAM} {word} {name}\n\n"
                    f"Usage:  {PROGRAM} {word}{' COMMAND' if word == 'volume' else ''}\n\n"
                    f"Run '{PROGRAM} {word} --help' for more information"
                )
            name = "ls"
        words = f"{word} {rest.pop(0)}"
        group = word
    elif word in SHORT:
        group, name = SHORT[word]
    elif word in ABSENT:
        raise UsageError(f"{PROGRAM}: '{PROGRAM} {word}' is not here{ABSENT[word]}")
    elif "--help" in rest or "-h" in rest:
        return _help([])
    else:
        raise UsageError(f"{PROGRAM}: unknown command: {PROGRAM} {word}\n\nRun '{PROGRAM} --help' for more information")
    return _command(settings, group, name, words, rest)


def _compose(settings: Flags | None, rest: list[str]) -> int:
    from dockyard.cli.compose.main import run

    return run(settings, rest)


def _become_plugin(settings: Flags, word: str, given: list[str]) -> None:
    """Go on as the plugin `word`, with all that we were given; returns when there is none."""
    from dockyard.cli import plugins
    from dockyard.cli.session import Session

    session = Session(settings)
    path = plugins.find(session, word)
    if path is not None:
        plugins.become(session, path, given)


def _command(settings: Flags, group: str, name: str, words: str, rest: list[str]) -> int:
    found = load(group, name)
    try:
        flags = Flags(found.usage, rest, words)  # type: ignore[attr-defined]  # set by @usage
    except HelpWanted as wanted:
        if str(wanted) == "-h":
            print("Flag shorthand -h has been deprecated, use --help", file=sys.stderr)
        return _help_of_command(group, name, words)
    from dockyard.cli.session import Session

    session = Session(settings)
    status = int(found(session, flags) or 0)
    if sys.stdout.isatty() and session.config.get("plugins"):  # without hooks they are not even imported
        from dockyard.cli import plugins

        plugins.after(session, words, flags.values(), flags.arguments)
    return status


def _version() -> int:
    from dockyard.version import VERSION

    print(f"Dockyard version {VERSION}")
    return 0


def _help(words: list[str], asked: str = "", to: TextIO | None = None) -> int:
    """`--help` before a command, `help COMMAND`, and nothing at all."""
    from dockyard.cli.help import main_help

    if asked == "-h":
        print("Flag shorthand -h has been deprecated, use --help", file=sys.stderr)
    if not words:
        from dockyard.cli.plugins import installed
        from dockyard.cli.session import Session

        others = [one for one in installed(Session(Flags(GLOBAL, []))) if one.name not in WHOLE]
        usable = [(one.name, one.about) for one in others if not one.problem]
        print(main_help(usable), file=to)
        return 0
    word = words[0]
    if word in WHOLE:
        return _compose(None, ["help", *words[1:]])
    if word in ABOUT:
        name = SYNONYMS.get(words[1], words[1]) if len(words) > 1 else ""
        if name in names(word):
            return _help_of_command(word, name, f"{word} {name}")
        return _help_of_group(word, ["--help"])
    if word not in SHORT:
        print(f"unknown help topic: {' '.join(words)}", file=sys.stderr)
        return 1
    return _help_of_command(*SHORT[word], word)


def _help_of_group(group: str, rest: list[str]) -> int:
    """Asked for, it goes to stdout; for want of a command, to stderr."""
    from dockyard.cli.help import group_help

    if "--help" in rest or "-h" in rest:
        print(group_help(group))
        return 0
    if rest:
        Flags(f"{PROGRAM} {group}", rest, group)  # raises what is wrong with it
    print(group_help(group), file=sys.stderr)
    return 0


def _help_of_command(group: str, name: str, words: str) -> int:
    from dockyard.cli.help import command_help

    print(command_help(load(group, name).usage, words, aliases(group, name)))  # type: ignore[attr-defined]  # by @usage
    return 0


if __name__ == "__main__":
    from dockyard.ending import end

    end(main())
