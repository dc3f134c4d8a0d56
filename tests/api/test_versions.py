"""What each version of the API means by a request: what came later is ignored (moby's api/docs/CHANGELOG.md)."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine_process import EngineProcess
from tests.processes import eventually

Ask = Callable[[str, str, Any], tuple[int, Any]]  # method, path, body: status, answer


def _host(field: str, value: Any, **further: Any) -> Callable[[Ask], Any]:
    """What is kept of HostConfig's `field`, set to `value` at the creation."""

    def kept(ask: Ask) -> Any:
        status, made = ask("POST", "/containers/create", {"Image": "busybox", "HostConfig": {field: value, **further}})
        return _shown(ask, made)["HostConfig"].get(field) if status == 201 else made["message"]

    return kept


def _config(field: str, value: Any, within: str = "") -> Callable[[Ask], Any]:
    def kept(ask: Ask) -> Any:
        body = {"Image": "busybox", **({within: {field: value, "Test": ["CMD", "true"]}} if within else {field: value})}
        config = _shown(ask, ask("POST", "/containers/create", body)[1])["Config"]
        return (config[within] if within else config).get(field)

    return kept


def _shown(ask: Ask, made: Any) -> Any:
    shown = ask("GET", f"/containers/{made['Id']}/json", None)[1]
    ask("DELETE", f"/containers/{made['Id']}", None)
    return shown


def _mount(**options: Any) -> Callable[[Ask], Any]:
    def kept(ask: Ask) -> Any:
        mount = {"Type": "bind", "Source": "/usr", "Target": "/x", **options}
        found = _host("Mounts", [mount])(ask)
        return found if isinstance(found, str) else {name: found[0].get(name) for name in options if name != "Type"}

    return kept


def _updated(field: str, value: Any) -> Callable[[Ask], Any]:
    def kept(ask: Ask) -> Any:
        made = ask("POST", "/containers/create", {"Image": "busybox"})[1]
        status, answer = ask("POST", f"/containers/{made['Id']}/update", {field: value})
        assert status == 200, answer
        return _shown(ask, made)["HostConfig"].get(field)

    return kept


def _kernel_memory_is_told_of(ask: Ask) -> Any:
    """Whether a creation and an update say that the limit is none any more."""
    limit = {"KernelMemory": 1 << 24}
    made = ask("POST", "/containers/create", {"Image": "busybox", "HostConfig": limit})[1]
    changed = ask("POST", f"/containers/{made['Id']}/update", limit)[1]
    assert not _shown(ask, made)["HostConfig"].get("KernelMemory")
    return ["Kernel memory" in str(answer["Warnings"]) for answer in (made, changed)]


def _stop_signal(ask: Ask) -> Any:
    script = "trap 'exit 3' USR1; trap 'exit 4' TERM; >/ready; while :; do sleep 0.05; done"
    made = ask("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sh", "-c", script]})[1]
    ask("POST", f"/containers/{made['Id']}/start", None)
    eventually(lambda: ask("HEAD", f"/containers/{made['Id']}/archive?path=/ready", None)[0] == 200)
    ask("POST", f"/containers/{made['Id']}/stop?signal=USR1", None)
    return _shown(ask, made)["State"]["ExitCode"]


def _status(method: str, path: str, body: Any = None) -> Callable[[Ask], Any]:
    return lambda ask: ask(method, path, body)[0]


def _has(path: str, *names: str) -> Callable[[Ask], Any]:
    """Which of the fields are in the answer."""

    def found(ask: Ask) -> Any:
        answer = ask("GET", path, None)[1]
        answer = answer[0] if isinstance(answer, list) else answer
        return [name for name in names if name in answer]

    return found


def _cluster_volume(ask: Ask) -> Any:
    status = ask("POST", "/volumes/create", {"Name": "versioned", "ClusterVolumeSpec": {}})[0]
    ask("DELETE", "/volumes/versioned", None)
    return status


def _pruned(ask: Ask) -> Any:
    ask("POST", "/volumes/create", {"Name": "versioned"})
    removed = ask("POST", "/volumes/prune", None)[1]["VolumesDeleted"]
    ask("DELETE", "/volumes/versioned", None)
    return removed


def _two_networks(ask: Ask) -> Any:
    body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"one": {}, "two": {}}}}
    status, made = ask("POST", "/containers/create", body)
    if status == 201:
        ask("DELETE", f"/containers/{made['Id']}", None)
    return status


