"""How each kind of network is made in the kernel."""

from dockyard.networks.drivers.base import Driver, Plan
from dockyard.networks.drivers.bridge import BridgeDriver
from dockyard.networks.drivers.cni import CniDriver
from dockyard.networks.drivers.host import HostDriver
from dockyard.networks.drivers.macvlan import IpvlanDriver, MacvlanDriver
from dockyard.networks.drivers.null import NullDriver
from dockyard.networks.drivers.overlay import OverlayDriver
from dockyard.networks.drivers.remote import RemoteDriver

__all__ = [
    "BridgeDriver",
    "CniDriver",
    "Driver",
    "HostDriver",
    "IpvlanDriver",
    "MacvlanDriver",
    "NullDriver",
    "OverlayDriver",
    "Plan",
    "RemoteDriver",
]
