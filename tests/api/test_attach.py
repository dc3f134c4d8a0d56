"""Clients of a container's streams: several, slow, late, gone; nothing is lost and nothing comes twice."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine_process import EngineProcess

COUNT = "i=0; while [ $i -lt {} ]; do echo n $i; i=$((i+1)); done; echo end"

UNTIL_TOLD = "until [ -e /go ]; do usleep 50000; done"  # a container, by an exec that may end with it


@contextmanager
def attached(engine: EngineProcess, name: str, query: str = "stream=1&stdout=1&stderr=1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(engine.socket))
        wire.settimeout(30)
        wire.sendall(
            f"POST /containers/{name}/attach?{query} HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n"
            "Connection: Upgrade\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += wire.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield wire


def everything(wire: socket.socket) -> bytes:
    return b"".join(iter(lambda: wire.recv(1 << 20), b""))


def unframed(data: bytes) -> bytes:
    """The payloads of Docker's frames."""
    found = bytearray()
    while data:
        size = int.from_bytes(data[4:8], "big")
        found += data[8 : 8 + size]
        data = data[8 + size :]
    return bytes(found)


def numbers(data: bytes) -> list[int]:
    return [int(line.split()[1]) for line in data.splitlines() if line.startswith(b"n ")]


def test_log_and_stream_join_without_gap_or_overlap(engine: EngineProcess) -> None:
    slowly = "i=0; until [ -e /stop ]; do echo n $i; i=$((i+1)); [ $((i%10)) = 0 ] && usleep 20000; done"
    engine.docker("run", "-d", "--name", "joint", "--log-opt", "max-size=30k", "--log-opt", "max-file=5", "busybox",
                  "sh", "-c", slowly)  # fmt: skip
    found = []
    for _ in range(4):  # begun at four moments
        with attached(engine, "joint", "logs=1&stream=1&stdout=1&stderr=1") as wire:
            begun = b""
            while len(begun) < 8_000:
                begun += (more := wire.recv(65536))
                assert more
            if len(found) == 3:
                engine.run_docker("exec", "joint", "touch", "/stop")
                begun += everything(wire)
            found.append(begun)
    for data in found:
        whole = data if data is found[3] else data[: data.rindex(b"\1\0\0\0")]
        told = numbers(unframed(whole))
        assert told == list(range(told[0], told[0] + len(told)))
    assert numbers(unframed(found[3]))[-1:] == numbers(engine.docker("logs", "--tail", "1", "joint").encode())
    engine.docker("wait", "joint")
    engine.docker("rm", "joint")


def test_a_line_that_is_not_whole_comes_once(engine: EngineProcess) -> None:
    halting = f"printf begun; {UNTIL_TOLD}; echo ' and ended'"
    engine.docker("run", "-d", "--name", "half", "busybox", "sh", "-c", halting)
    with attached(engine, "half", "logs=1&stream=1&stdout=1&stderr=1") as wire:
        engine.run_docker("exec", "half", "touch", "/go")
        assert unframed(everything(wire)) == b"begun and ended\n"
    engine.docker("wait", "half")
    engine.docker("rm", "half")


def test_a_late_client_that_does_not_read_holds_nobody_up(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "busy", "busybox", "sh", "-c", f"{UNTIL_TOLD}; head -c 8000000 /dev/zero; echo end"
    )
    with attached(engine, "busy") as wire, attached(engine, "busy") as quick:
        engine.run_docker("exec", "busy", "touch", "/go")
        begin = time.monotonic()
        engine.docker("wait", "busy", timeout=20)
        assert time.monotonic() - begin < 15  # it ran to its end although nobody has read
        assert len(unframed(everything(quick))) == 8_000_004
        assert len(unframed(everything(wire))) == 8_000_004  # and all of it is there
    engine.docker("rm", "busy")


def test_a_client_that_lags_far_behind_is_waited_for_and_gets_everything(engine: EngineProcess) -> None:
    """More than is kept on disk for it (shim/overflow.py)."""
    size = 320_000_000
    engine.docker("run", "-d", "--name", "far", "--log-driver", "none", "busybox",
                  "sh", "-c", f"{UNTIL_TOLD}; head -c {size} /dev/zero; echo end")  # fmt: skip
    with attached(engine, "far") as wire:
        engine.run_docker("exec", "far", "touch", "/go")
        time.sleep(6)
        assert engine.inspect("far")["State"]["Running"]  # it waits
        got = end = 0
        while data := wire.recv_into(chunk := bytearray(1 << 20)):
            got += data
            end = end or chunk[:data].endswith(b"end\n")
        frames = got - size - 4
        assert end
        assert frames > 0
        assert frames % 8 == 0
    assert engine.docker("wait", "far").strip() == "0"
    engine.docker("rm", "far")


def test_nobody_waits_for_a_client_that_has_gone_without_reading(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "-i", "--name", "left", "--log-driver", "none", "busybox",
                  "sh", "-c", f"{UNTIL_TOLD}; head -c 320000000 /dev/zero; cat")  # fmt: skip
    with attached(engine, "left", "stream=1&stdin=1&stdout=1&stderr=1") as wire:
        engine.run_docker("exec", "left", "touch", "/go")
        wire.sendall(b"x" * 200_000)  # more than the pipe holds: it waits for the process
        time.sleep(3)
    with attached(engine, "left") as wire:
        seen = b""
        while b"x" not in seen:
            seen = wire.recv(1 << 20)
            assert seen
    engine.docker("rm", "-f", "left")


def test_the_foreground_is_waited_for(engine: EngineProcess) -> None:
    _, created = engine.api(
        "POST", "/containers/create", {"Image": "busybox", "Cmd": ["head", "-c", "8000000", "/dev/zero"]}
    )
    name = created["Id"]
    with attached(engine, name) as wire:
        engine.api("POST", f"/containers/{name}/start")
        time.sleep(1)
        assert engine.inspect(name)["State"]["Running"]
        assert len(unframed(everything(wire))) == 8_000_000
    engine.docker("wait", name)
    engine.docker("rm", name)


def test_all_terminals_show_the_same_and_one_may_go(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "-t", "-i", "--name", "shared", "busybox", "cat")
    query = "stream=1&stdin=1&stdout=1&stderr=1"
    with attached(engine, "shared", query) as one, attached(engine, "shared", query) as two:
        one.sendall(b"hello\n")
        for wire in (one, two):
            seen = b""
            while seen.count(b"hello\r\n") < 2:  # the terminal's echo and cat's
                seen += wire.recv(4096)
        one.sendall(b"\x10\x11")  # ctrl-p ctrl-q
        assert everything(one) == b""
        two.sendall(b"again\n")
        seen = b""
        while seen.count(b"again\r\n") < 2:
            seen += two.recv(4096)
    assert engine.inspect("shared")["State"]["Running"]
    engine.docker("rm", "-f", "shared")


def test_a_websocket_carries_log_and_stream(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "-i", "--name", "web", "busybox", "sh", "-c", "echo logged; cat")
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(engine.socket))
        wire.settimeout(10)
        wire.sendall(
            b"GET /containers/web/attach/ws?logs=1&stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        seen = b""
        while b"logged\n" not in seen:
            seen += wire.recv(4096)
        assert b" 101 " in seen.partition(b"\r\n")[0]
        payload = b"typed\n"
        wire.sendall(b"\x82" + bytes([0x80 | len(payload)]) + b"\0\0\0\0" + payload)
        while b"typed\n" not in seen:
            seen += wire.recv(4096)
    engine.docker("rm", "-f", "web")
