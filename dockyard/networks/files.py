"""The three files that tell a container its own name, its neighbours and its resolvers."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

HOST_RESOLV_CONF = "/etc/resolv.conf"
# systemd-resolved keeps the upstream servers, which work from a container's namespace, in a file of its own.
RESOLVED_UPSTREAMS = "/run/systemd/resolve/resolv.conf"
EMBEDDED_SERVER = "127.0.0.11"
# When the host has only local resolvers and we know no others (moby daemon/libnetwork/internal/resolvconf).
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
FALLBACK_SERVERS_IPV6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")

LOOPBACK_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


@dataclass(frozen=True, slots=True)
class Resolvers:
    """What a resolv.conf says."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """The file that says it."""
        lines = [f"nameserver {server}" for server in self.servers]
        if self.search:
            lines.append(f"search {' '.join(self.search)}")
        if self.options:
            lines.append(f"options {' '.join(self.options)}")
        return "\n".join(lines) + "\n"

    def override(self, servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> "Resolvers":
        """The same with what is given in place of what was; a search of "." means none."""
        return Resolvers(
            tuple(servers) or self.servers,
            tuple(name for name in search if name != ".") if search else self.search,
            tuple(options) or self.options,
        )


def parse_resolv_conf(text: str) -> Resolvers:
    """Read a resolv.conf (resolv.conf(5)); what is not understood is left out."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return Resolvers(tuple(servers), search, tuple(options))


def host_resolvers(path: str = HOST_RESOLV_CONF) -> Resolvers:
    """The host's own resolvers; empty when it has no resolv.conf."""
    try:
        return parse_resolv_conf(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Resolvers()


def resolvers_for_containers(ipv6: bool) -> Resolvers:
    """The host's resolvers that can be reached from a network namespace, which has or has not IPv6."""
    host = host_resolvers()
    servers = tuple(server for server in host.servers if not only_from_host(server, ipv6))
    if not servers and host.servers:
        upstreams = host_resolvers(RESOLVED_UPSTREAMS).servers
        servers = tuple(server for server in upstreams if not only_from_host(server, ipv6))
    return Resolvers(servers or FALLBACK_SERVERS + (FALLBACK_SERVERS_IPV6 if ipv6 else ()), host.search, host.options)


def only_from_host(server: str, ipv6: bool) -> bool:
    """Whether a resolver of the host's is out of reach from a container's namespace, which has or has not IPv6.

    So are the host's own loopback addresses and those that lie on one of its links.
    """
    try:
        address = ip_address(server)
    except ValueError:
        return True
    if isinstance(address, IPv6Address) and (not ipv6 or address.scope_id or address.is_link_local):
        return True
    return address.is_loopback or address.is_unspecified


def hosts_text(entries: Iterable[tuple[str, str]]) -> str:
    """A hosts file: the loopback names, then each (address, names)."""
    return LOOPBACK_HOSTS + "".join(f"{address}\t{names}\n" for address, names in entries)


def host_own_hosts() -> str:
    """The host's hosts file, for containers that share its network."""
    try:
        return Path("/etc/hosts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return LOOPBACK_HOSTS


def write(directory: str, name: str, text: str) -> None:
    """Write a file that is or will be bind mounted into a container: in place, so that the mount goes on showing it.

    A link in place of the file is not followed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{directory}/{name}", flags, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, text.encode())
    finally:
        os.close(fd)
