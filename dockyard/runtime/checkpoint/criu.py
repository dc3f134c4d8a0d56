"""CRIU, asked for one thing at a time over a socket, as its `criu swrk` answers.

Only so, and not by its command line, does it hand out the master of a terminal that it has made again, and tell on the
way what it has come to. Messages are protocol buffers (CRIU's images/rpc.proto; encoding: protobuf.dev,
"Encoding"); of these we need numbers, strings and messages in messages.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from dockyard.linux.cgroups import path_of
from dockyard.runtime.errors import ProgramMissing, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    # A list is a field that is repeated, a tuple a message whose fields are numbered from 1.
    Value = bool | int | str | list["Value"] | tuple[int | str, ...]
    Notice = Callable[[str, int, int], None]
    Fields = dict[int, list[int | bytes]]


class Act(IntEnum):
    """What can be asked for (criu_req_type)."""

    DUMP = 1
    RESTORE = 2
    PRE_DUMP = 4
    NOTIFY = 6
    FEATURE_CHECK = 9
    VERSION = 10


# The fields of criu_opts that we use, by their numbers.
OPTIONS = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "ext_unix_sk": 4,
    "tcp_established": 5,
    "evasive_devices": 6,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "log_file": 10,
    "ps": 11,  # address, port
    "notify_scripts": 12,
    "root": 13,
    "parent_img": 14,
    "track_mem": 15,
    "auto_dedup": 16,
    "work_dir_fd": 17,
    "link_remap": 18,
    "cg_root": 25,  # of each: controller, path
    "rst_sibling": 26,
    "inherit_fd": 27,  # of each: key, descriptor
    "manage_cgroups_mode": 34,
    "external": 37,
    "empty_ns": 38,
    "join_ns": 39,  # of each: kind, file
    "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46,
    "lazy_pages": 48,
    "orphan_pts_master": 50,
    "config_file": 51,
    "tcp_close": 52,
    "lsm_profile": 53,
    "lsm_mount_context": 63,
    "network_lock": 64,
}
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}
NO_NETWORK_LOCK = 3  # of network_lock, since 3.18
FEATURES = {"mem_track": 1, "lazy_pages": 2}  # of criu_features
# fields of requests and answers
_TYPE, _OPTIONS, _NOTIFIED, _ASKED_FEATURES = 1, 2, 3, 5
_SUCCESS, _NOTIFY, _ERRNO, _FOUND_FEATURES, _MESSAGE, _VERSION = 2, 5, 7, 8, 9, 10
_LARGEST = 1 << 16  # bytes of a message
_INT = 4


@dataclass(frozen=True, slots=True)
class Criu:
    """The program, by name or path."""

    program: str = "criu"

    def ask(
        self,
        act: Act,
        options: Mapping[str, Value],
        log: str,
        *,
        on_notice: Notice | None = None,
        keep: Sequence[int] = (),
        enter: Callable[[int], None] | None = None,
    ) -> None:
        """Have it done. Raises RuntimeFailure with the reason, from CRIU's log, the file `log`.

        `on_notice` is called with the name of a point reached, the PID of the container's first process (or 0) and a
        descriptor handed out with it (or -1); what it raises makes CRIU give up. `keep` are descriptors that CRIU shall
        have under the same numbers. `enter` is called with CRIU's PID, to put it in the cgroup in which processes
        restored shall be.
        """
        with self._running(keep) as (peer, pid):
            given = dict(options)
            if enter is not None:
                enter(pid)
                given["cg_root"] = list(path_of(pid).items())
            _send(peer, {_TYPE: int(act), _OPTIONS: _encode({OPTIONS[name]: value for name, value in given.items()})})
            answer = _converse(peer, on_notice)
        if not _number(answer, _SUCCESS):
            said = _reason(log) or _text(answer, _MESSAGE) or f"errno {_number(answer, _ERRNO)}"
            raise RuntimeFailure(f"criu failed: {act.name.lower().replace('_', '-')}: {said}\nlog file: {log}")

    def has(self, feature: str) -> bool:
        """Whether CRIU and the kernel can do `feature`, one of FEATURES. Raises RuntimeFailure."""
        number = FEATURES[feature]
        with self._running(()) as (peer, _):
            _send(peer, {_TYPE: int(Act.FEATURE_CHECK), _ASKED_FEATURES: _encode({number: True})})
            answer = _converse(peer, None)
        return any(isinstance(found, bytes) and _number(_decode(found), number) for found in answer[_FOUND_FEATURES])

    def version(self) -> tuple[int, int]:
        """Major and minor. Raises RuntimeFailure."""
        with self._running(()) as (peer, _):
            _send(peer, {_TYPE: int(Act.VERSION)})
            found = _decode(_bytes(_converse(peer, None), _VERSION))
        return _number(found, 1), _number(found, 2)

    @contextlib.contextmanager
    def _running(self, keep: Sequence[int]) -> Iterator[tuple[socket.socket, int]]:
        """Our end of the socket and CRIU's PID. When the socket is closed it gives up what it has not yet done."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                try:
                    process = subprocess.Popen(
                        [self.program, "swrk", str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(), *keep),
                    )
                except OSError as error:
                    if isinstance(error, FileNotFoundError):
                        raise ProgramMissing(f"CRIU is not installed: {self.program} not found") from None
                    raise RuntimeFailure(f"{self.program}: {error.strerror}") from None
            try:
                yield ours, process.pid
            finally:
                ours.close()
                process.wait()


