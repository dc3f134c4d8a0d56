"""`publish`: the project into a registry. `bridge` belongs to Docker Desktop's own images, and is refused."""

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
dockyard compose publish [OPTIONS] REPOSITORY[:TAG]

Publish compose application

Options:
      --app                     Published compose application (includes referenced images)
      --oci-version string      OCI image/artifact specification version (automatically determined by default)
      --resolve-image-digests   Pin image tags to digests
      --with-env                Include environment variables in the published OCI artifact
  -y, --yes                     Assume "yes" as answer to all prompts

Hidden:
      --y
"""
)
def publish(session: ComposeSession, flags: Flags) -> int:
    """What may not be meant for others is asked for first."""
    from dockyard.compose.model.settings import load_project
    from dockyard.compose.run.publish import PublishRequest
    from dockyard.compose.run.publish import publish as publish_project

    settings = session.project_settings()
    project = load_project(settings, discard=False)
    if any(_includes_local(path) for path in project.files):
        raise ComposeError("cannot publish compose file with local includes")
    request = PublishRequest(
        flags.arguments[0],
        confirm=session.answered,
        digests=flags.on("resolve-image-digests"),
        images=flags.on("app"),
        environment=flags.on("with-env"),
        version=flags.text("oci-version"),
        yes=flags.on("yes") or flags.on("y"),
    )
    publish_project(session.application(project, session.progress("Publishing")), request)
    return 0


def _includes_local(path: str) -> bool:
    from dockyard.compose.model import yaml_source
    from dockyard.compose.model.remote import is_remote
    from dockyard.compose.model.source import Source

    text = sys.stdin.buffer.read() if path == "-" else Source(path).read()
    for document in yaml_source.documents(text, path):
        given = document.value.get("include") if isinstance(document.value, dict) else None
        for entry in given or ():
            paths = entry.get("path") if isinstance(entry, dict) else entry
            if any(not is_remote(str(one)) for one in ([paths] if isinstance(paths, str) else paths or ())):
                return True
    return False


@usage(
    """
dockyard compose bridge [OPTIONS] [COMMAND] [ARG...]

Convert compose files into another model (not here: Docker's transformation images do that)
"""
)
def bridge(session: ComposeSession, flags: Flags) -> int:
    """Always refused."""
    raise ComposeError(
        "compose bridge is not supported: its conversions are programs in Docker's own images. "
        "`dockyard compose config` writes the project down for other tools to read"
    )
