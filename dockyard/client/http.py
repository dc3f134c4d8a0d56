"""As much HTTP/1.1 as the Engine API needs, on a UNIX socket, TCP or TLS; blocking, and quick to import.

connection = Connection("unix:///run/dockyard/docker.sock")
response = connection.request("GET", "/containers/json")
rows = response.json()
"""

from __future__ import annotations

import select
from _socket import AF_UNIX, SOCK_STREAM, socket  # the module around it takes longer to import than `ps` should

from dockyard.client.errors import APIError, Unreachable
from dockyard.client.wire import CHUNK, LAST_CHUNK, ResponseParser, chunk, request_head
from dockyard.oci.quick_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

DEFAULT_HOST = "unix:///run/dockyard/docker.sock"
ApiError = APIError


class Connection:
    """An engine's address; a connection is opened for every request, which costs little on a UNIX socket."""

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        tls: ssl.SSLContext | None = None,
        *,
        headers: dict[str, str] | None = None,
        version: str = "",
    ) -> None:
        """`host`: unix://PATH, tcp://HOST:PORT (which `tls` is for) or ssh://[USER@]HOST[:PORT].

        `headers` go with every request. `version` of the API: the engine's newest when empty.
        """
        self.host = host
        self._tls = tls
        self._headers = headers or {}
        self._prefix = f"/v{version}" if version else ""
        self._proxy: tuple[str, int, str] | None = None
        if host.startswith("tcp://"):
            self._take_proxy(host.removeprefix("tcp://").rstrip("/"))

    def _take_proxy(self, place: str) -> None:
        """Use the environment's proxy, if there is one for this engine."""
        from dockyard.client.proxy import proxy_for

        address, _, port = place.rpartition(":")
        self._proxy = proxy_for(address.strip("[]"), port, tls=self._tls is not None)
        if self._proxy is not None and self._tls is None:
            self._prefix = f"http://{place}{self._prefix}"  # a proxy is told the whole of the address
            if self._proxy[2]:
                self._headers = {**self._headers, "Proxy-Authorization": self._proxy[2]}

    def open(self) -> socket:
        """A connected socket. Raises Unreachable."""
        scheme, _, place = self.host.partition("://")
        try:
            if scheme == "unix":
                peer = socket(AF_UNIX, SOCK_STREAM)
                try:
                    peer.connect(place)
                except OSError:
                    peer.close()
                    raise
                return peer
            if scheme == "ssh":
                return _open_ssh(self.host)
            return self._open_tcp(place.rstrip("/"))
        except PermissionError as error:
            raise Unreachable(
                f"permission denied while trying to connect to the Docker daemon socket at {self.host}: "
                "be root or a member of the socket's group"
            ) from error
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            why = "" if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) else f" ({said})"
            raise Unreachable(
                f"Cannot connect to the Docker daemon at {self.host}. Is the dockyard daemon running?{why}"
            ) from error

    def _open_tcp(self, place: str) -> socket:
        from socket import IPPROTO_TCP, TCP_NODELAY, create_connection

        address, _, port = place.rpartition(":")
        where = (address.strip("[]") or "127.0.0.1", int(port or "2375"))
        peer = create_connection(self._proxy[:2] if self._proxy is not None else where)
        peer.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        if self._proxy is not None and self._tls is not None:
            from dockyard.client.proxy import tunnel

            tunnel(peer, place, self._proxy[2])
        return self._tls.wrap_socket(peer, server_hostname=address) if self._tls is not None else peer

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str | Sequence[str]] | None = None,
        check: bool = True,
    ) -> Response:
        """Send a request. `body`: an object to be sent as JSON, bytes, or an iterator of bytes.

        Raises APIError for an error status when `check`, Unreachable.
        """
        peer = self.open()
        sent: dict[str, str | Sequence[str]] = {**self._headers, **(headers or {})}
        data = b""
        pieces: Iterator[bytes] | None = None
        if isinstance(body, (bytes, bytearray)):
            data = bytes(body)
        elif hasattr(body, "__next__"):
            pieces = body  # type: ignore[assignment]  # an iterator, as seen
        elif body is not None:
            data = dumps(body).encode()
            sent["Content-Type"] = "application/json"
        head = request_head(method, self._prefix + path, sent, length=len(data), chunked=pieces is not None)
        peer.sendall(head + data)
        if pieces is not None:
            _send_chunks(peer, pieces)
        response = Response(peer, method)
        if check and response.status >= 400:
            raise APIError.of(response.status, response.message())
        return response


def _open_ssh(host: str) -> socket:
    """A connection through `ssh`: the client at the other end joins it to its engine."""
    import socket as sockets
    import subprocess
    from urllib.parse import urlsplit

    url = urlsplit(host)
    command = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    command += ["-l", url.username] if url.username else []
    command += ["-p", str(url.port)] if url.port else []
    ours, theirs = sockets.socketpair()
    with theirs:
        # The remote command is docker's own, so that an engine of either kind answers.
        command += ["--", url.hostname or "", "docker", "system", "dial-stdio"]
        subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
    return ours


def _send_chunks(peer: socket, pieces: Iterator[bytes]) -> None:
    try:
        for piece in pieces:
            if piece:
                peer.sendall(chunk(piece))
        peer.sendall(LAST_CHUNK)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the engine has answered before the end: its answer says why


class Response:
    """A response whose head has arrived."""

    def __init__(self, peer: socket, method: str) -> None:
        self.socket = peer
        self._parser = ResponseParser(method)
        while not self._parser.status:
            self._parser.feed(peer.recv(CHUNK))
        self.status = self._parser.status
        self.headers = self._parser.headers

    def message(self) -> str:
        """What an error response says."""
        data = self.read()
        try:
            return str(loads(data)["message"]).strip()
        except (ValueError, KeyError, TypeError):
            return data.decode(errors="replace").strip() or f"status {self.status}"

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives."""
        parser = self._parser
        while True:
            if data := parser.take():
                yield data
            if parser.complete:
                return
            parser.feed(self.socket.recv(CHUNK))

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def json(self) -> Any:
        """The whole body, parsed."""
        data = self.read()
        return loads(data) if data.strip() else None

    def objects(self) -> Iterator[Any]:
        """A stream of JSON values, one a line, each as it arrives."""
        pending = b""
        for piece in self.pieces():
            pending += piece
            *lines, pending = pending.split(b"\n")
            for line in lines:
                if line.strip():
                    yield loads(line)
        if pending.strip():
            yield loads(pending)

    def arrived(self, patience: float) -> bool:
        """Whether more than the head has arrived, or does within `patience` seconds."""
        return self._parser.waiting or self._parser.complete or bool(select.select([self.socket], [], [], patience)[0])

    def hijack(self) -> tuple[socket, bytes]:
        """The connection itself, and what has already come from it."""
        return self.socket, self._parser.take()
