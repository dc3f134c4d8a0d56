"""A container can't overwrite the program that makes it (runc CVE-2019-5736)."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.conftest import ROOT, Runtime, forget_prepared

# In the container: catch the runtime's process as it comes in, keep its executable, and write to it once it is gone.
ATTACK = """
while :; do
  for process in /proc/[0-9]*; do
    case $(readlink $process/exe) in
    *interpreter*|*memfd*|*/python)
      exec 9<$process/exe && echo caught >>/result
      n=0
      while [ $n -lt 50 ]; do
        if (echo overwritten >/proc/self/fd/9) 2>/dev/null; then echo overwritten >>/result; fi
        n=$((n+1)); sleep 0.02
      done ;;
    esac
  done
done
"""


@pytest.fixture(params=["on a read-only mount", "in memory"])
def attacked(request: pytest.FixtureRequest, runtime: Runtime, tmp_path: Path) -> Iterator[Runtime]:
    """A runtime whose interpreter is a copy that nobody else runs, so that only its protection protects it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "dockyard-runc"
    shutil.copy(ROOT / "packaging/dockyard-runc", program)
    program.chmod(0o755)
    shutil.copy(Path(sys.executable).resolve(), folder / "interpreter")
    no_mount = "" if request.param == "on a read-only mount" else "import os; os.geteuid = lambda: 1;"
    (folder / "python3").write_text(
        f"#!/bin/sh\ncode=$2; shift 2\n"
        f'exec {folder}/interpreter -Ic "import sys; sys.path.insert(0, {str(ROOT)!r}); '
        f'from dockyard.runtime.startup import stand_ins; stand_ins.install(); {no_mount} $code" "$@"\n'
    )
    (folder / "python3").chmod(0o755)
    usual, runtime.program = runtime.program, program
    try:
        yield runtime
    finally:
        for name in runtime("list", "-q").stdout.split():
            runtime("delete", "--force", name)
        runtime.program = usual
        forget_prepared(program)


def test_a_container_that_catches_the_runtime_cannot_write_to_it(attacked: Runtime) -> None:
    def every_right(config: dict) -> None:  # type: ignore[type-arg]
        names = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_KILL"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
        config["process"]["args"] = ["sh", "-c", ATTACK]
        config["root"]["readonly"] = False

    interpreter = attacked.program.parent / "interpreter"
    before = hashlib.sha256(interpreter.read_bytes()).digest()
    attacked.config(every_right)
    assert attacked("run", "-d", "one").returncode == 0
    result = attacked.bundle / "rootfs/result"
    for _ in range(20):
        attacked("exec", "one", "true")
        if result.exists():
            break
    assert result.exists(), "the attack did not catch the runtime: it proves nothing"
    subprocess.run(["sleep", "1.2"], check=True)
    assert set(result.read_text().split()) == {"caught"}
    assert hashlib.sha256(interpreter.read_bytes()).digest() == before


def test_a_container_whose_program_is_proc_self_exe_runs_nothing_of_ours(runtime: Runtime) -> None:
    runtime.command("/proc/self/exe", "-c", "print(1)")
    done = runtime("run", "one")
    assert "1" not in done.stdout
