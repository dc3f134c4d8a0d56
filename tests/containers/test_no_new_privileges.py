"""No program of a container gains privileges, where that is the daemon's default."""

import shutil
from collections.abc import Iterator

import pytest

from tests.engine_process import EngineProcess

RUNTIMES = [
    "",
    pytest.param("runc", marks=pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed")),
]
HELD = ("grep", "NoNewPrivs", "/proc/self/status")


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path_factory.mktemp("hardened"), number=22, arguments=("--no-new-privileges",))
    process.start()
    try:
        process.docker("pull", "-q", "busybox")
        yield process
    finally:
        process.clean_up()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_execs_and_health_checks_keep_what_the_container_was_started_with(
    hardened: EngineProcess, runtime: str
) -> None:
    chosen = ("--runtime", runtime) if runtime else ()
    check = ("--health-cmd", " ".join(HELD), "--health-interval", "50ms")
    hardened.docker("run", "-d", "--name", "kept", *chosen, *check, "busybox", "sleep", "600")
    lifted = ("--security-opt", "no-new-privileges=false")
    hardened.docker("run", "-d", "--name", "lifted", *chosen, *lifted, "busybox", "sleep", "600")
    try:
        for name, value in (("kept", "1"), ("lifted", "0")):
            for options in ((), ("--privileged",), ("-u", "1000")):
                assert hardened.docker("exec", *options, name, *HELD).split()[-1] == value
        while not (log := hardened.inspect("kept")["State"]["Health"]["Log"]):
            pass
        assert log[0]["Output"].split()[-1] == "1"
        hardened.kill()
        hardened.arguments.remove("--no-new-privileges")  # the default of later containers
        hardened.start()
        assert hardened.docker("exec", "kept", *HELD).split()[-1] == "1"
        assert hardened.docker("run", "--rm", *chosen, "busybox", *HELD).split()[-1] == "0"
    finally:
        hardened.kill()
        hardened.arguments.append("--no-new-privileges")
        hardened.start()
        hardened.docker("rm", "-f", "kept", "lifted")
