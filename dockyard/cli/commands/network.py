"""Networks: create, ls, inspect, connect, disconnect, rm, prune."""

from __future__ import annotations

from dockyard.cli import output, values
from dockyard.cli.commands.observe import inspect_each
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, confirm, filters, path, prune_filters
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
    subnets = flags.all("subnet")
    ranges, gateways = flags.all("ip-range"), flags.all("gateway")
    auxiliary = values.pairs(flags.all("aux-address"))
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise Failure("every ip-range or gateway must have a corresponding subnet")
    if len(subnets) < 2 and not (ranges or gateways or auxiliary):
        return [{"Subnet": text} for text in subnets]
    import ipaddress

    try:
        parsed = [ipaddress.ip_network(text, strict=False) for text in subnets]
    except ValueError:
        wrong = next(text for text in subnets if not _is_network(text))
        raise Failure(f"invalid CIDR address: {wrong}") from None
    for index, one in enumerate(parsed):
        if any(one.overlaps(other) for other in parsed[:index]):
            raise Failure("multiple overlapping subnet configuration is not supported")
    found: list[dict[str, Any]] = [{"Subnet": text} for text in subnets]

    def home(address: str, what: str) -> dict[str, Any]:
        try:
            where = ipaddress.ip_network(address, strict=False)
        except ValueError:
            kind = "CIDR address" if what == "range" else "IP address"
            raise Failure(f"invalid {kind}: {address}") from None
        for entry, subnet in zip(found, parsed, strict=True):
            if subnet.version == where.version and where.subnet_of(subnet):  # type: ignore[arg-type]  # same version
                return entry
        raise Failure(f"no matching subnet for {what} {address}")

    for key, what, given in (("IPRange", "range", ranges), ("Gateway", "gateway", gateways)):
        for text in given:
            entry = home(text, what)
            if entry.get(key):
                raise Failure(
                    f"cannot configure multiple {what}s ({text}, {entry[key]}) on the same subnet ({entry['Subnet']})"
                )
            entry[key] = text
    for name, address in auxiliary.items():
        home(address, "aux-address").setdefault("AuxiliaryAddresses", {})[name] = address
    return found


def _is_network(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


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
    found = session.api.request("GET", path("/networks", filters=filters(flags))).json()
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
                "CreatedAt": output.exact_time(network["Created"]),
                "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
                "Label": lambda key, labels=labels: labels.get(key, ""),
            }
        )
    form = flags.text("format") or session.setting("networksFormat") * (not flags.on("quiet"))
    if flags.on("quiet") and form in ("", "table"):
        for row in rows:
            print(row["ID"])
        return 0
    if form == "raw":
        form = "network_id: {{.ID}}" if flags.on("quiet") else RAW
    output.rows(rows, form, COLUMNS, {"CreatedAt": "CREATED AT"}, "*network.networkContext")
    return 0


RAW = "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n"


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
dockyard network explain CONTAINER|PORT[/PROTO]

Print the way of packets to and from a container, or to a published host port, with the commands that make it by hand
"""
)
def explain(session: Session, flags: Flags) -> int:
    """Prints each step, its rule, and the commands that make (+) and show ($) it."""
    paths = session.api.request("GET", path("/dockyard/networks/explain", of=flags.arguments[0])).json()
    for number, found in enumerate(paths):
        if number:
            print()
        print(found["Title"])
        for place, step in enumerate(found["Steps"], 1):
            print(f"{place:3}. {step['What']}")
            if step.get("Rule"):
                print(f"     {step['Rule']}")
            for mark, key in (("+", "Make"), ("$", "Show")):
                for command in step.get(key) or ():
                    print(f"     {mark} {command}")
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
    answer = session.api.request("POST", path("/networks/prune", filters=prune_filters(session, flags))).json()
    if answer["NetworksDeleted"]:
        print("Deleted Networks:", *answer["NetworksDeleted"], "", sep="\n")
    return 0
