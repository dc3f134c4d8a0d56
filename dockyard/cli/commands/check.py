"""`system fsck`: what is broken in the engine's data, and mending it."""

from __future__ import annotations

from dockyard.cli import output
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage

COLUMNS = {"Kind": "KIND", "Name": "NAME", "Problem": "PROBLEM", "Remedy": "REMEDY"}


@usage(
    """
dockyard system fsck [OPTIONS]

Look for damage in the engine's data, and mend it; exit 1 when something stays broken

Options:
      --content         Read every layer and hold it against its digest, too
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --repair          Mend what can be mended without losing anything
"""
)
def fsck(session: Session, flags: Flags) -> int:
    """Prints a line for each thing that is broken, with what can be done or has been done about it."""
    content = "1" if flags.on("content") else "0"
    method = "POST" if flags.on("repair") else "GET"
    found = session.api.request(method, f"/dockyard/fsck?content={content}").json()["Findings"]
    rows = [
        {
            "Kind": finding["Kind"],
            "Name": finding["Name"],
            "Problem": finding["Problem"],
            "Remedy": finding["Mended"] or (finding["Remedy"] if not finding["Mendable"] else _mendable(finding)),
            "Mended": str(bool(finding["Mended"])).lower(),
        }
        for finding in found
    ]
    form = flags.text("format")
    if rows or form not in ("", "table"):
        output.rows(rows, form, COLUMNS, kind="*formatter.fsckContext")
    return 0 if all(finding["Mended"] for finding in found) else 1


def _mendable(finding: dict[str, str]) -> str:
    return f"dockyard system fsck --repair: {finding['Remedy']}"
