"""Networks: create, ls, inspect, connect, disconnect, rm, prune."""

from __future__ import annotations

from dockyard.cli import output, values
from dockyard.cli.commands.observe import inspect_each
from dockyard.cli.session import Failure, Session, confirm, filters, path
from dockyard.cli.usage import Flags, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}


@usage(
    """
dockyard network create [OPTIONS] NETWORK

Create a network

Options:
      --attachable           Containers may join it by hand
      --aux-address map      Addresses that the driver uses itself
      --config-from string   Network to take the configuration from
      --config-only          A configuration, not a network
  -d, --driver string        Network driver (default "bridge")
      --gateway strings      Gateway of a subnet
      --ingress              Make a routing mesh
      --internal             No way to the outside
      --ip-range strings     Part of the subnet that containers get addresses from
      --ipam-driver string   Address management driver (default "default")
      --ipam-opt map         Options of the address management driver
      --ipv4                 Give IPv4 addresses (default true)
      --ipv6                 Give IPv6 addresses
      --label list           Labels
  -o, --opt map              Options of the driver
      --scope string         Scope of the network
      --subnet strings       Subnet, as in 172.30.0.0/16
"""
)
def create(session: Session, flags: Flags) -> int:
    """Prints the ID."""
    body: dict[str, Any] = {
        "Name": flags.arguments[0],
        "Driver": flags.text("driver", "bridge"),
        "Scope": flags.text("scope"),
        "Internal": flags.on("internal"),
        "Attachable": flags.on("attachable"),
        "Ingress": flags.on("ingress"),
        "ConfigOnly": flags.on("config-only"),
        "Options": values.pairs(flags.all("opt")),
        "Labels": values.pairs(flags.all("label")),
        "IPAM": {
            "Driver": flags.text("ipam-driver", "default"),
            "Options": values.pairs(flags.all("ipam-opt")),
            "Config": _subnets(flags),
        },
    }
    for name in ("ipv4", "ipv6"):
        if flags.given(name):
            body["EnableIPv4" if name == "ipv4" else "EnableIPv6"] = flags.on(name)
    if flags.given("config-from"):
        body["ConfigFrom"] = {"Network": flags.text("config-from")}
    answer = session.api.request("POST", "/networks/create", body).json()
    if answer.get("Warning"):
        import sys

        print(f"WARNING: {answer['Warning']}", file=sys.stderr)
    print(answer["Id"])
    return 0


def _subnets(flags: Flags) -> list[dict[str, Any]]:
    """Each subnet with the range, gateway and addresses that lie in it."""
    found: list[dict[str, Any]] = [{"Subnet": text} for text in flags.all("subnet")]
    extra = [("IPRange", text) for text in flags.all("ip-range")] + [("Gateway", t) for t in flags.all("gateway")]
    if not extra and not flags.given("aux-address"):
        return found
    if not found:
        raise Failure("every ip-range or gateway must have a corresponding subnet")
    import ipaddress

    def home(address: str) -> dict[str, Any]:
        where = ipaddress.ip_network(address, strict=False)
        for entry in found:
            subnet = ipaddress.ip_network(entry["Subnet"], strict=False)
            if subnet.version == where.version and where.subnet_of(subnet):  # type: ignore[arg-type]  # same version
                return entry
        raise Failure(f"no matching subnet for {address}")

    try:
        for key, text in extra:
            home(text)[key] = text
        for name, address in values.pairs(flags.all("aux-address")).items():
            home(address).setdefault("AuxiliaryAddresses", {})[name] = address
    except ValueError as error:
        raise Failure(str(error)) from None
    return found


