"""features: what this runtime can do, for programs to read (runtime-spec, features.md)."""

import json

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc features - show the enabled features

USAGE:
   dockyard-runc features

DESCRIPTION:
   Prints JSON as the features document of the OCI runtime specification describes it.
"""


def command(session: Session, flags: Flags) -> None:
    """Print them."""
    check_arguments("features", flags.arguments, 0, 0)
    from dockyard.runtime.lifecycle import features

    print(json.dumps(features.document(), indent=4))
