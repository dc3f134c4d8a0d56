"""Requests as clients send them: bodies, versions, and what an engine without a part answers for it."""

import importlib
import json
import os
import socket
import sys
import tarfile
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest

from dockyard.api import go_types
from tests.engine_process import EngineProcess


def test_a_body_is_read_as_go_reads_it(engine: EngineProcess) -> None:
    # null is a value left out, and names match in any case
    body = {
        "image": "busybox",
        "cmd": "true",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": None, "StartPeriod": None},
        "HostConfig": {"Memory": None, "PortBindings": {"80/tcp": None}, "Binds": None},
    }
    engine.docker("run", "--rm", "busybox", "true")
    status, created = engine.api("POST", "/containers/create", body)
    assert status == 201, created
    shown = engine.inspect(created["Id"])
    assert shown["Config"]["Cmd"] == ["true"]
    assert shown["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": ""}]}
    engine.docker("rm", created["Id"])


def test_a_body_that_is_not_json_is_refused(engine: EngineProcess) -> None:
    status, answer = _post(engine, "/containers/create", b"{}", "text/plain")
    assert status == 400
    assert answer["message"] == "unsupported Content-Type header (text/plain): must be 'application/json'"
    assert _post(engine, "/containers/create", b"{}{}", "application/json") == (
        400,
        {"message": "unexpected content after JSON"},
    )
    assert _post(engine, "/containers/create", b"", "application/json")[0] == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "unexpected EOF"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ('{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        ('{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("[1 2]", "invalid character '2' after array element"),
        ('"a\nb"', r"invalid character '\n' in string literal"),
        (r'"\x"', "invalid character 'x' in string escape code"),
        ("nulL", "invalid character 'L' in literal null (expecting 'l')"),
        ("<html>", "invalid character '<' looking for beginning of value"),
        ("[" * 10_001, "exceeded max depth"),
        ("[]", "json: cannot unmarshal array into Go value of type container.CreateRequest"),
        ('{"Image":1}', "json: cannot unmarshal number into Go struct field CreateRequest.Image of type string"),
        ('{"Cmd":[1]}', "json: cannot unmarshal array into Go struct field CreateRequest.Cmd of type string"),
    ],
)
def test_a_body_is_refused_in_gos_words(engine: EngineProcess, body: str, words: str) -> None:
    status, answer = _post(engine, "/containers/create", body.encode(), "application/json")
    assert (status, answer["message"]) == (400, f"invalid JSON: {words}")


@pytest.mark.parametrize(
    ("body", "value", "field", "kind"),
    [
        ('{"HostConfig":{"Memory":"1g"}}', "string", "HostConfig.HostConfig.Memory", "int64"),
        (f'{{"HostConfig":{{"Memory":{1 << 63}}}}}', f"number {1 << 63}", "HostConfig.HostConfig.Memory", "int64"),
        (
            '{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}}',
            "number",
            "PortBinding.HostConfig.PortBindings.HostPort",
            "string",
        ),
        ('{"HostConfig":{"Binds":"/a:/b"}}', "string", "HostConfig.HostConfig.Binds", "[]string"),
        (
            '{"HostConfig":{"RestartPolicy":"always"}}',
            "string",
            "HostConfig.HostConfig.RestartPolicy",
            "container.RestartPolicy",
        ),
        ('{"Healthcheck":{"Interval":"1s"}}', "string", "HealthcheckConfig.Healthcheck.Interval", "time.Duration"),
        ('{"ExposedPorts":["80/tcp"]}', "array", "CreateRequest.ExposedPorts", "nat.PortSet"),
    ],
)
def test_a_value_of_another_type_is_named_in_gos_words(
    engine: EngineProcess, body: str, value: str, field: str, kind: str
) -> None:
    status, answer = _post(engine, "/containers/create", body.encode(), "application/json")
    words = f"invalid JSON: json: cannot unmarshal {value} into Go struct field {field} of type {kind}"
    assert (status, answer["message"]) == (400, words)


def test_what_is_no_unicode_is_read_as_go_reads_it(engine: EngineProcess) -> None:
    status, answer = _post(
        engine, "/volumes/create", b'{"Name":"odd","Labels":{"a":"\\ud800","b":"\xff"}} }', "application/json"
    )
    assert (status, answer["Labels"]) == (201, {"a": "\ufffd", "b": "\ufffd"})
    engine.docker("volume", "rm", "odd")