@usage(
    """
dockyard network ls [OPTIONS]

List networks

Options:
  -f, --filter filter   Which ones (driver=…, name=…, label=…, …)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --no-trunc        Do not shorten anything
  -q, --quiet           Show IDs only
"""
)
def ls(session: Session, flags: Flags) -> int:
    """Prints a table."""
    found = session.api.request("GET", path("/networks", filters=filters(flags.all("filter")))).json()
    found.sort(key=lambda network: network["Name"])
    full = flags.on("no-trunc")
    rows = []
    for network in found:
        labels = network.get("Labels") or {}
        rows.append(
            {
                "ID": network["Id"] if full else network["Id"][:12],
                "Name": network["Name"],
                "Driver": network["Driver"],
                "Scope": network["Scope"],
                "IPv4": str(network.get("EnableIPv4", True)).lower(),
                "IPv6": str(network["EnableIPv6"]).lower(),
                "Internal": str(network["Internal"]).lower(),
                "CreatedAt": network["Created"],
                "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
                "Label": lambda key, labels=labels: labels.get(key, ""),
            }
        )
    if flags.on("quiet"):
        for row in rows:
            print(row["ID"])
        return 0
    output.rows(rows, flags.text("format"), COLUMNS, {"CreatedAt": "CREATED AT"})
    return 0


@usage(
    """
dockyard network inspect [OPTIONS] NETWORK [NETWORK...]

Display detailed information on one or more networks

Options:
  -f, --format string   'json' or a Go template
  -v, --verbose         Say more
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON."""
    return inspect_each(session, flags, lambda name: path("/networks", name, verbose=flags.on("verbose")))


@usage(
    """
dockyard network connect [OPTIONS] NETWORK CONTAINER

Connect a container to a network

Options:
      --alias strings        Names in the network
      --driver-opt strings   Options of the driver
      --gw-priority int      The highest of all networks gives the default gateway
      --ip string            IPv4 address (172.30.100.104)
      --ip6 string           IPv6 address (2001:db8::33)
      --link list            Link to another container
      --link-local-ip strings   Link-local addresses
"""
)
def connect(session: Session, flags: Flags) -> int:
    """Prints nothing."""
    network, container = flags.arguments
    body = {
        "Container": container,
        "EndpointConfig": {
            "IPAMConfig": {
                "IPv4Address": flags.text("ip"),
                "IPv6Address": flags.text("ip6"),
                "LinkLocalIPs": flags.all("link-local-ip"),
            },
            "Links": flags.all("link"),
            "Aliases": flags.all("alias"),
            "DriverOpts": values.pairs(flags.all("driver-opt")),
            "GwPriority": flags.number("gw-priority"),
        },
    }
    session.api.request("POST", path("/networks", network, "/connect"), body).read()
    return 0


@usage(
    """
dockyard network disconnect [OPTIONS] NETWORK CONTAINER

Disconnect a container from a network

Options:
  -f, --force   Even if the container is gone
"""
)
def disconnect(session: Session, flags: Flags) -> int:
    """Prints nothing."""
    network, container = flags.arguments
    body = {"Container": container, "Force": flags.on("force")}
    session.api.request("POST", path("/networks", network, "/disconnect"), body).read()
    return 0


@usage(
    """
dockyard network rm NETWORK [NETWORK...]

Remove one or more networks

Options:
  -f, --force   No error when there is no such network
"""
)
def rm(session: Session, flags: Flags) -> int:
    """Prints the names."""
    from dockyard.client.errors import APIError

    def one(name: str) -> None:
        try:
            session.api.request("DELETE", path("/networks", name)).read()
        except APIError as error:
            if error.status != 404 or not flags.on("force"):
                raise
            return
        print(name)

    return session.each(flags.arguments, one)


@usage(
    """
dockyard network prune [OPTIONS]

Remove all unused networks

Options:
      --filter filter   Which ones (until=…, label=…)
  -f, --force           Do not ask
"""
)
def prune(session: Session, flags: Flags) -> int:
    """Prints what is gone."""
    question = "WARNING! This will remove all custom networks not used by at least one container."
    if not flags.on("force") and not confirm(question):
        return 0
    answer = session.api.request("POST", path("/networks/prune", filters=filters(flags.all("filter")))).json()
    if answer["NetworksDeleted"]:
        print("Deleted Networks:", *answer["NetworksDeleted"], "", sep="\n")
    return 0
