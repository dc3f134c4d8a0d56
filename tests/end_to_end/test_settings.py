"""Settings that can't be kept are refused at once: by the daemon before it opens anything, and by --validate."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dockyard.config import Config, load
from dockyard.daemon.main import handle_loop_errors
from dockyard.engine.networks.default_bridge import default_bridge_pools
from dockyard.engine.networks.service import Network, NetworkOptions
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.foreign_settings import FOREIGN
from tests.engine_process import EngineProcess


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seccomp-profile": "/nowhere.json"}, "opening seccomp profile (/nowhere.json) failed: No such file"),
        ({"seccomp-profile": "/etc/passwd"}, "decoding seccomp profile failed"),
        ({"tlsverify": True}, "could not load TLS files"),
        ({"tls": True, "tlscert": "/etc/passwd", "tlskey": "/etc/passwd"}, "could not load TLS files /etc/passwd"),
        ({"userns-remap": "nobody-of-that-name"}, 'user "nobody-of-that-name" does not exist'),
        ({"userns-remap": "root"}, 'no subordinate ids for user "root"'),
        ({"authorization-plugins": ["who-would-guard"]}, "without them all would be let in"),
        ({"rootless": "yes"}, "rootless: expected a bool, got 'yes'"),
        ({"metrics-addr": 5}, "metrics-addr: expected a string, got 5"),
        ({"log-format": "xml"}, "invalid log format: xml"),
        ({"max-download-attempts": 0}, "invalid max download attempts: 0"),
        ({"nosuchkey": 1}, "don't match any configuration option: nosuchkey"),
        ({"log-driver": "none-of-that-name"}, "failed to set log opts"),
    ],
)
@pytest.mark.parametrize("validate", [True, False])
def test_what_can_not_be_is_refused_at_once(
    tmp_path: Path, settings: dict[str, object], words: str, validate: bool
) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "dockyard.daemon", f"--config-file={file}", f"--data-root={tmp_path}/data",
               f"--exec-root={tmp_path}/run", f"--pidfile={tmp_path}/pid", f"--host=unix://{tmp_path}/socket",
               *(["--validate"] if validate else [])]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={"HOME": str(tmp_path), "PATH": "/bin"}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dockyardd: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"daemon.json"}


# What stands in daemon.json files that people have, key by key, and in Docker's own documentation.
OF_DOCKER = {
    "bip6": "fd00:1::1/64", "builder": {"gc": {"enabled": True, "defaultKeepStorage": "10GB"}},
    "containerd": "/run/containerd/containerd.sock", "containerd-namespace": "docker", "default-gateway": "10.20.1.1",
    "default-gateway-v6": "2001:db8:abcd::89",
    "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
    "default-ulimits": {"nofile": {"Hard": 64000, "Name": "nofile", "Soft": 64000}}, "experimental": False,
    "features": {"cdi": True, "buildkit": True}, "firewall-backend": "", "fixed-cidr-v6": "fd00:1::/64",
    "host-gateway-ips": ["192.168.1.1", "fd00::1"], "ip-forward-no-drop": False, "ip6tables": True, "ipv6": True,
    "log-format": "json", "max-download-attempts": 5, "metrics-addr": "127.0.0.1:9323",
    "network-control-plane-mtu": 1500, "node-generic-resources": ["NVIDIA-GPU=UUID1"], "oom-score-adjust": 0,
    "proxies": {"http-proxy": "http://user:secret@proxy:80", "https-proxy": "https://proxy:443", "no-proxy": "*.lan"},
    "raw-logs": False, "selinux-enabled": False, "swarm-default-advertise-addr": "", "userland-proxy-path": "",
    "runtimes": {"custom": {"path": "/usr/local/bin/my-runc", "runtimeArgs": ["--debug"]}},
}  # fmt: skip
OF_DOCKERD = """
    --allow-direct-routing --bip6=fd00::1/64 --containerd=/x --default-gateway=10.1.1.1 --default-network-opt=bridge=a=b
    --fixed-cidr-v6=fd00::/64 --ip6tables=false --ipv6 --metrics-addr=127.0.0.1:9323 --network-control-plane-mtu=1400
    --node-generic-resource=a=b --raw-logs --selinux-enabled --userland-proxy-path=/x --http-proxy=http://p:1
    --log-format=json --max-download-attempts=3 --ip-forward-no-drop --rootless=false
