"""docker-py's networks: `client.networks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.compat.models.resource import Collection, Model

if TYPE_CHECKING:
    from dockyard.compat.models.containers import Container


class Network(Model):
    """A network."""

    @property
    def name(self) -> str | None:
        """Its name."""
        return self.attrs.get("Name")

    @property
    def containers(self) -> list[Container]:
        """The containers on it, as of the last `reload`."""
        return [self.client.containers.get(one) for one in self.attrs.get("Containers") or {}]

    def connect(self, container: Any, **endpoint: Any) -> None:
        """Let a container join: aliases, links, ipv4_address, ipv6_address, link_local_ips, driver_opt, mac_address."""
        self.client.api.connect_container_to_network(container, self.id, **endpoint)

    def disconnect(self, container: Any, force: bool = False) -> None:
        """Let a container leave."""
        self.client.api.disconnect_container_from_network(container, self.id, force)

    def remove(self) -> None:
        """Remove it."""
        self.client.api.remove_network(self.id)


class NetworkCollection(Collection[Network]):
    """The engine's networks."""

    model = Network

    def create(self, name: str, *given: Any, **options: Any) -> Network:
        """Create a network; see APIClient.create_network."""
        return self.get(self.client.api.create_network(name, *given, **options)["Id"])

    def get(self, network_id: str, *given: Any, **options: Any) -> Network:
        """The network of that name or ID. Raises NotFound."""
        return self.prepare_model(self.client.api.inspect_network(network_id, *given, **options))

    def list(self, *given: Any, **options: Any) -> list[Network]:
        """The networks: names, ids, filters. With `greedy` each is asked for, so that it knows its containers."""
        greedy = options.pop("greedy", False)
        rows = self.client.api.networks(*given, **options)
        return [self.get(row["Id"]) if greedy else self.prepare_model(row) for row in rows]

    def prune(self, filters: Any = None) -> Any:
        """Remove the networks that nobody uses."""
        return self.client.api.prune_networks(filters)
