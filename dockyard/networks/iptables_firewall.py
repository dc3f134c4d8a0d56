"""The packet filter of a daemon's bridges in iptables' chains, as Docker has them (`"firewall-backend": "iptables"`).

    filter  FORWARD → DOCKER-USER, DOCKER-FORWARD → DOCKER-CT, DOCKER-ISOLATION-STAGE-1 → -2, DOCKER-BRIDGE → DOCKER
    nat     PREROUTING, OUTPUT → DOCKER (a DNAT rule per published port); POSTROUTING: a MASQUERADE rule per subnet

The chains have no owner in their names, so one engine on a host can have them: a comment in DOCKER-FORWARD says whose
they are. Everything is written by iptables-restore, each table's change at once.
"""

import logging
import shutil
import subprocess
import threading
from collections.abc import Iterable
from ipaddress import ip_address

from dockyard.errors import Conflict, SystemFailure
from dockyard.networks.firewall import BridgeRules, LinkedPort, PublishedPort, forget_flows
from dockyard.networks.gateway_modes import ROUTED, UNPROTECTED

log = logging.getLogger("dockyard.networks")

PROGRAMS = {4: "iptables", 6: "ip6tables"}
CHAINS = {
    "filter": (
        "DOCKER",
        "DOCKER-BRIDGE",
        "DOCKER-CT",
        "DOCKER-FORWARD",
        "DOCKER-ISOLATION-STAGE-1",
        "DOCKER-ISOLATION-STAGE-2",
    ),
    "nat": ("DOCKER",),
}


