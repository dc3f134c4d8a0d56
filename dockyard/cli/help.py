"""Help as it is shown: what the grammars of `usage` say, laid out for the width of the terminal."""

from __future__ import annotations

import os

from dockyard.cli.command_table import ABOUT, COMMON, OPTIONS, SHORT, WHOLE, load, shown
from dockyard.cli.usage import PROGRAM, line_of, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_WIDTH = 80
_NARROWEST = 24  # columns for descriptions, below which they go on lines of their own
_SLOP = 5  # columns that a last line may have more, so that no word stands alone


def command_help(text: str, words: str, aliases: list[str]) -> str:
    """What `--help` prints for one command."""
    body, _, _ = text.partition("\n\nHidden:")
    about, _, options = body.partition("\n\nOptions:\n")
    forms, _, about = about.partition("\n\n")
    parts = ["Usage:  " + "\n\t".join(line_of(form, words) for form in forms.split("\n")), about]
    if len(aliases) > 1:
        parts.append("Aliases:\n  " + ", ".join(f"{PROGRAM} {alias}" for alias in aliases))
    if options:
        parts.append("Options:\n" + flag_table(options))
    return "\n\n".join(parts)


def flag_table(options: str) -> str:
    """Flags sorted, aligned, and their descriptions wrapped."""
    rows = []
    for line in options.split("\n"):
        left, _, description = line[6:].partition("  ")
        rows.append((line[:6] + left, description.strip()))
    rows.sort(key=lambda row: row[0][6:].lstrip("-"))
    indent = max(len(left) for left, _ in rows) + 3
    return "\n".join(left.ljust(indent) + _wrapped(description, indent) for left, description in rows).rstrip()


def _wrapped(text: str, indent: int) -> str:
    width = _columns() - 1 - indent
    first = ""
    if width < _NARROWEST:
        indent, width = 16, _columns() - 17
        first = "\n" + " " * indent
        if width < _NARROWEST:
            return text
    lines, rest = [], text
    while len(rest) > width:
        cut = rest.rfind(" ", 0, width - _SLOP + 1)
        if cut <= 0:
            cut = rest.find(" ", width - _SLOP)
            if cut < 0:
                break
        lines.append(rest[:cut])
        rest = rest[cut + 1 :]
    return first + ("\n" + " " * indent).join([*lines, rest])


def _columns() -> int:
    try:
        return os.get_terminal_size(0).columns or DEFAULT_WIDTH
    except OSError:
        return DEFAULT_WIDTH


def group_help(group: str) -> str:
    """What `dockyard container` prints."""
    listed = _listed((name, summary(load(group, name))) for name in shown(group))
    return (
        f"Usage:  {PROGRAM} {group} COMMAND\n\n{ABOUT[group]}\n\nCommands:\n{listed}\n\n"
        f"Run '{PROGRAM} {group} COMMAND --help' for more information on a command."
    )


def _listed(rows: Iterable[tuple[str, str]]) -> str:
    known = list(rows)
    width = max([11, *(len(name) for name, _ in known)])
    return "\n".join(f"  {name:<{width}} {about}" for name, about in known)


def main_help(plugins: Iterable[tuple[str, str]] = ()) -> str:
    """What `dockyard --help` prints; `plugins`: (name, what it is)."""

    def about(words: list[str]) -> str:
        return _listed((word, summary(load(*SHORT[word]))) for word in words)

    groups = sorted([*ABOUT.items(), *WHOLE.items(), *((f"{name}*", text) for name, text in plugins)])
    return (
        f"Usage:  {PROGRAM} [OPTIONS] COMMAND\n\nA container platform, compatible with Docker\n\n"
        f"Common Commands:\n{about(list(COMMON))}\n\n"
        f"Management Commands:\n{_listed(groups)}\n\n"
        f"Commands:\n{about(sorted(word for word in SHORT if word not in COMMON))}\n\n"
        f"Global Options:\n{flag_table(OPTIONS)}\n\n"
        f"Run '{PROGRAM} COMMAND --help' for more information on a command."
    )
