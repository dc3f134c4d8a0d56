"""Managed plugins are kept and shown, though nothing runs them."""

import io
import json
import socket
import tarfile
from typing import Any

from tests.engine_process import EngineProcess


def made(engine: EngineProcess, name: str, files: dict[str, bytes]) -> tuple[int, Any]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = packed.getvalue()
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(engine.socket))
        head = f"POST /plugins/create?name={name} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
        wire.sendall(f"{head}Content-Type: application/x-tar\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body) if body else None


def test_a_plugin_is_made_shown_set_and_removed(engine: EngineProcess) -> None:
    config = {"entrypoint": ["/run"], "env": [{"name": "DEBUG", "settable": ["value"], "value": "0"}]}
    files = {"config.json": json.dumps(config).encode(), "rootfs/run": b"#!"}
    assert made(engine, "one/two", files)[0] == 204
    assert made(engine, "one/two", files) == (409, {"message": 'plugin "one/two:latest" already exists'})
    _, shown = engine.api("GET", "/plugins/one/two/json")
    assert shown["Config"]["Entrypoint"] == ["/run"]
    assert shown["Settings"]["Env"] == ["DEBUG=0"]
    assert not shown["Enabled"]
    assert engine.api("POST", "/plugins/one/two/set", ["DEBUG=1"])[0] == 204
    assert engine.api("POST", "/plugins/one/two/set", ["OTHER=1"])[0] == 400
    assert engine.api("GET", "/plugins")[1][0]["Settings"]["Env"] == ["DEBUG=1"]
    assert engine.api("POST", "/plugins/one/two/enable?timeout=0")[0] == 501
    assert engine.api("DELETE", "/plugins/one/two")[0] == 200
    assert engine.api("GET", "/plugins/one/two/json") == (404, {"message": 'plugin "one/two" not found'})


def test_an_archive_that_is_no_plugin_is_refused(engine: EngineProcess) -> None:
    assert made(engine, "bad", {"rootfs/run": b""})[0] == 400
    assert made(engine, "bad", {"config.json": b"{}"})[0] == 400
    assert made(engine, "bad", {"config.json": b"{", "rootfs/run": b""})[0] == 400
    assert engine.api("GET", "/plugins") == (200, [])
