"""`system import-docker`: taking over what Docker has made on the engine's host."""

from __future__ import annotations

from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, path
from dockyard.cli.usage import Flags, usage


@usage(
    """
dockyard system import-docker [PATH]

Copy images, volumes, networks and stopped containers out of a data root of Docker's, which is only read
(default /var/lib/docker)
"""
)
def import_docker(session: Session, flags: Flags) -> int:
    """Prints a line for each thing; 1 when something could not be taken over."""
    place = flags.arguments[0] if flags.arguments else "/var/lib/docker"
    status = 0
    for message in session.api.request("POST", path("/dockyard/import-docker", path=place)).objects():
        if "error" in message:
            raise Failure(f"Error response from daemon: {message['error']}")
        print(message["status"], flush=True)
        status = status or int(": failed: " in message["status"])
    return status
