"""The HTTP proxy between us and an engine on TCP, as the environment has it: HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket


def proxy_for(host: str, port: str, *, tls: bool) -> tuple[str, int, str] | None:
    """The proxy's host and port, and what it wants as Proxy-Authorization; None when there is none for this engine.

    An engine on this machine is never asked through a proxy. Raises ValueError for an address that is none.
    """
    name = "HTTPS_PROXY" if tls else "HTTP_PROXY"
    text = os.environ.get(name) or os.environ.get(name.lower()) or ""
    if not text or host in ("localhost", "::1") or host.startswith("127."):
        return None
    if _excepted(host, port, os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""):
        return None
    from urllib.parse import unquote, urlsplit

    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme != "http" or not url.hostname:
        raise ValueError(f"{name}={text} is no proxy of the kind that can be used: http://HOST:PORT")
    authorization = ""
    if url.username:
        import base64

        login = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + base64.b64encode(login.encode()).decode()
    return url.hostname, url.port or 80, authorization


def _excepted(host: str, port: str, exceptions: str) -> bool:
    """Whether NO_PROXY names a host: by itself, with its port, or by a domain above it."""
    for entry in exceptions.split(","):
        name, _, only = entry.strip().lower().partition(":")
        if not name or (only and only != port):
            continue
        domain = name.removeprefix("*").removeprefix(".")
        if name == "*" or host.lower() == domain or host.lower().endswith(f".{domain}"):
            return True
    return False


def tunnel(peer: socket, place: str, authorization: str) -> None:
    """Have the proxy at the other end join us to `place` (HOST:PORT). Raises OSError."""
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    lines += [f"Proxy-Authorization: {authorization}"] if authorization else []
    peer.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = peer.recv(1)  # no more than the head is the proxy's
        if not data:
            raise OSError("the proxy closed the connection")
        answer += data
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy refused: {status}")
