"""Encrypted overlay networks. Where the kernel has no ESP they are refused; the virtual machine's has."""

import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dockyard.linux.netlink import RouteSocket
from dockyard.linux.xfrm import can_encrypt
from dockyard.networks.cluster.folder import FolderStore
from tests.engine_process import EngineProcess
from tests.networks.conftest import inside
from tests.processes import eventually

Engines = tuple[EngineProcess, EngineProcess]
ETH_P_ALL, ETH_P_IP = 3, 0x0800
ENCRYPTED_PORT, PLAIN_PORT = 4788, 4789
PATTERN = b"\x5a" * 64


@contextmanager
def listening(engine: EngineProcess) -> Iterator[list[bytes]]:
    """All frames that come to the cable of an engine's host."""
    frames: list[bytes] = []
    with inside(
        namespace(engine), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    ) as tap:
        tap.settimeout(0.2)
        tap.bind(("cable", 0))
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    frames.append(tap.recv(65535))
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield frames
        finally:
            over.set()
            thread.join()


def namespace(engine: EngineProcess) -> str:
    return engine.prefix[1].removeprefix("--net=")


def packet(source: str, target: str, protocol: int, content: bytes) -> bytes:
    """An IPv4 packet."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:] + content


def datagram(port: int, content: bytes) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + len(content), 0) + content


def inject(engines: Engines, network: str, container: str, port: int) -> None:
    """Send the container a datagram for its port 9999, as if by the tunnel of the network, but in the clear."""
    one, two = engines
    number = int(two.inspect(network)["Options"]["com.docker.network.driver.overlay.vxlanid_list"])
    endpoint = two.inspect(container)["NetworkSettings"]["Networks"][network]
    frame = bytes.fromhex(endpoint["MacAddress"].replace(":", "")) + b"\x02\0\0\0\0\1" + struct.pack("!H", ETH_P_IP)
    frame += packet("10.0.9.9", endpoint["IPAddress"], 17, datagram(9999, b"smuggled"))
    tunnelled = struct.pack("!II", 0x08000000, number << 8) + frame

    def mac(name: str) -> bytes:
        with RouteSocket() as host:
            link = next(link for link in host.links() if link.name.startswith(name))
        return bytes.fromhex(link.mac.replace(":", ""))

    outer = inside(namespace(two), lambda: mac("cable")) + inside(namespace(one), lambda: mac("dyo"))
    outer += struct.pack("!H", ETH_P_IP) + packet("192.168.77.1", "192.168.77.2", 17, datagram(port, tunnelled))

    def send() -> None:
        with RouteSocket() as host:
            name = next(link.name for link in host.links() if link.name.startswith("dyo"))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((name, 0))
            wire.send(outer)

    inside(namespace(one), send)


def receiver(engine: EngineProcess, container: str) -> socket.socket:
    """What hears the datagrams for port 9999 of a container."""

    def bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(60)
        made.bind(("0.0.0.0", 9999))
        return made

    return inside(engine.inspect(container)["NetworkSettings"]["SandboxKey"], bind)


def tell(where: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"welcome", (where, 9999))


def xfrm(engine: EngineProcess, what: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net={namespace(engine)}", "ip", "xfrm", what], capture_output=True, text=True, check=True
    ).stdout


def test_what_encrypted_networks_send_is_encrypted_or_they_are_refused(engines: Engines) -> None:
    one, two = engines
    if not can_encrypt():
        refused = one.run_docker("network", "create", "-d", "overlay", "-o", "encrypted", "secret")
        assert (
            b"an encrypted overlay network needs ESP with AES-GCM, which the kernel of this host has not"
            in refused.stderr
        )
        assert "secret" not in one.docker("network", "ls", "--format", "{{.Name}}").split()
        return
    for network, options in (("plain", ()), ("secret", ("--opt", "encrypted"))):
        one.docker("network", "create", "-d", "overlay", "--attachable", *options, network)
        eventually(lambda name=network: name in two.docker("network", "ls", "--format", "{{.Name}}").split())  # type: ignore[misc]
        one.docker("run", "-d", "--name", f"left-{network}", "--net", network, "busybox", "sleep", "3000")
        two.docker("run", "-d", "--name", f"right-{network}", "--net", network, "busybox", "sleep", "3000")
        ping = ("exec", f"left-{network}", "ping", "-c1", "-W1", "-s", "1000", "-p", "5a", f"right-{network}")
        eventually(lambda ping=ping: one.run_docker(*ping).returncode == 0)  # type: ignore[misc]
    try:
        # what is heard on the cable
        for network, in_the_clear in (("plain", True), ("secret", False)):
            with listening(two) as frames:
                one.docker("exec", f"left-{network}", "ping", "-c3", "-s", "1000", "-p", "5a", f"right-{network}")
                eventually(lambda: len(frames) >= 6)
            assert any(PATTERN in frame for frame in frames) == in_the_clear
        # as large as it is said to be, and no larger
        one.docker("exec", "left-secret", "ping", "-c1", "-W5", "-s", "8000", "right-secret")
        # what comes from somebody who has no key
        with receiver(two, "right-plain") as plain, receiver(two, "right-secret") as secret:
            inject(engines, "plain", "right-plain", PLAIN_PORT)
            assert plain.recv(100) == b"smuggled"
            inject(engines, "secret", "right-secret", ENCRYPTED_PORT)
            inject(engines, "secret", "right-secret", PLAIN_PORT)
            where = two.inspect("right-secret")["NetworkSettings"]["Networks"]["secret"]["IPAddress"]
            inside(one.inspect("left-secret")["NetworkSettings"]["SandboxKey"], lambda: tell(where))
            assert secret.recv(100) == b"welcome"
        # a new daemon finds all as it was; what is lost gets new keys
        before = xfrm(two, "state")
        two.kill()
        two.start()
        one.docker("exec", "left-secret", "ping", "-c1", "-W5", "right-secret")
        assert {line for line in xfrm(two, "state").splitlines() if "spi" in line} == {
            line for line in before.splitlines() if "spi" in line
        }
        subprocess.run(["nsenter", f"--net={namespace(two)}", "ip", "xfrm", "state", "flush"], check=True)
        two.kill()
        two.start()
        eventually(lambda: one.run_docker("exec", "left-secret", "ping", "-c1", "-W1", "right-secret").returncode == 0)
        own = "src 192.168.77.2 dst 192.168.77.1"
        numbers = [text.partition(own)[2].split("reqid")[0] for text in (before, xfrm(two, "state"))]
        assert "spi" in numbers[0]
        assert numbers[0] != numbers[1]
    finally:
        for engine, side in ((one, "left"), (two, "right")):
            engine.docker("rm", "-f", f"{side}-plain", f"{side}-secret")
        one.docker("network", "rm", "plain", "secret")
    for engine in engines:
        eventually(lambda engine=engine: xfrm(engine, "policy") == xfrm(engine, "state") == "")  # type: ignore[misc]


def test_hosts_have_one_secret_in_common_that_nobody_else_reads(tmp_path: Path) -> None:
    stores = [FolderStore(tmp_path / "cluster", f"192.0.2.{number}") for number in (1, 2)]
    assert stores[0].secret() == stores[1].secret()
    assert len(stores[0].secret()) == 32
    assert (tmp_path / "cluster/secret").stat().st_mode & 0o777 == 0o600
    stores[0].tell_nonces({"192.0.2.2": "aa"})
    assert stores[1].nonces() == {"192.0.2.1": {"192.0.2.2": "aa"}}
    stores[0].tell_nonces({})
    assert stores[1].nonces() == {}
