"""What a client names by URL (a context, an ADD, an import, a login): fetched by HTTP alone, within bounds."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from dockyard.builder import context
from dockyard.content import download, registry
from dockyard.content.download import Bounds
from dockyard.content.patience import Patience
from dockyard.content.registry import RegistryClient
from dockyard.content.registry_auth import Credentials
from dockyard.errors import DockyardError, InvalidParameter, Unavailable

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
SHORT = Bounds(answer=1.0, silence=0.5, whole=1.5, size=1 << 20)


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """A server that answers every request so; its host:port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{running.sockets[0].getsockname()[1]}"
    finally:
        running.close()


def redirecting(to: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    return answer


async def dripping_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def dripping_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
    await asyncio.sleep(60)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\n\r\n")
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def vast(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n")


async def packed(writer: asyncio.StreamWriter) -> None:
    import gzip

    body = gzip.compress(bytes(64 << 20))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (dripping_head, Unavailable, "no answer in time"),
        (dripping_body, Unavailable, "has not ended for"),
        (silent, Unavailable, "is silent"),
        (endless, InvalidParameter, "larger than"),
        (vast, InvalidParameter, "larger than"),
        (packed, InvalidParameter, "larger than"),
    ],
)
async def test_a_server_does_not_take_us_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, error: type[DockyardError], said: str
) -> None:
    monkeypatch.setattr(download, "BOUNDS", SHORT)
    async with server(answer) as where, asyncio.timeout(20):
        with pytest.raises(error, match=said):
            await context.from_url(f"http://{where}/context.tar", "", tmp_path, lambda text: None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def host_secrets(tmp_path: Path) -> Any:
    """A file and a listening UNIX socket of the host's, which answers HTTP."""
    (tmp_path / "secret").write_text("FROM secret\n")
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()

        def serve() -> None:
            try:
                while True:
                    client, _ = listening.accept()
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nFROM secret\n")
                    client.close()
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield tmp_path
        listening.shutdown(socket.SHUT_RDWR)


def elsewhere(secrets: Path) -> list[str]:
    """Addresses of what the host has."""
    quoted = str(secrets / "socket").replace("/", "%2F")
    paths = [f"file://{secrets}/secret", f"unix://{secrets}/socket", f"unix:{secrets}/socket"]
    return [*paths, f"http+unix://{quoted}/x", f"http://unix:{quoted}/x", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"]


async def test_no_redirection_leads_to_a_file_or_socket_of_the_hosts(host_secrets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in elsewhere(host_secrets):
        async with server(redirecting(place)) as where:
            with pytest.raises((InvalidParameter, Unavailable)):
                await context.from_url(f"http://{where}/", "", folder, lambda text: None)
            client = RegistryClient(patience=Patience(()))
            with pytest.raises((InvalidParameter, Unavailable)):
                await client.login(where, Credentials("me", "secret"))
            await client.close()
        with pytest.raises((InvalidParameter, Unavailable)):
            await context.from_url(place, "", folder, lambda text: None)
    async with server(redirecting("/again")) as where:
        with pytest.raises(InvalidParameter, match="leads to no address"):
            await context.from_url(f"http://{where}/", "", folder, lambda text: None)


@pytest.mark.parametrize("answer", [dripping_head, dripping_body])
async def test_a_login_ends(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    monkeypatch.setattr(registry, "PATIENCE_WITH_LOGIN", 1.0)
    client = RegistryClient()
    async with server(answer) as where, asyncio.timeout(60):
        with pytest.raises(Unavailable, match=f"login to {where} has not ended"):
            await client.login(where, Credentials("me", "secret"))
    await client.close()


def is_sleeping(pid: int) -> bool:
    """Whether it is the child of git's below."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00777\x00"
    except OSError:
        return False


async def test_git_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BOUNDS", SHORT)
    programs = tmp_path / "programs"
    programs.mkdir()
    git = programs / "git"
    # says more than anyone wants to keep, and leaves a child
    git.write_text("#!/bin/sh\n[ $5 = fetch ] || exit 0\nhead -c 100000000 /dev/zero >&2\nsleep 777 &\nsleep 777\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    folder = tmp_path / "folder"
    folder.mkdir()
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="has not ended for"):
            await context.from_url("https://127.0.0.1/repository.git", "", folder, lambda text: None)
    assert list(folder.iterdir()) == []
    await asyncio.sleep(0.2)
    assert not any(is_sleeping(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())


async def test_git_writes_no_larger_files_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BOUNDS", Bounds(size=1 << 20))
    programs = tmp_path / "programs"
    programs.mkdir()
    git = programs / "git"
    git.write_text(f"#!/bin/sh\nsleep 0.3\nhead -c 5000000 /dev/zero >{tmp_path}/pack || exit 1\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(InvalidParameter, match="error fetching"):
        await context.from_url("https://127.0.0.1/repository.git", "", tmp_path, lambda text: None)
    assert (tmp_path / "pack").stat().st_size == 1 << 20
