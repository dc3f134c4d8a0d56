"""The networks that `create` and `run` join, and how: --network in both its forms, --ip, --network-alias, …"""

from __future__ import annotations

from dockyard.cli import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.cli.usage import Flags

    Body = dict[str, Any]

_PREDEFINED = ("", "bridge", "default", "host", "none")


def endpoints(flags: Flags, host: Body) -> Body:
    """The endpoint of every network by its name; the first network is the host configuration's network mode.

    Raises UsageError, ValueError.
    """
    given = [_attachment(flags, text) for text in flags.all("network") + flags.all("net")]
    found: Body = {}
    for index, (name, endpoint) in enumerate(given or [("default", {})]):
        if index == 0:
            if given:
                host["NetworkMode"] = name
            _apply_flags(flags, name, endpoint)
        _check(name, endpoint)
        if name in found:
            raise ValueError(f'network "{name}" is specified multiple times')
        found[name] = endpoint
    kinds = {user_defined(name) for name, _ in given}
    if len(kinds) > 1:
        raise ValueError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    if len(found) == 1 and not next(iter(found.values())):
        return {}
    return found


def user_defined(name: str) -> bool:
    """Whether a network mode is a network that somebody has made."""
    return name not in _PREDEFINED and not name.startswith("container:")


def _attachment(flags: Flags, text: str) -> tuple[str, Body]:
    """`NAME` or `name=NAME,alias=…,ip=…`."""
    if "=" not in text:
        return text, {}
    try:
        return _long_form(text)
    except ValueError as error:
        raise flags.invalid("network", text, str(error)) from None


def _long_form(text: str) -> tuple[str, Body]:
    name, endpoint = "", dict[str, "Any"]()
    for field in values.csv_fields(text.lower()):
        key, equals, value = (part.strip() for part in field.partition("="))
        if not equals or not key:
            raise ValueError(f"invalid field {field}")
        if key == "name":
            name = value
        elif key == "alias":
            endpoint.setdefault("Aliases", []).append(value)
        elif key in ("ip", "ip6"):
            endpoint.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
        elif key == "link-local-ip":
            endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
        elif key == "mac-address":
            endpoint["MacAddress"] = value
        elif key == "gw-priority":
            if not value.lstrip("+-").isdigit():
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax")
            endpoint["GwPriority"] = int(value)
        elif key == "driver-opt":
            option, equals, content = (part.strip() for part in value.partition("="))
            if not equals or not option:
                raise ValueError("invalid key value pair format in driver options")
            endpoint.setdefault("DriverOpts", {})[option] = content
        else:
            raise ValueError(f"invalid field key {key}")
    if not name:
        raise ValueError("network name/id is not specified")
    return name, endpoint


def _apply_flags(flags: Flags, name: str, endpoint: Body) -> None:
    """The first network is the one that the flags without a network's name are about."""
    addresses = endpoint.get("IPAMConfig", {})
    for flag, known, shown in (
        ("network-alias", endpoint.get("Aliases"), "per-network alias"),
        ("ip", addresses.get("IPv4Address"), "per-network IPv4 address"),
        ("ip6", addresses.get("IPv6Address"), "per-network IPv6 address"),
        ("mac-address", endpoint.get("MacAddress"), "per-network MAC address"),
        ("link-local-ip", addresses.get("LinkLocalIPs"), "per-network link-local IP addresses"),
    ):
        if known and flags.given(flag):
            raise ValueError(f"conflicting options: cannot specify both --{flag} and {shown}")
    aliases = flags.all("network-alias") + flags.all("net-alias")
    if aliases:
        endpoint["Aliases"] = aliases
    if flags.given("link") and user_defined(name):
        endpoint["Links"] = flags.all("link")
    if flags.given("mac-address"):
        endpoint["MacAddress"] = flags.text("mac-address")
    for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if flags.given(flag):
            endpoint.setdefault("IPAMConfig", {})[key] = flags.text(flag)
    if flags.given("link-local-ip"):
        endpoint.setdefault("IPAMConfig", {})["LinkLocalIPs"] = flags.all("link-local-ip")


def _check(name: str, endpoint: Body) -> None:
    if not name.strip():
        raise ValueError("no name set for network")
    if endpoint.get("Aliases") and not user_defined(name):
        raise ValueError("network-scoped aliases are only supported for user-defined networks")
    if endpoint.get("MacAddress") and not values.is_mac(endpoint["MacAddress"]):
        raise ValueError(f"{endpoint['MacAddress']} is not a valid mac address")
