"""The use cases of networks: create, remove, list and inspect them, and attach containers to them."""

from dataclasses import dataclass, field
from pathlib import Path

from dockyard.engine.database import Database
from dockyard.engine.events import Events
from dockyard.networks.model import (
    EndpointConfig,
    EndpointState,
    JoinRequest,
    Network,
    Pool,
    PortBindings,
    Sandbox,
)

__all__ = [
    "EndpointConfig",
    "EndpointState",
    "JoinRequest",
    "Network",
    "NetworkOptions",
    "NetworkService",
    "Pool",
    "PortBindings",
    "Sandbox",
]


@dataclass(frozen=True)
class NetworkOptions:
    """The daemon's settings that concern networks, named as dockerd's flags."""

    bridge: str = ""
    bip: str = ""
    default_gateway: str = ""
    fixed_cidr: str = ""
    mtu: int = 0
    icc: bool = True
    ip: str = "0.0.0.0"
    iptables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    userland_proxy: bool = True
    dns: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    dns_options: list[str] = field(default_factory=list)
    default_address_pools: list[tuple[str, int]] = field(default_factory=list)


class NetworkService:
    """Networks and the containers attached to them.

    Life: `open()`, then `restore()` for every container that still runs, then `sweep()`, which removes what no
    container uses any more; at the end `close()`, which leaves running containers' networking in the kernel.
    """

    def __init__(self, exec_root: Path, database: Database, events: Events, options: NetworkOptions) -> None:
        raise NotImplementedError

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def sweep(self) -> None: ...

    async def join(self, request: JoinRequest) -> Sandbox:
        """Give a container that is about to start its sandbox, endpoints, ports and files; undone when it raises."""
        raise NotImplementedError

    async def leave(self, container_id: str) -> None:
        """Take down what `join` made; no error when there is nothing."""

    async def restore(self, container_id: str, sandbox: Sandbox, request: JoinRequest) -> None:
        """Take up a running container's networking again after a restart of the daemon."""

    async def connect(self, network: str, container_id: str, config: EndpointConfig) -> EndpointState:
        """Attach a running container to one more network, live."""
        raise NotImplementedError

    async def disconnect(self, network: str, container_id: str, force: bool = False) -> None:
        """Detach a running container from a network, live."""

    def rename(self, container_id: str, name: str) -> None:
        """Tell the networks that a container has a new name."""

    def sandbox(self, container_id: str) -> Sandbox | None:
        """A running container's sandbox as it is now (live connects and disconnects included)."""
        raise NotImplementedError

    def get(self, reference: str) -> Network:
        """The network of that name, id or unambiguous id prefix. Raises NotFound."""
        raise NotImplementedError
