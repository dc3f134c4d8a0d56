"""The published ports of containers that have joined: held, led to the right endpoint, changed while they run."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor

from dockyard.errors import Conflict, DockyardError
from dockyard.networks.active import Active
from dockyard.networks.firewall import Firewall, PublishedPort
from dockyard.networks.iptables_firewall import IptablesFirewall
from dockyard.networks.model import JoinRequest, Network, PortBindings
from dockyard.networks.publishing import Publication, Publisher
from dockyard.networks.publishing import rules_of as port_rules


class PublishedPorts:
    """Keeps host ports, the packet filter's rules and the proxies of all containers in step."""

    def __init__(
        self,
        publisher: Publisher,
        firewall: Firewall | IptablesFirewall,
        networks: Mapping[str, Network],
        publishes: Callable[[Network], bool],
        executor: Executor,
    ) -> None:
        """`networks` by id, as they are at any time; `publishes`: whether host ports can lead to a network."""
        self._publisher = publisher
        self._firewall = firewall
        self._networks = networks
        self._publishes = publishes
        self._executor = executor

    def _do(
        self, work: Callable[[Iterable[PublishedPort]], None], rules: Iterable[PublishedPort]
    ) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(work, rules))

    def hold(self, active: Active, wanted: PortBindings) -> None:
        """Take host ports for the container's way out; none when it has no such."""
        request, sandbox = active.request, active.sandbox
        sandbox.ports = {}
        if active.gateway_network:
            state = sandbox.endpoints[active.gateway_network]
            network = self._networks[state.network_id]
            if not self._publishes(network):
                return
            sandbox.ports = {exposed: [] for exposed in request.exposed_ports}
            active.publications, bound = self._publisher.hold(request, network, state, wanted)
            sandbox.ports.update(bound)

    async def move(self, active: Active) -> None:
        """Let the published ports lead to the endpoint that is the gateway now; none, when there is none."""
        rules = port_rules(active.publications)
        if rules:
            await self._do(self._firewall.unpublish, rules)
        # the same host ports as before, if it had any
        bound = {key: values for key, values in active.sandbox.ports.items() if values}
        self._publisher.release(active.publications)
        self.hold(active, bound or wanted_ports(active.request))
        rules = port_rules(active.publications)
        if rules:
            await self._do(self._firewall.publish, rules)
        self._publisher.serve(active.publications)

    async def change(self, active: Active, wanted: PortBindings) -> PortBindings:
        """Let a running container's published ports be `wanted`; those it has already stay as they are bound.

        Returns how they are bound. Raises SystemFailure when a port is taken, Conflict when the container has no way
        out to publish them on; then nothing has changed.
        """
        sandbox, request = active.sandbox, active.request
        if active.namespace is None or not active.gateway_network:
            raise Conflict("a container without a network of its own has nothing to publish ports of")
        state = sandbox.endpoints[active.gateway_network]
        network = self._networks[state.network_id]
        before, asked = dict(sandbox.ports), wanted_ports(request)
        present = list(active.publications)
        stay = {key: values for key, values in wanted.items() if asked.get(key) == values}
        kept = [one for one in present if _key_of(one) in stay]
        gone = [one for one in present if _key_of(one) not in stay]
        fresh = {key: values for key, values in wanted.items() if key not in stay}
        rules = port_rules(gone)
        if rules:
            await self._do(self._firewall.unpublish, rules)
        self._publisher.release(gone)
        try:
            added, bound = self._publisher.hold(request, network, state, fresh)
        except DockyardError:
            # as it was, on the very same host ports
            back = self._publisher.retake(
                network, state, {key: values for key, values in before.items() if key not in stay}, request.name
            )
            active.publications = kept + back
            await self._lead(back)
            raise
        active.publications = kept + added
        exposed: PortBindings = {port: [] for port in request.exposed_ports}
        sandbox.ports = exposed | {key: before[key] for key in before if key in stay} | bound
        request.port_bindings = wanted
        request.publish_all = False  # what it asked for is among those named now
        await self._lead(added)
        return sandbox.ports

    async def _lead(self, publications: list[Publication]) -> None:
        rules = port_rules(publications)
        if rules:
            await self._do(self._firewall.publish, rules)
        self._publisher.serve(publications)


def wanted_ports(request: JoinRequest) -> PortBindings:
    """The ports that a container publishes: those it names, and with publish_all those it exposes."""
    wanted = dict(request.port_bindings)
    if request.publish_all:
        for exposed in request.exposed_ports:
            wanted.setdefault(exposed, [("", "")])
    return wanted


def _key_of(publication: Publication) -> str:
    return f"{publication.target[1]}/{publication.held.protocol}"
