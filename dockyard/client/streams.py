"""What comes piece by piece: logs, events, progress, output. Iterate over it, blocking or with `async for`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dockyard.client.calls import finish
from dockyard.client.framing import MULTIPLEXED, MultiplexedOutput, Output, RawOutput
from dockyard.client.modes import Async, M, Resource, Sync, operation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from dockyard.client.framing import Decoder
    from dockyard.client.session import Exchange, Session

T = TypeVar("T")
SyncStream = TypeVar("SyncStream", bound="Stream[Any, Sync]")
AsyncStream = TypeVar("AsyncStream", bound="Stream[Any, Async]")

END: Any = object()


class Stream(Resource[M], Generic[T, M]):
    """Values as the engine sends them. The request goes out at the first of them, or at the start of a `with` block.

        for event in client.events(): ...
        async for event in client.events(): ...
        with client.events() as events: ...         # and the connection is closed at the end of the block

    Raises what the request raises (APIError, Unreachable), and OperationFailed when a value reports a failure.
    """

    def __init__(
        self,
        session: Session,
        begin: Callable[[], Coroutine[Any, Any, Exchange]],
        decode: Callable[[Exchange], Decoder[Any]],
        convert: Callable[[Any], T] | None = None,
    ) -> None:
        super().__init__(session)
        self._begin = begin
        self._decode = decode
        self._convert = convert
        self._exchange: Exchange | None = None
        self._decoder: Decoder[Any] | None = None
        self._values: deque[Any] = deque()
        self._ended = False

    async def _open(self) -> Exchange:
        if self._exchange is None:
            self._exchange = await self._begin()
            self._decoder = self._decode(self._exchange)
        return self._exchange

    async def _next(self, timeout: float | None = None) -> Any:
        while not self._values:
            if self._ended:
                return END
            exchange = await self._open()
            assert self._decoder is not None
            data = await exchange.read(timeout)
            if data:
                self._values += self._decoder.feed(data)
            else:
                self._ended = True
                self._values += self._decoder.finish()
        value = self._values.popleft()
        if self._convert is None:
            return value
        try:
            return self._convert(value)
        except Exception:
            self._close()
            raise

    def _close(self) -> None:
        self._ended = True
        self._values.clear()
        if self._exchange is not None:
            self._exchange.close()

    def __del__(self) -> None:
        if getattr(self, "_exchange", None) is not None:
            self._close()  # `for … in stream: break` leaves nothing open

    @operation
    async def close(self) -> None:
        """Want no more values: the connection is closed."""
        self._close()

    def __iter__(self: SyncStream) -> SyncStream:
        return self

    def __next__(self: Stream[T, Sync]) -> T:
        value = finish(self._next())
        if value is END:
            raise StopIteration
        found: T = value
        return found

    def __aiter__(self: AsyncStream) -> AsyncStream:
        return self

    async def __anext__(self: Stream[T, Async]) -> T:
        value = await self._next()
        if value is END:
            raise StopAsyncIteration
        found: T = value
        return found

    def __enter__(self: SyncStream) -> SyncStream:
        finish(self._open())
        return self

    def __exit__(self: Stream[T, Sync], *_: object) -> None:
        self._close()

    async def __aenter__(self: AsyncStream) -> AsyncStream:
        await self._open()
        return self

    async def __aexit__(self: Stream[T, Async], *_: object) -> None:
        self._close()


class Process(Stream[Output, M]):
    """A running command's streams: iterate over what it writes, `write` to its stdin, `wait` for its end.

    with container.start_exec(["cat"], stdin=True) as process:
        process.write(b"hello")
        process.close_stdin()
        for stream, data in process: ...
        process.wait()                              # its exit status
    """

    def __init__(
        self,
        session: Session,
        exchange: Exchange,
        decoder: Decoder[Output],
        *,
        wait: Callable[[], Coroutine[Any, Any, int]],
        resize: Callable[[int, int], Coroutine[Any, Any, None]],
    ) -> None:
        async def begin() -> Exchange:
            return exchange

        super().__init__(session, begin, lambda _: decoder)
        self._exchange, self._decoder = exchange, decoder
        self._status = wait
        self._resize = resize

    @operation
    async def write(self, data: bytes | str) -> None:
        """Give `data` to the command's stdin, which must have been asked for. Raises Unreachable when it has ended."""
        exchange = await self._open()
        await exchange.channel.send(as_bytes(data, "data"))

    @operation
    async def close_stdin(self) -> None:
        """End the command's stdin; its output goes on."""
        exchange = await self._open()
        await exchange.channel.send_end()

    @operation
    async def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size."""
        await self._resize(rows, columns)

    @operation
    async def wait(self) -> int:
        """The command's exit status, once it has ended. Output that was not iterated over is dropped."""
        while await self._next() is not END:
            pass
        return await self._status()

    @operation
    async def communicate(
        self, input: bytes | str | Iterable[bytes | str] = b"", timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Send `input` and the end of stdin, and collect (stdout, stderr) until the command ends.

        `input` and output move at the same time, so none of them can block the other. A terminal has no end of
        input: there the command must end by what it reads. Raises TimedOut when all of it takes longer than `timeout`
        seconds.
        """
        return await collect(await self._open(), self._decoder, input, timeout)


def as_bytes(value: object, name: str) -> bytes:
    """Bytes, or text as UTF-8. Raises TypeError, which calls it `name`."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{name} must be bytes or str, not {type(value).__name__}")


def inputs(value: object) -> Iterator[bytes]:
    """What a command is to read, piece by piece. Raises TypeError."""
    if value is None:
        return iter(())
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return iter([as_bytes(value, "input")])
    if not isinstance(value, Iterable):
        raise TypeError(f"input must be bytes, str or an iterable of them, not {type(value).__name__}")
    return (as_bytes(piece, "a piece of input") for piece in value)


async def collect(
    exchange: Exchange,
    decoder: Decoder[Output] | None,
    input: bytes | str | Iterable[bytes | str] | None,
    timeout: float | None,
) -> tuple[bytes, bytes]:
    """Both outputs to their ends, while `input` (None: no stdin at all) is sent. Raises TimedOut."""
    assert decoder is not None
    found: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

    def take(data: bytes) -> None:
        for stream, piece in decoder.feed(data):
            found[stream].append(piece)

    try:
        take(exchange.early())
        if input is not None or timeout is not None:
            pieces = inputs(input)
            # a terminal has no end of input that could be sent: for an engine, its client would have gone
            half_close = input is not None and not isinstance(decoder, RawOutput)
            await exchange.channel.exchange(pieces, take, timeout, half_close=half_close)
        else:
            while data := await exchange.read():
                take(data)
    finally:
        exchange.close()
    return b"".join(found["stdout"]), b"".join(found["stderr"])


def output_decoder(tty: bool | None) -> Callable[[Exchange], Decoder[Output]]:
    """Chooses the decoder of a container's output: by `tty`, or if that is None by what the engine says it sends."""

    def choose(exchange: Exchange) -> Decoder[Output]:
        framed = exchange.headers.get("content-type") == MULTIPLEXED if tty is None else not tty
        return MultiplexedOutput() if framed else RawOutput()

    return choose
