"""Sends log entries to where a log driver wants them: syslog, journald, fluentd, GELF.

Plain blocking sockets; a sender raises OSError when its peer does not take an entry, and connects anew at the next.
"""

import gzip
import json
import os
import random
import socket
import ssl
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

PATIENCE = 10.0  # seconds for a connection or an answer
FACILITIES = (
    "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp _ _ _ _ "
    "local0 local1 local2 local3 local4 local5 local6 local7"
).split()
ERROR, INFORMATION = 3, 6  # syslog's severities: stderr, stdout
JOURNAL = "/run/systemd/journal/socket"
SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line without its newline, or a part of one (`partial`); `time_ns` in UNIX ns."""

    line: bytes
    stream: str
    time_ns: int
    partial: bool = False

    @property
    def severity(self) -> int:
        """What syslog calls its level."""
        return ERROR if self.stream == "stderr" else INFORMATION


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose log it is. `attributes`: what the options select of its labels and environment."""

    id: str
    name: str
    image_id: str
    image_name: str
    command: str
    created: str
    tag: str
    host: str
    attributes: Mapping[str, str]


class Sender(Protocol):
    """One container's way to its log server."""

    def connect(self) -> None:
        """Reach the server. Raises OSError."""

    def send(self, entry: Entry) -> None:
        """Hand one entry over. Raises OSError; then it may be sent again."""

    def close(self) -> None:
        """Hang up."""


def make_sender(driver: str, options: Mapping[str, str], identity: Identity) -> Sender:
    """The sender of a driver; the options have been checked."""
    kinds: dict[str, Any] = {"syslog": Syslog, "journald": Journald, "fluentd": Fluentd, "gelf": Gelf}
    sender: Sender = kinds[driver](options, identity)
    return sender


