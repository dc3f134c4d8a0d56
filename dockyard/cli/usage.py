"""A command's help text is its grammar: what `--help` prints is also what its flags are parsed by.

    @usage('''
    dockyard kill [OPTIONS] CONTAINER [CONTAINER...]

    Send a signal to containers

    Options:
      -s, --signal string   Signal to send
    ''')
    def kill(session: Session, flags: Flags) -> int: ...

A flag followed by a word takes a value, one followed by `list` or `map` may be repeated, `strings` is split at commas
too, and one followed by nothing is a switch. Flags below `Hidden:` are understood but not shown. The usage line says
how many arguments there must be; with [ARG...] at its end, what follows the first argument is not looked at for flags.
"""

from __future__ import annotations

from dockyard.cli.errors import HelpWanted, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Command = TypeVar("Command", bound=Callable[..., int | None])

PROGRAM = "dockyard"
_REPEATED = ("list", "map", "filter", "mount", "ulimit", "network", "strings", "stringArray", "stringToString")


def usage(text: str) -> Callable[[Command], Command]:
    """Give a command its help text."""

    def attach(function: Command) -> Command:
        function.usage = text.strip("\n")  # type: ignore[attr-defined]  # a function's own attribute
        return function

    return attach


def summary(command: Any) -> str:
    """What a command does, in one line."""
    lines: list[str] = command.usage.partition("\n\n")[2].split("\n")
    return lines[0].rstrip(".")


def line_of(text: str, words: str) -> str:
    """A help text's first line, of the command as it was called: `words` may be "container ls"."""
    first = text.partition("\n")[0].split(" ")
    index = 1
    while index < len(first) and first[index].islower() and first[index].replace("-", "").isalpha():
        index += 1
    return " ".join([PROGRAM, *words.split(), *first[index:]])


def flag_rows(text: str) -> list[tuple[list[str], str]]:
    """Each flag of a help text: its names, without dashes, and the type of its value or ""."""
    rows = []
    for line in text.split("\n"):
        if line.startswith(("  -", "      --")):
            words = line.strip().partition("  ")[0].split()
            names = [word.rstrip(",").lstrip("-") for word in words if word.startswith("-")]
            rows.append((names, words[-1] if not words[-1].startswith("-") else ""))
    return rows


def places(line: str) -> list[str]:
    """The arguments of a usage line; what is in brackets is one, `PATH | URL` too."""
    found: list[str] = []
    for word in line.replace(" | ", "|").split():
        if found and found[-1].count("[") > found[-1].count("]"):
            found[-1] += " " + word
        else:
            found.append(word)
    return found


