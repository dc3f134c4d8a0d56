"""A network service for each test, containers that are namespaces without processes, and a neighbour host."""

import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dockyard.engine.events.service import Events
from dockyard.engine.networks.service import JoinRequest, Network, NetworkOptions, NetworkService, Sandbox
from dockyard.engine.state.database import Database
from dockyard.linux import netlink
from dockyard.networks import iptables, sandboxes
from dockyard.networks.drivers.marks import is_ours
from dockyard.networks.firewall import Firewall
from dockyard.networks.iptables_firewall import IptablesFirewall
from tests.engine_process import EngineProcess

T = TypeVar("T")
_counter = itertools.count(secrets.randbelow(200))


def inside(path: str, work: Callable[[], T]) -> T:
    """Do `work` in the network namespace at `path`."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            with sandboxes.entered(fd):
                results.append(work())
        except BaseException as failure:
            failures.append(failure)
        finally:
            os.close(fd)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def run_in(path: str, *command: str) -> bytes:
    """The output of a command run in the namespace at `path`."""
    return subprocess.run(["nsenter", f"--net={path}", *command], capture_output=True, check=True).stdout


def ip(path: str, *arguments: str) -> Any:
    """What `ip -j ARGUMENTS` says in the namespace at `path`."""
    output = run_in(path, "ip", "-j", *arguments)
    return json.loads(output or b"[]")


def claim_number() -> tuple[int, socket.socket]:
    """A number below 200 that no other test has in this network namespace, and what claims it until it is closed."""
    for _ in range(200):
        number = next(_counter) % 200
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0dockyard-tests-subnet-{number}")  # such names belong to a network namespace
            return number, claim
        except OSError:
            claim.close()
    raise RuntimeError("too many tests run beside this one")


class Host:
    """A network service with its own bridge, subnet and roots; can be "killed" and begun anew."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.number, self._claim = claim_number()
        self.bridge = f"dyt{secrets.token_hex(3)}"
        self.subnet = f"10.250.{self.number}"
        self.options = NetworkOptions(**{"bridge": self.bridge, "bip": f"{self.subnet}.1/24", **options})
        self.events = Events()
        self._lives = False

    async def open(self) -> "Host":
        self.database = Database(self.root / "state.db")
        self.service = NetworkService(self.root / "exec", self.database, self.events, self.options)
        self._lives = True
        await self.service.open()
        return self

    async def kill(self) -> None:
        """End the service as a killed daemon ends: the kernel keeps everything but our sockets."""
        self._lives = False
        await self.service.close()
        self.database.close()

    async def join(self, name: str, **request: Any) -> Sandbox:
        files = self.root / "files" / name
        files.mkdir(parents=True, exist_ok=True)
        return await self.service.join(self.request(name, **request))

    def request(self, name: str, **request: Any) -> JoinRequest:
        """A request whose container's id follows from its name."""
        container_id = name.encode().hex().ljust(64, "0")
        return JoinRequest(
            container_id=container_id,
            name=name,
            hostname=container_id[:12],
            files_dir=str(self.root / "files" / name),
            **request,
        )

    def id_of(self, name: str) -> str:
        return self.request(name).container_id

    def file(self, name: str, file: str) -> str:
        return (self.root / "files" / name / file).read_text()

    async def create(self, name: str, **fields: Any) -> Network:
        return await self.service.create(Network(id="", name=name, driver="bridge", created="", **fields))

    async def clean_up(self) -> None:
        """Take everything away, whatever the test has come to: a step that fails keeps none of the others from it."""
        async with AsyncExitStack() as stack:  # the last one first
            stack.callback(self._claim.close)
            if not hasattr(self, "service"):
                return
            stack.push_async_callback(self._clear_kernel)
            if self._lives:
                stack.callback(self.database.close)
                stack.push_async_callback(self.service.close)
                stack.push_async_callback(self.service.sweep)  # what a "killed" one left, and the test did not take up
                for container_id in list(self.service._controller._active):
                    stack.push_async_callback(self.service.leave, container_id)

    async def _clear_kernel(self) -> None:
        """Remove what is there of the service, by its names and its mark alone: it may have died at any moment."""
        for version in (4, 6):
            await iptables.forget(self.service._forwarding.chain, version)
        firewall = Firewall(self.service._instance)
        firewall.remove()
        firewall.close()
        chains = IptablesFirewall(self.service._instance)
        if chains.has_own_chains():
            chains.remove()
        with netlink.RouteSocket() as route:
            bridges = {network.bridge for network in self.service.list() if network.bridge}
            for link in route.links():
                if (is_ours(link, self.service._mark) or link.name in bridges) and route.link(link.name) is not None:
                    route.do(netlink.delete_link(link.index))
        for path in (self.root / "exec" / "netns").glob("*"):
            sandboxes.delete_file(str(path))