class _Connection:
    """A socket that is opened when it is needed, and again when it has failed."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        if self._socket is None:
            self._socket = self._open()

    def _open(self) -> socket.socket:
        raise NotImplementedError

    def _write(self, data: bytes) -> socket.socket:
        self.connect()
        assert self._socket is not None
        try:
            self._socket.sendall(data)
        except OSError:
            self.close()
            raise
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _stream(parts: SplitResult, port: int) -> socket.socket:
    return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or port), PATIENCE)


def _unix(path: str, kind: int) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, kind)
    peer.settimeout(PATIENCE)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        raise
    return peer


class Syslog(_Connection):
    """RFC 3164 or 5424, or the host's own syslog socket."""

    def __init__(self, options: Mapping[str, str], identity: Identity) -> None:
        super().__init__()
        self._options = options
        self._parts = urlsplit(options.get("syslog-address", ""))
        self._tag, self._host = identity.tag, identity.host
        facility = options.get("syslog-facility", "daemon")
        self._facility = int(facility) if facility.isdecimal() else FACILITIES.index(facility)
        self._format = options.get("syslog-format", "")
        self._counted = self._parts.scheme == "tcp+tls" and self._format.startswith("rfc5424")  # RFC 5425 framing

    def _open(self) -> socket.socket:
        scheme = self._parts.scheme
        if not scheme:
            for path in SYSLOG_SOCKETS:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    try:
                        return _unix(path, kind)
                    except OSError:
                        continue
            raise OSError("Unix syslog delivery error")
        if scheme in ("unix", "unixgram"):
            return _unix(self._parts.path, socket.SOCK_STREAM if scheme == "unix" else socket.SOCK_DGRAM)
        if scheme == "udp":
            return _datagram(self._parts, 514)
        peer = _stream(self._parts, 514)
        return self._encrypt(peer) if scheme == "tcp+tls" else peer

    def _encrypt(self, peer: socket.socket) -> socket.socket:
        options = self._options
        context = ssl.create_default_context(cafile=options.get("syslog-tls-ca-cert") or None)
        if options.get("syslog-tls-skip-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.get("syslog-tls-cert"):
            context.load_cert_chain(options["syslog-tls-cert"], options.get("syslog-tls-key") or None)
        return context.wrap_socket(peer, server_hostname=self._parts.hostname)

    def send(self, entry: Entry) -> None:
        message = self._head(entry).encode() + entry.line
        if self._counted:
            message = b"%d %s" % (len(message), message)
        elif not message.endswith(b"\n"):
            message += b"\n"
        self._write(message)

    def _head(self, entry: Entry) -> str:
        priority, pid = self._facility * 8 + entry.severity, os.getpid()
        moment = datetime.fromtimestamp(entry.time_ns / 1e9).astimezone()
        if self._format.startswith("rfc5424"):
            stamp = moment.isoformat(timespec="microseconds" if self._format == "rfc5424micro" else "seconds")
            return f"<{priority}>1 {stamp} {self._host} {self._tag} {pid} {self._tag} - "
        stamp = f"{moment:%b} {moment.day:2} {moment:%H:%M:%S}"
        host = f"{self._host} " if self._format == "rfc3164" else ""
        return f"<{priority}>{stamp} {host}{self._tag}[{pid}]: "


def _datagram(parts: SplitResult, port: int) -> socket.socket:
    host = parts.hostname or "127.0.0.1"
    family, kind, protocol, _, address = socket.getaddrinfo(host, parts.port or port, type=socket.SOCK_DGRAM)[0]
    peer = socket.socket(family, kind, protocol)
    peer.connect(address)
    return peer


class Journald(_Connection):
    """systemd's journal, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, options: Mapping[str, str], identity: Identity) -> None:
        super().__init__()
        self._fixed = _field("CONTAINER_ID", identity.id[:12]) + _field("CONTAINER_ID_FULL", identity.id)
        self._fixed += _field("CONTAINER_NAME", identity.name) + _field("CONTAINER_TAG", identity.tag)
        self._fixed += _field("IMAGE_NAME", identity.image_name) + _field("SYSLOG_IDENTIFIER", identity.tag)
        self._fixed += _field("CONTAINER_LOG_EPOCH", os.urandom(32).hex())
        for key, value in identity.attributes.items():
            self._fixed += _field(_journal_name(key), value)
        self._ordinal = 0

    def _open(self) -> socket.socket:
        return _unix(JOURNAL, socket.SOCK_DGRAM)

    def send(self, entry: Entry) -> None:
        self._ordinal += 1
        message = _field("MESSAGE", entry.line) + _field("PRIORITY", str(entry.severity)) + self._fixed
        message += _field("SYSLOG_TIMESTAMP", _rfc3339(entry.time_ns))
        message += _field("CONTAINER_LOG_ORDINAL", str(self._ordinal))
        if entry.partial:
            message += _field("CONTAINER_PARTIAL_MESSAGE", "true")
        self._write(message)


def _field(name: str, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def _journal_name(key: str) -> str:
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in key.upper())
    return name.lstrip("_") or "_"


def _rfc3339(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"


class Fluentd(_Connection):
    """The forward protocol in message mode (https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1)."""

    def __init__(self, options: Mapping[str, str], identity: Identity) -> None:
        super().__init__()
        address = options.get("fluentd-address", "") or "tcp://127.0.0.1:24224"
        self._parts = urlsplit(address if "://" in address else f"tcp://{address}")
        self._tag = identity.tag
        self._fixed = {"container_id": identity.id, "container_name": f"/{identity.name}", **identity.attributes}
        self._precise = options.get("fluentd-sub-second-precision", "").lower() in ("1", "t", "true")
        self._acknowledged = options.get("fluentd-request-ack", "").lower() in ("1", "t", "true")

    def _open(self) -> socket.socket:
        if self._parts.scheme == "unix":
            return _unix(self._parts.path, socket.SOCK_STREAM)
        peer = _stream(self._parts, 24224)
        if self._parts.scheme == "tls":
            return ssl.create_default_context().wrap_socket(peer, server_hostname=self._parts.hostname)
        return peer

    def send(self, entry: Entry) -> None:
        record = {**self._fixed, "source": entry.stream, "log": entry.line.decode(errors="replace")}
        if entry.partial:
            record["partial_message"] = "true"
        seconds, nanoseconds = divmod(entry.time_ns, 10**9)
        # EventTime is extension type 0
        moment = b"\xd7\x00" + struct.pack(">II", seconds, nanoseconds) if self._precise else _packed(seconds)
        option, chunk = b"", os.urandom(16).hex()
        if self._acknowledged:
            option = _packed({"chunk": chunk})
        head = b"\x94" if option else b"\x93"
        peer = self._write(head + _packed(self._tag) + moment + _packed(record) + option)
        if option:
            self._await(peer, chunk)

    def _await(self, peer: socket.socket, chunk: str) -> None:
        expected, answer = _packed({"ack": chunk}), b""
        while len(answer) < len(expected):
            data = peer.recv(len(expected) - len(answer))
            if not data:
                self.close()
                raise ConnectionResetError("fluentd went before it acknowledged")
            answer += data
        if answer != expected:
            self.close()
            raise ConnectionError("fluentd acknowledged something else")


def _packed(value: str | int | Mapping[str, str]) -> bytes:
    """As much of msgpack as a log entry needs."""
    if isinstance(value, int):
        return b"\xce" + struct.pack(">I", value)
    if isinstance(value, str):
        data = value.encode()
        size = len(data)
        if size < 32:
            return bytes([0xA0 | size]) + data
        if size < 1 << 8:
            return b"\xd9" + bytes([size]) + data
        return (b"\xda" + struct.pack(">H", size) if size < 1 << 16 else b"\xdb" + struct.pack(">I", size)) + data
    head = bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
    return head + b"".join(_packed(key) + _packed(item) for key, item in value.items())


class Gelf(_Connection):
    """GELF 1.1 over UDP (compressed, in chunks) or TCP (https://go2docs.graylog.org/current/getting_in_log_data/gelf.html)."""

    CHUNK = 1420 - 12

    def __init__(self, options: Mapping[str, str], identity: Identity) -> None:
        super().__init__()
        self._parts = urlsplit(options["gelf-address"])
        self._udp = self._parts.scheme == "udp"
        self._compression = options.get("gelf-compression-type", "gzip")
        self._level = int(options.get("gelf-compression-level", "1"))
        self._fixed: dict[str, Any] = {
            "version": "1.1",
            "host": identity.host,
            "_container_id": identity.id,
            "_container_name": identity.name,
            "_image_id": identity.image_id,
            "_image_name": identity.image_name,
            "_command": identity.command,
            "_tag": identity.tag,
            "_created": identity.created,
            **{key if key.startswith("_") else f"_{key}": value for key, value in identity.attributes.items()},
        }

    def _open(self) -> socket.socket:
        return _datagram(self._parts, 12201) if self._udp else _stream(self._parts, 12201)

    def send(self, entry: Entry) -> None:
        if not entry.line:
            return
        message = {
            **self._fixed,
            "short_message": entry.line.decode(errors="replace"),
            "timestamp": entry.time_ns // 10**6 / 1000,
            "level": entry.severity,
        }
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        if not self._udp:
            self._write(data + b"\0")
            return
        if self._compression == "gzip":
            data = gzip.compress(data, max(self._level, 0) if self._level >= 0 else 6)
        elif self._compression == "zlib":
            data = zlib.compress(data, self._level)
        if len(data) <= self.CHUNK:
            self._write(data)
            return
        pieces = [data[at : at + self.CHUNK] for at in range(0, len(data), self.CHUNK)]
        if len(pieces) > 128:
            return  # more than the protocol can carry
        number = struct.pack(">Q", random.getrandbits(64))
        for position, piece in enumerate(pieces):
            self._write(b"\x1e\x0f" + number + bytes([position, len(pieces)]) + piece)
