"""Published ports: from what a container asks for to the host port held, the packet filter's rule and the proxy."""

import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from dockyard.errors import DockyardError, InvalidParameter, SystemFailure
from dockyard.networks.drivers.bridge import HOST_BINDING
from dockyard.networks.firewall import PublishedPort
from dockyard.networks.ipam import address
from dockyard.networks.model import EndpointState, JoinRequest, Network, PortBindings, Settings
from dockyard.networks.ports import HeldPort, HostPorts, display, split_port
from dockyard.networks.proxy import TcpProxy, UdpProxy

log = logging.getLogger("dockyard.networks")


@dataclass(slots=True)
class Publication:
    """One published port: the host port held, where it leads, and the proxy if the packet filter cannot lead all."""

    held: HeldPort
    rule: PublishedPort | None
    target: tuple[str, int]
    proxy: TcpProxy | UdpProxy | None = None


def rules_of(publications: Iterable[Publication]) -> list[PublishedPort]:
    """What of them is for the packet filter."""
    return [publication.rule for publication in publications if publication.rule is not None]


class Publisher:
    """Holds host ports for containers, serves by proxy what the packet filter cannot. Not thread-safe."""

    def __init__(self, settings: Settings, routes_loopback: Callable[[Network], bool]) -> None:
        """`routes_loopback`: whether the packet filter may lead packets for 127.0.0.1 into a network."""
        self._settings = settings
        self._routes_loopback = routes_loopback
        self._ports = HostPorts()

    def hold(
        self, request: JoinRequest, network: Network, state: EndpointState, wanted: PortBindings
    ) -> tuple[list[Publication], PortBindings]:
        """Take the host ports `wanted` for the endpoint `state`; returns them and how they were bound.

        Raises SystemFailure in Docker's words when one is taken; then none is.
        """
        publications: list[Publication] = []
        ports: PortBindings = {}
        # fixed ports first, so that no range or "any" takes one of them
        fixed = {key: all(port.isdigit() for _, port in values) for key, values in wanted.items()}
        try:
            for key in sorted(wanted, key=lambda key: (not fixed[key], *split_port(key))):
                number, protocol = split_port(key)
                bound = ports[f"{number}/{protocol}"] = []
                for host_ip, host_port in wanted[key] or [("", "")]:
                    target = display(state.ip or state.ipv6, number)
                    for held in self._take(protocol, host_ip, host_port, network, target):
                        publications.append(self._publication(held, network, state, number))
                        bound.append((held.host_ip, str(held.host_port)))
        except DockyardError as error:
            self.release(publications)
            if isinstance(error, InvalidParameter):
                raise
            raise SystemFailure(
                f"driver failed programming external connectivity on endpoint {request.name} ({state.endpoint_id}): "
                f"{error}"
            ) from error
        return publications, ports

    def retake(self, network: Network, state: EndpointState, ports: PortBindings, name: str) -> list[Publication]:
        """Take again what a running container was given by an earlier daemon."""
        publications = []
        for key, bound in ports.items():
            number, protocol = split_port(key)
            for host_ip, host_port in bound:
                try:
                    held = self._ports.take(protocol, [host_ip], host_port, display(state.ip or state.ipv6, number))[0]
                except DockyardError as error:
                    # its traffic is led to the container by the packet filter all the same
                    log.warning("cannot hold published port %s of %s: %s", host_port, name, error)
                    held = HeldPort(protocol, host_ip, int(host_port), None)
                publications.append(self._publication(held, network, state, number))
        return publications

    def serve(self, publications: Iterable[Publication]) -> None:
        """Start the proxies of those that need one."""
        if not self._settings.userland_proxy:
            return
        for publication in publications:
            bound = publication.held.socket
            all_by_rule = publication.rule is not None and publication.rule.loopback
            if not all_by_rule and bound is not None and publication.proxy is None:
                if publication.held.protocol == "tcp":
                    publication.proxy = TcpProxy(bound, publication.target)
                elif publication.held.protocol == "udp":
                    publication.proxy = UdpProxy(bound, publication.target)

    def silence(self, publications: Iterable[Publication]) -> None:
        """Stop the proxies; the ports stay held."""
        for publication in publications:
            if publication.proxy is not None:
                publication.proxy.close()
                publication.proxy = None

    def release(self, publications: list[Publication]) -> None:
        """Give the ports back, and empty the list."""
        self.silence(publications)
        for publication in publications:
            self._ports.release(publication.held)
        publications.clear()

    def _take(self, protocol: str, host_ip: str, host_port: str, network: Network, target: str) -> list[HeldPort]:
        if host_ip:
            return self._ports.take(protocol, [str(address(host_ip))], host_port, target)
        default = network.options.get(HOST_BINDING) or self._settings.host_binding
        both = [default]
        # asked each time: a host may come by IPv6, or give it up
        if default == "0.0.0.0" and (network.ipv6 or self._settings.userland_proxy) and _host_has_ipv6():
            both.append("::")
        return self._ports.take(protocol, both, host_port, target)

    def _publication(self, held: HeldPort, network: Network, state: EndpointState, number: int) -> Publication:
        target = state.ip
        if (":" in held.host_ip and state.ipv6) or not target:
            target = state.ipv6
        rule = None
        if (":" in held.host_ip) == (":" in target) and self._settings.firewall:
            # IPv6 has no route_localnet: the kernel sends nothing from ::1 to another link
            loopback = ":" not in target and self._routes_loopback(network)
            rule = PublishedPort(held.protocol, held.host_ip, held.host_port, target, number, loopback)
            if ip_address(held.host_ip).is_loopback and not loopback:
                rule = None
        return Publication(held, rule, (target, number))


def _host_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
