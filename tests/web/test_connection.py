"""A connection that is taken away from HTTP: nothing that comes on it is a request any more."""

import asyncio
import os
import socket

from dockyard import web


async def test_what_comes_after_a_taken_connection_is_no_request() -> None:
    """Also when the handler returns at once: what a container's user says on its stdin must not ask the engine."""
    asked: list[str] = []
    taken: list[tuple[int, bytes]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        taken.append(await request.connection.take())
        return web.TakenOver()

    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    server = web.Server(handler, lambda status, why: web.Response(status, body=why.encode()))
    await loop.connect_accepted_socket(server, theirs)
    stdin = b"POST /containers/x/kill HTTP/1.1\r\nHost: d\r\n\r\n"
    ours.sendall(b"POST /containers/x/attach HTTP/1.1\r\nHost: d\r\n\r\n" + stdin)
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert asked == ["/containers/x/attach"]
    assert [received for _, received in taken] == [stdin]
    await server.shutdown(1)
    for fd, _ in taken:
        os.close(fd)
    ours.close()


async def test_a_client_that_speaks_tls_is_answered_at_once() -> None:
    """Else it waits for its own patience before it tries without, as engines do with a registry on localhost."""

    async def handler(request: web.Request) -> web.StreamResponse:
        raise AssertionError(request.path)

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    server = web.Server(handler, lambda status, why: web.Response(status, body=why.encode()))
    await loop.connect_accepted_socket(server, theirs)
    ours.sendall(b"\x16\x03\x01\x00\x05hello")
    async with asyncio.timeout(60):
        answer = await loop.sock_recv(ours, 1024)
    assert answer.startswith(b"HTTP/1.1 400 ")
    await server.shutdown(1)
    ours.close()
