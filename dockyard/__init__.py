"""A complete, Docker-compatible container platform in Python.

import dockyard

with dockyard.Client() as client, client.run("busybox", "sleep 60") as container:
    print(container.exec("ls /").text)

`Client`, `AsyncClient` and what belongs to them are imported when they are first asked for: the engine's own processes,
which import this package too, pay nothing for them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.client import container, images, leases, networks, streams, volumes
    from dockyard.client.address import TLS as TLS
    from dockyard.client.client import AsyncClient as AsyncClient
    from dockyard.client.client import Client as Client
    from dockyard.client.client import DiskUsage as DiskUsage
    from dockyard.client.client import Event as Event
    from dockyard.client.client import from_env as from_env
    from dockyard.client.container_options import ContainerOptions as ContainerOptions
    from dockyard.client.container_options import EndpointOptions as EndpointOptions
    from dockyard.client.container_options import Healthcheck as Healthcheck
    from dockyard.client.container_options import Mount as Mount
    from dockyard.client.errors import APIError as APIError
    from dockyard.client.errors import ArchiveError as ArchiveError
    from dockyard.client.errors import BadRequest as BadRequest
    from dockyard.client.errors import BuildFailed as BuildFailed
    from dockyard.client.errors import ClientError as ClientError
    from dockyard.client.errors import Conflict as Conflict
    from dockyard.client.errors import ContainerError as ContainerError
    from dockyard.client.errors import CredentialsError as CredentialsError
    from dockyard.client.errors import Forbidden as Forbidden
    from dockyard.client.errors import ImageNotFound as ImageNotFound
    from dockyard.client.errors import NotAllowed as NotAllowed
    from dockyard.client.errors import NotFound as NotFound
    from dockyard.client.errors import OperationFailed as OperationFailed
    from dockyard.client.errors import ServerError as ServerError
    from dockyard.client.errors import TimedOut as TimedOut
    from dockyard.client.errors import Unauthorized as Unauthorized
    from dockyard.client.errors import Unavailable as Unavailable
    from dockyard.client.errors import Unreachable as Unreachable
    from dockyard.client.files import FileStat as FileStat
    from dockyard.client.framing import Output as Output
    from dockyard.client.images import BuildOptions as BuildOptions
    from dockyard.client.images import Found as Found
    from dockyard.client.images import Layer as Layer
    from dockyard.client.images import Progress as Progress
    from dockyard.client.local_engine import EngineFailed as EngineFailed
    from dockyard.client.modes import Async, Sync
    from dockyard.client.networks import Subnet as Subnet
    from dockyard.client.results import Change as Change
    from dockyard.client.results import LogLine as LogLine
    from dockyard.client.results import Processes as Processes
    from dockyard.client.results import Pruned as Pruned
    from dockyard.client.results import Result as Result
    from dockyard.client.stats import Stats as Stats
    from dockyard.client.streams import Stream as Stream

    Container = container.Container[Sync]
    AsyncContainer = container.Container[Async]
    Process = streams.Process[Sync]
    AsyncProcess = streams.Process[Async]
    Image = images.Image[Sync]
    AsyncImage = images.Image[Async]
    Network = networks.Network[Sync]
    AsyncNetwork = networks.Network[Async]
    Volume = volumes.Volume[Sync]
    AsyncVolume = volumes.Volume[Async]
    Lease = leases.Lease[Sync]
    AsyncLease = leases.Lease[Async]

# module of dockyard.client -> the names it gives
_EXPORTS = {
    "address": "TLS",
    "client": "AsyncClient Client DiskUsage Event from_env",
    "container_options": "ContainerOptions EndpointOptions Healthcheck Mount",
    "container": "Container",
    "errors": "APIError ArchiveError BadRequest BuildFailed ClientError Conflict ContainerError CredentialsError "
    "Forbidden ImageNotFound NotAllowed NotFound OperationFailed ServerError TimedOut Unauthorized Unavailable "
    "Unreachable",
    "files": "FileStat",
    "framing": "Output",
    "images": "BuildOptions Found Image Layer Progress",
    "leases": "Lease",
    "local_engine": "EngineFailed",
    "networks": "Network Subnet",
    "results": "Change LogLine Processes Pruned Result",
    "stats": "Stats",
    "streams": "Process Stream",
    "volumes": "Volume",
}


def __getattr__(name: str) -> object:
    # the two modes of a class are one class at run time (client/modes.py)
    wanted = name.removeprefix("Async") if name != "AsyncClient" else name
    for module, names in _EXPORTS.items():
        if wanted in names.split():
            found: object = getattr(__import__(f"dockyard.client.{module}", fromlist=[wanted]), wanted)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _EXPORTS.values() for name in names.split())})
