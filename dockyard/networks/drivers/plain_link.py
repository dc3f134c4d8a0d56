"""Drivers whose endpoint is a plain link in the sandbox, of which the host keeps no other end."""

import logging

from dockyard.linux.netlink import delete_link
from dockyard.networks.drivers.base import Plan
from dockyard.networks.sandboxes import Namespace

log = logging.getLogger("dockyard.networks")


class PlainLinkDriver:
    """What such drivers have in common: the link in the sandbox is all that there is of an endpoint."""

    scope = "local"
    creates = True
    publishes = False

    def take_up(self, namespace: Namespace, plan: Plan) -> bool:
        """Whether the link is there."""
        return namespace.route.link(plan.state.interface) is not None

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        """Delete the link; the container may have done so itself."""
        try:
            link = namespace.route.link(plan.state.interface)
            if link is not None:
                namespace.route.do(delete_link(link.index))
        except OSError as error:
            log.debug("link %s: %s", plan.state.interface, error)
