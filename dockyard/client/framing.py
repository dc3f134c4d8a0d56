"""What streams of the Engine API are made of, decoded without any I/O: frames, lines, JSON values.

Each decoder has `feed(data)`, which returns what is complete by now, and `finish()`, which returns what is left when
the stream has ended.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

from dockyard.oci.quick_json import loads

T = TypeVar("T")

HEADER = 8  # bytes of Docker's stdcopy frame: stream (1 or 2), three zeros, big-endian length
STREAMS = {0: "stdin", 1: "stdout", 2: "stderr", 3: "stderr"}
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


class Output(NamedTuple):
    """Some bytes that a container wrote. `stream` is "stdout" or "stderr"; with a terminal all is "stdout"."""

    stream: str
    data: bytes


class Decoder(Protocol[T]):
    """Turns the bytes of a stream into values."""

    def feed(self, data: bytes) -> list[T]:
        """The values that are complete with `data`."""

    def finish(self) -> list[T]:
        """The values that the end of the stream completes."""


class Pieces:
    """Bytes as they come."""

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def finish(self) -> list[bytes]:
        return []


class RawOutput:
    """The output of a container with a terminal: one stream."""

    def feed(self, data: bytes) -> list[Output]:
        return [Output("stdout", data)]

    def finish(self) -> list[Output]:
        return []


class MultiplexedOutput:
    """The output of a container without a terminal: both streams in frames, in whatever pieces they arrive."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = "stdout"
        self._left = 0

    def feed(self, data: bytes) -> list[Output]:
        found: list[tuple[str, list[bytes]]] = []  # neighbours of the same stream together
        position, end = 0, len(data)
        while position < end:
            if not self._left:
                missing = HEADER - len(self._head)
                self._head += data[position : position + missing]
                position += missing
                if len(self._head) < HEADER:
                    break
                self._stream = STREAMS.get(self._head[0], "stdout")
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            part = data[position : position + self._left]
            position += len(part)
            self._left -= len(part)
            if found and found[-1][0] == self._stream:
                found[-1][1].append(part)
            else:
                found.append((self._stream, [part]))
        return [Output(stream, b"".join(parts)) for stream, parts in found]

    def finish(self) -> list[Output]:
        return []


class OutputLines:
    """Lines of each stream, without their ends, on top of a decoder of outputs; a last line may lack an end."""

    def __init__(self, outputs: Decoder[Output]) -> None:
        self._outputs = outputs
        self._pending: dict[str, bytes] = {}

    def feed(self, data: bytes) -> list[Output]:
        found = []
        for stream, piece in self._outputs.feed(data):
            *lines, rest = (self._pending.get(stream, b"") + piece).split(b"\n")
            self._pending[stream] = rest
            found += [Output(stream, line) for line in lines]
        return found

    def finish(self) -> list[Output]:
        found = [Output(stream, rest) for stream, rest in self._pending.items() if rest]
        self._pending.clear()
        return found


class JsonLines:
    """A stream of JSON values, one a line."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[Any]:
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [loads(line) for line in lines if line.strip()]

    def finish(self) -> list[Any]:
        rest, self._pending = self._pending, b""
        return [loads(rest)] if rest.strip() else []
