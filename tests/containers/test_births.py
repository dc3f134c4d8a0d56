"""What a hostile process sees of those on their way into its PID namespace: nothing but what the container has anyway.

The prober (prober.c) stops each by ptrace(2), where it may, and goes through all that /proc shows of it.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.linux import capabilities
from tests.engine_process import EngineProcess
from tests.processes import eventually

SECRET = "of-the-hosts-own-environment"
SHARED = ("mnt", "pid", "pid_for_children", "uts", "ipc", "net", "cgroup")
BIRTHS = 15


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine whose environment has something to hide."""
    os.environ["DOCKYARD_TEST_SECRET"] = SECRET
    try:
        with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=43) as process:
            yield process
    finally:
        del os.environ["DOCKYARD_TEST_SECRET"]


class Watched:
    """A container `watcher` whose program is the prober."""

    def __init__(self, engine: EngineProcess, prober: Path, folder: Path, *arguments: str) -> None:
        self._engine = engine
        self._folder = folder
        shutil.copy(prober, folder / "prober")
        (folder / "file").write_text("of the host's")
        namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in SHARED]
        namespaces = [f"{kind}:{link.partition(':')[2]}" for kind, link in zip(SHARED, namespaces, strict=True)]
        # the host's path of the file: it is found from the host's root, not from the container's
        words = ("/p/prober", SECRET[::-1], str(folder / "file"), *namespaces)
        # its AppArmor profile would let it look at nothing that has none yet, and it is to look as well as anybody can
        options = (f"-v={folder}:/p", "--cgroupns=private", "--security-opt=apparmor=unconfined")
        engine.docker("run", "-d", "--name", "watcher", *options, *arguments, "busybox", *words)
        assert eventually(lambda: "ready" in engine.docker("logs", "watcher"))

    def found(self) -> list[str]:
        """What it has found, when it has stopped; the last row counts."""
        (self._folder / "stop").touch()
        self._engine.docker("wait", "watcher")
        return self._engine.docker("logs", "watcher").splitlines()[1:]


@pytest.fixture
def clean(host: EngineProcess) -> Iterator[None]:
    """Nothing is left for the next test."""
    yield
    names = host.docker("ps", "-aq").split()
    if names:
        host.docker("rm", "-f", *names)


def check(watched: Watched) -> None:
    """That nothing was found, and not for want of looking."""
    *found, count = watched.found()
    assert not found, "\n".join(found)
    assert int(count.split()[-2]), "none was seen on its way"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("given", ["--cap-add=SYS_PTRACE", "--privileged", "--cap-add=ALL"])
def test_execs_show_nothing(host: EngineProcess, prober: Path, tmp_path: Path, given: str) -> None:
    watched = Watched(host, prober, tmp_path, given)
    for number in range(BIRTHS):
        host.docker("exec", *(("-t",) if number % 2 else ()), "watcher", "true")
    check(watched)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("options", [(), ("-t", "--user=1000"), ("--init", "--security-opt=no-new-privileges")])
def test_containers_that_join_show_nothing(
    host: EngineProcess, prober: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    watched = Watched(host, prober, tmp_path, "--cap-add=SYS_PTRACE")
    for _ in range(BIRTHS):
        host.docker("run", "--rm", "--pid=container:watcher", "--cgroupns=private", *options, "busybox", "true")
    check(watched)


@pytest.mark.usefixtures("clean")
def test_health_checks_show_nothing(host: EngineProcess, prober: Path, tmp_path: Path) -> None:
    watched = Watched(host, prober, tmp_path, "--cap-add=SYS_PTRACE", "--health-cmd=true", "--health-interval=100ms")
    time.sleep(3)
    check(watched)


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", sorted(capabilities.NUMBERS))
def test_no_single_capability_shows_anything(host: EngineProcess, prober: Path, tmp_path: Path, name: str) -> None:
    watched = Watched(host, prober, tmp_path, f"--cap-add={name}")
    for _ in range(5):
        host.docker("exec", "watcher", "true")
        host.docker("run", "--rm", "--pid=container:watcher", "--cgroupns=private", "busybox", "true")
    *found, _ = watched.found()
    assert not found, "\n".join(found)
