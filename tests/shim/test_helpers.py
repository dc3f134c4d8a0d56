"""The archive process, a fork of the zygote's; without a zygote that forks it is an interpreter of its own."""

import asyncio
import io
import os
import signal
import socket
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockyard.content import unpack
from dockyard.content.unpack import Worker
from dockyard.shim import zygote
from dockyard.shim.client import Shims
from tests.processes import children_of, eventually, gone, named


@pytest.fixture
async def shims(tmp_path: Path) -> AsyncIterator[Shims]:
    (tmp_path / "exec").mkdir()
    opened = Shims(tmp_path / "exec")
    await opened.open()
    yield opened
    await opened.close()


async def pieces() -> AsyncIterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    yield buffer.getvalue()


async def unpacks(worker: Worker, folder: Path) -> bool:
    folder.mkdir()
    await worker.unpack(pieces(), str(folder))
    return os.listdir(folder) == ["file"]


async def test_the_archive_process_is_a_fork_of_the_zygote_and_ends_with_its_last_job(
    shims: Shims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "IDLE", 0.1)
    worker = Worker(shims.fork_helper)
    assert shims._zygote is not None
    assert await unpacks(worker, tmp_path / "one")
    (process,) = named("dockyard-tar", shims._zygote.pid)
    # nothing of the zygote's is open in it: its own connection, and no output
    null = os.stat("/dev/null").st_rdev
    assert [os.stat(f"/proc/{process}/fd/{fd}").st_rdev for fd in (0, 1, 2)] == [null] * 3
    assert len(os.listdir(f"/proc/{process}/fd")) == 4
    await asyncio.sleep(0.2)
    eventually(lambda: gone(process))
    assert await unpacks(worker, tmp_path / "two")
    worker.close()


async def test_archives_are_unpacked_when_the_zygote_is_stopped_or_dead(
    shims: Shims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "FORK_PATIENCE", 0.3)
    assert shims._zygote is not None
    for signo in (signal.SIGSTOP, signal.SIGKILL):
        os.kill(shims._zygote.pid, signo)
        worker = Worker(shims.fork_helper)
        assert await unpacks(worker, tmp_path / signo.name)
        assert worker._process is not None
        worker.close()


def test_an_order_that_comes_to_nothing_ends_its_connection_and_not_the_zygote() -> None:
    process, orders, helpers = zygote.spawn()
    with orders, helpers:
        for name in (b"dockyard.content.worker:nothing", b"no.module:serve", b"\xff", b"x"):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                with theirs:
                    socket.send_fds(helpers, [name], [theirs.fileno()])
                assert ours.recv(1) == b""
        helpers.send(b"an order without a connection")
        eventually(lambda: len(children_of(process.pid)) == 2)  # a shim and a starter, as ever
    assert process.wait(10) == 0
