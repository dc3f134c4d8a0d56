"""A container that takes all it can of what the kernel counts for everybody, or looks for the engine's own API."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.linux.nftables import Nftables
from tests.end_to_end.test_tls import write_certificates
from tests.engine_process import EngineProcess

# Takes until it is refused; run by the host's Python in a container.
TAKE = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
take = {"inotify": libc.inotify_init, "files": lambda: libc.dup(0)}[sys.argv[1]]
while take() >= 0:
    pass
print("refused:", os.strerror(ctypes.get_errno()), flush=True)
time.sleep(1000)
"""


# Makes the container's kernel send what is for 127.0.0.1 to the host.
LOOPBACK_OUT = (
    "ip route del local 127.0.0.0/8 table local; ip address del 127.0.0.1/8 dev lo; "
    "ip route add 127.0.0.0/8 via {gateway} dev eth0; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"
)


def everything_still_works(engine: EngineProcess, greedy: str) -> None:
    """Run, exec, log, watch and stop, while the container `greedy` holds what it has taken."""
    assert engine.docker("run", "--rm", "busybox", "echo", "hi") == "hi\n"
    assert engine.docker("exec", greedy, "echo", "in") == "in\n"
    assert engine.docker("logs", greedy) == "refused: Too many open files\n"
    engine.docker("run", "-d", "--name", "beside", "busybox", "sh", "-c", "echo said; sleep 1000")
    with subprocess.Popen(["docker", "-H", engine.host, "logs", "-f", "beside"], stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"said\n"
        engine.docker("rm", "-f", "beside")
        following.wait(20)


# inotify instances are counted per user, and root in a container is the host's root where no user namespace parts them
@pytest.mark.parametrize("what", ["inotify", "files"])
def test_a_greedy_container_takes_nothing_from_the_engine(engine: EngineProcess, what: str) -> None:
    taking = ("chroot", "/host", "/usr/bin/python3", "-c", TAKE, what)
    limits = ("--ulimit", "nofile=15000:15000", "-v", "/:/host:ro")
    engine.docker("run", "-d", "--name", "greedy", *limits, "busybox", *taking)
    try:
        deadline = time.monotonic() + 60
        while "refused" not in engine.docker("logs", "greedy"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        everything_still_works(engine, "greedy")
        engine.docker("stop", "-t", "1", "greedy")
    finally:
        engine.docker("rm", "-f", "greedy")


def test_clients_that_take_all_descriptors_hold_the_daemon_up_only_as_long_as_they_stay(tmp_path: Path) -> None:
    few = EngineProcess(tmp_path / "few", number=4)
    few.prefix = ("prlimit", "--nofile=200:200")
    few.start()
    try:
        few.docker("pull", "busybox")
        few.docker("run", "-d", "--name", "stays", "busybox", "sleep", "1000")
        crowd = []
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(str(few.socket))
            except BlockingIOError:
                pass
            crowd.append(client)
        time.sleep(1)
        assert few.process is not None
        assert few.process.poll() is None
        for client in crowd:
            client.close()
        assert few.docker("exec", "stays", "echo", "still here", timeout=30) == "still here\n"
        assert few.docker("run", "--rm", "busybox", "echo", "hi", timeout=30) == "hi\n"
    finally:
        few.clean_up()


def test_without_net_raw_no_frames_are_forged(engine: EngineProcess) -> None:
    asked = ("busybox", "arping", "-c", "1", "-f", "-w", "2", f"{engine.subnet}.1")
    # as with Docker, containers have the capability unless it is taken
    assert engine.run_docker("run", "--rm", *asked).returncode == 0
    refused = engine.run_docker("run", "--rm", "--cap-drop", "NET_RAW", *asked)
    assert refused.returncode == 1
    assert b"Operation not permitted" in refused.stderr


@pytest.fixture
def listening_engine(tmp_path: Path) -> Iterator[tuple[EngineProcess, int]]:
    """An engine that listens on 127.0.0.1 too, without TLS; the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = EngineProcess(tmp_path / "listening", number=5, arguments=(f"--host=tcp://127.0.0.1:{port}",))
    made.start()
    made.docker("pull", "busybox")
    yield made, port
    made.clean_up()


def test_a_container_does_not_reach_an_api_on_loopback(listening_engine: tuple[EngineProcess, int]) -> None:
    engine, port = listening_engine
    assert f"API is accessible on tcp://127.0.0.1:{port} without a client's certificate" in engine.log()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        assert b"200 OK" in client.recv(1000)
    # a published port has loopback addresses routed to the bridge
    engine.docker("run", "-d", "-p", "0:80", "--cap-add", "NET_ADMIN", "--name", "curious", "busybox", "sleep", "1000")
    tried = [
        f"wget -T 2 -q -O - http://{engine.subnet}.1:{port}/_ping",
        f"{LOOPBACK_OUT.format(gateway=f'{engine.subnet}.1')}; wget -T 2 -q -O - http://127.0.0.1:{port}/_ping",
    ]
    for way in tried:
        assert engine.run_docker("exec", "--privileged", "curious", "timeout", "5", "sh", "-c", way).stdout == b""
    assert engine.process is not None
    engine.process.send_signal(signal.SIGSTOP)  # so that it puts no rules back meanwhile
    nft = Nftables()
    try:
        nft.run(f"delete table ip dockyard-{engine.bridge}")
        (pid,) = process_of_curious(engine)
        for way in tried:
            done = subprocess.run(
                ["nsenter", "-t", str(pid), "-n", "busybox", "timeout", "5", "busybox", "sh", "-c", way],
                capture_output=True,
                check=False,
            )
            assert done.stdout == b""
    finally:
        nft.close()
        engine.process.send_signal(signal.SIGCONT)


def process_of_curious(engine: EngineProcess) -> list[int]:
    """The process of the container "curious", found without the engine."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            sleeps = entry.isdigit() and Path(f"/proc/{entry}/cmdline").read_bytes() == b"sleep\x001000\x00"
            if sleeps and engine.bridge in Path(f"/proc/{entry}/cgroup").read_text():
                found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--host=tcp://0.0.0.0:0",), "without TLS"),
        (("--host=tcp://0.0.0.0:0", "--tls=true"), "without a client's certificate"),
        (("--host=tcp://127.example.org:0",), "without TLS"),  # a name, which may mean any address
    ],
)
def test_an_api_that_containers_reach_needs_a_word_of_its_own(
    tmp_path: Path, arguments: tuple[str, ...], refusal: str
) -> None:
    certificates = tmp_path / "certificates"
    write_certificates(certificates)
    files = {"tlscacert": "ca", "tlscert": "server", "tlskey": "server-key"}
    named = [f"--{flag}={certificates}/{name}.pem" for flag, name in files.items()]
    address = arguments[0].removeprefix("--host=")
    refused = EngineProcess(tmp_path / "refused", number=6, arguments=(*arguments, *named))
    try:
        with pytest.raises(RuntimeError, match=f"refusing to listen on {address} {refusal}"):
            refused.start()
        assert list(refused.run.iterdir()) == []  # no socket, either
    finally:
        shutil.rmtree(refused.run)
