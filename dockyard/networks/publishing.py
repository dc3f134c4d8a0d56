"""Published ports: from what a container asks for to the host port held, the packet filter's rule and the proxy."""

import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from dockyard.errors import DockyardError, InvalidParameter, SystemFailure
from dockyard.networks.docker_proxy import ProxyProcess
from dockyard.networks.drivers.bridge import HOST_BINDING
from dockyard.networks.firewall import PublishedPort
from dockyard.networks.gateway_modes import ROUTED, gateway_mode
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
    proxy: TcpProxy | UdpProxy | ProxyProcess | None = None


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
                    places = self._places(host_ip, network, state)
                    routed = [place for place in places if _is_routed(network, place)]
                    opened = [place for place in routed if (state.ipv6 if ":" in place else state.ip)]
                    bindable = [place for place in places if place not in routed]
                    taken = self._ports.take(protocol, bindable, host_port, target) if bindable else []
                    # nothing of the host's is bound where the container is addressed itself
                    taken += [HeldPort(protocol, _any(place), 0, None) for place in opened]
                    for held in sorted(taken, key=lambda one: ":" in one.host_ip):
                        publications.append(self._publication(held, network, state, number))
                        bound.append((held.host_ip, str(held.host_port or "")))
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
                if not host_port:
                    held = HeldPort(protocol, host_ip, 0, None)
                    publications.append(self._publication(held, network, state, number))
                    continue
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
            if self._settings.proxy_processes and bound is not None and publication.proxy is None:
                self._serve_by_process(publication, bound)
                continue
            all_by_rule = publication.rule is not None and publication.rule.loopback
            all_by_rule = all_by_rule and not self._settings.respect_host_firewall
            if not all_by_rule and bound is not None and publication.proxy is None:
                if publication.held.protocol == "tcp":
                    publication.proxy = TcpProxy(bound, publication.target)
                elif publication.held.protocol == "udp":
                    publication.proxy = UdpProxy(bound, publication.target)

    def _serve_by_process(self, publication: Publication, bound: socket.socket) -> None:
        if publication.held.protocol in ("tcp", "udp"):
            program = self._settings.proxy_path
            try:
                publication.proxy = ProxyProcess(program, bound, publication.held.protocol, publication.target)
            except OSError as error:
                log.error("failed to start the userland proxy %s: %s", program, error.strerror)

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

    def _places(self, host_ip: str, network: Network, state: EndpointState) -> list[str]:
        """The host addresses on which a port is to be had."""
        if host_ip:
            return [str(address(host_ip))]
        default = network.options.get(HOST_BINDING) or self._settings.host_binding
        if default != "0.0.0.0":
            return [default]
        both = ["0.0.0.0"] if state.ip else []
        # asked each time: a host may come by IPv6, or give it up
        if (state.ipv6 or self._settings.userland_proxy) and (_host_has_ipv6() or _is_routed(network, "::")):
            both.append("::")
        return both

    def _publication(self, held: HeldPort, network: Network, state: EndpointState, number: int) -> Publication:
        target = state.ip
        if (":" in held.host_ip and state.ipv6) or not target:
            target = state.ipv6
        rule = None
        filtered = self._settings.firewall and (self._settings.firewall_ipv6 or ":" not in target)
        if (":" in held.host_ip) == (":" in target) and filtered:
            # IPv6 has no route_localnet: the kernel sends nothing from ::1 to another link
            loopback = ":" not in target and bool(held.host_port) and self._routes_loopback(network)
            rule = PublishedPort(held.protocol, held.host_ip, held.host_port, target, number, loopback)
            if held.host_port and ip_address(held.host_ip).is_loopback and not loopback:
                rule = None
        return Publication(held, rule, (target, number))


def _is_routed(network: Network, place: str) -> bool:
    return gateway_mode(network, 6 if ":" in place else 4) == ROUTED


def _any(place: str) -> str:
    return "::" if ":" in place else "0.0.0.0"


def _host_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
