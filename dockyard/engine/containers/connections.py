"""Connecting containers to networks and disconnecting them, whether they run or not."""

from dockyard.engine.containers.config import EndpointSettings, IPAMConfig
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.networks.endpoints import check_endpoint
from dockyard.engine.networks.service import EndpointConfig, NetworkService
from dockyard.errors import Conflict, Forbidden


class ContainerNetworks:
    """Keeps what a container's record says of its networks in step with what the kernel has."""

    def __init__(self, containers: ContainerService, networks: NetworkService) -> None:
        self._containers = containers
        self._networks = networks

    async def connect(self, reference: str, network_reference: str, config: EndpointConfig) -> None:
        """Attach a container to a network: a running one at once, any other when it starts.

        Raises NotFound, Conflict when the container shares another's network, Forbidden when it is attached already.
        """
        container = self._containers.get(reference)
        network = self._networks.get(network_reference)
        async with container.lock:
            mode = container.host_config.network_mode
            if mode == "host" or mode.startswith("container:"):
                raise Conflict(
                    "container sharing network namespace with another container or host cannot be connected to any "
                    "other network"
                )
            if container.removing or container.state.status == "dead":
                raise Conflict(
                    f"Container {container.id} is marked for removal and cannot be connected or disconnected to the "
                    "network"
                )
            check_endpoint(network.name, network, config)
            settings = _settings(config)
            settings.network_id = network.id
            if container.state.running:
                await self._networks.connect(network.id, container.id, config)
            container.record.networks[network.name] = settings
            if container.state.running:
                self._containers.note_networks(container)
            self._containers.save(container)

    async def disconnect(self, reference: str, network_reference: str, force: bool = False) -> None:
        """Detach a container from a network. Raises NotFound, Forbidden when it is not attached."""
        container = self._containers.get(reference)
        network = self._networks.get(network_reference)
        async with container.lock:
            if container.state.running:
                await self._networks.disconnect(network.id, container.id, force)
            elif network.name not in container.record.networks:
                raise Forbidden(f"container {container.id} is not connected to the network {network.name}")
            container.record.networks.pop(network.name, None)
            self._containers.save(container)


def _settings(config: EndpointConfig) -> EndpointSettings:
    asked = IPAMConfig(
        ipv4_address=config.ipv4_address,
        ipv6_address=config.ipv6_address,
        link_local_ips=list(config.link_local_ips) or None,
    )
    return EndpointSettings(
        ipam_config=asked if config.ipv4_address or config.ipv6_address or config.link_local_ips else None,
        links=list(config.links) or None,
        aliases=list(config.aliases) or None,
        mac_address=config.mac_address,
        driver_opts=dict(config.driver_opts) or None,
        gw_priority=config.gw_priority,
    )
