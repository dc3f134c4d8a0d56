"""A command's help text is its grammar: the flags that `--help` prints are the flags that are parsed.

The grammar is that of Go's `flag` package with urfave/cli on top, since programs call runtimes so: one dash or two
before any name, `--name value` or `--name=value`, switches take no value unless by `=`, and flags may stand after the
arguments, until a `--`. In an OPTIONS row, a name followed by `value` takes one, by nothing is a switch.
"""

TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")


class UsageError(Exception):
    """The command line is wrong; the message says how. `show_help`: the command's help is printed with it."""

    def __init__(self, message: str, *, show_help: bool = True, code: int = 1) -> None:
        super().__init__(message)
        self.show_help = show_help
        self.code = code


class Flags:
    """What was given: the values by each flag's first name, and the arguments."""

    def __init__(self, kinds: dict[str, tuple[str, str]], values: dict[str, list[str]], arguments: list[str]) -> None:
        self._kinds = kinds
        self._values = values
        self.arguments = arguments

    def given(self, name: str) -> bool:
        """Whether the flag was on the command line at all."""
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """The last value given."""
        return self._values[name][-1] if name in self._values else default

    def all(self, name: str) -> list[str]:
        """Every value given."""
        return self._values.get(name, [])

    def on(self, name: str) -> bool:
        """Whether the switch is on."""
        return self.text(name, "false") in TRUE

    def number(self, name: str, default: int = 0) -> int:
        """The value as an integer, in any of Go's notations. Raises UsageError."""
        text = self.text(name)
        if not self.given(name):
            return default
        try:
            return int(text, 0)
        except ValueError:
            raise UsageError(f'invalid value "{text}" for flag -{name}: parse error') from None


def flag_kinds(help_text: str) -> dict[str, tuple[str, str]]:
    """Every name of a flag in the OPTIONS of a help text, to its first name and its kind: value or ""."""
    kinds: dict[str, tuple[str, str]] = {}
    for line in help_text.partition("OPTIONS:")[2].split("\n"):
        row = line.strip()
        if not line.startswith("   -"):
            continue
        names, kind = [], ""
        for word in row.partition("  ")[0].replace(",", "").split():
            if word.startswith("-"):
                names.append(word.lstrip("-"))
            else:
                kind = word
        for name in names:
            kinds[name] = (names[0], kind)
    kinds["help"] = kinds["h"] = ("help", "")
    return kinds


def parse(help_text: str, words: list[str], *, in_order: bool = False) -> Flags:
    """The flags of `words`. With `in_order` the first argument ends them (else they may stand anywhere before `--`).

    Raises UsageError.
    """
    kinds = flag_kinds(help_text)
    values: dict[str, list[str]] = {}
    arguments: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if len(word) < 2 or not word.startswith("-") or (arguments and word.lstrip("-").partition("=")[0] not in kinds):
            arguments.append(word)
            if in_order:
                arguments += rest
                break
            continue
        _take(word, rest, kinds, values)
    return Flags(kinds, values, arguments)


def _take(word: str, rest: list[str], kinds: dict[str, tuple[str, str]], values: dict[str, list[str]]) -> None:
    name, equals, value = (word[2:] if word.startswith("--") else word[1:]).partition("=")
    if not name or name.startswith("-"):
        raise UsageError(f"bad flag syntax: {word}")
    if name not in kinds:
        raise UsageError(f"flag provided but not defined: -{name}")
    first, kind = kinds[name]
    if first == "it":
        for both in ("interactive", "tty"):
            values.setdefault(both, []).append("true")
        return
    if not kind:
        if equals and value not in TRUE + FALSE:
            raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
        values.setdefault(first, []).append(value if equals else "true")
        return
    if not equals:
        if not rest:
            raise UsageError(f"flag needs an argument: -{name}")
        value = rest.pop(0)
    values.setdefault(first, []).append(value)


def check_arguments(command: str, arguments: list[str], least: int, most: int | None = None) -> None:
    """Raise UsageError unless there are at least `least` and at most `most` arguments."""
    if least == most and len(arguments) != least:
        raise UsageError(f'dockyard-runc: "{command}" requires exactly {least} argument(s)')
    if len(arguments) < least:
        raise UsageError(f'dockyard-runc: "{command}" requires a minimum of {least} argument(s)')
    if most is not None and len(arguments) > most:
        raise UsageError(f'dockyard-runc: "{command}" requires a maximum of {most} argument(s)')
