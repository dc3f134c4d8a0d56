"""The drivers by their names: ours, and the plugins of others."""

from pathlib import Path

from dockyard.networks.cluster.store import ClusterStore
from dockyard.networks.drivers.base import Driver
from dockyard.networks.drivers.bridge import BridgeDriver
from dockyard.networks.drivers.cni import CniDriver
from dockyard.networks.drivers.host import HostDriver
from dockyard.networks.drivers.macvlan import IpvlanDriver, MacvlanDriver
from dockyard.networks.drivers.null import NullDriver
from dockyard.networks.drivers.overlay import OverlayDriver
from dockyard.networks.drivers.remote import RemoteDriver


class Drivers:
    """One of each kind; `bridge` and `overlay` are asked for more than what all drivers do."""

    def __init__(self, mark: str, directory: Path, ip_forward: bool, cluster: ClusterStore | None) -> None:
        """`mark`: what links of this daemon carry; `directory`: where namespaces are; `cluster`: shared by hosts."""
        self.bridge = BridgeDriver(mark, ip_forward)
        self.overlay = OverlayDriver(mark, directory, cluster)
        others = (HostDriver(), NullDriver(), MacvlanDriver(mark), IpvlanDriver(mark), CniDriver())
        self._by_name: dict[str, Driver] = {driver.name: driver for driver in (self.bridge, *others, self.overlay)}

    def named(self, name: str) -> Driver:
        """The driver of that name: one of ours, or the plugin that is called so, which need not be there."""
        return self._by_name.get(name) or RemoteDriver(name)