@pytest.mark.parametrize(
    ("host", "created"),
    [
        ({"Binds": ["/tmp/a\0b:/x"]}, 400),
        ({"Binds": [f"/tmp/{'x' * 300}:/x"]}, 201),
        ({"Memory": 1 << 63}, 400),
        ({"CpuShares": 1 << 31}, 201),
        ({"MaskedPaths": ["not/absolute"]}, 201),
        ({"CpuRealtimeRuntime": 2}, 201),
        ({"LogConfig": {"Type": "json-file", "Config": {"tag": "{{.Nothing}}"}}}, 201),
    ],
)
def test_what_the_kernel_or_the_runtime_refuses_is_the_clients_mistake(
    engine: EngineProcess, host: dict[str, Any], created: int
) -> None:
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
    assert status == created, answer
    if status == 201:
        status, said = engine.api("POST", f"/containers/{answer['Id']}/start")
        engine.docker("rm", "-f", answer["Id"])
        assert status == 400, said
    assert "Traceback" not in engine.log()


def test_an_exec_is_framed_as_its_start_asks(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "framed", "busybox", "sleep", "100")
    for tty, expected in ((False, b"\1\0\0\0\0\0\0\4hi\r\n"), (True, b"hi\r\n")):
        _, created = engine.api(
            "POST",
            "/containers/framed/exec",
            {"Cmd": ["echo", "hi"], "AttachStdout": True, "AttachStderr": True, "Tty": True},
        )
        stream = _hijack(engine, f"/exec/{created['Id']}/start", {"Tty": tty})
        assert stream == expected
    engine.docker("rm", "-f", "framed")


def test_a_client_that_reads_the_head_through_a_buffer_loses_nothing(engine: EngineProcess) -> None:
    engine.docker("run", "--name", "buffered", "busybox", "echo", "all of it")
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(engine.socket))
        wire.sendall(
            b"POST /containers/buffered/attach?logs=1&stdout=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n"
            b"Connection: Upgrade\r\nContent-Length: 0\r\n\r\n"
        )
        # as docker-py does: whatever comes with the head is lost to it
        assert wire.recv(65536).endswith(b"\r\n\r\n")
        assert wire.recv(65536) == b"\1\0\0\0\0\0\0\nall of it\n"
    engine.docker("rm", "buffered")


def test_a_link_names_its_container_and_tells_of_it(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "linked", "--expose", "80", "-e", "COLOUR=red", "busybox", "sleep", "100")
    engine.docker("run", "-d", "--name", "linking", "--link", "linked:my-db", "busybox", "sleep", "100")
    told = engine.docker("exec", "linking", "env").splitlines()
    address = engine.inspect("linked")["NetworkSettings"]["IPAddress"]
    assert f"MY_DB_PORT=tcp://{address}:80" in told
    assert f"MY_DB_PORT_80_TCP_ADDR={address}" in told
    assert "MY_DB_NAME=/linking/my-db" in told
    assert "MY_DB_ENV_COLOUR=red" in told
    assert engine.inspect("linking")["HostConfig"]["Links"] == ["/linked:/linking/my-db"]
    assert engine.inspect("linking/my-db")["Name"] == "/linked"
    assert _names(engine, "linked") == ["/linked", "/linking/my-db"]
    assert engine.api("DELETE", "/containers/linking/my-db?link=1")[0] == 204
    assert _names(engine, "linked") == ["/linked"]
    engine.docker("rm", "-f", "linked", "linking")


def test_older_versions_are_taken_at_their_word(engine: EngineProcess) -> None:
    body = {"Image": "busybox", "MacAddress": "02:42:0a:00:00:77"}
    status, created = engine.api("POST", "/v1.39/containers/create", body)
    assert status == 201
    assert created["Warnings"] == []
    shown = engine.inspect(created["Id"])
    assert shown["HostConfig"]["IpcMode"] == "shareable"
    assert shown["NetworkSettings"]["Networks"]["bridge"]["MacAddress"] == "02:42:0a:00:00:77"
    engine.docker("rm", created["Id"])
    status, created = engine.api("POST", "/v1.44/containers/create", body)
    assert "deprecated" in created["Warnings"][0]
    engine.docker("rm", created["Id"])
    two = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"one": {}, "two": {}}}}
    status, answer = engine.api("POST", "/v1.43/containers/create", two)
    assert (status, answer["message"]) == (
        400,
        "Container cannot be created with multiple network endpoints: one, two",
    )


def _names(engine: EngineProcess, name: str) -> Any:
    filters = json.dumps({"id": [engine.inspect(name)["Id"]]}).replace(" ", "")
    return engine.api("GET", f"/containers/json?filters={filters}")[1][0]["Names"]


def _post(engine: EngineProcess, path: str, body: bytes, content_type: str) -> tuple[int, Any]:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(engine.socket))
        head = f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
        wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    head_text, _, text = answer.partition(b"\r\n\r\n")
    return int(head_text.split()[1]), json.loads(text)


