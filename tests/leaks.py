"""What a test run may leave on the machine: nothing. Two censuses, before and after, and their difference."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Census:
    """Every mount, device, nftables table (and chain of iptables'), cgroup and process of ours, as readable lines."""

    mounts: frozenset[str]
    links: frozenset[str]
    tables: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]

    def leaks_since(self, before: "Census") -> list[str]:
        """What is here and was not `before`, a line each."""
        return [
            f"{kind[:-1]}: {thing}"
            for kind in ("mounts", "links", "tables", "cgroups", "processes")
            for thing in sorted(getattr(self, kind) - getattr(before, kind))
        ]


def take_census() -> Census:
    """Look the machine over."""
    return Census(
        mounts=frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        links=frozenset(os.listdir("/sys/class/net")),
        tables=frozenset(_nft_tables()),
        cgroups=frozenset(_cgroups()),
        processes=frozenset(_processes()),
    )


def _nft_tables() -> list[str]:
    try:
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    # `ip nat` and `ip filter` are made by whoever runs iptables; a firewall of ours has our name in it
    tables = [line for line in listed.stdout.splitlines() if "dockyard" in line]
    chains = subprocess.run(["nft", "-t", "list", "chains"], capture_output=True, text=True, check=False)
    return tables + [line.strip(" \t{") for line in chains.stdout.splitlines() if "DOCKYARD-" in line]


def _cgroups() -> list[str]:
    found = [folder for folder, _, _ in os.walk("/sys/fs/cgroup", followlinks=False)]
    return [folder for folder in found if os.path.basename(folder) != "dockyard.slice"]  # systemd keeps it, once made


def _processes() -> list[str]:
    """Processes that run our code, or in a cgroup that isn't the root's, with their start time against pid reuse."""
    mine = os.getpid()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == mine:
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            stat = Path(f"/proc/{entry}/stat").read_text()
            groups = Path(f"/proc/{entry}/cgroup").read_text()
        except OSError:
            continue
        state, started = stat.rpartition(")")[2].split()[0], stat.rpartition(")")[2].split()[19]
        contained = any(":pids:" in line and "docker" in line for line in groups.splitlines())
        if state != "Z" and (contained or ("dockyard" in command and "pytest" not in command)):
            found.append(f"{entry} (started {started}): {command[:120]}")
    return found
