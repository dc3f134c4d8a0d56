"""The launcher's shell does the usual start and delete by itself, and nothing that is not usual."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.processes import cgroup_beside_ours, eventually
from tests.runtime.conftest import Runtime, version_1


@pytest.fixture
def shell(runtime: Runtime, tmp_path: Path) -> Runtime:
    """A launcher without an interpreter: what it can't do by itself fails with 99."""
    for name in ("two", "one"):
        runtime.command("sleep", "1000")
        assert runtime("create", name).returncode == 0
    program = tmp_path / "dockyard-runc"
    program.write_text(runtime.program.read_text().replace('at_once "$@" && exit', 'at_once "$@" && exit; exit 99'))
    program.chmod(0o755)
    return Runtime(program, runtime.state, runtime.bundle)


def end(runtime: Runtime, name: str) -> None:
    runtime("kill", name, "KILL")
    eventually(lambda: runtime.status(name) == "stopped")


def test_it_starts_and_deletes(runtime: Runtime, shell: Runtime) -> None:
    assert shell("start", "one").returncode == 0
    pid = json.loads(runtime("state", "one").stdout)["pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert runtime.status("one") == "running"
    assert shell("delete", "one").returncode == 99  # it runs
    assert shell("delete", "--force", "one").returncode == 99
    end(runtime, "one")
    assert shell("delete", "one").returncode == 0
    assert runtime("list", "-q").stdout == "two\n"
    assert not cgroup_beside_ours("pids", runtime.cgroup).exists()
    assert not cgroup_beside_ours("memory", runtime.cgroup).exists()


def test_what_engines_put_before_the_command_is_understood(runtime: Runtime, shell: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    before = ("--log", str(log), "--log-format", "json", "--systemd-cgroup")
    assert shell(*before, "start", "one").returncode == 0
    assert log.read_text() == ""
    end(runtime, "one")
    assert shell(f"--log={log}", "--log-format=json", "delete", "--force", "one").returncode == 0


def test_it_starts_nothing_twice(runtime: Runtime, shell: Runtime) -> None:
    assert shell("start", "one").returncode == 0
    assert shell("start", "one").returncode == 99
    assert runtime("start", "two").returncode == 0
    assert shell("start", "two").returncode == 99


def test_it_leaves_what_is_frozen_or_dead_to_others(runtime: Runtime, shell: Runtime) -> None:
    runtime("pause", "one")
    assert shell("start", "one").returncode == 99
    runtime("resume", "one")
    end(runtime, "two")
    assert shell("start", "two").returncode == 99


@version_1
def test_it_leaves_a_container_with_hooks_or_processes_left_to_others(runtime: Runtime, shell: Runtime) -> None:
    cgroup = cgroup_beside_ours("pids", runtime.cgroup)
    runtime.config(
        lambda config: config.update(
            hooks={"poststart": [{"path": "/bin/true"}]}, process={**config["process"], "args": ["sleep", "1000"]}
        )
    )
    runtime("create", "hooked")
    assert shell("start", "hooked").returncode == 99
    runtime("start", "one")
    left = subprocess.Popen(["sleep", "1000"])
    (cgroup / "cgroup.procs").write_text(str(left.pid))
    end(runtime, "one")
    try:
        assert shell("delete", "one").returncode == 99
    finally:
        (cgroup_beside_ours("pids", "") / "cgroup.procs").write_text(str(left.pid))
        left.kill()
        left.wait()
    assert runtime("delete", "one").returncode == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/../one", "one two", "*", "-f", "$(reboot)"])
def test_a_name_that_is_none_is_for_others(shell: Runtime, name: str) -> None:
    assert shell("start", name).returncode == 99
    assert shell("delete", name).returncode == 99
    assert shell("start", "one").returncode == 0


def test_other_commands_and_flags_are_for_others(shell: Runtime) -> None:
    for words in (["list"], ["kill", "one"], ["start"], ["start", "--help"], ["--debug", "start", "one"], ["delete"]):
        assert shell(*words).returncode == 99, words


def test_a_pid_that_is_anothers_by_now_is_not_the_containers(runtime: Runtime, shell: Runtime) -> None:
    end(runtime, "one")
    plain = shell.state / "one/plain"
    mine = subprocess.Popen(["sleep", "1000"])
    try:
        first, *rest = plain.read_text().splitlines()
        plain.write_text("\n".join([f"{mine.pid} {first.split()[1]}", *rest]) + "\n")
        assert shell("start", "one").returncode == 99
        assert shell("delete", "one").returncode == 0
    finally:
        mine.kill()
        mine.wait()


def test_a_program_that_can_not_run_is_told_by_the_interpreter(runtime: Runtime) -> None:
    runtime.config(lambda config: config.update(hooks={"startContainer": [{"path": "/bin/false"}]}))
    assert runtime("create", "bad").returncode == 0
    done = runtime("start", "bad")
    assert done.returncode == 1
    assert "startContainer hook" in done.stderr