@pytest.fixture
async def host(make_host: Callable[..., Any]) -> Host:
    made: Host = await make_host()
    return made


@pytest.fixture
async def make_host(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Make any number of hosts with options of their own."""
    async with AsyncExitStack() as stack:
        numbers = itertools.count()

        async def make(**options: Any) -> Host:
            root = tmp_path / f"host{next(numbers)}"
            root.mkdir()
            made = Host(root, **options)
            stack.push_async_callback(made.clean_up)
            await made.open()
            await made.service.sweep()
            return made

        yield make


@pytest.fixture
def number() -> Iterator[int]:
    """A number for a test's own links and subnets, see `claim_number`."""
    found, claim = claim_number()
    with claim:
        yield found


@pytest.fixture(scope="session", autouse=True)
def forwarding_policy() -> Iterator[None]:
    """Put back what FORWARD does with all else: the first service that makes this namespace route changes that."""
    programs = [
        program
        for version in ("", "6")
        for kind in ("nft", "legacy")
        if (program := shutil.which(f"ip{version}tables-{kind}")) and _policy(program) == "ACCEPT"
    ]
    yield
    for program in programs:
        if _policy(program) != "ACCEPT":
            subprocess.run([program, "-w", "5", "-P", "FORWARD", "ACCEPT"], check=True)


def _policy(program: str) -> str:
    listed = subprocess.run([program, "-w", "5", "-S", "FORWARD"], capture_output=True, text=True, check=False).stdout
    return listed.partition("-P FORWARD ")[2].partition("\n")[0]


@pytest.fixture
def ipv6_forwarding() -> Iterator[None]:
    """Put back what an IPv6 network changes on the host."""
    conf = Path("/proc/sys/net/ipv6/conf")
    before = {path: path.read_text() for name in ("forwarding", "accept_ra") for path in conf.glob(f"*/{name}")}
    policy = subprocess.run(["ip6tables", "-S", "FORWARD"], capture_output=True, text=True, check=False).stdout
    yield
    if "-P FORWARD ACCEPT" in policy:
        subprocess.run(["ip6tables", "-P", "FORWARD", "ACCEPT"], check=True)
    (conf / "all/forwarding").write_text(before[conf / "all/forwarding"])
    for path, value in before.items():
        if path.exists() and path.parent.name != "all":
            path.write_text(value)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """The engines, at 192.168.77.1 and .2."""
    root = tmp_path_factory.mktemp("overlay")
    with ExitStack() as stack:
        hosts = [in_thread(lambda: sandboxes.create(root)) for _ in range(2)]
        for host in hosts:
            stack.callback(sandboxes.destroy, host)
        cable = f"dyo{secrets.token_hex(3)}"
        hosts[0].route.do(netlink.new_veth(cable, "cable", netns=hosts[1].fd, mac="", master=0))
        found = []
        for number, (host, name) in enumerate(zip(hosts, (cable, "cable"), strict=True), 1):
            link = host.route.link(name)
            assert link is not None
            host.route.do(
                netlink.new_address(link.index, ip_address(f"192.168.77.{number}"), 24),
                netlink.set_link(link.index, up=True),
            )
            engine = EngineProcess(
                root / f"engine{number}",
                number=7 + number,
                arguments=(f"--cluster-store=file://{root}/cluster", f"--cluster-advertise=192.168.77.{number}"),
            )
            engine.prefix = ("nsenter", f"--net={host.path}")
            engine.start()
            stack.callback(engine.abandon)
            engine.docker("pull", "busybox")
            found.append(engine)
        yield found[0], found[1]
        for engine in found:
            engine.clean_up()


class Neighbour:
    """Another machine, on a cable of its own to this one: `ours` is this machine's address on it."""

    def __init__(self, path: str, address: str, ours: str) -> None:
        self.path = path
        self.address = address
        self.ours = ours


@pytest.fixture
def neighbour(tmp_path: Path, number: int) -> Iterator[Neighbour]:
    ours, theirs = f"10.251.{number}.1", f"10.251.{number}.2"
    cable = f"dyn{secrets.token_hex(3)}"
    namespace = in_thread(lambda: sandboxes.create(tmp_path))
    try:
        with netlink.RouteSocket() as route:
            route.do(netlink.new_veth(cable, "eth0", netns=namespace.fd, mac="", master=0))
            link = route.link(cable)
            assert link is not None
            route.do(netlink.new_address(link.index, ip_address(ours), 24))
            far = namespace.route.link("eth0")
            assert far is not None
            namespace.route.do(
                netlink.new_address(far.index, ip_address(theirs), 24),
                netlink.set_link(far.index, up=True),
                netlink.default_route(far.index, ip_address(ours)),
            )
            yield Neighbour(namespace.path, theirs, ours)
            route.do(netlink.delete_link(link.index))
    finally:
        sandboxes.destroy(namespace)  # and with it the cable


def in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]
