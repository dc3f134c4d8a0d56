"""How each kind of network is made in the kernel."""

from dockyard.networks.drivers.base import Driver, Plan
from dockyard.networks.drivers.bridge import BridgeDriver
from dockyard.networks.drivers.overlay import OverlayDriver
from dockyard.networks.drivers.registry import Drivers

__all__ = ["BridgeDriver", "Driver", "Drivers", "OverlayDriver", "Plan"]