class IptablesFirewall:
    """Keeps Docker's chains as they should be. Blocking, thread-safe. Raises SystemFailure when iptables refuses."""

    def __init__(
        self,
        name: str,
        accept_mark: tuple[int, int] | None = None,
        *,
        ipv6: bool = True,
        direct: bool = False,
        hairpin: bool = False,
        inside_only: bool = False,
    ) -> None:
        """`hairpin`: there is no proxy, so containers and 127.0.0.1 reach published ports by the rules alone.

        The others as those of `Firewall`.
        """
        self.name = name
        self._accept_mark = accept_mark
        self._versions = (4, 6) if ipv6 else (4,)
        self._direct = direct
        self._hairpin = hairpin
        self._inside_only = inside_only
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: set[PublishedPort] = set()
        self._links: set[LinkedPort] = set()
        # the rules that we have put into chains that are not ours, by IP version
        self._outside: dict[int, set[str]] = {}
        self._written = False
        self._lock = threading.RLock()

    def close(self) -> None:
        """Nothing is held; the rules stay in force."""

    def set_bridges(self, bridges: Iterable[BridgeRules]) -> None:
        """Replace the networks served, without telling the kernel; see `rewrite`."""
        with self._lock:
            self._bridges = {rules.bridge: rules for rules in bridges}

    def adopt(self, ports: Iterable[PublishedPort]) -> None:
        """Count `ports` among the published ones, without telling the kernel; see `rewrite`."""
        with self._lock:
            self._ports.update(ports)

    def publish(self, ports: Iterable[PublishedPort]) -> None:
        """Send traffic for these host ports to their containers."""
        with self._lock:
            added = [port for port in ports if port not in self._ports]
            self._ports.update(added)
            try:
                self._change("-A", added)
            except SystemFailure:
                self._ports.difference_update(added)
                raise
            forget_flows(added)

    def unpublish(self, ports: Iterable[PublishedPort]) -> None:
        """Undo `publish`; what is not published is passed over."""
        with self._lock:
            removed = [port for port in ports if port in self._ports]
            self._ports.difference_update(removed)
            try:
                self._change("-D", removed)
            except SystemFailure:
                self.rewrite()
            forget_flows(removed)

    def link(self, links: Iterable[LinkedPort]) -> None:
        """Let these through; IPv4 alone, as in Docker."""
        with self._lock:
            self._links |= set(links)
            self.rewrite()

    def unlink(self, address: str) -> bool:
        """Undo `link` for all from and to `address`; whether the last of all links has gone with them."""
        with self._lock:
            removed = {link for link in self._links if address in (link.source, link.target)}
            self._links -= removed
            if removed:
                self.rewrite()
            return bool(removed) and not self._links

    def adopt_links(self, links: Iterable[LinkedPort]) -> None:
        """Count `links` among those let through, without telling the kernel; see `rewrite`."""
        with self._lock:
            self._links.update(links)

    def rewrite(self) -> None:
        """Write the chains from what we know."""
        with self._lock:
            for version in self._versions:
                self._check_owner(version)
                self._restore(version, self._text(version))
                self._place_jumps(version)
            self._written = True

    def repair(self) -> None:
        """Write the chains again if somebody has removed them, or what leads there."""
        with self._lock:
            if not self._written:
                return
            if not all(self._is_whole(version) for version in self._versions):
                log.warning("rules were removed from iptables by somebody; writing them again")
                self.rewrite()

    def _is_whole(self, version: int) -> bool:
        """Whether our chains have as many rules as they should, and what leads there and is outside is there."""
        present = {table: self._saved(version, table) for table in CHAINS}
        wanted = [line.split()[1] for line in self._text(version).splitlines() if line.startswith(("-A ", "-I "))]
        chains = {chain for names in CHAINS.values() for chain in names}
        found = [line.split()[1] for lines in present.values() for line in lines]
        if sorted(wanted) != sorted(chain for chain in found if chain in chains):
            return False
        jumps = all(
            any(line.startswith(f"-A {chain} ") and line.endswith(f"-j {rule[-1]}") for line in present[table])
            for table, chain, rule in self._jumps(version)
        )
        outside = (f"-A POSTROUTING {rule}" for rule in self._outside.get(version, ()))
        return jumps and all(line in present["nat"] for line in outside)

    def remove(self) -> None:
        """Delete the chains and what leads there; DOCKER-USER is the administrator's."""
        with self._lock:
            for version in self._versions:
                for table, chain, rule in self._jumps(version):
                    self._try(version, table, "-D", chain, *rule)
                for written in self._outside.pop(version, None) or self._left_outside(version):
                    self._try(version, "nat", "-D", "POSTROUTING", *written.split())
                for table, chains in CHAINS.items():
                    for act in ("-F", "-X"):
                        for chain in chains:
                            self._try(version, table, act, chain)
            self._written = False

    # -- what the rules are -------------------------------------------------------------------------------------------

    def _jumps(self, version: int) -> list[tuple[str, str, list[str]]]:
        local = "-m addrtype --dst-type LOCAL -j DOCKER"
        loopback = "127.0.0.0/8" if version == 4 else "::1/128"
        output = local if self._hairpin else f"! -d {loopback} {local}"
        jumps = [("filter", "FORWARD", ["-j", "DOCKER-FORWARD"]), ("nat", "OUTPUT", output.split())]
        return jumps if self._inside_only else [*jumps, ("nat", "PREROUTING", local.split())]

    def _place_jumps(self, version: int) -> None:
        for table, chain, rule in self._jumps(version):
            if not self._try(version, table, "-C", chain, *rule):
                # after DOCKER-USER, which somebody else has put first
                present = self._listed(version, table, chain) or []
                after = "-A FORWARD -j DOCKER-USER" in present
                place = ["-I", chain, str(present.index("-A FORWARD -j DOCKER-USER") + 2)] if after else ["-A", chain]
                self._run(version, table, *place, *rule)
        wanted = {text for rules in self._of(version) for text in self._postrouting(rules, version)}
        present = [line.removeprefix("-A POSTROUTING ") for line in self._listed(version, "nat", "POSTROUTING") or []]
        known = self._outside.get(version)
        if known is None:  # what an earlier daemon of ours has left: it names our bridges
            known = {line for line in present if any(f" {name} " in line for name in self._bridges)}
        for old in known - wanted:
            self._try(version, "nat", "-D", "POSTROUTING", *old.split())
        for new in wanted - set(present):
            self._run(version, "nat", "-A", "POSTROUTING", *new.split())
        self._outside[version] = wanted

    def _left_outside(self, version: int) -> list[str]:
        """What another start has put into POSTROUTING, for the bridges that our own chains name."""
        own = [line.split() for line in self._listed(version, "filter", "DOCKER-CT") or []]
        bridges = [words[words.index("-o") + 1] for words in own if "-o" in words]
        present = self._listed(version, "nat", "POSTROUTING") or []
        return [
            line.removeprefix("-A POSTROUTING ") for line in present if any(f" {name} " in line for name in bridges)
        ]

    def _of(self, version: int) -> list[BridgeRules]:
        return [rules for rules in self._bridges.values() if any(net.version == version for net in rules.subnets)]

    def _postrouting(self, rules: BridgeRules, version: int) -> list[str]:
        found = []
        for net in rules.subnets:
            if net.version == version and rules.masquerade and not rules.internal and rules.mode(version) != ROUTED:
                source = rules.sources[version == 6]
                hide = f"SNAT --to-source {source}" if source else "MASQUERADE"
                found.append(f"-s {net} ! -o {rules.bridge} -j {hide}")
                if self._hairpin:
                    found.append(f"-s {net} -o {rules.bridge} -m conntrack --ctstate DNAT -j MASQUERADE")
        if self._hairpin and version == 4:
            found.append(f"-s 127.0.0.0/8 -o {rules.bridge} -j MASQUERADE")
        return found

    def _text(self, version: int) -> str:
        """All of our chains, for iptables-restore."""
        ours = self._of(version)
        ports = sorted((port for port in self._ports if port.version == version), key=lambda port: port.host_port)
        lines = ["*filter", *(f":{chain} - [0:0]" for chain in CHAINS["filter"])]
        lines.append(f'-A DOCKER-FORWARD -m comment --comment "{self.name}" -j DOCKER-CT')
        if self._accept_mark is not None:
            mark, mask = self._accept_mark
            lines.append(f"-A DOCKER-FORWARD -m mark --mark {mark:#x}/{mask:#x} -j ACCEPT")
        lines.append("-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1")
        lines.append("-A DOCKER-FORWARD -j DOCKER-BRIDGE")
        for rules in ours:
            lines += _bridge_rules(rules, version)
        if version == 4:
            lines += self._linked()
        lines += [line for port in ports if (line := self._accept("-A", port))]
        for rules in ours:
            mode = rules.mode(version)
            if mode == UNPROTECTED and not rules.internal:
                lines.append(f"-A DOCKER ! -i {rules.bridge} -o {rules.bridge} -j ACCEPT")
            if mode == ROUTED and not rules.internal:
                kind = "icmp" if version == 4 else "ipv6-icmp"
                lines.append(f"-A DOCKER ! -i {rules.bridge} -o {rules.bridge} -p {kind} -j ACCEPT")
            lines.append(f"-A DOCKER-BRIDGE -o {rules.bridge} -j DOCKER")
            lines.append(f"-A DOCKER-BRIDGE ! -i {rules.bridge} -o {rules.bridge} -j DROP")
        lines += ["COMMIT", "*nat", ":DOCKER - [0:0]"]
        lines += [line for port in ports if (line := self._translate("-A", port))]
        return "\n".join([*lines, "COMMIT", ""])

    def _linked(self) -> list[str]:
        lines = []
        for link in sorted(self._links, key=lambda link: (link.source, link.target, link.port)):
            there = f"-s {link.source}/32 -d {link.target}/32 -p {link.protocol} -m {link.protocol} --dport {link.port}"
            back = f"-s {link.target}/32 -d {link.source}/32 -p {link.protocol} -m {link.protocol} --sport {link.port}"
            lines += [f"-I DOCKER-FORWARD {rule} -j ACCEPT" for rule in (there, back)]
        return lines

    def _change(self, act: str, ports: Iterable[PublishedPort]) -> None:
        if not self._written:
            return
        for version in self._versions:
            some = [port for port in ports if port.version == version]
            filters = [line for port in some if (line := self._accept(act, port))]
            translations = [line for port in some if (line := self._translate(act, port))]
            if filters or translations:
                text = ["*filter", *filters, "COMMIT", "*nat", *translations, "COMMIT", ""]
                self._restore(version, "\n".join(text))

    def _bridge_of(self, port: PublishedPort) -> BridgeRules | None:
        address = ip_address(port.ip)
        return next((rules for rules in self._bridges.values() if any(address in net for net in rules.subnets)), None)

    def _accept(self, act: str, port: PublishedPort) -> str:
        rules = self._bridge_of(port)
        if rules is None or rules.internal:
            return ""
        direct = self._direct or not port.host_port
        # by what was translated, so that nobody gets in by knowing the way to the container's own address
        only = "" if direct else " -m conntrack --ctstate DNAT"
        length = 32 if port.version == 4 else 128
        where = f"-d {port.ip}/{length} ! -i {rules.bridge} -o {rules.bridge} -p {port.protocol}"
        return f"{act} DOCKER {where} -m {port.protocol} --dport {port.port}{only} -j ACCEPT"

    def _translate(self, act: str, port: PublishedPort) -> str:
        rules = self._bridge_of(port)
        if rules is None or not port.host_port:
            return ""
        host = ip_address(port.host_ip)
        at = "" if host.is_unspecified else f"-d {port.host_ip}/{32 if host.version == 4 else 128} "
        inside = "" if self._hairpin else f"! -i {rules.bridge} "
        target = f"[{port.ip}]:{port.port}" if port.version == 6 else f"{port.ip}:{port.port}"
        kind = f"-p {port.protocol} -m {port.protocol} --dport {port.host_port}"
        return f"{act} DOCKER {at}{inside}{kind} -j DNAT --to-destination {target}"

    def has_own_chains(self) -> bool:
        """Whether chains of this name's are there, perhaps since another start; no, where there is no iptables."""
        try:
            present = self._listed(4, "filter", "DOCKER-FORWARD")
        except SystemFailure:
            return False
        return any(self._is_owner(line) for line in present or ())

    def _is_owner(self, line: str) -> bool:
        return f"--comment {self.name} " in line.replace('"', "")

    # -- iptables itself ----------------------------------------------------------------------------------------------

    def _check_owner(self, version: int) -> None:
        present = self._listed(version, "filter", "DOCKER-FORWARD")
        if present and not any(self._is_owner(line) for line in present):
            raise Conflict(
                "the iptables chains DOCKER… belong to another engine on this host: "
                "start this one with --firewall-backend=nftables"
            )

    def _listed(self, version: int, table: str, chain: str) -> list[str] | None:
        """The chain's rules; None without such a chain."""
        done = self._start(version, "-t", table, "-S", chain)
        return [line for line in done.stdout.splitlines() if line.startswith("-A ")] if done.returncode == 0 else None

    def _saved(self, version: int, table: str) -> list[str]:
        """Every rule of the table, as iptables -S lists it."""
        done = self._start(version, "-t", table, "-S")
        return [line for line in done.stdout.splitlines() if line.startswith("-A ")]

    def _try(self, version: int, table: str, *arguments: str) -> bool:
        return self._start(version, "-t", table, *arguments).returncode == 0

    def _run(self, version: int, table: str, *arguments: str) -> None:
        done = self._start(version, "-t", table, *arguments)
        if done.returncode != 0:
            raise SystemFailure(f"{PROGRAMS[version]} {' '.join(arguments)}: {done.stderr.strip()}")

    def _restore(self, version: int, text: str) -> None:
        done = self._start(version, "--noflush", said=text, restore=True)
        if done.returncode != 0:
            raise SystemFailure(f"{PROGRAMS[version]}-restore refused the rules: {done.stderr.strip()}")

    def _start(
        self, version: int, *arguments: str, said: str = "", restore: bool = False
    ) -> subprocess.CompletedProcess[str]:
        name = PROGRAMS[version] + ("-restore" if restore else "")
        program = shutil.which(name)
        if program is None:
            raise SystemFailure(f"{name} is not installed, which --firewall-backend=iptables needs")
        command = [program, "-w", "5", *arguments]
        return subprocess.run(command, input=said, capture_output=True, text=True, check=False)


def _bridge_rules(rules: BridgeRules, version: int) -> list[str]:
    """Who may go where: out, to each other, to other networks."""
    name = rules.bridge
    lines = [f"-A DOCKER-CT -o {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    if rules.internal:
        lines.append(f"-A DOCKER-ISOLATION-STAGE-1 ! -i {name} -o {name} -j DROP")
        lines.append(f"-A DOCKER-ISOLATION-STAGE-1 -i {name} ! -o {name} -j DROP")
    else:
        lines.append(f"-A DOCKER-ISOLATION-STAGE-1 -i {name} ! -o {name} -j DOCKER-ISOLATION-STAGE-2")
        lines.append(f"-A DOCKER-FORWARD -i {name} ! -o {name} -j ACCEPT")
    lines.append(f"-A DOCKER-ISOLATION-STAGE-2 -o {name} -m conntrack ! --ctstate DNAT -j DROP")
    lines.append(f"-A DOCKER-FORWARD -i {name} -o {name} -j {'ACCEPT' if rules.icc else 'DROP'}")
    return lines
