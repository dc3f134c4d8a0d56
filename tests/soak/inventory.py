"""Everything that an engine has on the host, held against what it says it has."""

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from dockyard.linux.nftables import Nftables
from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import children_of, named, parent_of

SPARE_NAMESPACES = 8
# How many seconds the books may take to be right.
PATIENCE = 15.0


def settle(engine: EngineProcess, api: Api, *, nothing: bool = False) -> None:
    """Wait until nothing is under way; what is not right by then fails the test. `nothing`: no container is left."""
    found: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            found = discrepancies(engine, api)
            if nothing:
                found += [f"container left: {entry['Names']}" for entry in api.get("/containers/json", all=1)]
        except (ApiError, FileNotFoundError):
            found = ["something goes and comes all the time"]
        if not found:
            return
        time.sleep(0.2)
    raise AssertionError("\n".join(found))


def discrepancies(engine: EngineProcess, api: Api) -> list[str]:
    """What is on the host and should not be, and what should be and is not; a line each."""
    containers = {entry["Id"]: api.inspect(entry["Id"]) for entry in api.get("/containers/json", all=1)}
    running = {key for key, found in containers.items() if found["State"]["Running"]}
    found: list[str] = []

    def compare(what: str, actual: set[str], wanted: set[str]) -> None:
        found.extend(f"{what} too many: {name}" for name in sorted(actual - wanted))
        found.extend(f"{what} missing: {name}" for name in sorted(wanted - actual))

    compare("shim directory", _names(engine.run / "shims"), running)
    compare("runtime state", _names(engine.run / "runtime"), running)
    compare("container folder", _names(engine.data_root / "containers"), set(containers))
    compare("cgroup", _cgroups(engine.bridge), running)
    compare("mounted root", _mounted_roots(engine), running)
    compare("snapshot", _snapshots(engine, api), {*containers, *(f"{key}-init" for key in containers)})
    namespaces = _names(engine.run / "netns")
    if not len(running) <= len(namespaces) <= len(running) + SPARE_NAMESPACES:
        found.append(f"{len(namespaces)} network namespaces for {len(running)} running containers")
    compare("published port", _published(engine), _bound(containers, running))
    compare("bridge", _bridges(engine), _wanted_bridges(api, engine))
    endpoints = sum(len(containers[key]["NetworkSettings"]["Networks"]) for key in running)
    ports = sum(len(os.listdir(f"/sys/class/net/{bridge}/brif")) for bridge in _bridges(engine))
    if ports != endpoints:
        found.append(f"{ports} links for {endpoints} endpoints")
    volumes = {volume["Name"] for volume in api.get("/volumes")["Volumes"] or []}
    compare("volume folder", _names(engine.data_root / "volumes"), volumes)
    used = {mount["Name"] for entry in containers.values() for mount in entry["Mounts"] if mount["Type"] == "volume"}
    compare(
        "anonymous volume", {name for name in volumes if len(name) == 64}, {name for name in used if len(name) == 64}
    )
    assert engine.process is not None
    zygotes = named("dockyard-zygote", engine.process.pid)
    if len(zygotes) != 1:
        found.append(f"{len(zygotes)} zygotes")
    shims = _shims_of(engine, zygotes)
    if len(shims) != len(running) + 1:
        found.append(f"{len(shims)} shims for {len(running)} running containers and the spare")
        parents = {parent_of(containers[key]["State"]["Pid"]) for key in running}
        found.append(f"  of containers, and not counted: {sorted(parents - set(shims))}")
        found.append(f"  counted, and of no container: {sorted(set(shims) - parents)}")
        found.append(f"  the zygote's: {[children_of(zygote) for zygote in zygotes]}")
    return found


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def _cgroups(parent: str) -> set[str]:
    found: set[str] = set()
    for top in Path("/sys/fs/cgroup").iterdir():
        if (top / parent).is_dir():
            found |= {entry.name for entry in (top / parent).iterdir() if entry.is_dir()}
    return found


def _mounted_roots(engine: EngineProcess) -> set[str]:
    home = f"{engine.data_root}/overlay2/"
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {target.removeprefix(home).split("/")[0] for target in targets if target.startswith(home)}


def _snapshots(engine: EngineProcess, api: Api) -> set[str]:
    """The driver's directories that are no image's layers."""
    layers: set[str] = set()
    for image in api.get("/images/json"):
        data = api.get(f"/images/{image['Id']}/json")["GraphDriver"]["Data"]
        for path in [data["UpperDir"], *data.get("LowerDir", "").split(":")]:
            if path:
                layers.add(Path(path).parent.name)
    return _names(engine.data_root / "overlay2") - layers - {"l"}


def _published(engine: EngineProcess) -> set[str]:
    with closing(Nftables()) as nft:
        listed = nft.run(f"list map ip dockyard-{engine.bridge} published_at")
    _, _, elements = listed.partition("elements = {")
    return {
        entry.split(":")[0].split(".")[-1].strip() for entry in elements.partition("}")[0].split(",") if entry.strip()
    }


def _bound(containers: dict[str, Any], running: set[str]) -> set[str]:
    ports: set[str] = set()
    for key in running:
        for bindings in (containers[key]["NetworkSettings"]["Ports"] or {}).values():
            ports |= {binding["HostPort"] for binding in bindings or []}
    return ports


def _bridges(engine: EngineProcess) -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name == engine.bridge or name.startswith("br-")}


def _wanted_bridges(api: Api, engine: EngineProcess) -> set[str]:
    networks = api.get("/networks")
    return {engine.bridge} | {
        f"br-{entry['Id'][:12]}" for entry in networks if entry["Name"] not in ("bridge", "host", "none")
    }


def _shims_of(engine: EngineProcess, zygotes: list[int]) -> list[int]:
    """Every living shim of this engine: those that work in its folder, and the zygote's children."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if Path(f"/proc/{entry}/comm").read_text().strip() != "dockyard-shim":
                continue
            if Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            place = os.readlink(f"/proc/{entry}/cwd")
            parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{parent}/comm").read_text().strip() == "dockyard-shim":
                continue  # the first process of the next container
        except OSError:
            continue
        if place.startswith(f"{engine.run}/") or parent in zygotes:
            found.append(int(entry))
    return found
