"""How a container is attached to a network: from its record to what the network is asked for."""

from dockyard.engine.containers.config import EndpointSettings
from dockyard.networks.model import EndpointConfig


def endpoint_config(settings: EndpointSettings) -> EndpointConfig:
    """What the network is asked for."""
    addresses = settings.ipam_config
    return EndpointConfig(
        aliases=settings.aliases or [],
        links=settings.links or [],
        ipv4_address=addresses.ipv4_address if addresses else "",
        ipv6_address=addresses.ipv6_address if addresses else "",
        mac_address=settings.mac_address if not settings.endpoint_id else "",
        link_local_ips=addresses.link_local_ips or [] if addresses else [],
        driver_opts=settings.driver_opts or {},
        gw_priority=settings.gw_priority,
    )
