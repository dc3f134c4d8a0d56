"""A part of a volume: where it may be, and that who has the volume too cannot swap it for something of the host's."""

import ctypes
import os
import threading
from pathlib import Path

import pytest

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.volumes.subpath import open_subpath
from tests.engine_process import EngineProcess

RENAME_EXCHANGE = 2
AT_FDCWD = -100


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "secret/sub").mkdir(parents=True)
    (tmp_path / "volume/sub/deep").mkdir(parents=True)
    (tmp_path / "volume/file").write_text("of the volume")
    return tmp_path / "volume"


def test_what_is_inside_is_found_and_nothing_else(volume: Path) -> None:
    (volume / "inside").symlink_to("sub/deep")
    (volume / "up").symlink_to("../secret")
    (volume / "absolute").symlink_to(volume.parent / "secret")
    for path, place in (("sub", "sub"), ("sub/../file", "file"), ("inside", "sub/deep"), (".", ".")):
        found = open_subpath(str(volume), path)
        assert os.fstat(found).st_ino == (volume / place).stat().st_ino
        os.close(found)
    for path in ("..", "../secret", "sub/../../secret", "/etc", "up", "up/sub", "absolute"):
        with pytest.raises(InvalidParameter, match="within the volume"):
            open_subpath(str(volume), path)
    with pytest.raises(SystemFailure, match=r"cannot access path .*/missing: no such file or directory"):
        open_subpath(str(volume), "missing")


def test_a_swap_meanwhile_leads_nowhere(volume: Path) -> None:
    wanted = (volume / "sub").stat().st_ino
    (volume / "other").symlink_to("../secret/sub")
    done = threading.Event()

    def swap() -> None:
        libc = ctypes.CDLL(None)
        while not done.is_set():
            libc.renameat2(AT_FDCWD, bytes(volume / "sub"), AT_FDCWD, bytes(volume / "other"), RENAME_EXCHANGE)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        outcomes = {"found": 0, "refused": 0}
        for _ in range(3000):
            try:
                found = open_subpath(str(volume), "sub")
            except (InvalidParameter, SystemFailure):
                outcomes["refused"] += 1
                continue
            assert os.fstat(found).st_ino == wanted
            os.close(found)
            outcomes["found"] += 1
    finally:
        done.set()
        swapping.join()
    assert outcomes["refused"], "nothing was swapped"


def test_containers_have_parts_of_a_volume(engine: EngineProcess) -> None:
    engine.docker(
        "run",
        "--rm",
        "-v",
        "parts:/v",
        "busybox",
        "sh",
        "-c",
        "mkdir -p /v/a/b; echo x >/v/a/b/f; ln -s ../../../../etc /v/out",
    )
    mount = "type=volume,src=parts,dst=/part,volume-subpath="
    engine.docker(
        "run",
        "-d",
        "--name",
        "part",
        "--mount",
        mount + "a/b",
        "--mount",
        mount.replace("/part", "/one") + "a/b/f",
        "busybox",
        "sleep",
        "1000",
    )
    assert engine.docker("exec", "part", "cat", "/part/f", "/one") == "x\nx\n"
    engine.docker("exec", "part", "sh", "-c", "echo y >/part/g")
    engine.docker("restart", "-t", "0", "part")
    assert engine.docker("exec", "part", "cat", "/part/g") == "y\n"
    engine.docker("kill", "part")
    assert "y\n" in engine.docker("cp", "part:/part/g", "-")
    engine.docker("start", "part")
    changed = engine.dockyard("update", "--mount-add", mount.replace("/part", "/more") + "a", "part")
    assert changed.returncode == 0, changed.stderr
    assert engine.docker("exec", "part", "cat", "/more/b/g") == "y\n"
    assert "subpath-" not in Path("/proc/self/mountinfo").read_text()
    engine.docker("rm", "-f", "part")
    refused = engine.run_docker("run", "--rm", "--mount", mount + "out", "busybox", "true")
    assert refused.returncode == 125
    assert b"subpath must be a relative path within the volume" in refused.stderr
    missing = engine.run_docker("run", "--rm", "--mount", mount + "nothing", "busybox", "true")
    assert missing.returncode == 127  # as the client takes every "no such file or directory"
    assert b"/nothing: no such file or directory" in missing.stderr
    engine.docker("volume", "rm", "parts")
