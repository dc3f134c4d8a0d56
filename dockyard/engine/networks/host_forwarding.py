"""What the host's packet filter and kernel are asked for so that packets of containers are forwarded, and stay so."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from dockyard.engine.networks.options import NetworkOptions
from dockyard.linux.netlink import RouteSocket
from dockyard.networks import iptables
from dockyard.networks.drivers.bridge import isolated_bridges
from dockyard.networks.firewalld import Firewalld
from dockyard.networks.guard import Guard
from dockyard.networks.model import Network


class HostForwarding:
    """Turns forwarding on, and asks firewalls of others to spare our bridges; again, when they have changed."""

    def __init__(
        self,
        options: NetworkOptions,
        instance: str,
        networks: Callable[[], Sequence[Network]],
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        """`instance` names our tables and chains; `networks` are those there are; `repair` puts our own table back."""
        self._options = options
        self._instance = instance
        self.chain = iptables.chain_of(instance)
        self._networks = networks
        self._repair_table = repair
        self._guard: Guard | None = None
        self._firewalld: Firewalld | None = None
        self._lock = asyncio.Lock()
        self._wanted = self._written = 0
        # by version of IP: whether the kernel tells of changes to the chains, and whether FORWARD asks ours
        self._told: dict[int, bool] = {}
        self._asked: dict[int, bool] = {}

    async def open(self) -> None:
        """Let through what there is, and look again whenever others change the packet filter."""
        await self.let_through(user_first=True)
        if not self._options.iptables:
            return
        all_chains = self._options.firewall_backend == "iptables"
        guard = self._guard = Guard(self._instance, self.chain, self._repair, all_chains=all_chains)
        loop = asyncio.get_running_loop()
        self._firewalld = Firewalld(self._bridges, lambda: _soon(loop, guard.look))
        await asyncio.to_thread(self._firewalld.open)

    def _bridges(self) -> list[str]:
        return [network.bridge for network in self._networks() if network.bridge]

    async def close(self) -> None:
        """Look no more."""
        if self._firewalld is not None:
            await asyncio.to_thread(self._firewalld.close)
            self._firewalld = None
        if self._guard is not None:
            await self._guard.close()
            self._guard = None

    async def forget(self) -> None:
        """Take our chains away."""
        if self._options.iptables:
            await asyncio.gather(*(iptables.forget(self.chain, version) for version in (4, 6)))

    async def _repair(self) -> None:
        """Others have changed the host's packet filter."""
        await self._repair_table()
        await self.let_through(look=True)

    async def turn_on(self) -> None:
        """Make the host route for containers, and if it did not route before, for them only."""
        setting = Path("/proc/sys/net/ipv4/ip_forward")
        if self._options.ip_forward and setting.read_text(encoding="ascii").strip() == "0":
            if self._options.iptables and not self._options.ip_forward_no_drop:
                await iptables.drop_by_default()
            setting.write_text("1", encoding="ascii")

    async def before_ipv6(self, network: Network) -> None:
        """The driver is about to make the host route IPv6: the same as for IPv4 in `turn_on`."""
        setting = Path("/proc/sys/net/ipv6/conf/all/forwarding")
        drops = self._options.iptables and not self._options.ip_forward_no_drop
        concerned = network.ipv6 and self._options.ip_forward and drops
        if concerned and setting.read_text(encoding="ascii").strip() == "0":
            await iptables.drop_by_default(6)

    async def let_through(self, *, user_first: bool = False, look: bool = False) -> None:
        """Ask a host packet filter that drops what is forwarded to spare our bridges; our rules decide about them.

        `look`: others may have changed something. iptables takes 8 ms for each command: where the kernel tells of what
        others change, and that is then mended, only our own rules are written.
        """
        if not self._options.iptables:
            return
        self._wanted += 1
        mine = self._wanted
        async with self._lock:
            if self._written >= mine and not look and not user_first:
                return  # somebody who came later has done it for both
            now = self._wanted
            # with iptables, our own chains are there themselves
            nftables = self._options.firewall_backend == "nftables"
            bridged = [network for network in self._networks() if network.bridge and nftables]
            with RouteSocket() as host:
                others = [link.name for link in isolated_bridges(host.links())]
            work = [self._write(4, bridged, others, user_first=user_first, look=look)]
            version_6 = [network for network in bridged if network.ipv6]
            if self._options.ip6tables and (version_6 or user_first or self._asked.get(6)):
                work.append(self._write(6, version_6, others, user_first=user_first, look=look))
            await asyncio.gather(*work)
            self._written = now
        if self._firewalld is not None and self._firewalld.runs:
            await asyncio.to_thread(self._firewalld.tell)

    async def _write(
        self, version: int, networks: Sequence[Network], others: Sequence[str], *, user_first: bool, look: bool
    ) -> None:
        bridges = [network.bridge for network in networks]
        foreign = [name for name in others if name not in bridges]
        known = self._asked.get(version) and bridges and not look and not user_first
        if known and await iptables.rewrite(self.chain, bridges, foreign, version):
            return
        if version not in self._told:
            self._told[version] = await iptables.tells_changes(version)
        done = await iptables.let_through(self.chain, bridges, foreign, version, user_first=user_first)
        # before the guard listens something may have changed of which we are never told
        self._asked[version] = done and self._told[version] and self._guard is not None


def _soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Have it done in the loop's thread, from another one; not when the loop has ended."""
    try:
        loop.call_soon_threadsafe(work)
    except RuntimeError:
        pass
