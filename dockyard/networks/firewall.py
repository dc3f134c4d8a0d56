"""The packet filter of one daemon's bridges: masquerading, isolation and published ports, in one nftables table.

The table is named after the daemon's instance, so that several daemons share a host. Its whole text follows from the
networks and ports it serves; a network's change replaces the table in one transaction, a port's change only adds or
deletes an element of a map.
"""

import logging
import socket
import threading
from collections.abc import Iterable, Set
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from dockyard.errors import SystemFailure
from dockyard.linux import conntrack
from dockyard.linux.netlink import RouteSocket
from dockyard.linux.nftables import Nftables, NftablesError
from dockyard.networks.gateway_modes import NAT, ROUTED, UNPROTECTED

log = logging.getLogger("dockyard.networks")


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """What the packet filter has to know of a bridge network."""

    bridge: str
    subnets: tuple[IPv4Network | IPv6Network, ...]
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    # by IP version (see gateway_modes.py), as are the addresses that stand for containers outside, if given
    modes: tuple[str, str] = (NAT, NAT)
    sources: tuple[str, str] = ("", "")
    # the links from which published containers may be addressed directly
    trusted: tuple[str, ...] = ()

    def mode(self, version: int) -> str:
        """The gateway mode for IPv4 (4) or IPv6 (6)."""
        return self.modes[version == 6]


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """Traffic for `host_ip:host_port` (unspecified: any of the host's addresses) goes to `ip:port`.

    With the host port 0 nothing is translated: who knows the way may address `ip:port`.
    Without `loopback`, what the host sends to 127.0.0.1 or ::1 stays with who listens there.
    """

    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int
    loopback: bool = True

    @property
    def version(self) -> int:
        """4 or 6."""
        return ip_address(self.ip).version


@dataclass(frozen=True, slots=True)
class LinkedPort:
    """A container at `source` may reach `port` of the one at `target`, although their bridge keeps containers apart."""

    source: str
    target: str
    protocol: str
    port: int


