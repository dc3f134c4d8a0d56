"""What every test may ask for: a running engine of its own, and the check that the run leaves nothing behind."""

import contextlib
import glob
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.leaks import Census, take_census
from tests.runtime.conftest import PREPARED, forget_prepared

CENSUS = pytest.StashKey[Census]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[CENSUS] = take_census()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a whole run that leaves anything behind; a run of chosen tests only tells."""
    _take_away_what_is_shared(session.config.stash[CENSUS])
    leaks: list[str] = []
    for _ in range(40):  # network namespaces and processes end a moment after the last test
        leaks = take_census().leaks_since(session.config.stash[CENSUS])
        if not leaks:
            return
        time.sleep(0.25)
    print("\nLeft behind by this test run:")
    for leak in leaks:
        print("  " + leak)
    if session.config.args_source is not pytest.Config.ArgsSource.ARGS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remove the containers that a failing test has made: it fails alone, not with all that count containers."""
    report = yield
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.failed and call.when == "call" and isinstance(engine, EngineProcess):
        with contextlib.suppress(Exception):
            status, containers = engine.api("GET", "/containers/json?all=1")
            for container in containers if status == 200 else ():
                if container["Created"] >= int(call.start):
                    engine.api("DELETE", f"/containers/{container['Id']}?force=1")
    return report


def _take_away_what_is_shared(before: Census) -> None:
    """What no test may take away while another could be using it.

    That is the cgroup `docker`, the parent of all engines' containers, which Docker leaves behind, too; the mount where
    `ip netns` keeps its names; and what the first command of the installed dockyard-runc has prepared for this boot.
    """
    if "/run/netns" not in before.mounts and os.path.isdir("/run/netns") and not os.listdir("/run/netns"):
        subprocess.run(["umount", "/run/netns"], capture_output=True, check=False)
    for folder in glob.glob("/sys/fs/cgroup/*/docker"):
        if folder not in before.cgroups:
            with contextlib.suppress(OSError):  # somebody uses it
                os.rmdir(folder)
    program = Path(sys.prefix, "bin", "dockyard-runc")
    if f"{PREPARED}{program}/python" not in before.mounts:
        forget_prepared(program)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One engine for the whole run, with roots, socket and bridge of its own, driven through the docker client."""
    process = EngineProcess(tmp_path_factory.mktemp("engine"), number=0)
    process.start()
    try:
        yield process
    finally:
        process.clean_up()


@pytest.fixture(scope="session")
def prober(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of prober.c, which needs no library."""
    program = tmp_path_factory.mktemp("prober") / "prober"
    subprocess.run(["gcc", "-O2", "-static", "-o", program, Path(__file__).with_name("prober.c")], check=True)
    return program
