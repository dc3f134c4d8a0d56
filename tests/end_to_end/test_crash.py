"""Kill -9 of the daemon, then a new one: containers never notice, nothing that was acknowledged is lost."""

import time
from collections.abc import Iterator

import pytest

from tests.engine_process import EngineProcess


@pytest.fixture
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path_factory.mktemp("crashing"), number=1)
    process.start()
    try:
        yield process
    finally:
        process.clean_up()


def test_containers_outlive_a_killed_daemon(crashing: EngineProcess) -> None:
    counting = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
    crashing.docker("run", "-d", "--name", "stays", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", counting)
    crashing.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 1.5; exit 5")
    pid = crashing.inspect("stays")["State"]["Pid"]
    crashing.kill()
    time.sleep(2)
    crashing.start()
    assert crashing.inspect("stays")["State"]["Pid"] == pid
    assert crashing.inspect("stays")["State"]["Running"] is True
    assert crashing.inspect("ends")["State"]["ExitCode"] == 5
    numbers = [int(line) for line in crashing.docker("logs", "stays").split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 30
    assert crashing.docker("exec", "stays", "echo", "still here") == "still here\n"
    crashing.docker("stop", "-t", "0", "stays")
    assert crashing.docker("wait", "stays") == "137\n"
    crashing.docker("rm", "stays", "ends")
