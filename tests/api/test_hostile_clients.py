"""Clients that mean harm, or do not know better: they are told so or cut off, and nobody else notices."""

import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine_process import EngineProcess
from tests.processes import descriptors_of

HEAD = b"Host: d\r\nContent-Type: application/json\r\n"
# What a client may send and then leave it at: nothing, parts of a head, parts of a body, and requests for streams.
UNFINISHED = [
    b"",
    b"POST /containers/cre",
    b"POST /containers/create HTTP/1.1\r\nHost: d\r\nX-Lo",
    b"POST /containers/create HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000\r\n\r\n{",
    b"POST /containers/create HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
    b"POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n1",
    b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 100000\r\n\r\nx",
    b"PUT /containers/chatty/archive?path=/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n200\r\nx",
    b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n",
    b"GET /containers/chatty/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
    b"GET /containers/chatty/stats HTTP/1.1\r\nHost: d\r\n\r\n",
    b"POST /containers/chatty/attach?stream=1&stdout=1&logs=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n\r\n",
    b"POST /containers/chatty/wait HTTP/1.1\r\nHost: d\r\n\r\n",
    b"GET /containers/chatty/export HTTP/1.1\r\nHost: d\r\n\r\n",
    b"GET /images/busybox/get HTTP/1.1\r\nHost: d\r\n\r\n",
]
MALFORMED = [
    b"\0\0\0\0\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /_ping\r\n\r\n",
    b"GET /_ping HTTP/9.9\r\nHost: d\r\n\r\n",
    b"G\xffT /_ping HTTP/1.1\r\nHost: d\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: d\r\nNo colon\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 1, 2\r\n\r\n",
    b"POST /auth HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /auth HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"POST /auth HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
]


def test_clients_that_stop_in_the_middle_hold_nobody_up(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "chatty", "busybox", "sh", "-c", "yes 'much to read' | head -c 8000000; sleep 1000"
    )
    assert engine.process is not None
    before = descriptors_of(engine.process.pid)
    with _connections(engine, UNFINISHED * 20):
        began = time.monotonic()
        assert engine.docker("run", "--rm", "busybox", "echo", "still here") == "still here\n"
        assert engine.docker("exec", "chatty", "echo", "and here") == "and here\n"
        assert len(engine.docker("logs", "chatty").splitlines()) > 1000
        assert time.monotonic() - began < 30
        assert descriptors_of(engine.process.pid) > before + 200
    deadline = time.monotonic() + 20
    while descriptors_of(engine.process.pid) > before + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descriptors_of(engine.process.pid) <= before + 5
    engine.docker("rm", "-f", "chatty")


@pytest.mark.parametrize("request_", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_http_is_refused(engine: EngineProcess, request_: bytes) -> None:
    with _connections(engine, [request_]) as (wire,):
        wire.shutdown(socket.SHUT_WR)
        answer = _rest(wire)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 505 "), answer
    assert engine.api("GET", "/version")[0] == 200


def test_noise_is_refused(engine: EngineProcess) -> None:
    noise = random.Random(1)
    starts = [b"", b"GET /", b"POST /containers/create HTTP/1.1\r\n", b"GET /_ping HTTP/1.1\r\nHost: d\r\n"]
    for number in range(200):
        with _connections(engine, [starts[number % len(starts)] + noise.randbytes(300) + b"\r\n\r\n"]) as (wire,):
            wire.shutdown(socket.SHUT_WR)
            answer = _rest(wire)
        assert not answer or answer.startswith(b"HTTP/1.1 400 "), answer
    assert engine.api("GET", "/version")[0] == 200


@contextmanager
def _connections(engine: EngineProcess, requests: list[bytes]) -> Iterator[list[socket.socket]]:
    """Connections on which the requests have been sent, all open at once."""
    wires = []
    try:
        for request in requests:
            wire = socket.socket(socket.AF_UNIX)
            wires.append(wire)
            wire.settimeout(20)
            wire.connect(str(engine.socket))
            wire.sendall(request)
        yield wires
    finally:
        for wire in wires:
            wire.close()


def _rest(wire: socket.socket) -> bytes:
    """All that is answered; a connection that is cut off has no more to say."""
    found = b""
    try:
        while piece := wire.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found
