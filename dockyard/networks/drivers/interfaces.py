"""What happens to a link inside a sandbox, whichever driver has made it: addresses, routes, its end."""

import errno
import logging
from ipaddress import ip_address

from dockyard.linux.netlink import (
    NetlinkError,
    default_route,
    delete_address,
    delete_default_route,
    new_address,
    set_link,
)
from dockyard.networks.advertising import silence
from dockyard.networks.drivers.base import Plan
from dockyard.networks.endpoint_sysctls import write_endpoint_sysctls
from dockyard.networks.model import EndpointState
from dockyard.networks.options import ENDPOINT_SYSCTLS
from dockyard.networks.sandboxes import Namespace, entered, write_sysctl

log = logging.getLogger("dockyard.networks")


def configure(namespace: Namespace, plan: Plan) -> None:
    """Give the endpoint's link its addresses and, if it is the way out, the default routes, and raise it."""
    state = plan.state
    route = namespace.route
    link = route.link(state.interface)
    if link is None:
        raise OSError(errno.ENODEV, "the new link is not there")
    if state.ipv6:
        with entered(namespace.fd):
            # its way out is the gateway's, and no neighbour's; --sysctl has the last word
            protect(state.interface)
            write_sysctl(f"net/ipv6/conf/{state.interface}/disable_ipv6", "0")
    silence(namespace, plan.network, state)
    if state.driver_opts.get(ENDPOINT_SYSCTLS):
        with entered(namespace.fd):
            write_endpoint_sysctls(state.driver_opts, state.interface)
    # Address before raising: going up is what announces it to the neighbours (arp_notify).
    acts = []
    if state.ip:
        acts.append(new_address(link.index, ip_address(state.ip), state.prefix_len))
    if state.ipv6:
        acts.append(new_address(link.index, ip_address(state.ipv6), state.ipv6_prefix_len))
    for text in state.link_local_ips:
        local = ip_address(text)
        acts.append(new_address(link.index, local, 16 if local.version == 4 else 64))
    acts.append(set_link(link.index, up=True))
    if plan.default_route:
        acts += [default_route(link.index, ip_address(gw)) for gw in (state.gateway, state.ipv6_gateway) if gw]
    route.do(*acts)


def vacate(namespace: Namespace, state: EndpointState) -> None:
    """Take the endpoint's addresses from a sandbox that is about to go, so that another may have them at once."""
    try:
        link = namespace.route.link(state.interface)
        if link is None:
            return
        acts = []
        if state.ip:
            acts.append(delete_address(link.index, ip_address(state.ip), state.prefix_len))
        if state.ipv6:
            acts.append(delete_address(link.index, ip_address(state.ipv6), state.ipv6_prefix_len))
        namespace.route.do(*acts)
    except OSError as error:
        # the container may have taken the address away or renamed the link itself
        log.debug("address of %s: %s", state.interface, error)


def route(namespace: Namespace, plan: Plan, present: bool) -> None:
    """Make this endpoint the sandbox's way out, or no longer."""
    state = plan.state
    link = namespace.route.link(state.interface)
    if link is None:
        return
    make = default_route if present else delete_default_route
    for gateway in (state.gateway, state.ipv6_gateway):
        if gateway:
            try:
                namespace.route.do(make(link.index, ip_address(gateway)))
            except NetlinkError as error:
                if error.errno != errno.ESRCH:
                    raise


def protect(link: str) -> None:
    """Let a link to which containers can send accept neither routers nor redirects (CVE-2020-13401)."""
    for name in (
        "net/ipv6/conf/{}/accept_ra",
        "net/ipv6/conf/{}/accept_redirects",
        "net/ipv4/conf/{}/accept_redirects",
    ):
        write_sysctl(name.format(link), "0")
