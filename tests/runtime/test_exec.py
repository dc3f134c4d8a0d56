"""Further processes in a container."""

import json
from pathlib import Path

from tests.processes import cgroup_beside_ours
from tests.runtime.conftest import Runtime, version_1


def test_streams_and_the_exit_status_are_passed(runtime: Runtime) -> None:
    runtime.started("one")
    done = runtime("exec", "one", "sh", "-c", "cat; exit 9", input="typed\n")
    assert (done.returncode, done.stdout) == (9, "typed\n")


def test_what_looks_like_a_flag_after_the_name_belongs_to_the_command(runtime: Runtime) -> None:
    runtime.started("one")
    assert runtime("exec", "one", "echo", "-e", "--cwd").stdout == "--cwd\n"


def test_flags_change_the_process_of_the_config(runtime: Runtime) -> None:
    runtime.started("one")
    done = runtime(
        "exec", "--cwd", "/tmp", "-e", "A=b", "--env=C=d", "--user", "1000:1000", "-g", "7", "-g", "8",
        "one", "sh", "-c", "pwd; echo $A$C; id -u; id -G",
    )  # fmt: skip
    assert done.stdout == "/tmp\nbd\n1000\n1000 7 8\n", done.stderr


def test_a_capability_may_be_added(runtime: Runtime) -> None:
    runtime.started("one")
    show = ("exec", "one", "grep", "CapEff", "/proc/self/status")
    without = int(runtime(*show).stdout.split()[1], 16)
    added = int(runtime("exec", "--cap", "CAP_SYS_TIME", *show[1:]).stdout.split()[1], 16)
    assert added == without | 1 << 25


def test_a_process_json_says_everything(runtime: Runtime, tmp_path: Path) -> None:
    runtime.started("one")
    process = {"user": {"uid": 1000, "gid": 0}, "args": ["sh", "-c", "id -u; pwd"], "cwd": "/tmp"}
    (tmp_path / "process.json").write_text(json.dumps({**process, "env": ["PATH=/bin"]}))
    assert runtime("exec", "-p", str(tmp_path / "process.json"), "one").stdout == "1000\n/tmp\n"
    (tmp_path / "process.json").write_text(json.dumps({**process, "cwd": "tmp"}))
    assert "Cwd must be an absolute path" in runtime("exec", "-p", str(tmp_path / "process.json"), "one").stderr


def test_a_detached_process_is_told_by_its_pid_file(runtime: Runtime) -> None:
    runtime.started("one")
    assert runtime("exec", "-d", "--pid-file", "pid", "one", "sleep", "999").returncode == 0
    pid = (runtime.bundle / "pid").read_text()
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00999\x00"
    assert int(pid) in json.loads(runtime("ps", "--format", "json", "one").stdout)


def test_failures_end_with_255_and_say_why(runtime: Runtime) -> None:
    runtime.started("one")
    for words, why in (
        (("one",), "exec args cannot be empty"),
        (("one", "no-such-program"), "executable file not found in $PATH"),
        (("--user", "x", "one", "true"), "bad uid"),
        (("--cgroup", "..", "one", "true"), "is not a sub cgroup path"),
        (("--cgroup", "nope:/", "one", "true"), "unknown controller nope"),
        (("nobody", "true"), "container does not exist"),
    ):
        done = runtime("exec", *words)
        assert done.returncode == 255, words
        assert "exec failed: " in done.stderr
        assert why in done.stderr


@version_1
def test_a_process_may_join_a_cgroup_below_the_containers(runtime: Runtime) -> None:
    runtime.started("one")
    below = [cgroup_beside_ours(name, runtime.cgroup) / "below" for name in ("pids", "memory")]
    for directory in below:
        directory.mkdir()
    try:
        done = runtime("exec", "--cgroup", "pids,memory:below", "one", "cat", "/proc/self/cgroup")
        rows = dict(row.split(":")[1:] for row in done.stdout.splitlines())
        assert rows["pids"].endswith(f"/{runtime.cgroup}/below")
        assert rows["memory"].endswith(f"/{runtime.cgroup}/below")
        assert rows["freezer"].endswith(f"/{runtime.cgroup}")
    finally:
        for directory in below:
            directory.rmdir()
