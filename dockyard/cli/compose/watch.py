"""`watch`: files of the project, and what their changes do to running containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dockyard.cli.usage import usage

if TYPE_CHECKING:
    from dockyard.cli.compose.session import ComposeSession
    from dockyard.cli.usage import Flags


@usage(
    """
dockyard compose watch [OPTIONS] [SERVICE...]

Watch build context for service and rebuild/refresh containers when files are updated

Options:
      --no-up   Do not build & start services before watching
      --prune   Prune dangling images on rebuild (default true)
      --quiet   hide build output
"""
)
def watch(session: ComposeSession, flags: Flags) -> int:
    """Until told to stop."""
    from dockyard.compose.run.build import BuildRequest
    from dockyard.compose.run.converge import CreateRequest, create
    from dockyard.compose.run.logs import LogPrinter
    from dockyard.compose.run.starting import start_services
    from dockyard.compose.run.watch import Watcher

    project = session.project(flags.arguments)
    application = session.application(project)
    printer = LogPrinter(color=session.color)
    if not flags.on("no-up"):
        request = CreateRequest(services=list(project.services), build=BuildRequest(quiet=flags.on("quiet")))
        with application.progress:
            create(application, request)
            start_services(application)
    Watcher(application, printer, prune=flags.on("prune", default=True)).run()
    return 0