class Firewall:
    """Keeps one daemon's tables (`ip NAME`, and `ip6 NAME` where a network has IPv6) as they should be.

    Blocking, thread-safe; each call is one transaction. Raises SystemFailure when the kernel refuses it.
    """

    def __init__(
        self,
        name: str,
        enabled: bool = True,
        accept_mark: tuple[int, int] | None = None,
        *,
        ipv6: bool = True,
        direct: bool = False,
        inside_only: bool = False,
    ) -> None:
        """`accept_mark`: the mark, and its mask, of packets to be forwarded whatever else is said.

        `inside_only`: what comes from outside for published ports is not led to containers, but stays with who listens.
        `ipv6`: whether IPv6 is filtered, too; `direct`: whether published ports may be addressed at the container's own
        address from everywhere.
        """
        self._ipv6 = ipv6
        self._direct = direct
        self._inside_only = inside_only
        # whether anybody may address containers directly, and the set of who may be is to be kept
        self._targeted = direct
        self.name = name
        self._accept_mark = accept_mark
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: set[PublishedPort] = set()
        self._links: set[LinkedPort] = set()
        self._nft = Nftables(lasting=True) if enabled else None
        self._families: set[int] = set()
        self._lock = threading.RLock()

    def close(self) -> None:
        """Let go of the handle; the rules stay in force."""
        if self._nft is not None:
            self._nft.close()

    def set_bridges(self, bridges: Iterable[BridgeRules]) -> None:
        """Replace the networks served, without telling the kernel; see `rewrite`."""
        with self._lock:
            self._bridges = {rules.bridge: rules for rules in bridges}
            some = (rules.trusted or ROUTED in rules.modes for rules in self._bridges.values())
            self._targeted = self._direct or any(some)

    def adopt(self, ports: Iterable[PublishedPort]) -> None:
        """Count `ports` among the published ones, without telling the kernel; see `rewrite`."""
        with self._lock:
            self._ports.update(ports)

    def publish(self, ports: Iterable[PublishedPort]) -> None:
        """Send traffic for these host ports to their containers."""
        with self._lock:
            added = [port for port in ports if port not in self._ports]
            if self._nft is not None and added:
                self._run(self._elements("add", added))
            self._ports.update(added)
            if self._nft is not None:
                forget_flows(added)

    def unpublish(self, ports: Iterable[PublishedPort]) -> None:
        """Undo `publish`; what is not published is passed over."""
        with self._lock:
            removed = [port for port in ports if port in self._ports]
            self._ports.difference_update(removed)
            if self._nft is not None and removed:
                left = {_target(port) for port in self._ports}
                try:
                    self._run(self._elements("delete", removed, left))
                except SystemFailure:
                    # somebody flushed the table under us: write down what is left
                    self.rewrite()
            if self._nft is not None:
                forget_flows(removed)

    def link(self, links: Iterable[LinkedPort]) -> None:
        """Let these through; IPv4 alone, as in Docker."""
        with self._lock:
            added = set(links) - self._links
            if self._nft is not None and added:
                self._run(self._linked("add", added))
            self._links |= added

    def unlink(self, address: str) -> bool:
        """Undo `link` for all from and to `address`; whether the last of all links has gone with them."""
        with self._lock:
            removed = {link for link in self._links if address in (link.source, link.target)}
            self._links -= removed
            if self._nft is not None and removed:
                try:
                    self._run(self._linked("delete", removed))
                except SystemFailure:
                    self.rewrite()
            return bool(removed) and not self._links

    def adopt_links(self, links: Iterable[LinkedPort]) -> None:
        """Count `links` among those let through, without telling the kernel; see `rewrite`."""
        with self._lock:
            self._links.update(links)

    def _linked(self, act: str, links: Iterable[LinkedPort]) -> str:
        entries = ", ".join(f"{link.source} . {link.target} . {link.protocol} . {link.port}" for link in links)
        return f"{act} element ip {self.name} linked {{ {entries} }}\n" if entries else ""

    def rewrite(self) -> None:
        """Write the tables from what we know, in one transaction."""
        with self._lock:
            if self._nft is None:
                return
            wanted = {4}
            if self._ipv6 and any(net.version == 6 for rules in self._bridges.values() for net in rules.subnets):
                wanted.add(6)
            text = "".join(self._table(version) for version in sorted(wanted))
            for version in self._families - wanted:
                text += f"delete table {_family(version)} {self.name}\n"
            self._run(text)
            self._families = wanted

    def repair(self) -> None:
        """Write the tables again if somebody has removed them."""
        with self._lock:
            if self._nft is None or not self._families:
                return
            present = self._nft.run("list tables").split("\n")
            if any(f"table {_family(version)} {self.name}" not in present for version in self._families):
                log.warning("table %s was removed from the packet filter by somebody; writing it again", self.name)
                self.rewrite()

    def remove(self) -> None:
        """Delete the tables."""
        if self._nft is not None:
            for family in ("ip", "ip6"):
                # `add` first: deleting a table that is not there is an error
                self._run(f"add table {family} {self.name}\ndelete table {family} {self.name}\n")
            self._families = set()

    def _run(self, commands: str) -> None:
        assert self._nft is not None
        try:
            self._nft.run(commands)
        except NftablesError as error:
            raise SystemFailure(f"the packet filter refused a change: {error}") from error

    def _elements(
        self, act: str, ports: Iterable[PublishedPort], shared: Set[tuple[str, str, int]] = frozenset()
    ) -> str:
        """The commands that `act` ("add" or "delete") on what the tables say of `ports`.

        The targets `shared` are left alone: other ports lead there, too.
        """
        lines = []
        done = set(shared)
        for port in ports:
            table = f"{act} element {_family(port.version)} {self.name}"
            target = f"{port.ip} . {port.port}"
            if self._targeted and _target(port) not in done:
                done.add(_target(port))
                lines.append(f"{table} targets {{ {port.ip} . {port.protocol} . {port.port} }}\n")
            if not port.host_port:
                continue
            if ip_address(port.host_ip).is_unspecified:
                lines.append(f"{table} published {{ {port.protocol} . {port.host_port} : {target} }}\n")
                if not port.loopback:
                    lines.append(f"{table} proxied {{ {port.protocol} . {port.host_port} }}\n")
            else:
                key = f"{port.host_ip} . {port.protocol} . {port.host_port}"
                lines.append(f"{table} published_at {{ {key} : {target} }}\n")
        return "".join(lines)

    def _table(self, version: int) -> str:
        family = _family(version)
        kind = f"{'ipv4' if version == 4 else 'ipv6'}_addr"
        ours = [rules for rules in self._bridges.values() if any(net.version == version for net in rules.subnets)]
        ports = [port for port in self._ports if port.version == version]
        loopback = "127.0.0.0/8" if version == 4 else "::1"
        ports_only = "meta l4proto { tcp, udp, sctp }"
        names = ", ".join(f'"{rules.bridge}"' for rules in ours)
        of_whom = f"iifname {{ {names} }} " if self._inside_only and names else ""
        lines = [
            f"add table {family} {self.name}",
            f"delete table {family} {self.name}",
            f"table {family} {self.name} {{",
            f" map published {{ type inet_proto . inet_service : {kind} . inet_service; }}",
            f" map published_at {{ type {kind} . inet_proto . inet_service : {kind} . inet_service; }}",
            f" set targets {{ type {kind} . inet_proto . inet_service; }}",
            " set proxied { type inet_proto . inet_service; }",
            *([" set linked { type ipv4_addr . ipv4_addr . inet_proto . inet_service; }"] if version == 4 else []),
            " chain publish {",
            f"  {ports_only} dnat {family} to {family} daddr . meta l4proto . th dport map @published_at",
            f"  {ports_only} dnat {family} to meta l4proto . th dport map @published",
            " }",
            " chain prerouting {",
            "  type nat hook prerouting priority dstnat;",
            # what was published on loopback stays there: a neighbour could send us packets for 127.0.0.1
            f"  iifname != lo {family} daddr {loopback} return",
            *([] if self._inside_only and not names else [f"  {of_whom}fib daddr type local jump publish"]),
            " }",
            " chain output {",
            "  type nat hook output priority -100;",
            f"  {ports_only} {family} daddr {loopback} meta l4proto . th dport @proxied return",
            "  fib daddr type local jump publish",
            " }",
        ]
        lines += _raw(ours, family, version)
        lines += _postrouting(ours, family, version)
        lines += _forward(ours, version, self._accept_mark, self._direct)
        lines.append("}")
        linked = self._linked("add", self._links) if version == 4 else ""
        return "\n".join(lines) + "\n" + self._elements("add", ports) + linked


