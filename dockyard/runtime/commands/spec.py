"""spec: write a config.json to start from."""

import os

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc spec - create a new specification file

USAGE:
   dockyard-runc spec [command options]

DESCRIPTION:
   Writes a "config.json" for the bundle: a container that runs "sh" on a terminal, with a read-only root and few
capabilities. It is meant to be edited.

OPTIONS:
   --bundle value, -b value  path to the bundle, defaults to the current directory
   --rootless                for a user without privileges: a user namespace, no network of its own, no limits
"""


def command(session: Session, flags: Flags) -> None:
    """Write it. Raises when there is one already."""
    check_arguments("spec", flags.arguments, 0, 0)
    import json

    from dockyard.linux import cgroups
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.spec import example

    spec = example.example_spec(own_cgroups=cgroups.layout().version == 2)
    if flags.on("rootless"):
        spec = example.rootless_spec(spec, os.geteuid(), os.getegid())
    try:
        with open(os.path.join(flags.text("bundle", "."), "config.json"), "x") as file:
            file.write(json.dumps(spec, indent="\t"))
    except FileExistsError:
        raise RuntimeFailure("File config.json exists. Remove it first") from None
