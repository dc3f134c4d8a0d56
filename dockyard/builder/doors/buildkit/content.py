"""A content store that a client serves on its session: containerd's service, for stores that have names."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import NotFound, SystemFailure, Unavailable
from dockyard.generators import closing
from dockyard.grpc import status
from dockyard.grpc.calls import Call, call
from dockyard.grpc.connection import Connection, StreamReset
from dockyard.grpc.status import CallFailed
from dockyard.oci.digest import check_digest

SERVICE = "/containerd.services.content.v1.Content/"
STAT, WRITE, COMMIT = range(3)
PIECE = 1 << 20


class SessionStore:
    """One store of one client."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._metadata = {"buildkit-attachable-store-id": name}
        self.name = name

    async def size(self, digest: str) -> int | None:
        """The size of a blob; None when it is not there. Raises Unavailable."""
        message = wire.ContentInfoRequest(digest=digest).SerializeToString()
        try:
            answer = await call(self._connection, f"{SERVICE}Info", message, self._metadata)
        except CallFailed as error:
            if error.code == status.NOT_FOUND:
                return None
            raise Unavailable(f"content store {self.name}: {error.message}") from error
        except StreamReset as error:
            raise Unavailable(f"content store {self.name}: {error}") from error
        return wire.ContentInfoResponse.FromString(answer).info.size

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        """A blob in pieces, verified at its end. Raises NotFound, Unavailable, SystemFailure."""
        check_digest(digest)
        under_way = Call(self._connection, f"{SERVICE}Read", self._metadata)
        hasher = hashlib.new(digest.partition(":")[0])
        try:
            await under_way.send(wire.ReadContentRequest(digest=digest).SerializeToString())
            under_way.half_close()
            while (message := await under_way.receive()) is not None:
                data = wire.ReadContentResponse.FromString(message).data
                hasher.update(data)
                yield data
        except CallFailed as error:
            if error.code == status.NOT_FOUND:
                raise NotFound(f"content store {self.name} has no {digest}") from error
            raise Unavailable(f"content store {self.name}: {error.message}") from error
        except StreamReset as error:
            raise Unavailable(f"content store {self.name}: {error}") from error
        finally:
            under_way.close()
        if hasher.hexdigest() != digest.partition(":")[2]:
            raise SystemFailure(f"blob {digest} of content store {self.name} is damaged")

    async def write(self, digest: str, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        """Have a blob there, unless it is there already. Raises Unavailable."""
        if await self.size(digest) is not None:
            return
        under_way = Call(self._connection, f"{SERVICE}Write", self._metadata)
        try:
            await self._write(under_way, digest, size, pieces)
        except CallFailed as error:
            if error.code != status.ALREADY_EXISTS:
                raise Unavailable(f"content store {self.name}: {error.message}") from error
        except StreamReset as error:
            raise Unavailable(f"content store {self.name}: {error}") from error
        finally:
            under_way.close()

    async def _write(self, under_way: Call, digest: str, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        async def say(request: wire.WriteContentRequest) -> wire.WriteContentResponse:
            await under_way.send(request.SerializeToString())
            answer = await under_way.receive()
            if answer is None:
                raise CallFailed(status.INTERNAL, "the client has ended a write too soon")
            return wire.WriteContentResponse.FromString(answer)

        ref = f"dockyard-{digest}"
        begun = await say(wire.WriteContentRequest(action=STAT, ref=ref, total=size, expected=digest))
        skip, offset = begun.offset, 0  # of a write that was broken off
        async with closing(pieces()) as given:
            async for piece in given:
                for place in range(0, len(piece), PIECE):
                    data = piece[place : place + PIECE]
                    passed = min(max(skip - offset, 0), len(data))
                    offset += len(data)
                    if data[passed:]:
                        request = wire.WriteContentRequest(
                            action=WRITE, offset=offset - len(data) + passed, data=data[passed:]
                        )
                        await say(request)
        await say(wire.WriteContentRequest(action=COMMIT, total=size, offset=offset, expected=digest))
        under_way.half_close()
        await under_way.receive()
