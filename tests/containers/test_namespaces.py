"""Namespaces shared with the host or another container, as lesson 09 looks at them, and exec into each."""

import os
from collections.abc import Iterator

import pytest

from tests.engine_process import EngineProcess

KINDS = ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user")


def of_process(pid: int | str) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def started(engine: EngineProcess, name: str, *arguments: str) -> dict[str, str]:
    """Run a container; the namespaces of its process."""
    engine.docker("run", "-d", "--name", name, *arguments, "busybox", "sleep", "1000")
    return of_process(engine.inspect(name)["State"]["Pid"])


@pytest.fixture
def names(engine: EngineProcess) -> Iterator[list[str]]:
    """Containers to be removed."""
    made = ["ns-one", "ns-two"]
    yield made
    engine.run_docker("rm", "-f", *made)


def different(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {kind for kind in KINDS if one[kind] != other[kind]}


def seen_inside(engine: EngineProcess, name: str) -> dict[str, str]:
    """The namespaces that an exec is in."""
    said = engine.docker("exec", name, "sh", "-c", f"for k in {' '.join(KINDS)}; do readlink /proc/self/ns/$k; done")
    return dict(zip(KINDS, said.split(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "shared"),
    [
        ((), set()),
        (("--net=host",), {"net"}),
        (("--pid=host",), {"pid"}),
        (("--ipc=host",), {"ipc"}),
        (("--uts=host",), {"uts"}),
        (("--cgroupns=host",), {"cgroup"}),
    ],
)
def test_a_container_shares_with_the_host_what_it_is_told_to(
    engine: EngineProcess, names: list[str], arguments: tuple[str, ...], shared: set[str]
) -> None:
    given = arguments if "--cgroupns=host" in arguments else ("--cgroupns=private", *arguments)
    ours = started(engine, names[0], *given)
    host = of_process("self")
    assert different(ours, host) == set(KINDS) - shared - {"user"}
    assert seen_inside(engine, names[0]) == ours


@pytest.mark.parametrize(("flag", "kind"), [("--net", "net"), ("--pid", "pid"), ("--ipc", "ipc")])
def test_a_container_joins_another(engine: EngineProcess, names: list[str], flag: str, kind: str) -> None:
    first = started(engine, names[0], "--ipc=shareable")
    second = started(engine, names[1], f"{flag}=container:{names[0]}")
    assert first[kind] == second[kind]
    assert {"mnt", "uts"} <= different(first, second)
    assert seen_inside(engine, names[1]) == second
    if kind == "ipc":
        engine.docker("exec", names[0], "sh", "-c", "echo shared > /dev/shm/f")
        assert engine.docker("exec", names[1], "cat", "/dev/shm/f") == "shared\n"
    if kind == "pid":
        assert engine.docker("exec", names[1], "ps").count("sleep 1000") == 2
    if kind == "net":
        addresses = [engine.docker("exec", name, "ip", "-4", "addr") for name in names]
        assert addresses[0] == addresses[1]
    # by its ID, so that a rename changes nothing
    engine.docker("rename", names[0], "ns-renamed")
    engine.docker("restart", "-t", "0", names[1])
    engine.docker("rename", "ns-renamed", names[0])
    mode = {"net": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode"}[kind]
    assert engine.inspect(names[1])["HostConfig"][mode] == f"container:{engine.inspect(names[0])['Id']}"


def test_ipc_none_has_no_shared_memory_and_private_cannot_be_joined(engine: EngineProcess, names: list[str]) -> None:
    assert "/dev/shm" not in engine.docker("run", "--rm", "--ipc=none", "busybox", "cat", "/proc/mounts")
    started(engine, names[0], "--ipc=private")
    done = engine.run_docker("run", "--rm", f"--ipc=container:{names[0]}", "busybox", "true")
    assert b"non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in done.stderr
    assert done.returncode == 125


@pytest.mark.parametrize(
    ("host", "config", "words"),
    [
        ({"PidMode": "strange"}, {}, "invalid PID mode: strange"),
        ({"IpcMode": "strange"}, {}, "invalid IPC mode: strange"),
        ({"UTSMode": "strange"}, {}, "invalid UTS mode: strange"),
        ({"CgroupnsMode": "strange"}, {}, "invalid cgroup namespace mode: strange"),
        ({"UsernsMode": "strange"}, {}, "invalid user namespace mode: strange"),
        ({"UTSMode": "host"}, {"Hostname": "x"}, "conflicting options: hostname and the UTS mode"),
        ({"NetworkMode": "container:x"}, {"Hostname": "x"}, "conflicting options: hostname and the network mode"),
        ({"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}, {}, "conflicting options: dns and the network mode"),
        ({"NetworkMode": "container:x"}, {"ExposedPorts": {"1/tcp": {}}}, "port exposing and the container type"),
        ({}, {"Hostname": "x" * 65}, "is too long (maximum 64 bytes)"),
    ],
)
def test_modes_that_cannot_be_are_refused_in_dockers_words(
    engine: EngineProcess, host: dict[str, object], config: dict[str, object], words: str
) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host, **config}
    status, answer = engine.api("POST", "/containers/create", body)
    assert status == 400
    assert words in answer["message"]


def test_a_container_that_joins_one_that_does_not_run_says_so(engine: EngineProcess, names: list[str]) -> None:
    engine.docker("create", "--name", names[0], "busybox")
    for flag in ("--net", "--pid"):
        done = engine.run_docker("run", "--rm", f"{flag}=container:{names[0]}", "busybox", "true")
        assert done.returncode == 125
        assert b"not running" in done.stderr or b"non running" in done.stderr
