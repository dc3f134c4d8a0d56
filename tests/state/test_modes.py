"""Nobody but root reads what the engine keeps: no user of the host, and not the ids that stand for containers' root."""

import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

SECRET = "open-sesame-7351"


@contextmanager
def _furnished(folder: Path, number: int, *arguments: str) -> Iterator[EngineProcess]:
    engine = EngineProcess(folder, number=number, arguments=arguments)
    engine.start()
    try:
        engine.docker("pull", "busybox")
        engine.docker("build", "-t", "built", "-", input=f"FROM busybox\nRUN echo {SECRET} > /in-image\n".encode())
        say = f"echo {SECRET}; echo {SECRET} > /kept; echo {SECRET} > /v/kept; chmod 777 /v; sleep 100"
        engine.docker("run", "-d", "--name", "runs", "-e", f"S={SECRET}", "-v", "vol:/v", "built", "sh", "-c", say)
        engine.docker("run", "--name", "ended", "--network", "none", "-e", f"S={SECRET}", "built", "echo", SECRET)
        engine.docker("exec", "runs", "true")
        time.sleep(0.5)  # for the copy of the database
        yield engine
    finally:
        engine.clean_up()


def _what_opens(roots: list[Path], uid: int) -> list[str]:
    """Every path below `roots` that a process with this uid and gid alone can open, list or connect to.

    The paths are root's to find: names may be known from elsewhere.
    """
    paths = [Path(folder) / name for root in roots for folder, dirs, files in os.walk(root) for name in (*dirs, *files)]
    assert len(paths) > 100
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        with os.fdopen(writer, "w") as told:
            for path in (*roots, *paths):
                if _opens(path):
                    told.write(f"{path}\n")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        opened = told.read().splitlines()
    os.waitpid(pid, 0)
    return opened


def _opens(path: Path) -> bool:
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISSOCK(kind):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
            return True
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        return True
    except OSError:
        return False


def test_an_ordinary_user_can_open_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    with _furnished(tmp_path_factory.mktemp("modes"), 15) as engine:
        assert _what_opens([engine.data_root, engine.run], 65534) == []
        found = subprocess.run(["grep", "-rlaF", SECRET, engine.data_root], capture_output=True, check=False)
        assert found.stdout.count(b"\n") > 4  # there is something to be found


def test_the_ids_of_containers_can_open_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    with _furnished(tmp_path_factory.mktemp("modes"), 15, "--userns-remap=default") as engine:
        [inner] = [path for path in engine.data_root.iterdir() if path.name[0].isdigit()]
        first = int(inner.name.partition(".")[0])
        assert first > 0
        assert _what_opens([engine.data_root, engine.run], first) == []


def test_state_is_private_from_its_birth_and_what_was_not_is_mended(tmp_path_factory: pytest.TempPathFactory) -> None:
    with _furnished(tmp_path_factory.mktemp("modes"), 15) as engine:
        _assert_private(engine.data_root)
        engine.stop()
        engine.data_root.chmod(0o755)
        for name in ("containers", "volumes", "overlay2", "image", "tmp"):
            (engine.data_root / name).chmod(0o777)
        (engine.data_root / "dockyard.db").chmod(0o644)
        engine.start()
        engine.docker("ps")
        _assert_private(engine.data_root)
        assert _what_opens([engine.data_root, engine.run], 65534) == []


def _assert_private(root: Path) -> None:
    """That the state is readable for nobody else even where the folders above it let others through."""
    assert stat.S_IMODE(root.stat().st_mode) == 0o710
    state = [*root.glob("dockyard.db*"), *root.glob("backups/*"), *root.glob("containers/*/*.json")]
    state += [*root.glob("image/**/*.json"), *root.glob("networks/*"), *root.glob("volumes/*/volume.json")]
    assert len(state) > 8
    assert [path for path in state if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    folders = [root / name for name in ("volumes", "containers", "overlay2", "image", "tmp", "networks", "backups")]
    assert [folder for folder in folders if stat.S_IMODE(folder.stat().st_mode) & 0o066] == []
