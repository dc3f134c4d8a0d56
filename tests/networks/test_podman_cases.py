"""What podman's own tests of networking (test/system/500-networking.bats) expect, where Docker behaves the same.

Typed with our command line. Left out is what is podman's alone: pods, user networks of rootless containers, its
configuration files, `network reload` (nobody needs to type it here), words of its messages, and that with `--uts=host`
alone /etc/hostname has the host's name, too.
"""

import functools
import json
import os
import random
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dockyard.linux.nftables import Nftables
from tests.engine_process import EngineProcess
from tests.processes import eventually

SERVE = ("-v", "FOLDER:/var/www", "busybox", "httpd", "-f", "-p", "80", "-h", "/var/www")


class Cases:
    """An engine, and a folder with a web page."""

    def __init__(self, engine: EngineProcess, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        (folder / "index.txt").write_text("of the web server\n")
        folder.chmod(0o755)

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """The output of our command line, which is to succeed."""
        done = self.engine.dockyard(*(one.replace("FOLDER", str(self.folder)) for one in arguments), input=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def fail(self, *arguments: str) -> str:
        """Its complaint."""
        done = self.engine.dockyard(*arguments)
        assert done.returncode != 0
        return done.stderr.decode()

    def network(self, container: str, network: str) -> dict[str, str]:
        shown = self.run("inspect", "-f", f'{{{{json (index .NetworkSettings.Networks "{network}")}}}}', container)
        return dict(json.loads(shown))

    def process(self, container: str) -> int:
        return int(self.run("inspect", "-f", "{{.State.Pid}}", container))

    def other_process(self, container: str, process: int) -> bool:
        return self.process(container) not in (0, process)

    def fetched(self, port: int) -> str:
        return fetch(f"http://127.0.0.1:{port}/index.txt")


def fetch(url: str) -> str:
    """What a web server says, "" when there is none; not by a proxy of the environment's."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=3) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def free_port(together: int = 1) -> int:
    """The first of so many ports that nobody has; none that the kernel might give to somebody meanwhile."""
    while True:
        first = random.randrange(20000, 30000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + together):
                    stack.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
        return first


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("podman"), number=12) as process:
        yield process


@pytest.fixture
def cases(engine: EngineProcess, tmp_path: Path) -> Iterator[Cases]:
    tmp_path.parent.chmod(0o755)
    yield Cases(engine, tmp_path)
    containers = engine.docker("ps", "-aq").split()
    if containers:
        engine.docker("rm", "-f", *containers)
    engine.docker("network", "prune", "-f")


def test_networks_are_listed_by_name_and_their_life_is_told(cases: Cases) -> None:
    assert re.match(r"NETWORK ID +NAME +DRIVER +SCOPE$", cases.run("network", "ls").splitlines()[0])
    names = ["net-b", "net-a", "net-c"]
    ids = {cases.run("network", "create", name) for name in names}
    shown = cases.run("network", "ls", "--format", "{{.Name}}").splitlines()
    assert [name for name in shown if name.startswith("net-")] == sorted(names)
    assert {one[:12] for one in ids} < set(cases.run("network", "ls", "-q").split())
    cases.run("network", "rm", *names)
    told = cases.run("events", "--since", "10m", "--until", "0s", "--filter", "type=network")
    for action in ("create", "destroy"):
        for name in names:
            assert re.search(rf"network {action} [0-9a-f]{{64}} \(name={name}, type=bridge\)", told)


def test_a_port_on_localhost_is_kept_by_whom_it_belongs_to(cases: Cases) -> None:
    port = free_port()
    cases.run("run", "-d", "--name", "web", "-p", f"{port}:80", *SERVE)
    eventually(lambda: cases.fetched(port) == "of the web server\n")
    assert "port is already allocated" in cases.fail("run", "--rm", "-p", f"{port}:80", "busybox", "true")
    cases.run("exec", "-i", "web", "sh", "-c", "cat > /var/www/second.txt", stdin=b"written inside\n")
    assert cases.run("exec", "web", "cat", "/var/www/second.txt") == "written inside"
    assert cases.fetched(port) == "of the web server\n"
    url = f"http://127.0.0.1:{port}/second.txt"
    assert fetch(url) == "written inside\n"
    assert cases.run("run", "--rm", "--net=host", "busybox", "wget", "-qO", "-", url) == "written inside"
    assert cases.run("port", "web").splitlines()[0] == f"80/tcp -> 0.0.0.0:{port}"
    for asked in ("80", "80/tcp"):
        assert cases.run("port", "web", asked).splitlines()[0] == f"0.0.0.0:{port}"
    assert "no public port '99/tcp' published for web" in cases.fail("port", "web", "99/tcp").lower()


def test_a_subnet_that_is_asked_for_is_had_and_the_client_is_seen(cases: Cases) -> None:
    port = free_port()
    cases.run("network", "create", "--subnet", "10.249.7.0/24", "own")
    assert len(cases.run("network", "inspect", "own").splitlines()) >= 5
    assert " inet 10.249.7.2/24 brd 10.249.7.255 " in cases.run("run", "--rm", "--net", "own", "busybox", "ip", "a")
    hear = ("busybox", "sh", "-c", "nc -l -p 80 -e sh -c 'cat /proc/net/tcp; cat'")
    cases.run("run", "-d", "--name", "hears", "--net", "own", "-p", f"127.0.0.1:{port}:80", *hear)

    def told() -> str:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=3) as client:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
                said = b""
                while piece := client.recv(4096):
                    said += piece
                return said.decode()
        except OSError:
            return ""

    said = eventually(told)
    assert said.endswith("hello\n")
    peers = {line.split()[2].partition(":")[0] for line in said.splitlines() if line.split()[1:2] == ["0207F90A:0050"]}
    assert "0100007F" not in peers, "the client is 127.0.0.1"
    assert "already exists" in cases.fail("network", "create", "own")
    cases.run("rm", "-f", "hears")
    cases.run("network", "rm", "own")
    assert "network own not found" in cases.fail("network", "rm", "own")


def test_rules_that_are_flushed_come_back_and_addresses_stay(cases: Cases) -> None:
    port = free_port()
    cases.run("run", "-d", "--name", "web", "-p", f"{port}:80", *SERVE)
    eventually(lambda: cases.fetched(port))
    before = cases.network("web", "bridge")
    rules = Nftables()
    rules.run(f"delete table ip dockyard-{cases.engine.bridge}")
    rules.close()
    eventually(lambda: cases.fetched(port) == "of the web server\n")
    cases.run("network", "create", "--ipv6", "second")
    cases.run("network", "connect", "second", "web")
    assert cases.network("web", "bridge") == before
    assert cases.network("web", "second")["GlobalIPv6Address"].startswith("fd")
    assert cases.fetched(port) == "of the web server\n"
    assert "bridge is a pre-defined network and cannot be removed" in cases.fail("network", "rm", "bridge")


def test_a_published_port_follows_its_container_from_network_to_network(cases: Cases) -> None:
    port = free_port()
    for name in ("first", "second"):
        cases.run("network", "create", name)
    container = cases.run("run", "-d", "--hostname", "me", "-p", f"{port}:80", "--net", "first", *SERVE)
    eventually(lambda: cases.fetched(port))
    state = cases.network(container, "first")
    assert {container[:12], "me"} <= set(state["DNSNames"])
    assert state["IPAddress"] in cases.run("exec", container, "cat", "/etc/hosts")
    cases.run("network", "disconnect", "first", container)
    assert state["IPAddress"] not in cases.run("exec", container, "cat", "/etc/hosts")
    assert cases.fetched(port) == ""
    cases.run("network", "connect", "second", container)
    assert cases.fetched(port) == "of the web server\n"
    cases.run("network", "connect", "first", container)
    cases.run("network", "disconnect", "second", container)
    assert cases.fetched(port) == "of the web server\n"
    assert cases.network(container, "first")["MacAddress"]


def test_a_port_is_there_again_after_a_restart_of_whatever_kind(cases: Cases) -> None:
    port = free_port()
    cases.run("network", "create", "own")
    for network in ("bridge", "own"):
        container = cases.run("run", "-d", "-p", f"{port}:80", "--restart", "always", "--net", network, *SERVE)
        eventually(lambda: cases.fetched(port))
        process = cases.process(container)
        os.kill(process, signal.SIGKILL)
        eventually(functools.partial(cases.other_process, container, process))
        eventually(lambda: cases.fetched(port) == "of the web server\n")
        cases.run("restart", "-t1", container)
        eventually(lambda: cases.fetched(port) == "of the web server\n")
        cases.run("rm", "-f", container)


def test_a_range_of_ports_is_forwarded_and_taken_on_the_host(cases: Cases) -> None:
    first = free_port(3)
    ports = range(first, first + 3)
    shown = f"{first}-{first + 2}"
    container = cases.run("run", "-d", "-p", f"{shown}:{shown}", "busybox", "sleep", "1000")
    for port in ports:
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(("127.0.0.1", port))
        cases.run("exec", "-d", container, "nc", "-l", "-p", str(port), "-e", "cat")

        def echoed(port: int = port) -> bytes:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=3) as client:
                    client.sendall(b"echo")
                    client.shutdown(socket.SHUT_WR)
                    return client.recv(100)
            except OSError:
                return b""

        assert eventually(echoed) == b"echo"


def test_files_of_the_network_are_roots(cases: Cases) -> None:
    files = ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
    assert cases.run("run", "--rm", "busybox", "stat", "-c", "%u:%g", *files).split() == ["0:0"] * 3


def test_removing_by_force_what_is_not_there_is_no_failure(cases: Cases) -> None:
    assert "network bogus not found" in cases.fail("network", "rm", "bogus")
    assert cases.run("network", "rm", "--force", "bogus") == ""
    cases.run("network", "create", "real")
    assert cases.run("network", "rm", "--force", "bogus", "real") == "real"
    assert "real" not in cases.run("network", "ls", "--format", "{{.Name}}").split()


@pytest.mark.parametrize("flag", ["--dns-opt", "--dns-option"])
def test_options_of_the_resolver_replace_the_hosts(cases: Cases, flag: str) -> None:
    cases.run("network", "create", "own")
    for network in ("bridge", "own"):
        said = cases.run("run", "--rm", "--net", network, f"{flag}=timeout:7", "busybox", "cat", "/etc/resolv.conf")
        options = next(line for line in said.splitlines() if line.startswith("options "))
        assert options.split()[1:] in (["timeout:7"], ["timeout:7", "ndots:0"])


@pytest.mark.parametrize("network", ["bridge", "host", "none"])
def test_a_container_that_does_not_run_names_its_network_and_has_no_sandbox(cases: Cases, network: str) -> None:
    container = cases.run("create", f"--network={network}", "busybox", "sleep", "1000")
    shown = json.loads(cases.run("inspect", container))[0]["NetworkSettings"]
    assert (list(shown["Networks"]), shown["SandboxKey"]) == ([network], "")
    cases.run("start", container)
    shown = json.loads(cases.run("inspect", container))[0]["NetworkSettings"]
    assert shown["SandboxKey"].startswith("/")


def test_restarts_give_addresses_and_namespaces_back(cases: Cases) -> None:
    cases.run("network", "create", "--subnet", "10.249.8.0/29", "small")
    namespaces = cases.engine.run / "netns"
    before = len(list(namespaces.iterdir()))
    # seven runs, in a network that has five addresses
    cases.fail("run", "--name", "fails", "--net", "small", "--restart", "on-failure:6", "busybox", "false")
    eventually(lambda: cases.run("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "fails") == "6 exited", 120)
    cases.run("run", "--rm", "--net", "small", "busybox", "true")
    eventually(lambda: len(list(namespaces.iterdir())) <= before)


def test_with_the_hosts_uts_the_name_is_the_hosts(cases: Cases) -> None:
    assert cases.run("run", "--rm", "--uts=host", "busybox", "hostname") == os.uname().nodename
    flags = ("--uts=host", "--net=host")
    assert cases.run("run", "--rm", *flags, "busybox", "cat", "/etc/hostname") == os.uname().nodename


def test_a_network_shows_containers_that_run_there_and_no_others(cases: Cases) -> None:
    cases.run("network", "create", "--subnet", "10.249.9.0/24", "own")
    assert cases.run("network", "inspect", "-f", "{{json .Containers}}", "own") == "{}"
    ids = [cases.run("create", "--name", name, "--net", "own", "busybox", "sleep", "1000") for name in ("c1", "c2")]
    assert cases.run("network", "inspect", "-f", "{{json .Containers}}", "own") == "{}"
    cases.run("start", "c1", "c2")
    cases.run("run", "-d", "busybox", "sleep", "1000")
    shown = json.loads(cases.run("network", "inspect", "-f", "{{json .Containers}}", "own"))
    found = {key: (value["Name"], value["IPv4Address"]) for key, value in shown.items()}
    assert found == {ids[0]: ("c1", "10.249.9.2/24"), ids[1]: ("c2", "10.249.9.3/24")}


def test_links_come_in_the_order_of_the_command_line(cases: Cases) -> None:
    flags = []
    for network, link in (("net-2", "first"), ("net-1", "second")):
        cases.run("network", "create", network)
        flags += ["--net", f"name={network},driver-opt=com.docker.network.endpoint.ifname={link}"]
    said = cases.run("run", "--rm", *flags, "busybox", "ip", "link")
    names = re.findall(r"^\d+: (\w+)", said, re.MULTILINE)
    assert names == ["lo", "first", "second"]


@pytest.mark.parametrize("where", ["0.0.0.0", "[::]"])
def test_a_port_of_both_ip_versions_leaves_none_of_either(cases: Cases, where: str) -> None:
    port = free_port()
    cases.run("run", "-d", "-p", f"{port}:8080", "busybox", "sleep", "1000")
    assert "port is already allocated" in cases.fail("run", "--rm", "-p", f"{where}:{port}:8080", "busybox", "true")
