"""What requests cost an engine itself: its API over one connection, without a command line before it.

Each function takes an engine with a container `idle` and a busybox image, and returns milliseconds.
"""

import http.client
import json
import socket
import time

from benchmarks.peers import Engine, Failed

VERSION = "/v1.41"  # that every engine knows


class _Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("localhost", timeout=60)
        self._path = engine.host.removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The body of the answer, which has to be a good one."""
        text = None if body is None else json.dumps(body)
        self.request(method, VERSION + path, text, {"Content-Type": "application/json"} if text else {})
        answer = self.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise Failed(f"{method} {path}: {answer.status} {data.decode()}")
        return data


def pings(engine: Engine) -> float:
    """A hundred `_ping`."""
    return _repeated(engine, "/_ping")


def inspects(engine: Engine) -> float:
    """A hundred times a container's whole document."""
    return _repeated(engine, "/containers/idle/json")


def _repeated(engine: Engine, path: str) -> float:
    connection = _Connection(engine)
    connection.ask("GET", path)
    begin = time.perf_counter()
    for _ in range(100):
        connection.ask("GET", path)
    elapsed = time.perf_counter() - begin
    connection.close()
    return elapsed * 1000


def exec_true(engine: Engine) -> float:
    """Create an exec, start it attached, read to its end, ask for its exit code."""
    connection, stream = _Connection(engine), _Connection(engine)
    begin = time.perf_counter()
    made = json.loads(connection.ask("POST", "/containers/idle/exec", {"Cmd": ["true"], "AttachStdout": True}))["Id"]
    _hijacked(stream, f"/exec/{made}/start", {"Detach": False, "Tty": False})
    ended = json.loads(connection.ask("GET", f"/exec/{made}/json"))
    elapsed = time.perf_counter() - begin
    connection.close()
    if ended["ExitCode"] != 0:
        raise Failed(f"{engine.name}: exec ended with {ended['ExitCode']}")
    return elapsed * 1000


def _hijacked(stream: _Connection, path: str, body: object) -> None:
    text = json.dumps(body).encode()
    stream.connect()
    head = f"POST {VERSION}{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    stream.sock.sendall(head.encode() + text)
    answer = b""
    while part := stream.sock.recv(65536):
        answer += part
    stream.close()
    if not answer.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 ")):
        raise Failed(f"{path}: {answer.decode(errors='replace')}")


def run_true(engine: Engine) -> float:
    """Create a container without a network, start it, wait for its end, remove it."""
    connection = _Connection(engine)
    wanted = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    begin = time.perf_counter()
    made = json.loads(connection.ask("POST", "/containers/create", wanted))["Id"]
    connection.ask("POST", f"/containers/{made}/start")
    connection.ask("POST", f"/containers/{made}/wait")
    connection.ask("DELETE", f"/containers/{made}")
    elapsed = time.perf_counter() - begin
    connection.close()
    return elapsed * 1000
