"""HTTP/2 of gRPC: what comes in any pieces is the same, and what goes out at one time is written together."""

import asyncio
from typing import Any

import pytest

from dockyard.grpc.connection import PREFACE, Connection, Stream


class Wire(asyncio.Transport):
    """Hands what one side writes to the other, in pieces of `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.writes: list[bytes] = []
        self.to: Connection | None = None

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))
        for place in range(0, len(data), self.size):
            assert self.to is not None
            self.to.data_received(bytes(data[place : place + self.size]))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


async def pair(size: int) -> tuple[Connection, Wire, Wire]:
    """A client, and a server that says back what it is told."""

    async def accept(stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            await stream.send(message)
        stream.send_headers([("grpc-status", "0")], end=True)

    client, server = Connection(), Connection(accept)
    there, back = Wire(size), Wire(size)
    there.to, back.to = server, client
    server.connection_made(back)
    client.connection_made(there)
    return client, there, back


@pytest.mark.parametrize("size", [1, 13, 1 << 20])
async def test_messages_come_whole_in_whatever_pieces_frames_come(size: int) -> None:
    client, there, _ = await pair(size)
    stream = client.open([(":path", "/echo")])
    messages = [b"", b"x" * 5, b"y" * 20_000, *(b"%d" % number for number in range(100))]
    for message in messages:
        await stream.send(message)
    stream.half_close()
    found = []
    while (message := await stream.receive()) is not None:
        found.append(message)
    assert found == messages
    assert stream.trailers["grpc-status"] == "0"
    assert there.writes[0] == PREFACE


async def test_frames_of_one_moment_are_written_together() -> None:
    client, there, back = await pair(1 << 20)
    await asyncio.sleep(0)  # the settings are on their way
    there.writes.clear()
    stream = client.open([(":path", "/echo")])
    await stream.send(b"hello")
    stream.half_close()
    while await stream.receive() is not None:
        pass
    assert len(there.writes) <= 2  # the call, and perhaps an answer to settings
    assert len(back.writes) <= 4
