"""state: tell what is known of a container, as the runtime specification's state and a little more."""

import sys

from dockyard.oci import quick_json
from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc state - output the state of a container

USAGE:
   dockyard-runc state <container-id>

Where "<container-id>" is the name of the container.
"""


def command(session: Session, flags: Flags) -> None:
    """Print it as indented JSON."""
    check_arguments("state", flags.arguments, 1, 1)
    from dockyard.runtime.lifecycle.handle import ContainerHandle
    from dockyard.runtime.lifecycle.report import report

    rows = report(ContainerHandle.load(session.root, flags.arguments[0]))
    lines = []
    for key, value in rows.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"    {quick_json.dumps(str(k))}: {quick_json.dumps(v)}" for k, v in value.items())
            lines.append(f"  {quick_json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {quick_json.dumps(key)}: {quick_json.dumps(value)}")
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}")
