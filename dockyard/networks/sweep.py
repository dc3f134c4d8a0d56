"""What earlier daemons left in the kernel and nobody uses goes."""

import logging
import socket
from collections.abc import Iterable

from dockyard.linux.netlink import RouteSocket, delete_link
from dockyard.networks import sandboxes
from dockyard.networks.drivers.marks import is_ours

log = logging.getLogger("dockyard.networks")


def delete_links(names: Iterable[str]) -> None:
    """Remove the links of these names; no error for those that are gone."""
    with RouteSocket() as host:
        for name in names:
            try:
                host.do(delete_link(socket.if_nametoindex(name)))
            except OSError:
                continue  # gone with its namespace, as it should be


def sweep(paths: set[str], mark: str, known: set[str]) -> None:
    """Remove the namespaces `paths`, and the links that carry our mark and are none of `known`.

    A bridge is only removed when nothing is attached to it.
    """
    for path in paths:
        log.info("removing stale network namespace %s", path)
        sandboxes.delete_file(path)
    with RouteSocket() as host:
        present = host.links()
        bridges = {link.index: link.name for link in present if link.kind == "bridge" and is_ours(link, mark)}
        masters = {link.master for link in present}
        for link in present:
            if is_ours(link, mark):
                if link.name not in known and link.index not in masters:
                    log.info("removing stale link %s", link.name)
                    delete_links([link.name])
            elif link.master in bridges and link.name not in known:
                # an engine that came later has taken docker0 for its own, or an administrator knows what they do
                log.warning(
                    "link %s on our bridge %s is somebody else's; containers and it may want the same addresses",
                    link.name,
                    bridges[link.master],
                )