def forget_flows(ports: Iterable[PublishedPort]) -> None:
    """Let datagrams find the new way to (or past) their port; a TCP connection ends with its container anyway.

    Only those to the host's own addresses: others may ask the same port of somebody else.
    """
    datagrams = [port for port in ports if port.protocol == "udp"]
    if not datagrams:
        return
    with RouteSocket() as host:
        own = [address for _, address, _ in host.addresses()]
    for port in datagrams:
        at = ip_address(port.host_ip)
        for address in [other for other in own if other.version == at.version] if at.is_unspecified else [at]:
            try:
                conntrack.forget_requests_to(socket.IPPROTO_UDP, address, port.host_port)
            except OSError as error:
                log.debug("tracked flows to port %s stay: %s", port.host_port, error)


def has_table(name: str) -> bool:
    """Whether the packet filter has the IPv4 table `name`; no, where there is no packet filter."""
    try:
        nft = Nftables()
    except NftablesError:
        return False
    try:
        return f"table ip {name}" in nft.run("list tables").split("\n")
    finally:
        nft.close()


def _target(port: PublishedPort) -> tuple[str, str, int]:
    return port.ip, port.protocol, port.port


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _raw(ours: list[BridgeRules], family: str, version: int) -> list[str]:
    """Bridges route loopback addresses (for published ports), so containers must be kept from the host's own."""
    if not ours or version == 6:
        return []
    names = ", ".join(f'"{rules.bridge}"' for rules in ours)
    return [
        " chain raw {",
        "  type filter hook prerouting priority raw;",
        f"  iifname {{ {names} }} {family} daddr 127.0.0.0/8 drop",
        " }",
    ]


