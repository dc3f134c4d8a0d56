"""What a container's hostname, hosts and resolv.conf say, given its sandbox and what it asked for."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from dockyard.errors import InvalidParameter
from dockyard.networks import files
from dockyard.networks.model import EndpointState, JoinRequest, Sandbox, Settings
from dockyard.networks.resolv_conf import Origin, resolv_conf

log = logging.getLogger("dockyard.networks")

HOST_GATEWAY = "host-gateway"


def write(
    request: JoinRequest,
    sandbox: Sandbox,
    settings: Settings,
    *,
    embedded_dns: bool,
    gateways: Sequence[str],
    linked: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the three files into the request's directory, if it names one.

    `embedded_dns`: the container has our resolver; `gateways`: the addresses that host-gateway stands for;
    `linked`: (address, names) of the containers it is linked to.
    """
    if not request.files_dir:
        return
    extra = [entry for text in request.extra_hosts for entry in _extra_hosts(text, gateways)]
    files.write(request.files_dir, "hostname", own_name(request) + "\n")
    _write_resolvers(request, sandbox, settings, embedded_dns)
    if request.alone:
        hosts = files.lone_hosts_text(own_name(request), extra)
    elif sandbox.netns_path is None:
        hosts = files.host_own_hosts() + "".join(f"{where}\t{name}\n" for where, name in extra)
    else:
        own = [entry for state in sandbox.endpoints.values() for entry in _own_entries(request, state)]
        hosts = files.hosts_text([*extra, *linked, *own])
    files.write(request.files_dir, "hosts", hosts)


def copy(request: JoinRequest) -> None:
    """Let a container have the files as the one has them whose network it shares."""
    if not request.joined_files_dir or not request.files_dir:
        return
    for name in ("hosts", "resolv.conf", "hostname"):
        try:
            text = Path(request.joined_files_dir, name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        files.write(request.files_dir, name, text)


def connected(request: JoinRequest, state: EndpointState) -> None:
    """Add a new endpoint to the hosts file of a running container."""
    _keeping_edits(files.append_hosts, request, state)


def disconnected(request: JoinRequest, state: EndpointState) -> None:
    """Undo `connected`."""
    _keeping_edits(files.remove_hosts, request, state)


def _keeping_edits(
    edit: Callable[[str, list[tuple[str, str]]], None], request: JoinRequest, state: EndpointState
) -> None:
    if request.files_dir:
        try:
            edit(request.files_dir, _own_entries(request, state))
        except OSError as error:
            log.warning("the hosts file of container %s stays as it is: %s", request.name, error)


def update_resolvers(request: JoinRequest, sandbox: Sandbox, settings: Settings, *, embedded_dns: bool) -> bool:
    """Write resolv.conf anew for a running container; False, and nothing is done, when somebody has edited it."""
    if not request.files_dir:
        return True
    present = files.read(request.files_dir, "resolv.conf")
    if present is None or (sandbox.resolv_conf and _digest(present) != sandbox.resolv_conf):
        return False
    _write_resolvers(request, sandbox, settings, embedded_dns)
    return True


def asks_embedded_server(request: JoinRequest) -> bool:
    """Whether a container's resolv.conf, by whomever it was written, names our resolver."""
    text = files.read(request.files_dir, "resolv.conf") if request.files_dir else None
    return text is not None and files.EMBEDDED_SERVER in files.parse_resolv_conf(text).servers


def _write_resolvers(request: JoinRequest, sandbox: Sandbox, settings: Settings, embedded_dns: bool) -> None:
    text = _resolvers(request, sandbox, settings, embedded_dns)
    if request.alone:  # what is made of it had better not depend on where its servers are from
        text = "".join(f"{line}\n" for line in text.splitlines() if line and not line.startswith("#"))
    files.write(request.files_dir, "resolv.conf", text)
    sandbox.resolv_conf = _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _resolvers(request: JoinRequest, sandbox: Sandbox, settings: Settings, embedded_dns: bool) -> str:
    servers = [_server(text) for text in request.dns or settings.dns]
    ipv6 = any(state.ipv6 for state in sandbox.endpoints.values())
    search = request.dns_search or settings.dns_search
    options = request.dns_options or settings.dns_options
    given = {"nameservers": servers, "search": search, "options": options}
    overrides = [name for name, value in given.items() if value]
    ndots = any(option.startswith("ndots:") for option in options)
    ndots_from = "override" if ndots else ""
    if sandbox.netns_path is None:
        host = files.host_resolvers().override(servers, search, options)
        return resolv_conf(host, Origin(overrides=overrides, ndots_from=ndots_from or _ndots_of_host(host)))
    if not embedded_dns:
        known = files.resolvers_for_containers(ipv6)
        chosen = not servers and known.servers == files.fallback_servers(ipv6)
        known = known.override(servers, search, options)
        warnings = ["Used default nameservers."] if chosen else []
        ndots_from = ndots_from or _ndots_of_host(known)
        return resolv_conf(known, Origin("legacy", (), overrides, ndots_from, warnings))
    host = files.host_resolvers()
    external = servers or [
        f"host({server})" if files.only_from_host(server, ipv6) else server for server in host.servers
    ]
    resolvers = host.override((files.EMBEDDED_SERVER,), search, options)
    ndots_from = ndots_from or _ndots_of_host(resolvers)
    if not ndots_from:
        resolvers = resolvers.override((), (), (*resolvers.options, "ndots:0"))
    warnings = [] if external else ["NO EXTERNAL NAMESERVERS DEFINED"]
    return resolv_conf(resolvers, Origin("internal resolver", external, overrides, ndots_from or "internal", warnings))


def _ndots_of_host(resolvers: files.Resolvers) -> str:
    return "host" if any(option.startswith("ndots:") for option in resolvers.options) else ""


def _server(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise InvalidParameter(f'bad nameserver address {text}: ParseAddr("{text}"): unable to parse IP') from None
    return text


def _own_entries(request: JoinRequest, state: EndpointState) -> list[tuple[str, str]]:
    """The lines of one endpoint: the full name of the container, if it has one, and the short one."""
    full = own_name(request)
    short, dot, _ = full.partition(".")
    names = f"{full} {short}" if dot else full
    return [(where, names) for where in (state.ip, state.ipv6) if where and names]


def own_name(request: JoinRequest) -> str:
    """The container's host name, with its domain if it has one."""
    return f"{request.hostname}.{request.domainname}" if request.domainname else request.hostname


def _extra_hosts(text: str, gateways: Sequence[str]) -> list[tuple[str, str]]:
    name, separator, where = text.partition("=" if "=" in text else ":")
    if not separator or not name or not text.isprintable():
        raise InvalidParameter(f"bad format for add-host: {text!r}")
    if where != HOST_GATEWAY:
        return [(where.strip("[]"), name)]
    if not gateways:
        raise InvalidParameter("unable to derive the IP value for host-gateway")
    return [(gateway, name) for gateway in gateways]
