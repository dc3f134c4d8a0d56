"""The three files that tell a container its own name, its neighbours and its resolvers."""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path

HOST_RESOLV_CONF = "/etc/resolv.conf"
# systemd-resolved keeps the upstream servers, which work from a container's namespace, in a file of its own.
RESOLVED_UPSTREAMS = "/run/systemd/resolve/resolv.conf"
EMBEDDED_SERVER = "127.0.0.11"
# When the host has only local resolvers and we know no others (moby daemon/libnetwork/internal/resolvconf).
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
FALLBACK_SERVERS_IPV6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
# A container's own file may be longer, but then it is its own business (bytes).
LONGEST = 1 << 20

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
    # the file that says it, "" for what we have chosen ourselves
    source: str = ""

    def text(self) -> str:
        """The lines that say it."""
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
            self.source,
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
        found = parse_resolv_conf(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Resolvers()
    return replace(found, source=path)


def resolvers_for_containers(ipv6: bool) -> Resolvers:
    """The host's resolvers that can be reached from a network namespace, which has or has not IPv6."""
    host = host_resolvers()
    servers = tuple(server for server in host.servers if not only_from_host(server, ipv6))
    source = host.source
    if not servers and host.servers:
        upstreams = host_resolvers(RESOLVED_UPSTREAMS)
        servers = tuple(server for server in upstreams.servers if not only_from_host(server, ipv6))
        source = upstreams.source or source
    return Resolvers(servers or fallback_servers(ipv6), host.search, host.options, source)


def fallback_servers(ipv6: bool) -> tuple[str, ...]:
    """The resolvers of a container with or without IPv6 whose host has none for it."""
    return FALLBACK_SERVERS + (FALLBACK_SERVERS_IPV6 if ipv6 else ())


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
    return LOOPBACK_HOSTS + _lines(entries)


def lone_hosts_text(name: str, entries: Iterable[tuple[str, str]]) -> str:
    """A hosts file in which the container's own name is the loopback address, as BuildKit's steps have it."""
    return f"127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n" + _lines(entries)


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


def read(directory: str, name: str) -> str | None:
    """One of the files as it is now; None when it is gone or, as a container can make it, longer than anybody needs."""
    try:
        with open(f"{directory}/{name}", "rb", opener=_not_through_links) as file:
            content = file.read(LONGEST + 1)
    except OSError:
        return None
    return content.decode("utf-8", "surrogateescape") if len(content) <= LONGEST else None


def append_hosts(directory: str, entries: Iterable[tuple[str, str]]) -> None:
    """Add (address, names) to a hosts file; what somebody else has written there stays. Raises OSError."""
    with open(f"{directory}/hosts", "r+b", opener=_not_through_links) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
        begin = b"\n" if file.read(1) not in (b"\n", b"") else b""
        file.write(begin + _lines(entries).encode())


def remove_hosts(directory: str, entries: Iterable[tuple[str, str]]) -> None:
    """Take out what `append_hosts` has added, unless it has been changed. Raises OSError."""
    gone = set(_lines(entries).splitlines(keepends=True))
    _edit_hosts(directory, lambda line: "" if line in gone else line)


def move_host(directory: str, alias: str, address: str) -> None:
    """Give the lines of which `alias` is the first name another address, of the same version. Raises OSError."""

    def moved(line: str) -> str:
        old, tab, names = line.partition("\t")
        same = tab and (names.split() or [""])[0] == alias and (":" in old) == (":" in address)
        return f"{address}\t{names}" if same else line

    _edit_hosts(directory, moved)


def _edit_hosts(directory: str, edit: Callable[[str], str]) -> None:
    before = read(directory, "hosts")
    if before is None:
        raise OSError(errno.EFBIG, "a hosts file is gone or too long to be edited", f"{directory}/hosts")
    after = "".join(map(edit, before.splitlines(keepends=True)))
    if after != before:
        with open(f"{directory}/hosts", "r+b", opener=_not_through_links) as file:
            file.write(after.encode("utf-8", "surrogateescape"))
            file.truncate()


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{address}\t{names}\n" for address, names in entries)


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