def _postrouting(ours: list[BridgeRules], family: str, version: int) -> list[str]:
    lines = [" chain postrouting {", "  type nat hook postrouting priority srcnat;"]
    for rules in ours:
        name = f'"{rules.bridge}"'
        if version == 4:
            lines.append(f"  oifname {name} ip saddr 127.0.0.0/8 masquerade")
        # hairpin: without it the answer would go straight to the asking container, from an address it never asked
        lines += [
            f"  oifname {name} {family} saddr {net} ct status dnat masquerade"
            for net in rules.subnets
            if net.version == version
        ]
        if rules.masquerade and not rules.internal and rules.mode(version) != ROUTED:
            source = rules.sources[version == 6]
            hide = f"snat to {source}" if source else "masquerade"
            lines += [
                f"  oifname != {name} {family} saddr {net} {hide}" for net in rules.subnets if net.version == version
            ]
    return [*lines, " }"]


def _forward(ours: list[BridgeRules], version: int, accept_mark: tuple[int, int] | None, direct: bool) -> list[str]:
    family = _family(version)
    target = f"{family} daddr . meta l4proto . th dport @targets accept"
    lines = []
    for rules in ours:
        name = f'"{rules.bridge}"'
        lines.append(f" chain to-{rules.bridge} {{")
        if not rules.internal:
            lines.append("  ct status dnat accept")
            if rules.mode(version) == UNPROTECTED:
                lines.append("  accept")
            elif direct or rules.mode(version) == ROUTED:
                lines.append(f"  {target}")
                if rules.mode(version) == ROUTED:  # as Docker does: who may be addressed answers a ping
                    lines.append(f"  meta l4proto {'icmp' if version == 4 else 'icmpv6'} accept")
            elif rules.trusted:
                names = ", ".join(f'"{trusted}"' for trusted in rules.trusted)
                lines.append(f"  iifname {{ {names} }} {target}")
        if rules.icc:
            lines.append(f"  iifname {name} accept")
        elif version == 4:
            lines.append(f"  iifname {name} ip saddr . ip daddr . meta l4proto . th dport @linked accept")
        # No answer comes from another network of ours, except from a published port: a container there could send what
        # looks like one, under the address of whom ours has asked.
        others = ", ".join(f'"{other.bridge}"' for other in ours if other is not rules)
        if others:
            lines.append(f"  iifname {{ {others} }} drop")
        lines += ["  ct state established,related accept", "  drop", " }"]
    # after iptables' FORWARD, which may set the mark
    lines += [" chain forward {", "  type filter hook forward priority filter + 1;"]
    if accept_mark is not None:
        lines.append(f"  meta mark & {accept_mark[1]:#x} == {accept_mark[0]:#x} accept")
    for rules in ours:
        if rules.internal:
            lines.append(f'  iifname "{rules.bridge}" oifname != "{rules.bridge}" drop')
    if ours:
        entries = ", ".join(f'"{rules.bridge}" : jump to-{rules.bridge}' for rules in ours)
        lines.append(f"  oifname vmap {{ {entries} }}")
    return [*lines, " }"]