class Flags:
    """The flags and arguments of one command, parsed by its help text."""

    def __init__(self, text: str, rest: list[str], words: str = "") -> None:
        """`words`: the command as it was called, "container ls". Raises UsageError, HelpWanted."""
        self._line = line_of(text, words) if words else text.partition("\n")[0]
        self.command = f"{PROGRAM} {words}" if words else PROGRAM
        self._kinds: dict[str, tuple[str, str]] = {}
        for names, kind in flag_rows(text):
            for name in names:
                self._kinds[name] = (kind, names[-1])
        self._values: dict[str, list[str]] = {}
        self.arguments: list[str] = []
        self._parse(list(rest))
        if words:
            self._count()

    @property
    def verb(self) -> str:
        """The command's last word: "run" of `dockyard container run`."""
        return self.command.rpartition(" ")[2]

    def _parse(self, rest: list[str]) -> None:
        stop = self._line.endswith(("[ARG...]", "[ps OPTIONS]"))
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.arguments += rest
                return
            if word == "--help" or (word == "-h" and "h" not in self._kinds):
                raise HelpWanted("-h" if word == "-h" else "")
            if not word.startswith("-") or word == "-":
                self.arguments.append(word)
                if stop:
                    self.arguments += rest
                    return
            elif word.startswith("--"):
                self._take_long(word, rest)
            else:
                self._take_letters(word, rest)

    def _take_long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise self._wrong(f"bad flag syntax: {word}")
        if name not in self._kinds or len(name) == 1:
            raise self._wrong(f"unknown flag: --{name}")
        kind, full = self._kinds[name]
        if kind:
            self._set(kind, full, value if equals else self._following(word, rest))
        else:
            self._set_switch(full, value if equals else "true")

    def _take_letters(self, word: str, rest: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in self._kinds:
                if letter == "h":
                    raise HelpWanted("-h")
                raise self._wrong(f"unknown shorthand flag: '{letter}' in -{letter}{letters}")
            kind, full = self._kinds[letter]
            if kind:
                value = letters.removeprefix("=") if letters else self._following(f"'{letter}' in -{letter}", rest)
                self._set(kind, full, value)
                return
            if letters.startswith("="):
                self._set_switch(full, letters[1:])
                return
            self._set_switch(full, "true")

    def _set(self, kind: str, name: str, value: str) -> None:
        if kind in ("int", "uint16", "uint"):
            self._check_number(kind, name, value)
        if kind == "strings":
            self._values.setdefault(name, []).extend(value.split(","))
        elif kind in _REPEATED:
            self._values.setdefault(name, []).append(value)
        else:
            self._values[name] = [value]

    def _check_number(self, kind: str, name: str, value: str) -> None:
        parse = "ParseInt" if kind == "int" else "ParseUint"
        most = {"int": 1 << 63, "uint": 1 << 64, "uint16": 1 << 16}[kind]
        try:
            number = int(value, 0)
            if value != value.strip() or (kind != "int" and value[0] in "+-"):
                raise ValueError(value)
        except ValueError:
            raise self.invalid(name, value, f'strconv.{parse}: parsing "{value}": invalid syntax') from None
        if not -most <= number < most:
            raise self.invalid(name, value, f'strconv.{parse}: parsing "{value}": value out of range')

    def _set_switch(self, name: str, value: str) -> None:
        if value not in ("true", "false", "t", "f", "1", "0", "TRUE", "FALSE", "True", "False", "T", "F"):
            raise self.invalid(name, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')
        self._values[name] = [value.lower()]

    def _following(self, flag: str, rest: list[str]) -> str:
        if not rest:
            raise self._wrong(f"flag needs an argument: {flag}")
        return rest.pop(0)

    def _wrong(self, message: str) -> UsageError:
        return UsageError(f"{message}\n\nUsage:  {self._line}\n\nRun '{self.command} --help' for more information", 125)

    def invalid(self, name: str, value: str, why: str) -> UsageError:
        """The error for a flag's value."""
        letters = [word for word, (_, full) in self._kinds.items() if full == name and len(word) == 1]
        shown = f"-{letters[0]}, --{name}" if letters else f"--{name}"
        return self._wrong(f'invalid argument "{value}" for "{shown}" flag: {why}')

    def _count(self) -> None:
        named = places(self._line.removeprefix(self.command).replace("[OPTIONS]", ""))
        required = [word for word in named if not word.startswith("[")]
        most = len(named) if "..." not in self._line and "ps OPTIONS" not in self._line else None
        count, least = len(self.arguments), len(required)
        if (most is not None and count > most) or count < least:
            if most == 0:
                wanted = "accepts no arguments"
            else:
                bound = "" if most == least else "at least " if count < least else "at most "
                number = most if most is not None and count > most else least
                wanted = f"requires {bound}{number} argument{'' if number == 1 else 's'}"
            raise UsageError(
                f"{PROGRAM}: '{self.command}' {wanted}\n\nUsage:  {self._line}\n\n"
                f"{'See' if wanted.startswith('requires at') else 'Run'} '{self.command} --help' for more information"
            )

    def on(self, name: str, *, default: bool = False) -> bool:
        """Whether a switch is set."""
        value = self._values.get(name)
        return default if value is None else value[0] in ("true", "t", "1")

    def given(self, name: str) -> bool:
        """Whether a flag was on the command line at all."""
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """A flag's value."""
        return self._values.get(name, [default])[-1]

    def number(self, name: str, default: int = 0) -> int:
        """A flag's value, a whole number."""
        return int(self.text(name), 0) if self.given(name) else default

    def values(self) -> dict[str, str]:
        """Every flag that was given, with its last value."""
        return {name: values[-1] for name, values in self._values.items()}

    def all(self, name: str) -> list[str]:
        """Every value of a flag that may be repeated."""
        return self._values.get(name, [])