def time_stopped(directory: str) -> float:
    """For how long the processes stood still, in seconds, by the statistics that a dump leaves in its work directory.

    0 when there are none.
    """
    try:
        with open(f"{directory}/stats-dump", "rb") as file:
            # two magic numbers and the size of the one entry, 32 bits each (criu.org, "Images"; images/stats.proto)
            entry = _decode(file.read()[12:])
    except OSError:
        return 0.0
    dump = _decode(_bytes(entry, 1))
    return (_number(dump, 1) + _number(dump, 2)) / 1e6  # freezing_time and frozen_time


def _converse(peer: socket.socket, on_notice: Notice | None) -> Fields:
    """Hear CRIU out; its answer."""
    while True:
        try:
            data, rights, _, _ = peer.recvmsg(_LARGEST, socket.CMSG_SPACE(_INT), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            data, rights = b"", []
        if not data:
            return _decode(b"")
        answer = _decode(data)
        if _number(answer, _TYPE) != Act.NOTIFY:
            return answer
        notice = _decode(_bytes(answer, _NOTIFY))
        if on_notice is not None:
            handed = int.from_bytes(rights[0][2][:_INT], sys.byteorder) if rights else -1
            on_notice(_text(notice, 1), _number(notice, 2), handed)
        _send(peer, {_TYPE: int(Act.NOTIFY), _NOTIFIED: True})


def _send(peer: socket.socket, message: Mapping[int, Value | bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # then there will be no answer either
        peer.send(_encode(message))


def _encode(fields: Mapping[int, Value | bytes]) -> bytes:
    """Fields by their numbers as bytes."""
    encoded = bytearray()
    for number, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                encoded += _varint(number << 3) + _varint(one)
                continue
            if isinstance(one, str):
                one = one.encode()
            elif isinstance(one, tuple):
                one = _encode(dict(enumerate(one, 1)))
            assert isinstance(one, bytes)
            encoded += _varint(number << 3 | 2) + _varint(len(one)) + one
    return bytes(encoded)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode(data: bytes) -> Fields:
    """The values of each field, numbers or bytes."""
    found: Fields = defaultdict(list)
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            found[key >> 3].append(varint())
            continue
        size = varint() if key & 7 == 2 else 8 if key & 7 == 1 else 4
        found[key >> 3].append(data[position : position + size])
        position += size
    return found


def _number(fields: Fields, number: int) -> int:
    value = fields[number][0] if fields[number] else 0
    return value if isinstance(value, int) else 0


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields[number][0] if fields[number] else b""
    return value if isinstance(value, bytes) else b""


def _text(fields: Fields, number: int) -> str:
    return _bytes(fields, number).decode(errors="replace").strip()


def _reason(log: str) -> str:
    """The first error in CRIU's log: what follows it follows from it."""
    with contextlib.suppress(OSError), open(log, errors="replace") as rows:
        for row in rows:
            found = re.match(r"\([0-9.]+\)\s*(?:\d+: )?(Error .*)", row)
            # without the right to raise its own limits it goes on all the same
            if found and "RLIMIT_NOFILE" not in row:
                return found.group(1)
    return ""