def _hijack(engine: EngineProcess, path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(engine.socket))
        head = f"POST {path} HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
        wire.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2]


def test_what_can_not_be_is_refused_at_creation(engine: EngineProcess) -> None:
    for field, message in (
        ({"WorkingDir": "here"}, "the working directory 'here' is invalid, it needs to be an absolute path"),
        ({"Env": ["=x"]}, "invalid environment variable: =x"),
        ({"Healthcheck": {"Interval": 1}}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
        ({"HostConfig": {"PortBindings": {"abc/tcp": [{}]}}}, 'invalid port specification: "abc"'),
        ({"HostConfig": {"ExtraHosts": ["x"]}}, 'bad format for add-host: "x"'),
    ):
        status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", **field})
        assert (status, answer["message"]) == (400, message)


def test_a_network_that_is_not_there_yet_is_missed_at_the_start(engine: EngineProcess) -> None:
    status, created = engine.api(
        "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "to-come"}}
    )
    assert status == 201
    status, answer = engine.api("POST", f"/containers/{created['Id']}/start")
    assert (status, answer["message"]) == (404, "failed to set up container networking: network to-come not found")
    engine.docker("network", "create", "to-come")
    assert engine.api("POST", f"/containers/{created['Id']}/start")[0] == 204
    engine.docker("rm", "-f", created["Id"])
    engine.docker("network", "rm", "to-come")


def test_nobody_is_left_waiting_for_a_client_that_has_gone(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "waited-for", "busybox", "sleep", "1000")
    before = engine.api("GET", "/info")[1]["NGoroutines"]
    wires = []
    for request in (
        "POST /containers/waited-for/wait",
        "GET /containers/waited-for/logs?stdout=1&follow=1",
        "GET /events",
    ):
        wire = socket.socket(socket.AF_UNIX)
        wire.connect(str(engine.socket))
        wire.sendall(f"{request} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")
        wires.append(wire)
    assert engine.api("GET", "/info")[1]["NGoroutines"] >= before + 3
    for wire in wires:
        wire.close()
    deadline = time.monotonic() + 10
    while engine.api("GET", "/info")[1]["NGoroutines"] > before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    engine.docker("rm", "-f", "waited-for")


def test_json_nested_too_deep_is_the_clients_mistake(engine: EngineProcess) -> None:
    for path in ("/containers/create", "/networks/create", "/volumes/create"):
        status, said = _post(engine, path, b"[" * 100_000, "application/json")
        assert (status, said["message"]) == (400, "invalid JSON: exceeded max depth")


def test_a_request_line_may_be_as_long_as_go_takes_it(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG LONG\nRUN test ${#LONG} = 100000\n")
    engine.docker("build", "-q", "-t", "long", "--build-arg", f"LONG={'x' * 100_000}", str(tmp_path))
    engine.docker("rmi", "long")


def test_a_websocket_wants_a_handshake(engine: EngineProcess) -> None:
    engine.docker("create", "--name", "shy", "busybox", "true")
    status, _ = engine.api("GET", "/containers/shy/attach/ws")
    engine.docker("rm", "shy")
    assert status == 400


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"Binds": ["/tmp:/x:ro,rw"]}, "invalid mode: ro,rw"),
        (
            {"Binds": ["/tmp:/x:nocopy"]},
            (
                "invalid volume specification: '/tmp:/x:nocopy': "
                'invalid mount config for type "bind": field VolumeOptions must not be specified'
            ),
        ),
        ({"Tmpfs": {"x": ""}}, "invalid mount path: 'x' mount path must be absolute"),
        ({"VolumesFrom": [""]}, "volumes-from specification cannot be an empty string"),
        ({"PidMode": "container:nobody"}, "No such container: nobody"),
        ({"IpcMode": "container:nobody"}, "No such container: nobody"),
        (
            {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "x"}]},
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute",
        ),
    ],
)
def test_mounts_and_namespaces_that_cannot_be_are_refused_when_the_container_is_made(
    engine: EngineProcess, host: dict[str, Any], message: str
) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
    assert engine.api("POST", "/containers/create", body) == (400, {"message": message})


def test_small_words_of_the_api(engine: EngineProcess) -> None:
    assert engine.api("OPTIONS", "/anything/at/all")[0] == 200
    status, said = engine.api("GET", "/containers/json?limit=99999999999999999999")
    assert (status, said["message"].endswith("value out of range")) == (400, True)
    assert engine.api("POST", "/commit?container=") == (400, {"message": 'invalid name or ID supplied: ""'})
    assert engine.api("GET", "/containers/json?filters=null")[0] == 200
    assert engine.api("GET", "/events?since=1&until=2&filters=%7B%22colour%22%3A%5B%22red%22%5D%7D")[0] == 200


