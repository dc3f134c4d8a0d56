"""Who is called what on which network: what the embedded resolver answers from."""

from dockyard.networks.model import EndpointState, Sandbox


class Names:
    """The names of endpoints, network by network; case does not matter."""

    def __init__(self) -> None:
        # network id -> lower-case name -> endpoints
        self._networks: dict[str, dict[str, list[EndpointState]]] = {}

    def add(self, state: EndpointState) -> None:
        """Let an endpoint be found by its `dns_names`."""
        names = self._networks.setdefault(state.network_id, {})
        for name in state.dns_names:
            names.setdefault(name.lower(), []).append(state)

    def remove(self, state: EndpointState) -> None:
        """Undo `add`; `dns_names` must be as they were then."""
        names = self._networks.get(state.network_id, {})
        for name in state.dns_names:
            left = [other for other in names.get(name.lower(), ()) if other is not state]
            if left:
                names[name.lower()] = left
            else:
                names.pop(name.lower(), None)
        if not names:
            self._networks.pop(state.network_id, None)

    def lookup(self, asker: Sandbox, name: str) -> list[str] | None:
        """The addresses of lower-case `name`, or `name.network`, as `asker` sees it; None when it is none of ours."""
        for network_name, own in asker.endpoints.items():
            names = self._networks.get(own.network_id, {})
            for wanted in dict.fromkeys((name, name.removesuffix(f".{network_name.lower()}"))):
                found = names.get(_linked(own, wanted))
                if found:
                    return [text for state in found for text in (state.ip, state.ipv6) if text]
        return None

    def reverse(self, asker: Sandbox, address: str) -> str | None:
        """The name of an address, as `asker` sees it, with its network's name."""
        for network_name, own in asker.endpoints.items():
            for states in self._networks.get(own.network_id, {}).values():
                for state in states:
                    if address in (state.ip, state.ipv6) and state.dns_names:
                        return f"{state.dns_names[0]}.{network_name}"
        return None


def _linked(own: EndpointState, wanted: str) -> str:
    """The container that the asker calls `wanted` by a link of its own ("container:alias"), or `wanted`."""
    for link in own.links:
        target, _, alias = link.partition(":")
        if (alias or target).lower() == wanted:
            return target.lower()
    return wanted
