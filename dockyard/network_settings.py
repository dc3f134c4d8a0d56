"""What dockerd takes and refuses of its settings of networking, in its words."""

import os
import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import msgspec

from dockyard.errors import InvalidParameter

LONGEST_LINK = 15
# moby opts/opts.go, ValidateDNSSearch
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9\-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?\s*")


class AddressPool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range to cut networks of `size` prefix bits from, e.g. base 172.30.0.0/16, size 24."""

    base: str
    size: int


def address_pool(flag: str, value: str) -> AddressPool:
    """The pool that a flag's value base=CIDR,size=BITS is. Raises InvalidParameter."""
    base, size = "", 0
    for part in value.split(","):
        key, separator, text = part.partition("=")
        if not separator:
            raise _invalid(flag, value, f"invalid field '{part}' must be a key=value pair")
        if key == "base":
            try:
                ip_network(text, strict=False)
            except ValueError:
                raise _invalid(flag, value, f'invalid base prefix "{text}": {not_a_prefix(text)}') from None
            base = text
        elif key == "size":
            if not text.isdecimal():
                why = f'invalid size value: "{value}" (must be integer): strconv.Atoi: parsing "{text}": invalid syntax'
                raise _invalid(flag, value, why)
            size = int(text)
        else:
            raise _invalid(flag, value, f"unexpected key '{key}' in '{part}'")
    return AddressPool(base=base, size=size)


def network_option(flag: str, value: str) -> tuple[str, str, str]:
    """(driver, option, value) of a flag's value DRIVER=OPTION=VALUE. Raises InvalidParameter."""
    driver, first, rest = value.partition("=")
    option, second, given = rest.partition("=")
    if not first or not second:
        raise _invalid(flag, value, f'invalid value "{value}" for map option, should be root-key=key=value')
    return driver, option, given


def check_pools(pools: Sequence[AddressPool]) -> None:
    """Raise InvalidParameter for pools that no network could be cut from."""
    for index, pool in enumerate(pools):
        shown = f"network at index {index} (&{{{pool.base or 'invalid Prefix'} {pool.size}}})"
        try:
            whole = ip_network(pool.base, strict=False)
        except ValueError:
            raise InvalidParameter(f"{shown} is not in canonical form") from None
        if not pool.size:
            raise InvalidParameter(f"{shown} has no size for its networks")
        if not whole.prefixlen <= pool.size <= whole.max_prefixlen:
            raise InvalidParameter(
                f"{shown} has a smaller prefix (/{whole.prefixlen}) than the target size of that pool (/{pool.size})"
            )


def check_addresses(
    default_gateway: str, default_gateway_v6: str, ip: str, dns: Sequence[str], host_gateways: Sequence[str]
) -> None:
    """Raise InvalidParameter for what is no address, or of the other IP version."""
    for flag, value, version in (
        ("--default-gateway", default_gateway, 4),
        ("--default-gateway-v6", default_gateway_v6, 6),
        ("--ip", ip, 0),
    ):
        if not value:
            continue
        found = _version(value)
        if not found:
            raise _invalid(flag, value, f'failed to parse IP: "{value}"')
        if version not in (0, found):
            raise InvalidParameter(f"invalid {flag}: {value} is of the other IP version")
    for value in dns:
        if not _version(value):
            raise _invalid("--dns", value, f"invalid string being converted to IP address: {value}")
    for value in host_gateways:
        if not _version(value):
            raise _invalid("--host-gateway-ip", value, f'ParseAddr("{value}"): unable to parse IP')
    versions = [_version(value) for value in host_gateways]
    for version in (4, 6):
        if versions.count(version) > 1:
            raise InvalidParameter(f"only one IPv{version} host gateway IP address can be specified")


def check_search(domains: Sequence[str]) -> None:
    """Raise InvalidParameter for what is no domain; "." stands for none."""
    for domain in domains:
        if domain.strip() != "." and not (re.search("[a-zA-Z]", domain) and _DOMAIN.fullmatch(domain)):
            raise _invalid("--dns-search", domain, f"{domain} is not a valid domain")


def check_proxy(path: str, wanted: bool) -> None:
    """Raise InvalidParameter for a proxy's program that cannot be run, where one is `wanted`."""
    if path and not os.path.isabs(path):
        raise InvalidParameter(f"invalid userland-proxy-path: must be an absolute path: {path}")
    if path and wanted and not os.path.exists(path):
        raise InvalidParameter(f'invalid userland-proxy-path: exec: "{path}": stat {path}: no such file or directory')
    if path and wanted and not os.access(path, os.X_OK):
        raise InvalidParameter(f'invalid userland-proxy-path: exec: "{path}": permission denied')


def check_bridge(name: str, bip: str, bip6: str) -> None:
    """Raise InvalidParameter for a bridge that the kernel cannot have, or that is none and has addresses."""
    for flag, value in (("--bip", bip), ("--bip6", bip6)):
        if name == "none" and value:
            raise InvalidParameter(f"{flag} cannot be used with --bridge=none")
    if len(name.encode()) > LONGEST_LINK or "/" in name or not name.isprintable() or " " in name:
        raise InvalidParameter(f"invalid --bridge {name!r}: a link's name has {LONGEST_LINK} characters at most")


def _version(text: str) -> int:
    """4 or 6; 0 for what is no address."""
    try:
        return ip_address(text).version
    except ValueError:
        return 0


def not_a_prefix(text: str) -> str:
    """Go's words for what is no prefix."""
    where, slash, length = text.partition("/")
    if not slash:
        return f"netip.ParsePrefix(\"{text}\"): no '/'"
    if not _version(where):
        return f'netip.ParsePrefix("{text}"): ParseAddr("{where}"): unable to parse IP'
    why = "prefix length out of range" if length.isdecimal() else f'bad bits after slash: "{length}"'
    return f'netip.ParsePrefix("{text}"): {why}'


def _invalid(flag: str, value: str, why: str) -> InvalidParameter:
    return InvalidParameter(f'invalid argument "{value}" for "{flag}" flag: {why}')
