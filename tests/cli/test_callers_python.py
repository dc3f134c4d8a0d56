"""What a caller's environment tells Python reaches none of our programs, nor what they start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.processes import children_of

PROGRAMS = Path(sys.executable).parent


@pytest.fixture(params=["PYTHONPATH", "PYTHONHOME"])
def misled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """An environment that would have Python run the caller's modules, or find none; the file by which they tell."""
    ran = tmp_path / "ran"
    for name in ("sitecustomize.py", "usercustomize.py", "re.py", "signal.py", "dockyard/__init__.py"):
        module = tmp_path / "modules" / name
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(f"import io\nio.FileIO({str(ran)!r}, 'a').write(b'{name} ')\n")
    where = {"PYTHONPATH": str(tmp_path / "modules"), "PYTHONHOME": str(tmp_path / "nowhere")}[request.param]
    yield {**os.environ, request.param: where}, ran
    assert not ran.exists(), ran.read_text()


@pytest.mark.parametrize("program", ["dockyard", "dockyardd", "dockyard-runc"])
def test_programs_run_their_own_modules(misled: tuple[dict[str, str], Path], program: str, tmp_path: Path) -> None:
    environment, _ = misled
    link = tmp_path / "linked"
    link.symlink_to(PROGRAMS / program)
    # what dockyard-runc prepares for the name that it is called by stays until the next boot: not for the link's
    for path in (PROGRAMS / program, PROGRAMS / program if program == "dockyard-runc" else link):
        done = subprocess.run([path, "--version"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_daemons_processes_run_their_own_modules(misled: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    environment, _ = misled
    engine = EngineProcess(tmp_path / "engine", number=8)
    told = [f"{name}={value}" for name, value in environment.items() if name.startswith("PYTHON")]
    engine.prefix = ("env", *told)
    engine.program = (str(PROGRAMS / "dockyardd"),)
    engine.start()
    try:
        engine.docker("pull", "busybox")
        assert engine.docker("run", "--rm", "busybox", "echo", "hi") == "hi\n"
        # a seccomp profile of a client's is compiled by a process of its own
        profile = tmp_path / "profile.json"
        profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
        secured = ("run", "--rm", "--security-opt", f"seccomp={profile}", "busybox", "env")
        assert "PYTHON" not in engine.docker(*secured)
        assert engine.process is not None
        pids = [engine.process.pid]
        for pid in pids:
            pids += children_of(pid)
        assert len(pids) > 2
        for pid in pids[1:]:
            try:
                given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue  # ended meanwhile
            assert [entry for entry in given if entry.startswith(b"PYTHON")] == []
    finally:
        engine.clean_up()
