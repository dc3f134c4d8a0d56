"""Settings of one endpoint's link that its user gives (com.docker.network.endpoint.sysctls)."""

import re
from collections.abc import Mapping

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.networks.options import ENDPOINT_SYSCTLS
from dockyard.networks.sandboxes import write_sysctl

_NAME = re.compile(r"net\.(?:ipv4|ipv6|mpls)\.[a-z0-9]+\.IFNAME\.[a-z0-9_]+")


def endpoint_sysctls(options: Mapping[str, str]) -> list[tuple[str, str]]:
    """The (name, value) that an endpoint's driver options set, names with IFNAME in them. Raises InvalidParameter."""
    found = []
    for entry in options.get(ENDPOINT_SYSCTLS, "").split(","):
        if not entry:
            continue
        name, equals, value = entry.partition("=")
        if not equals:
            raise InvalidParameter(f"expected sysctl '{entry}' to have format name=value")
        if not _NAME.fullmatch(name):
            raise InvalidParameter(
                f"unrecognised network interface sysctl '{entry}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'"
                ", 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        found.append((name, value))
    return found


def write_endpoint_sysctls(options: Mapping[str, str], interface: str) -> None:
    """Set them for the link `interface` of the thread's network namespace. Raises SystemFailure."""
    for name, value in endpoint_sysctls(options):
        # the link's own name may have dots
        path = "/".join(interface if part == "IFNAME" else part for part in name.split("."))
        try:
            known = write_sysctl(path, value)
        except OSError as error:
            raise SystemFailure(f"failed to set sysctl {name}={value} of {interface}: {error.strerror}") from error
        if not known:
            raise SystemFailure(f"/proc/sys/{path} is not a sysctl file")


def disables_ipv6(options: Mapping[str, str], sysctls: Mapping[str, str]) -> bool:
    """Whether an endpoint's own settings or its sandbox's turn its IPv6 off."""
    own = dict(endpoint_sysctls(options))
    everywhere = any(sysctls.get(f"net.ipv6.conf.{scope}.disable_ipv6") == "1" for scope in ("all", "default"))
    return own.get("net.ipv6.conf.IFNAME.disable_ipv6", "1" if everywhere else "0") == "1"
