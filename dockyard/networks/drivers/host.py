"""The network "host": no sandbox at all, the container sees the host's own links."""

from dockyard.errors import Forbidden
from dockyard.networks.drivers.null import NullDriver
from dockyard.networks.model import Network


class HostDriver(NullDriver):
    """Makes nothing either."""

    name = "host"

    def check(self, network: Network) -> None:
        raise Forbidden('only one instance of "host" network is allowed')
