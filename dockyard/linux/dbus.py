"""A D-Bus client, as much of one as talking to systemd and firewalld takes: calls, their answers, and signals.

Blocking; stdlib only. Values travel as Python's: strings, ints, bools, bytes for `ay`, lists, tuples for structs, and
for variants (signature, value). Specification: dbus.freedesktop.org, "D-Bus Specification" 0.42.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGNMENT = {"y": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8, "g": 1, "v": 1}


class DBusError(Exception):
    """An error that the other side has answered with: `name` like org.freedesktop.systemd1.UnitExists."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name
        self.message = message or name


@dataclass(frozen=True, slots=True)
class Message:
    """What has arrived; `fields` by the numbers above."""

    kind: int
    serial: int
    fields: dict[int, Any]
    body: list[Any]


class Connection:
    """To the bus or the peer at the UNIX socket `path`. Raises OSError, DBusError."""

    def __init__(self, path: str, *, bus: bool, timeout: float = 30) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._serial = 0
        self._waiting: list[Message] = []
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._authenticate()
            if bus:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def hang_up(self) -> None:
        """Let another thread that waits for something be told that there is nothing more (OSError)."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float | None) -> None:
        """From now on wait so long for each message; None: as long as it takes."""
        self._socket.settimeout(seconds)

    def _authenticate(self) -> None:
        identity = str(os.geteuid()).encode().hex().encode()
        # BEGIN goes along with the rest, as systemd's own clients send it: a systemd (sd-bus, 252) that reads it with a
        # first short call has taken both off the socket, and answers the call only when something else comes.
        self._socket.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\nBEGIN\r\n")
        answer = self._line()
        if not answer.startswith(b"OK "):
            raise DBusError("org.freedesktop.DBus.Error.AuthFailed", answer.decode(errors="replace"))

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            piece = self._socket.recv(1)
            if not piece:
                raise ConnectionResetError("D-Bus hung up")
            line += piece
        return line[:-2]

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        """Call a method; what it returns. Raises DBusError with its error, OSError when the other side is gone."""
        self._serial += 1
        serial = self._serial
        fields: list[tuple[int, tuple[str, Any]]] = [
            (PATH, ("o", path)),
            (INTERFACE, ("s", interface)),
            (MEMBER, ("s", member)),
            (DESTINATION, ("s", destination)),
        ]
        if signature:
            fields.append((SIGNATURE, ("g", signature)))
        body = pack(signature, *arguments)
        head = pack("yyyyuua(yv)", ord("l"), METHOD_CALL, 0, 1, len(body), serial, fields)
        self._socket.sendall(head.ljust(-(-len(head) // 8) * 8, b"\0") + body)
        while True:
            message = self._receive()
            if message.fields.get(REPLY_SERIAL) != serial:
                self._waiting.append(message)
            elif message.kind == ERROR:
                text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                raise DBusError(message.fields.get(ERROR_NAME, ""), text)
            else:
                return message.body

    def signals(self, *members: str) -> Iterator[Message]:
        """Signals of these names, as they come; also those that came while an answer was waited for."""
        while True:
            waiting, self._waiting = self._waiting, []
            for message in waiting or [self._receive()]:
                if message.kind == SIGNAL and message.fields.get(MEMBER) in members:
                    yield message

    def _receive(self) -> Message:
        head = self._exactly(16)
        order = "<" if head[0] == ord("l") else ">"
        size, serial, fields_size = struct.unpack_from(order + "III", head, 4)
        fields_data = head + self._exactly(-(-fields_size // 8) * 8)
        fields, _ = _Reader(fields_data, order, 12).value("a(yv)")
        parsed = {number: value for number, (_, value) in fields}
        reader = _Reader(self._exactly(size), order, 0)
        body = [reader.value(part)[0] for part in split(parsed.get(SIGNATURE, ""))]
        return Message(head[1], serial, parsed, body)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("D-Bus hung up")
            data += piece
        return bytes(data)


def split(signature: str) -> list[str]:
    """The complete types of a signature: "sa(sv)u" is s, a(sv) and u."""
    found = []
    position = 0
    while position < len(signature):
        end = _end_of_type(signature, position)
        found.append(signature[position:end])
        position = end
    return found


def _end_of_type(signature: str, start: int) -> int:
    kind = signature[start]
    if kind == "a":
        return _end_of_type(signature, start + 1)
    if kind not in "({":
        return start + 1
    close = ")" if kind == "(" else "}"
    position = start + 1
    while signature[position] != close:
        position = _end_of_type(signature, position)
    return position + 1


def pack(signature: str, *values: Any) -> bytes:
    """Values as the bytes of a message that begins with them; little endian."""
    out = bytearray()
    for part, value in zip(split(signature), values, strict=True):
        _pack(out, part, value)
    return bytes(out)


def _align(out: bytearray, kind: str) -> None:
    out.extend(bytes(-len(out) % _ALIGNMENT.get(kind, 4)))


def _pack(out: bytearray, signature: str, value: Any) -> None:
    kind = signature[0]
    _align(out, kind)
    if kind in _FIXED:
        out += struct.pack("<" + _FIXED[kind], value)
    elif kind in "so":
        data = value.encode()
        out += struct.pack("<I", len(data)) + data + b"\0"
    elif kind == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif kind == "v":
        inner, content = value
        _pack(out, "g", inner)
        _pack(out, inner, content)
    elif kind == "a":
        place = len(out)
        out += bytes(4)
        _align(out, signature[1])
        start = len(out)
        if signature[1] == "y":
            out += bytes(value)
        else:
            for item in value:
                _pack(out, signature[1:], item)
        struct.pack_into("<I", out, place, len(out) - start)
    else:
        for part, item in zip(split(signature[1:-1]), value, strict=True):
            _pack(out, part, item)


class _Reader:
    """Takes values from the bytes of a message."""

    def __init__(self, data: bytes, order: str, position: int) -> None:
        self._data, self._order, self._position = data, order, position

    def value(self, signature: str) -> tuple[Any, str]:
        """The next value, and its signature."""
        kind = signature[0]
        self._position += -self._position % _ALIGNMENT.get(kind, 4)
        if kind in _FIXED:
            (number,) = self._unpack(_FIXED[kind])
            return (bool(number) if kind == "b" else number), signature
        if kind in "sog":
            (size,) = self._unpack("B" if kind == "g" else "I")
            text = self._data[self._position : self._position + size].decode()
            self._position += size + 1
            return text, signature
        if kind == "v":
            inner, _ = self.value("g")
            return (inner, self.value(inner)[0]), signature
        if kind == "a":
            return self._array(signature[1:]), signature
        return tuple(self.value(part)[0] for part in split(signature[1:-1])), signature

    def _array(self, of: str) -> list[Any]:
        (size,) = self._unpack("I")
        self._position += -self._position % _ALIGNMENT.get(of[0], 4)
        end = self._position + size
        found = []
        while self._position < end:
            found.append(self.value(of)[0])
        return found

    def _unpack(self, code: str) -> tuple[Any, ...]:
        values = struct.unpack_from(self._order + code, self._data, self._position)
        self._position += struct.calcsize(code)
        return values