def test_the_oldest_version_has_an_execution_driver_and_names_of_security_options(engine: EngineProcess) -> None:
    _, info = engine.api("GET", "/v1.24/info")
    assert info["ExecutionDriver"] == "<not supported>"
    assert "seccomp" in info["SecurityOptions"]
    _, info = engine.api("GET", "/v1.25/info")
    assert "ExecutionDriver" not in info
    assert "name=seccomp,profile=builtin" in info["SecurityOptions"]


@pytest.mark.parametrize(
    ("host", "created", "started"),
    [
        ({"VolumesFrom": ["nosuch"]}, 400, 0),
        ({"Links": ["nosuch:x"]}, 400, 0),
        ({"Links": ["a:b:c"]}, 400, 0),
        ({"PidMode": "container:nosuch"}, 400, 0),
        ({"NetworkMode": "container:nosuch"}, 201, 404),
        ({"NetworkMode": "nosuch"}, 201, 404),
    ],
)
def test_of_all_that_is_missing_only_an_image_is_not_found(
    engine: EngineProcess, host: dict[str, Any], created: int, started: int
) -> None:
    # a client pulls the image when it is told that something was not found
    engine.docker("run", "--rm", "busybox", "true")
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
    assert status == created, answer
    if started:
        assert engine.api("POST", f"/containers/{answer['Id']}/start")[0] == started
        engine.docker("rm", answer["Id"])


def test_an_image_of_another_platform_is_not_the_one_that_is_wanted(engine: EngineProcess) -> None:
    engine.docker("run", "--rm", "busybox", "true")
    body = {"Image": "busybox", "Cmd": ["true"]}

    def create(platform: str, version: str = "/v1.41") -> tuple[int, Any]:
        return engine.api("POST", f"{version}/containers/create?platform={platform}", body)

    status, answer = create("linux/s390x")
    assert status == 404
    assert answer["message"].endswith("does not match the specified platform (linux/s390x)")
    status, answer = create("bogus")
    assert (status, answer["message"]) == (400, '"bogus": unknown operating system or architecture: invalid argument')
    for platform in ("linux", "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]):
        status, answer = create(platform)
        assert status == 201, answer
        engine.docker("rm", answer["Id"])
    status, answer = create("linux/s390x", "/v1.40")  # which has no such parameter
    assert status == 201
    engine.docker("rm", answer["Id"])


def test_a_start_with_settings_is_refused(engine: EngineProcess) -> None:
    container = engine.docker("create", "busybox", "true").strip()
    status, answer = engine.api("POST", f"/containers/{container}/start", {"Binds": ["/tmp:/x"]})
    assert status == 400
    assert "non-empty request body" in answer["message"], answer
    assert engine.api("POST", f"/containers/{container}/start", {})[0] == 204
    engine.docker("rm", "-f", container)


def test_a_create_without_a_body_is_refused_in_go_words(engine: EngineProcess) -> None:
    status, answer = engine.api("POST", "/containers/create")
    assert (status, answer["message"]) == (400, "invalid JSON: got EOF while reading request body")


def test_a_platform_is_heeded_wherever_an_image_is_named(engine: EngineProcess) -> None:
    engine.docker("run", "--rm", "busybox", "true")
    here = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]}
    other = {"os": "linux", "architecture": "s390x"}
    saved = engine.folder / "saved.tar"
    engine.docker("save", "-o", str(saved), "busybox")
    asked = {
        "inspect": lambda p: engine.api("GET", f"/images/busybox/json?platform={p}"),
        "history": lambda p: engine.api("GET", f"/images/busybox/history?platform={p}"),
        "remove": lambda p: engine.api("DELETE", f"/images/busybox:two?platforms={p}"),
        "push": lambda p: engine.api("POST", f"/images/busybox/push?platform={p}"),
    }
    engine.docker("tag", "busybox", "busybox:two")
    assert engine.run_docker("save", "--platform", "linux/s390x", "-o", f"{saved}2", "busybox").returncode == 1
    engine.docker("save", "--platform", f"linux/{here['architecture']}", "-o", f"{saved}2", "busybox")
    for name, ask in asked.items():
        status, answer = ask(quote(json.dumps(other)))
        assert status == 404, name
        assert "does not match the specified platform (linux/s390x)" in answer["message"]
        for text, words in (
            ("{", "failed to parse platform: unexpected EOF"),
            ('{"os":"linux"}', "both OS and Architecture must be provided"),
            ('{"variant":"v8"}', "optional platform fields provided, but OS and Architecture are missing"),
        ):
            assert ask(quote(text)) == (400, {"message": words}), name
        if name != "push":
            assert ask(quote(json.dumps(here)))[0] == 200, name
    assert engine.api("DELETE", "/v1.49/images/busybox?platforms=x&noprune=1&force=0")[0] in (200, 409)
    both = f"platforms={quote(json.dumps(here))}&platforms={quote(json.dumps(other))}"
    engine.docker("load", "--platform", "linux/s390x", "-i", str(saved))
    status, _ = engine.api("GET", "/images/busybox/json")
    assert status == 404  # nothing in the archive is for that platform
    engine.docker("load", "-i", str(saved))
    assert engine.api("DELETE", f"/images/busybox?{both}") == (400, {"message": "multiple platforms are not supported"})


