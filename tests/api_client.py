"""The Engine API as tests speak it where a command line is too slow: plain requests and hijacked streams."""

import http.client
import json
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlencode


class ApiError(Exception):
    """What the engine has refused, and with which status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """One engine behind its socket. Every call opens a connection, so that an instance may be shared by threads."""

    def __init__(self, path: str | Path, timeout: float = 60) -> None:
        self.path = str(path)
        self.timeout = timeout

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request and its answer's JSON (None without one). Raises ApiError, OSError when the engine goes away."""
        connection = _UnixConnection(self.path, self.timeout)
        try:
            target = f"{path}?{urlencode(query)}" if query else path
            data = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            try:
                connection.request(method, target, data, headers)
                answer = connection.getresponse()
                content = answer.read()
            except http.client.HTTPException as error:
                raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        if answer.status >= 400:
            try:
                message = json.loads(content)["message"]
            except (ValueError, KeyError):
                message = content.decode(errors="replace")
            raise ApiError(answer.status, message)
        try:
            return json.loads(content) if content else None
        except ValueError:
            return content

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, **query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self.call("POST", path, body, **query)

    def delete(self, path: str, **query: Any) -> Any:
        return self.call("DELETE", path, **query)

    def create(self, *command: str, name: str = "", host: dict[str, Any] | None = None, **config: Any) -> str:
        """Make a busybox container; its id."""
        body = {"Image": "busybox", "Cmd": list(command), "HostConfig": host or {}, **config}
        created = self.post("/containers/create", body, **({"name": name} if name else {}))
        return str(created["Id"])

    def run(self, *command: str, name: str = "", host: dict[str, Any] | None = None, **config: Any) -> str:
        """Make and start a busybox container; its id."""
        container = self.create(*command, name=name, host=host, **config)
        self.post(f"/containers/{container}/start")
        return container

    def remove(self, container: str) -> None:
        """Force its removal, with its anonymous volumes."""
        self.delete(f"/containers/{container}", force=1, v=1)

    def inspect(self, container: str) -> Any:
        return self.get(f"/containers/{container}/json")

    def wait(self, container: str) -> int:
        """Until it has ended; its exit code."""
        return int(self.post(f"/containers/{container}/wait")["StatusCode"])

    def logs(self, container: str) -> bytes:
        """What it has said, both streams."""
        raw = self.get(f"/containers/{container}/logs", stdout=1, stderr=1)
        if raw is None:
            return b""
        return unframed(raw if isinstance(raw, bytes) else json.dumps(raw).encode())

    def hijack(self, path: str, body: Any = None, **query: Any) -> "Stream":
        """Take a connection over (attach, exec start)."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.timeout)
        connection.connect(self.path)
        data = b"" if body is None else json.dumps(body).encode()
        target = f"{path}?{urlencode(query)}" if query else path
        head = (
            f"POST {target} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode() + data)
        return Stream(connection)

    def attach(self, container: str, *, stdin: bool = True, **query: Any) -> "Stream":
        """Attach to all streams of a container."""
        return self.hijack(f"/containers/{container}/attach", stream=1, stdin=int(stdin), stdout=1, stderr=1, **query)

    def exec(self, container: str, *command: str, tty: bool = False, stdin: bool = False) -> tuple[str, "Stream"]:
        """Start a process in a container; (exec id, its streams)."""
        body = {"AttachStdin": stdin, "AttachStdout": True, "AttachStderr": True, "Tty": tty, "Cmd": list(command)}
        exec_id = self.post(f"/containers/{container}/exec", body)["Id"]
        return exec_id, self.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty})

    def execute(self, container: str, *command: str) -> bytes:
        """Run a command in a container; its output."""
        with self.exec(container, *command)[1] as stream:
            return unframed(stream.read())


class Stream:
    """A hijacked connection, past its head."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte:
                raise ConnectionError("the engine hung up")
            head += byte
        self.status = int(head.split()[1])
        if self.status not in (101, 200):
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            text = connection.recv(int(length[0].split(b":")[1])) if length else b""
            raise ApiError(self.status, text.decode(errors="replace"))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *failure: object) -> None:
        self.connection.close()

    def write(self, data: bytes) -> None:
        self.connection.sendall(data)

    def end_input(self) -> None:
        """Send no more, and go on reading."""
        self.connection.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """Everything until the end, frames and all."""
        pieces = []
        while piece := self.connection.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)

    def read_until(self, wanted: bytes) -> bytes:
        """What comes until `wanted` has come."""
        data = b""
        while wanted not in data:
            piece = self.connection.recv(65536)
            if not piece:
                raise ConnectionError(f"ended before {wanted!r}: {data!r}")
            data += piece
        return data


def unframed(data: bytes) -> bytes:
    """The content of Docker's stream frames."""
    found = b""
    while data:
        size = struct.unpack(">L", data[4:8])[0]
        found += data[8 : 8 + size]
        data = data[8 + size :]
    return found
