"""Projects whose files are elsewhere: who runs them sees first where they are, and what they are given."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.remote import is_remote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dockyard.cli.compose.session import ComposeSession
    from dockyard.compose.model.project import Project


def confirm_remote(session: ComposeSession, project: Project, variables: Sequence[str], *, yes: bool) -> None:
    """Tell of a project that comes from elsewhere and, without --yes, ask. Raises ComposeError when the answer is no.

    `variables`: NAME=VALUE, as given on the command line.
    """
    files = session.settings.all("file")
    if not files or not is_remote(files[0]):
        return
    if session.mode not in ("quiet", "json"):
        print(f'Your compose stack "{files[0]}" is stored in "{project.folder}"')
    if yes:
        return
    rows = _rows(session, dict(text.partition("=")[::2] for text in variables if "=" in text))
    if not rows:
        return
    print("\nFound the following variables in configuration:")
    columns = [["VARIABLE", "VALUE", "SOURCE", "REQUIRED", "DEFAULT"], *rows]
    widths = [max(len(row[column]) for row in columns) + 3 for column in range(4)]
    for row in columns:
        print("".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)) + row[4])
    question = "\nDo you want to proceed with these variables?"
    if not session.answered(question, default=sys.stdin.isatty()):
        raise ComposeError("operation cancelled by user")


def _rows(session: ComposeSession, given: dict[str, str]) -> list[list[str]]:
    """Every variable of the files: its value, where that is from, whether it must be set, its default."""
    from dockyard.cli.compose.config import texts
    from dockyard.compose.model.load import LoadOptions
    from dockyard.compose.model.settings import load_tree
    from dockyard.compose.model.variables import references

    tree = load_tree(session.project_settings(LoadOptions(interpolate=False, normalize=False)))
    found = {one.name: one for text in texts(tree) for one in references(text)}
    rows = []
    for name, one in sorted(found.items()):
        if name in given:
            value, source = given[name], "command-line"
        elif name in os.environ:
            value, source = os.environ[name], "environment"
        elif one.default:
            value, source = one.default, "compose file"
        else:
            value, source = "<unset>", "none"
        rows.append([name, value, source, "yes" if one.required else "no", one.default])
    return rows
