"""What a container's hostname, hosts and resolv.conf say, given its sandbox and what it asked for."""

from collections.abc import Sequence

from dockyard.errors import InvalidParameter
from dockyard.networks import files
from dockyard.networks.model import JoinRequest, Sandbox, Settings

HOST_GATEWAY = "host-gateway"


def write(
    request: JoinRequest,
    sandbox: Sandbox,
    settings: Settings,
    *,
    embedded_dns: bool,
    gateway: str,
    linked: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the three files into the request's directory, if it names one.

    `embedded_dns`: the container has our resolver; `gateway`: the address that host-gateway stands for;
    `linked`: (address, names) of the containers it is linked to.
    """
    if not request.files_dir:
        return
    own_name = f"{request.hostname}.{request.domainname}" if request.domainname else request.hostname
    extra = [_extra_host(text, gateway) for text in request.extra_hosts]
    files.write(request.files_dir, "hostname", own_name + "\n")
    files.write(request.files_dir, "resolv.conf", _resolvers(request, sandbox, settings, embedded_dns).text())
    if sandbox.netns_path is None:
        hosts = files.host_own_hosts() + "".join(f"{where}\t{name}\n" for where, name in extra)
    else:
        hosts = files.hosts_text([*extra, *linked, *_own_entries(request, sandbox, own_name)])
    files.write(request.files_dir, "hosts", hosts)


def _resolvers(request: JoinRequest, sandbox: Sandbox, settings: Settings, embedded_dns: bool) -> files.Resolvers:
    servers = request.dns or settings.dns
    ipv6 = any(state.ipv6 for state in sandbox.endpoints.values())
    search = request.dns_search or settings.dns_search
    options = request.dns_options or settings.dns_options
    if sandbox.netns_path is None:
        return files.host_resolvers().override(servers, search, options)
    if not embedded_dns:
        return files.resolvers_for_containers(ipv6).override(servers, search, options)
    resolvers = files.host_resolvers().override((files.EMBEDDED_SERVER,), search, options)
    if any(option.startswith("ndots:") for option in resolvers.options):
        return resolvers
    return resolvers.override((), (), (*resolvers.options, "ndots:0"))


def _own_entries(request: JoinRequest, sandbox: Sandbox, own_name: str) -> list[tuple[str, str]]:
    names = own_name if own_name == request.hostname else f"{own_name} {request.hostname}"
    return [
        (where, names) for state in sandbox.endpoints.values() for where in (state.ip, state.ipv6) if where and names
    ]


def _extra_host(text: str, gateway: str) -> tuple[str, str]:
    name, separator, where = text.partition("=" if "=" in text else ":")
    if not separator or not name or not text.isprintable():
        raise InvalidParameter(f"bad format for add-host: {text!r}")
    if where == HOST_GATEWAY:
        if not gateway:
            raise InvalidParameter("unable to derive the IP value for host-gateway")
        where = gateway
    return where.strip("[]"), name