# version in which it came or changed: (what, before, since)
RULES: dict[str, tuple[tuple[int, int], Callable[[Ask], Any], Any, Any]] = {
    "AutoRemove is the client's": ((1, 25), _host("AutoRemove", True), False, True),
    "security options have details": (
        (1, 25), lambda ask: ask("GET", "/info", None)[1]["SecurityOptions"][-1].startswith("name="), False, True,
    ),
    "a list of networks tells members": (
        (1, 28), lambda ask: any(n["Containers"] for n in ask("GET", "/networks", None)[1]), True, False,
    ),
    "a wait has a condition": ((1, 30), _status("POST", "/containers/ended/wait?condition=bogus"), 200, 400),
    "an import has a platform": ((1, 32), _status("POST", "/images/create?fromImage=busybox&tag=latest&platform=bogus"),
                                 200, 400),
    "containers share their IPC": ((1, 40), _host("IpcMode", ""), "shareable", "private"),
    "KernelMemoryTCP is heeded": ((1, 40), _host("KernelMemoryTCP", 1 << 24), None, 1 << 24),
    "an update has PidsLimit": ((1, 40), _updated("PidsLimit", 77), None, 77),
    "a bind is not recursive": (
        (1, 40), _mount(BindOptions={"NonRecursive": True}), {"BindOptions": {}},
        {"BindOptions": {"NonRecursive": True}},
    ),
    "a build has outputs": ((1, 40), _status("POST", "/build?outputs=%5B%5D&remote=nosuch://"), 400, 400),
    "a container has a platform": (
        (1, 41), _status("POST", "/containers/create?platform=bogus", {"Image": "nosuch"}), 404, 400,
    ),
    "a list of images has a filter of names": (
        (1, 41), lambda ask: len(ask("GET", "/images/json?filter=nosuch", None)[1]), 0, 1,
    ),
    "the console has a size": ((1, 42), _host("ConsoleSize", [10, 20]), [0, 0], [10, 20]),
    "KernelMemory is gone": ((1, 42), _kernel_memory_is_told_of, [True, True], [False, False]),
    "a stop has a signal": ((1, 42), _stop_signal, 4, 3),
    "options of another kind of mount are refused": (
        (1, 42), _mount(VolumeOptions={"NoCopy": True}), {"VolumeOptions": None},
        'VolumeOptions must not be specified on mount type "bind"',
    ),
    "a bind's source is made": (
        (1, 42), lambda ask: "bind source path does not exist" in str(
            _mount(Source="/nosuch/source", BindOptions={"CreateMountpoint": False})(ask)), True, True,
    ),
    "a volume may be the cluster's": ((1, 42), _cluster_volume, 201, 503),
    "prune spares volumes with a name": ((1, 42), _pruned, ["versioned"], None),
    "df is of kinds": ((1, 42), lambda ask: sorted(ask("GET", "/system/df?type=volume", None)[1]),
                       ["BuildCache", "Containers", "Images", "LayersSize", "Volumes"], ["Volumes"]),
    "annotations are kept": ((1, 43), _host("Annotations", {"a": "b"}), None, {"a": "b"}),
    "health has StartInterval": ((1, 44), _config("StartInterval", 10**9, within="Healthcheck"), None, 10**9),
    "images have VirtualSize": ((1, 44), _has("/images/json", "VirtualSize"), ["VirtualSize"], []),
    "a container has two networks": ((1, 44), _two_networks, 400, 201),
    "read-only is forced": (
        (1, 44), _mount(ReadOnly=True, BindOptions={"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}),
        "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        {"ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}},
    ),
    "a volume has parts": (
        (1, 45), _mount(Type="volume", Source="parted", VolumeOptions={"Subpath": "nosuch"}),
        "VolumeOptions.Subpath needs API v1.45 or newer", {"Source": "parted", "VolumeOptions": {"Subpath": "nosuch"}},
    ),
    "annotations are listed": (
        (1, 46), lambda ask: any("Annotations" in c["HostConfig"] for c in ask(
            "GET", "/containers/json?all=1", None)[1]), False, True,
    ),
    "info tells the firewall": ((1, 49), _has("/info", "FirewallBackend"), [], ["FirewallBackend"]),
    "info tells of bridges": (
        (1, 50), _has("/info", "BridgeNfIptables", "DiscoveredDevices"), ["BridgeNfIptables"], ["DiscoveredDevices"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("versioned"), number=7) as engine:
        for network in ("one", "two"):
            engine.docker("network", "create", network)
        engine.docker("run", "-d", "--name", "member", "--net", "one", "busybox", "sleep", "1000")
        engine.docker("run", "--name", "ended", "--annotation", "a=b", "busybox", "true")
        yield engine


@pytest.mark.parametrize("rule", RULES)
def test_a_version_keeps_its_rules(versioned: EngineProcess, rule: str) -> None:
    (major, minor), found, before, since = RULES[rule]

    def by(version: int) -> Ask:
        return lambda method, path, body: versioned.api(method, f"/v{major}.{version}{path}", body)

    # the rules of both neighbours of the change, and of the oldest and newest version
    assert [found(by(version)) for version in {24, minor - 1}] == [before] * len({24, minor - 1})
    assert [found(by(version)) for version in {minor, 51}] == [since] * len({minor, 51})


def test_before_1_30_a_wait_says_nothing_until_it_is_over(versioned: EngineProcess) -> None:
    for version, heard in ((29, False), (30, True)):
        versioned.docker("run", "-d", "--name", "awaited", "busybox", "sleep", "2")
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(0.7)
            wire.connect(str(versioned.socket))
            wire.sendall(f"POST /v1.{version}/containers/awaited/wait HTTP/1.1\r\nHost: d\r\n\r\n".encode())
            try:
                wire.recv(1, socket.MSG_PEEK)
                assert heard
            except TimeoutError:
                assert not heard
            wire.settimeout(20)
            response = http.client.HTTPResponse(wire)
            response.begin()
            assert json.loads(response.read()) == {"StatusCode": 0}
        versioned.docker("rm", "-f", "awaited")
