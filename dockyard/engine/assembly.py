"""Builds every service of the engine in the order in which they need each other, and takes them down in reverse."""

import logging

log = logging.getLogger("dockyard.engine")
