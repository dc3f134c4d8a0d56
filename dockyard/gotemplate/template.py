"""Go's text/template, as far as `--format` uses it: what users of Docker write works unchanged.

    Template('{{.Name}}: {{range .Ports}}{{.}} {{end}}').render({"Name": "web", "Ports": [80, 443]})

Specified by https://pkg.go.dev/text/template; errors say the same as Go's, with the same positions.
"""

from __future__ import annotations

from dockyard.gotemplate.functions import MISSING
from dockyard.gotemplate.parser import Parser, TemplateError
from dockyard.gotemplate.run import ExecutionError, Record, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Value = Any

__all__ = ["MISSING", "ExecutionError", "Record", "Template", "TemplateError"]


class Template:
    """A parsed template."""

    def __init__(self, text: str, name: str = "") -> None:
        """`name` is what errors call it. Raises TemplateError."""
        self.text, self.name = text, name
        parser = Parser(text, name)
        self._nodes = parser.block(())
        self.defined = parser.defined

    def render(self, data: Value, *, heading: bool = False) -> str:
        """The template applied to `data` (dicts, lists, strings, numbers). Raises ExecutionError.

        As the `heading` of a table, functions that would change a column's name do not.
        """
        out: list[str] = []
        run = Run(self.text, self.name, self.defined, out, heading=heading, declared=isinstance(data, Record))
        run.nodes(self._nodes, data, {"$": data})
        return "".join(out)