""".split()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dockyard.daemon", *arguments, "--validate"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={"PATH": "/bin"})


def test_a_daemon_json_of_dockers_is_taken_and_what_is_not_heeded_is_said(tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text(json.dumps(OF_DOCKER))
    done = run(f"--config-file={tmp_path}/daemon.json")
    assert (done.returncode, done.stdout) == (0, "configuration OK\n"), done.stderr
    told = {line.split()[1] for line in done.stderr.splitlines()}
    assert {"metrics-addr", "containerd"} <= told
    assert not told & {"ipv6", "selinux-enabled", "firewall-backend", "proxies", "features", "ip-forward-no-drop"}


def test_dockerds_flags_are_taken() -> None:
    done = run(*OF_DOCKERD)
    assert (done.returncode, done.stdout) == (0, "configuration OK\n"), done.stderr
    assert "warning: metrics-addr is not here yet" in done.stderr
    assert "invalid syntax" in run("--network-control-plane-mtu=x").stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--dns nonsense",
            'invalid argument "nonsense" for "--dns" flag: invalid string being converted to IP address: nonsense',
        ),
        ("--dns-search a..b", 'invalid argument "a..b" for "--dns-search" flag: a..b is not a valid domain'),
        ("--ip nonsense", 'invalid argument "nonsense" for "--ip" flag: failed to parse IP: "nonsense"'),
        ("--default-gateway x", 'invalid argument "x" for "--default-gateway" flag: failed to parse IP: "x"'),
        ("--default-network-opt bridge=a", 'invalid value "bridge=a" for map option, should be root-key=key=value'),
        ("--default-address-pool x", "flag: invalid field 'x' must be a key=value pair"),
        ("--default-address-pool base=x,size=24", 'invalid base prefix "x": netip.ParsePrefix("x"): no \'/\''),
        ("--default-address-pool base=10.0.0.0/8,size=y", 'strconv.Atoi: parsing "y": invalid syntax'),
        ("--default-address-pool base=10.0.0.0/8,size=4", "smaller prefix (/8) than the target size of that pool (/4)"),
        ("--default-address-pool base=10.0.0.0/8", "(&{10.0.0.0/8 0}) has no size for its networks"),
        ("--host-gateway-ip x", 'ParseAddr("x"): unable to parse IP'),
        (
            "--host-gateway-ip 10.0.0.1 --host-gateway-ip 10.0.0.2",
            "only one IPv4 host gateway IP address can be specified",
        ),
        ("--userland-proxy=true --userland-proxy-path /none", 'exec: "/none": stat /none: no such file or directory'),
        ("--bridge sixteencharacters", "invalid --bridge 'sixteencharacters': a link's name has 15 characters at most"),
        (
            "--icc=maybe",
            'invalid argument "maybe" for "--icc" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
    ],
)
def test_settings_of_networks_that_make_no_sense_are_refused_as_by_dockerd(flags: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        load(flags.split())
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"bip": "nonsense"}, "parse bip failed: invalid CIDR address: nonsense"),
        ({"bip": "10.1.2.0/24"}, "failed to allocate gateway (10.1.2.0): Address already in use"),
        ({"bip": "10.1.2.255/24"}, "failed to allocate gateway (10.1.2.255): Address already in use"),
        ({"fixed_cidr": "x"}, "parse fixed-cidr failed: invalid CIDR address: x"),
        ({"fixed_cidr_v6": "x"}, "invalid fixed-cidr-v6: netip.ParsePrefix(\"x\"): no '/'"),
        ({"fixed_cidr_v6": "10.0.0.0/24"}, "invalid fixed-cidr-v6: '10.0.0.0/24' is not a valid IPv6 subnet"),
        ({"fixed_cidr_v6": "ff00::/64"}, "invalid fixed-cidr-v6: multicast subnet 'ff00::/64' is not allowed"),
        ({"ipv6": True, "bip6": "x"}, "parse bip6 failed: invalid CIDR address: x"),
        (
            {"bip": "10.8.0.1/24", "default_gateway": "10.9.0.1"},
            "auxiliary address: (DefaultGatewayIPv4:10.9.0.1) must belong to the master pool: 10.8.0.0/24",
        ),
    ],
)
def test_a_default_bridge_that_cannot_be_is_refused_as_by_dockerd(flags: dict[str, Any], said: str) -> None:
    network = Network(id="a" * 64, name="bridge", driver="bridge", created="", bridge="none", ipv6="ipv6" in flags)
    with pytest.raises(DockyardError) as refused:
        default_bridge_pools(
            NetworkOptions(**flags), network, {}, lambda version: ip_network("10.250.0.0/24"), lambda subnet: True
        )
    assert refused.value.message == said


def test_proxies_and_the_form_of_the_log_are_heeded(tmp_path: Path) -> None:
    process = EngineProcess(tmp_path / "engine", number=41)
    (tmp_path / "daemon.json").write_text(json.dumps({name: OF_DOCKER[name] for name in ("proxies", "log-format")}))
    process.arguments.append(f"--config-file={tmp_path}/daemon.json")
    process.start()
    try:
        info = json.loads(process.docker("info", "--format", "{{json .}}"))
        assert (info["HttpProxy"], info["NoProxy"]) == ("http://xxxxx:xxxxx@proxy:80", "*.lan")
        lines = [json.loads(line) for line in process.log().splitlines()]
        assert {"level", "module", "msg", "time"} == set(lines[0])
    finally:
        process.clean_up()


def test_dockers_own_data_root_is_not_taken_for_ours(tmp_path: Path) -> None:
    for folder in ("image/overlay2", "containers", "overlay2/l", "volumes"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    process = EngineProcess(tmp_path, number=42)
    for more in ((), ("--recover",)):
        arguments = [*process.arguments, *more]
        process.run.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "dockyard.daemon", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert "is a data root of Docker's: give Dockyard one of its own" in done.stderr
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["containers", "image", "overlay2", "volumes"]
    process.run.rmdir()


def test_the_page_on_the_daemon_has_every_key() -> None:
    page = Path("docs/daemon.md").read_text()
    keys = {name.replace("_", "-") for name in Config.__struct_fields__} | FOREIGN.keys()
    assert not [key for key in keys if f"| `{key}`" not in page]


def test_an_address_without_a_scheme_is_a_tcp_address(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = EngineProcess(tmp_path / "engine", number=6, arguments=(f"--host=127.0.0.1:{port}",))
    engine.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/info")
        assert f"tcp://127.0.0.1:{port}" in str(json.loads(connection.getresponse().read())["Warnings"])
        connection.close()
    finally:
        engine.clean_up()


def test_a_listener_that_is_closed_while_descriptors_are_missing_is_listened_on_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def live() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handle_loop_errors())
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(lambda reader, writer: None, sock=listener)
        # what the loop does when accept(2) has failed with EMFILE
        loop.remove_reader(listener.fileno())
        loop.call_later(0.05, loop._start_serving, None, listener)  # type: ignore[attr-defined]  # asyncio's own
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.2)

    asyncio.run(live())
    assert caplog.text == ""