@pytest.mark.parametrize(
    ("platform", "words"),
    [
        ("bogus", '"bogus": unknown operating system or architecture: invalid argument'),
        ("linux/amd64/v1/x", '"linux/amd64/v1/x": cannot parse platform specifier: invalid argument'),
        ("windows/amd64", "operating system is not supported"),
    ],
)
def test_an_unknown_platform_is_refused_by_import_and_build(engine: EngineProcess, platform: str, words: str) -> None:
    for path in ("/images/create?fromSrc=-", "/build?x=y"):
        status, answer = engine.api("POST", f"{path}&platform={platform}")
        assert (status, answer["message"]) == (400, words), path


def test_builds_and_commits_are_told_and_saved_with_their_time(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        'FROM busybox\nHEALTHCHECK --interval=90s --timeout=1500ms --start-period=1h --retries=3 CMD echo "a b"\n'
        'HEALTHCHECK CMD ["x", "y"]\n'
    )
    since = time.time()
    engine.docker("build", "-q", "-t", "told", str(tmp_path))
    engine.docker("create", "--name", "source", "told", "true")
    committed = engine.docker("commit", "source", "told:two").strip()
    built = engine.inspect("told:latest")
    history = [entry["CreatedBy"] for entry in engine.api("GET", "/images/told/history")[1]]
    assert history[0] == "/bin/sh -c #(nop)  HEALTHCHECK &{[CMD x y] 0s 0s 0s 0s 0}"
    assert history[1] == '/bin/sh -c #(nop)  HEALTHCHECK &{[CMD-SHELL echo "a b"] 1m30s 1.5s 1h0m0s 0s 3}'
    for version, wanted in (("1.45", []), ("1.51", [built["Parent"], built["Id"], committed])):
        span = (
            f"since={since}&until={time.time()}&filters={quote(json.dumps({'event': ['create'], 'type': ['image']}))}"
        )
        _, told = engine.api("GET", f"/v{version}/events?{span}")
        told = [told] if isinstance(told, dict) else [json.loads(line) for line in told.splitlines()]
        assert [event["Actor"]["ID"] for event in told] == wanted
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), "told:latest")
    with tarfile.open(tmp_path / "saved.tar") as archive:
        times = {member.name: member.mtime for member in archive}
    made = int(datetime.fromisoformat(built["Created"][:19] + "+00:00").timestamp())
    assert times["blobs"] == times[f"blobs/sha256/{built['Id'].removeprefix('sha256:')}"] == made
    assert times["manifest.json"] == times["index.json"] == 0
    engine.docker("rm", "source")
    engine.docker("rmi", "told:latest", "told:two")


def test_every_type_with_a_name_in_go_is_there() -> None:
    for module in ("api.app", "engine.containers.config", "oci.image_config"):
        importlib.import_module(f"dockyard.{module}")
    for name in go_types.STRUCTS:
        where, _, kind = name.partition(".")
        found = [
            module
            for full, module in sys.modules.items()
            if full.startswith("dockyard.") and full.endswith(f".{where}")
        ]
        assert any(hasattr(module, kind) for module in found), name


def test_an_import_from_where_nothing_is_fails_with_the_servers_status(engine: EngineProcess) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # which knows no method
    served = Thread(target=server.serve_forever)
    served.start()
    address = f"127.0.0.1:{server.server_port}/none.tar"
    try:
        for source, status in (
            (f"http://{address}", 500),
            (address, 500),
            ("%2Fdata%2Ffile.tar", 400),
            ("ftp://127.0.0.1/x", 400),
        ):
            assert engine.api("POST", f"/images/create?fromSrc={quote(source)}&repo=none")[0] == status, source
    finally:
        server.shutdown()
        served.join()
        server.server_close()
