"""list: every container under the root directory, as a table, JSON or just names."""

import os
import sys

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc list - lists containers started by dockyard-runc with the given root

USAGE:
   dockyard-runc list [command options]

Where the given root is specified via the global option "--root" (default: "/run/dockyard-runc").

OPTIONS:
   --format value, -f value  select one of: table or json (default: "table")
   --quiet, -q               display only container IDs
"""
COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def command(session: Session, flags: Flags) -> None:
    """Print the list."""
    check_arguments("list", flags.arguments, 0, 0)
    rows = _rows(session)
    form = flags.text("format", "table")
    if flags.on("quiet"):
        for row in rows:
            print(row["id"])
    elif form == "json":
        from dockyard.oci import quick_json

        print(quick_json.dumps(rows) if rows else "null")
    elif form == "table":
        keys = ("id", "pid", "status", "bundle", "created", "owner")
        _print_table([COLUMNS, *([str(row[key]) for key in keys] for row in rows)])
    else:
        raise ValueError("invalid format option")


def _rows(session: Session) -> list[dict[str, object]]:
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.lifecycle.handle import ContainerHandle
    from dockyard.runtime.lifecycle.report import report

    try:
        names = sorted(os.listdir(session.root))
    except FileNotFoundError:
        if session.own_root():
            raise
        return []
    rows = []
    for name in names:
        directory = os.path.join(session.root, name)
        if not os.path.isdir(directory):
            continue
        try:
            row = report(ContainerHandle.load(session.root, name))
            row["owner"] = _owner(os.stat(directory).st_uid)
        except (RuntimeFailure, OSError, ValueError) as failure:
            print(f"load container {name}: {failure}", file=sys.stderr)
            continue
        rows.append(row)
    return rows


def _owner(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _print_table(rows) -> None:  # type: ignore[no-untyped-def]
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1])
