"""What becomes of a build on our side: files and directories that the engine writes through the session."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildkit.go_mode import DEVICE, DIRECTORY, FIFO, SOCKET, SYMLINK, permissions
from dockyard.buildx.filesync import DATA, ERROR, FIN, REQUEST, STAT
from dockyard.grpc import status
from dockyard.grpc.calls import Method
from dockyard.grpc.connection import Stream
from dockyard.grpc.status import CallFailed

DIFF_COPY = "/moby.filesync.v1.FileSend/DiffCopy"
NUMBER = "buildkit-attachable-exporter-id"
STANDARD_OUTPUT = "-"


class Outputs:
    """Takes outputs: files, directories (where `is_folder`), by the number of the exporter that writes them."""

    def __init__(self, places: Mapping[int, tuple[str, bool]]) -> None:
        """`places`: {number: (path, whether it is a directory)}."""
        self._places = places

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {DIFF_COPY: self._take} if self._places else {}

    async def _take(self, stream: Stream) -> None:
        number = stream.headers.get(NUMBER, "0")
        found = self._places.get(int(number)) if number.isdigit() else None
        if found is None:
            raise CallFailed(status.NOT_FOUND, f"no output {number} is wanted")
        path, is_folder = found
        if is_folder:
            os.makedirs(path, exist_ok=True)
            await _Receiver(stream, path).run()
        else:
            await _take_file(stream, path)


async def _take_file(stream: Stream, path: str) -> None:
    fd = 1 if path == STANDARD_OUTPUT else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        while (message := await stream.receive()) is not None:
            data = memoryview(wire.Bytes.FromString(message).data)
            while data:
                data = data[os.write(fd, data) :]
    finally:
        if path != STANDARD_OUTPUT:
            os.close(fd)


class _Receiver:
    """Writes what a sender lists into a directory, over what is there; the files are ours, whoever sends them."""

    def __init__(self, stream: Stream, root: str) -> None:
        self._stream = stream
        self._root = root
        self._listed = 0
        self._stats: dict[int, wire.Stat] = {}
        self._open: dict[int, int] = {}
        self._folders: list[wire.Stat] = []
        self._complete = False

    async def run(self) -> None:
        """To the end. Raises CallFailed, OSError."""
        try:
            while messages := await self._stream.receive_many():
                answers = []
                for message in messages:
                    packet = wire.Packet.FromString(message)
                    if packet.type == FIN:
                        self._date_folders()
                        return
                    answers += self._packet(packet)
                if self._complete and not self._stats:
                    self._stats[-1] = wire.Stat()  # it is said once
                    answers.append(wire.Packet(type=FIN).SerializeToString())
                await self._stream.send_many(answers)
        finally:
            for fd in self._open.values():
                os.close(fd)

    def _packet(self, packet: wire.Packet) -> list[bytes]:
        if packet.type == ERROR:
            raise CallFailed(status.UNKNOWN, packet.data.decode(errors="replace"))
        if packet.type == DATA:
            self._data(packet.id, packet.data)
        elif packet.type == STAT and packet.HasField("stat"):
            return self._made(packet.stat)
        elif packet.type == STAT:
            self._complete = True
        return []

    def _made(self, found: wire.Stat) -> list[bytes]:
        number, self._listed = self._listed, self._listed + 1
        place = self._place(found.path)
        mode = found.mode
        if mode & DIRECTORY:
            if os.path.islink(place) or not os.path.isdir(place):
                _clear(place)
                os.mkdir(place, 0o700)
            self._folders.append(found)
            return []
        _clear(place)
        if mode & SYMLINK:
            os.symlink(found.linkname, place)
            _date(place, found.mod_time)
        elif mode & FIFO:
            os.mkfifo(place, permissions(mode))
        elif found.linkname:
            os.link(self._place(found.linkname), place, follow_symlinks=False)
        elif not mode & (DEVICE | SOCKET):  # (no device is made for whoever builds)
            # there at once, empty: further names of it come before its content
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._stats[number] = found
            return [wire.Packet(type=REQUEST, id=number).SerializeToString()]
        return []

    def _place(self, path: str) -> str:
        """Where a path is, which never leads out of the directory, not by a link either. Raises CallFailed."""
        parts = path.split("/")
        if not path or any(part in ("", ".", "..") for part in parts):
            raise CallFailed(status.INVALID_ARGUMENT, f"invalid path {path!r} in the output")
        folder = self._root
        for part in parts[:-1]:
            folder = os.path.join(folder, part)
            if os.path.islink(folder):
                raise CallFailed(status.INVALID_ARGUMENT, f"{path!r} in the output is behind a link")
        return os.path.join(folder, parts[-1])

    def _data(self, number: int, data: bytes) -> None:
        found = self._stats.get(number)
        if found is None:
            raise CallFailed(status.INVALID_ARGUMENT, "data of a file that was not asked for")
        fd = self._open.get(number)
        if fd is None:
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = self._open[number] = os.open(self._place(found.path), flags)
        if data:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            return
        for name, value in found.xattrs.items():
            with suppress(OSError):  # not everybody may set every one
                os.setxattr(fd, name, value)
        os.fchmod(fd, permissions(found.mode))
        os.utime(fd, ns=(found.mod_time, found.mod_time))
        os.close(self._open.pop(number))
        del self._stats[number]

    def _date_folders(self) -> None:
        """What directories are dated, and who may write to them, once all is in them."""
        for found in reversed(self._folders):
            place = self._place(found.path)
            os.chmod(place, permissions(found.mode))
            _date(place, found.mod_time)


def _clear(place: str) -> None:
    if os.path.isdir(place) and not os.path.islink(place):
        import shutil

        shutil.rmtree(place)
        return
    with suppress(FileNotFoundError):
        os.unlink(place)


def _date(place: str, time_ns: int) -> None:
    os.utime(place, ns=(time_ns, time_ns), follow_symlinks=False)
