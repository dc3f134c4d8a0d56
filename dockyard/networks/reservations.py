"""Addresses that others give out, hosts of the same network or plugins: asked for before an endpoint is made."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from dockyard.networks import plugin_ipam
from dockyard.networks.model import EndpointConfig, EndpointState, Network
from dockyard.networks.shared_endpoints import SharedEndpoints

P = ParamSpec("P")
T = TypeVar("T")


class Reservations:
    """Asks whoever is concerned; on networks whose addresses we give out ourselves nothing happens."""

    def __init__(self, shared: SharedEndpoints, executor: Executor) -> None:
        self._shared = shared
        self._executor = executor

    def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(work, *args, **kwargs))

    async def reserve(self, network: Network, config: EndpointConfig, liked: tuple[str, str]) -> EndpointConfig:
        """`config` with addresses that nobody else has, `liked` ones if they are free. Raises as whom it asks."""
        if plugin_ipam.has_plugin(network):
            return await self._do(plugin_ipam.request_addresses, network, config, liked)
        return await self._shared.reserve(network, config, liked)

    async def give_back(self, network: Network, held: EndpointConfig) -> None:
        """Undo `reserve`."""
        if plugin_ipam.has_plugin(network):
            addresses = (held.ipv4_address, held.ipv6_address)
            await self._do(plugin_ipam.release_addresses, network, addresses)
        else:
            await self._shared.give_back(network, held)

    async def left(self, network: Network, state: EndpointState) -> None:
        """An endpoint is no more; the driver has told the other hosts."""
        if plugin_ipam.has_plugin(network):
            await self._do(plugin_ipam.release_addresses, network, (state.ip, state.ipv6))

    async def found(self, network: Network, state: EndpointState) -> None:
        """An endpoint has outlived an earlier daemon, and perhaps the plugin that has given its addresses."""
        if plugin_ipam.has_plugin(network):
            await self._do(plugin_ipam.replay_addresses, network, (state.ip, state.ipv6), state.mac)
