"""What the shim does with a process's output, without a process."""

import os
import select
import socket
import threading
from pathlib import Path

import pytest

from dockyard.shim.log_writer import NoLog
from dockyard.shim.streams import Client, Loop, Streams
from tests.small_disk import fill, small_disk


class FullOnce(NoLog):
    """A log that is full until its forwarder has sent the rest, which happens after it was asked `times`."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.written = b""

    def full(self) -> bool:
        self.times -= 1
        return self.times >= 0

    def write(self, stream: int, data: bytes) -> None:
        self.written += data


def test_a_log_that_is_full_is_looked_at_until_it_is_not() -> None:
    # whenever room is made, between any two questions, the next round has to find out
    for times in range(1, 6):
        log, loop = FullOnce(times), Loop()
        ours, theirs = os.pipe()
        streams = Streams(loop, {ours: 1}, -1, log, terminal=False, close_stdin=False)
        os.write(theirs, b"first ")
        loop.run_once(0)
        os.write(theirs, b"second")
        for _ in range(10):
            if log.written == b"first second":
                break
            # as the shim does: it sleeps without limit unless it is told to look at the log again
            assert streams.waits_for_log or loop.epoll.poll(0), f"asleep for ever, having asked {times} times"
            loop.run_once(0)
            streams.relieved()
        assert log.written == b"first second"
        streams.close("exited")
        os.close(theirs)


@pytest.mark.parametrize("room", [0, 3 << 20])
def test_a_slow_client_gets_everything_on_a_full_disk(tmp_path: Path, room: int) -> None:
    with small_disk(tmp_path, 16 << 20) as disk:
        fill(disk / "ballast")
        os.truncate(disk / "ballast", max((disk / "ballast").stat().st_size - room, 0))
        _slow_client_gets_everything(str(disk))


def test_a_slow_client_gets_everything_where_no_disk_can_keep_it(tmp_path: Path) -> None:
    _slow_client_gets_everything(str(tmp_path / "missing"))


def test_a_slow_client_gets_everything_from_a_disk_that_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dockyard.shim.streams.MOST", 4 << 20)
    _slow_client_gets_everything(str(tmp_path))


def _slow_client_gets_everything(folder: str) -> None:
    """Eight megabytes and more, of which the client reads nothing until the process waits for it."""
    log, loop = NoLog(), Loop()
    log.folder = folder
    source, process = os.pipe()
    ours, theirs = socket.socketpair()
    streams = Streams(loop, {source: 1}, -1, log, terminal=False, close_stdin=False)
    ends: list[str] = []
    streams.attach(
        Client(streams, ours.detach(), stdin=False, stdout=True, stderr=True, raw=True, detach_keys=b"",
               on_end=ends.append)
    )  # fmt: skip
    sent = os.urandom(1 << 16) * 160

    def write() -> None:
        with open(process, "wb", buffering=0) as file:
            left = memoryview(sent)
            while left:
                left = left[file.write(left) :]

    writer = threading.Thread(target=write)
    writer.start()
    while select.select([source], [], [], 0.5)[0] and not streams._waiting:
        loop.run_once(0)
    assert streams._waiting, "the process should be waiting for its client"
    assert writer.is_alive()
    got = bytearray()
    reader = threading.Thread(target=lambda: [got.extend(part) for part in iter(lambda: theirs.recv(1 << 16), b"")])
    reader.start()
    while streams.sources:
        loop.run_once(1)
    streams.close("exited")
    while not ends:
        loop.run_once(1)
    writer.join()
    reader.join()
    theirs.close()
    assert ends == ["exited"]
    assert got == sent
