"""`dockyard.oci.quick_json`, by its former name."""

from dockyard.oci.quick_json import dumps, loads

__all__ = ["dumps", "loads"]
