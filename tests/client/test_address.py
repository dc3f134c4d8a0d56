"""Claims about which engine a client talks to."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from dockyard.client.address import TLS, Address, find, parse
from dockyard.client.errors import ClientError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///run/x.sock", Address(socket="/run/x.sock")),
        ("/run/x.sock", Address(socket="/run/x.sock")),
        ("tcp://host:1234", Address(host="host", port=1234)),
        ("tcp://host", Address(host="host", port=2375)),
        ("host:1234", Address(host="host", port=1234)),
        ("http://host:1234/", Address(host="host", port=1234)),
        ("https://host", Address(host="host", port=2376, tls=TLS())),
        ("tcp://[::1]:1234", Address(host="::1", port=1234)),
        ("tcp://[::1]", Address(host="::1", port=2375)),
        ("tcp://:1234", Address(host="127.0.0.1", port=1234)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["ssh://host", "unix://", "tcp://host:port", "npipe:////./pipe/x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ClientError):
        parse(text)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with a configuration folder in which a context `far` is the current one."""
    key = sha256(b"far").hexdigest()
    meta = tmp_path / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    endpoint = {"Host": "tcp://far.example:2376", "SkipTLSVerify": True}
    (meta / "meta.json").write_text(json.dumps({"Name": "far", "Endpoints": {"docker": endpoint}}))
    files = tmp_path / "contexts" / "tls" / key / "docker"
    files.mkdir(parents=True)
    (files / "ca.pem").write_text("")
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))
    return {"DOCKER_CONFIG": str(tmp_path)}


def test_what_decides_first(environment: dict[str, str]) -> None:
    folder = environment["DOCKER_CONFIG"]
    ca = f"{folder}/contexts/tls/{sha256(b'far').hexdigest()}/docker/ca.pem"
    far = Address(host="far.example", port=2376, tls=TLS(ca=ca, verify=False))
    assert find(environment=environment) == far
    assert find(environment={**environment, "DOCKER_CONTEXT": "default"}).socket
    assert find(environment={**environment, "DOCKER_HOST": "unix:///a"}) == Address(socket="/a")
    both = {**environment, "DOCKER_HOST": "unix:///a", "DOCKYARD_HOST": "unix:///b"}
    assert find(environment=both) == Address(socket="/b")
    assert find("unix:///c", environment=both) == Address(socket="/c")
    assert find(context="far", environment=both) == far
    with pytest.raises(ClientError, match="context 'nowhere'"):
        find(context="nowhere", environment=environment)


def test_tls_by_the_environment(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    environment = {"DOCKER_HOST": "tcp://host:2376", "DOCKER_CERT_PATH": str(tmp_path), "DOCKER_TLS_VERIFY": "1"}
    files = TLS(*(os.path.join(tmp_path, f"{kind}.pem") for kind in ("ca", "cert", "key")))
    assert find(environment=environment).tls == files
    assert find(environment={**environment, "DOCKER_TLS_VERIFY": ""}).tls is None
    assert find(environment={**environment, "DOCKER_TLS_VERIFY": "", "DOCKER_TLS": "1"}).tls == files._replace(
        verify=False
    )


def test_a_broken_configuration_keeps_no_one_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert find(environment={"DOCKER_CONFIG": str(tmp_path)}).socket
