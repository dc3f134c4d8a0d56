"""Commands that tell what would be: diff, graph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dockyard.cli.usage import usage
from dockyard.compose.errors import ComposeError

if TYPE_CHECKING:
    from dockyard.cli.compose.session import ComposeSession
    from dockyard.cli.usage import Flags


@usage(
    """
dockyard compose diff [OPTIONS] [SERVICE...]

Show what up would change, and why

Options:
      --exit-code   Exit with 1 when there is a difference
"""
)
def diff(session: ComposeSession, flags: Flags) -> int:
    """Nothing is changed."""
    from dockyard.compose.run.difference import differences

    project = session.project(flags.arguments)
    application = session.application(project)
    lines = list(differences(application))
    for line in lines:
        print(line)
    return int(bool(lines) and flags.on("exit-code"))


@usage(
    """
dockyard compose graph [OPTIONS] [SERVICE...]

Draw the services, what they depend on, and their networks, volumes and ports

Options:
      --format string   text, svg or dot (default "text")
  -o, --output string   Save to file (default to stdout)
"""
)
def graph(session: ComposeSession, flags: Flags) -> int:
    """No engine is asked."""
    from dockyard.compose.plan import drawing

    project = session.project(flags.arguments)
    forms = {"text": drawing.as_text, "svg": drawing.as_svg, "dot": drawing.as_dot}
    form = flags.text("format", "text")
    if form not in forms:
        raise ComposeError(f'unsupported format "{form}"')
    text = forms[form](project)
    if flags.given("output"):
        with open(flags.text("output"), "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    return 0


@usage(
    """
dockyard compose viz [OPTIONS]

Draw the services as Docker's `compose alpha viz`

Options:
      --image              Include service's image name in output graph
      --indentation-size int   Number of tabs or spaces to use for indentation (default 1)
      --networks           Include service's attached networks in output graph
      --ports              Include service's exposed ports in output graph
      --spaces             Use spaces for indentation
"""
)
def viz(session: ComposeSession, flags: Flags) -> int:
    """In the language of Graphviz."""
    from dockyard.compose.plan import drawing

    sys.stdout.write(drawing.as_dot(session.project()))
    return 0
