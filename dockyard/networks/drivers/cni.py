"""Networks that CNI plugins make: `docker network create -d cni -o conf=/etc/cni/net.d/10-mynet.conflist mynet`.

The plugins are run for each container, in the order of the list, and give out the addresses themselves (CNI
specification 1.0.0, ADD and DEL); what they answer is what the container is shown to have.
"""

import json
import logging
import os
import subprocess
from collections.abc import Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.networks.drivers.base import Plan
from dockyard.networks.drivers.plain_link import PlainLinkDriver
from dockyard.networks.model import EndpointState, Network
from dockyard.networks.sandboxes import Namespace

log = logging.getLogger("dockyard.networks")

CONF, PATH = "conf", "path"
DEFAULT_PATH = "/opt/cni/bin:/usr/lib/cni"
PATIENCE = 60  # s for one plugin


class CniDriver(PlainLinkDriver):
    """Runs CNI plugins; the list is read anew each time."""

    name = "cni"
    leads_out = False

    def settle(self, network: Network) -> None:
        # the plugins give out the addresses
        network.ipv4 = network.ipv6 = False

    def chooses_gateway(self, network: Network, version: int) -> bool:
        return False

    def links(self, network: Network) -> Sequence[str]:
        return []

    def check(self, network: Network) -> None:
        if network.pools:
            raise InvalidParameter("the plugins of a CNI network give out its addresses: no subnet can be named")
        for plugin in _plugins(network)[1]:
            _program(network, plugin)

    def create(self, network: Network) -> None:
        """Nothing: a CNI network begins with its first container."""

    def remove(self, network: Network) -> None:
        """Nothing either."""

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        general, plugins = _plugins(plan.network)
        result: dict[str, Any] | None = None
        for done, plugin in enumerate(plugins):
            try:
                result = _run("ADD", plan, namespace, general, plugin, result) or result
            except SystemFailure:
                _undo(plan, namespace, general, plugins[: done + 1])
                raise
        _take_over(plan.state, result or {})

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        try:
            general, plugins = _plugins(plan.network)
        except InvalidParameter as error:
            log.warning("network %s: %s", plan.network.name, error)
            return
        _undo(plan, namespace, general, plugins)

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        self.detach(namespace, plan)


def _plugins(network: Network) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What holds for all plugins of the network, and each one's own part. Raises InvalidParameter."""
    where = network.options.get(CONF, "")
    if not where.startswith("/"):
        raise InvalidParameter("a CNI network needs -o conf=FILE, the absolute path of a .conf or .conflist")
    try:
        conf = json.loads(Path(where).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"cannot read the CNI configuration {where}: {error}") from None
    plugins = conf.get("plugins", [conf]) if isinstance(conf, dict) else []
    if not plugins or not all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in plugins):
        raise InvalidParameter(f"the CNI configuration {where} names no plugins")
    return {"cniVersion": conf.get("cniVersion", "1.0.0"), "name": conf.get("name", network.name)}, plugins


def _program(network: Network, plugin: dict[str, Any]) -> str:
    kind = plugin["type"]
    for folder in (network.options.get(PATH) or DEFAULT_PATH).split(":"):
        program = os.path.join(folder, kind)
        if "/" not in kind and os.path.isabs(folder) and os.access(program, os.X_OK):
            return program
    raise InvalidParameter(f"CNI plugin {kind!r} is not in {network.options.get(PATH) or DEFAULT_PATH} (-o path=…)")


def _run(
    command: str,
    plan: Plan,
    namespace: Namespace,
    general: dict[str, Any],
    plugin: dict[str, Any],
    previous: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a plugin answers. Raises SystemFailure with its own words."""
    told = {**plugin, **general, **({"prevResult": previous} if previous else {})}
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": plan.state.endpoint_id,
        "CNI_NETNS": namespace.path,
        "CNI_IFNAME": plan.state.interface,
        "CNI_PATH": plan.network.options.get(PATH) or DEFAULT_PATH,
    }
    try:
        done = subprocess.run(
            [_program(plan.network, plugin)],
            input=json.dumps(told).encode(),
            env=environment,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        said = json.loads(done.stdout) if done.stdout.strip() else {}
    except (OSError, ValueError, InvalidParameter, subprocess.TimeoutExpired) as error:
        raise SystemFailure(f"CNI plugin {plugin['type']}: {error}") from error
    if done.returncode != 0 or not isinstance(said, dict):
        words = said.get("msg", "") if isinstance(said, dict) else ""
        raise SystemFailure(f"CNI plugin {plugin['type']}: {words or done.stderr.decode(errors='replace').strip()}")
    return said


def _undo(plan: Plan, namespace: Namespace, general: dict[str, Any], plugins: Sequence[dict[str, Any]]) -> None:
    for plugin in reversed(plugins):
        try:
            _run("DEL", plan, namespace, general, plugin, None)
        except SystemFailure as error:
            log.warning("network %s: %s", plan.network.name, error)


def _take_over(state: EndpointState, result: dict[str, Any]) -> None:
    """Show what the plugins have done."""
    for given in result.get("ips") or ():
        address = ip_interface(given["address"])
        if address.version == 4 and not state.ip:
            state.ip, state.prefix_len = str(address.ip), address.network.prefixlen
        elif address.version == 6 and not state.ipv6:
            state.ipv6, state.ipv6_prefix_len = str(address.ip), address.network.prefixlen
    inside = [one for one in result.get("interfaces") or () if one.get("sandbox")]
    if inside:
        state.mac = inside[0].get("mac", state.mac)
