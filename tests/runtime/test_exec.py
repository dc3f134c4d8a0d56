"""Further processes in a container."""

import json
import re
from pathlib import Path
from typing import Any

from tests.processes import cgroup_beside_ours, eventually
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


def test_a_process_json_says_who_runs_what(runtime: Runtime, tmp_path: Path) -> None:
    runtime.started("one")
    process = {"user": {"uid": 1000, "gid": 0}, "args": ["sh", "-c", "id -u; pwd"], "cwd": "/tmp"}
    (tmp_path / "process.json").write_text(json.dumps({**process, "env": ["PATH=/bin"]}))
    assert runtime("exec", "-p", str(tmp_path / "process.json"), "one").stdout == "1000\n/tmp\n"
    (tmp_path / "process.json").write_text(json.dumps({**process, "cwd": "tmp"}))
    assert "Cwd must be an absolute path" in runtime("exec", "-p", str(tmp_path / "process.json"), "one").stderr


RESTRICTED = {
    "capabilities": {
        name: ["CAP_CHOWN", "CAP_KILL"] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    },
    "noNewPrivileges": True,
    "oomScoreAdj": 333,
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
    "scheduler": {"policy": "SCHED_BATCH", "nice": 7},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
    "user": {"uid": 0, "gid": 0, "umask": 0o027},
}
SHOW = (
    "grep -E '^(Cap|NoNew|Seccomp:|Umask)' /proc/self/status; cat /proc/self/oom_score_adj; ionice -p $$;"
    " cut -d' ' -f19,41 /proc/$$/stat; ulimit -Sn; ulimit -Hn; mkdir /tmp/d 2>&1"
)


def _restricted(config: dict[str, Any]) -> None:
    config["process"].update(RESTRICTED, args=["sh", "-c", f"({SHOW}) > /tmp/own; sleep 1000"])
    config["root"]["readonly"] = False
    syscalls = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls}


def _shown(runtime: Runtime, process: dict[str, Any]) -> str:
    everything = {"cwd": "/", "args": ["sh", "-c", SHOW], "env": ["PATH=/bin"], **process}
    (runtime.bundle / "process.json").write_text(json.dumps(everything))
    done = runtime("exec", "--process", "process.json", "one")
    assert done.returncode == 1, done.stderr  # mkdir's
    # the process's own number
    return re.sub(r"pid \d+", "pid", done.stdout)


def test_what_a_process_json_leaves_out_is_the_containers(runtime: Runtime) -> None:
    runtime.config(_restricted)
    assert runtime("run", "-d", "one").returncode == 0
    own = runtime.bundle / "rootfs/tmp/own"
    eventually(lambda: own.exists() and "mkdir" in own.read_text())
    containers = re.sub(r"pid \d+", "pid", own.read_text())
    assert "CapEff:\t0000000000000021" in containers
    assert "Umask:\t0027" in containers
    assert "\n7 3\n100\n200\n" in containers
    assert _shown(runtime, {}) == containers
    assert _shown(runtime, {"user": {"uid": 0, "gid": 0}}) == containers


def test_where_further_processes_run_is_the_containers_to_say(runtime: Runtime) -> None:
    runtime.started("one", execCPUAffinity={"final": "1"})
    process = {"cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "env": ["PATH=/bin"]}
    (runtime.bundle / "process.json").write_text(json.dumps(process))
    assert runtime("exec", "--process", "process.json", "one").stdout.split() == ["Cpus_allowed_list:", "1"]


def test_what_a_process_json_says_is_not_the_containers(runtime: Runtime) -> None:
    runtime.config(_restricted)
    assert runtime("run", "-d", "one").returncode == 0
    sets = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}
    said = {
        "capabilities": sets,
        "noNewPrivileges": False,
        "oomScoreAdj": 444,
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 3},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}],
        "user": {"uid": 0, "gid": 0, "umask": 0o077},
    }
    shown = _shown(runtime, said)
    for part in ("CapBnd:\t0000000000000001", "CapAmb:\t0000000000000000", "NoNewPrivs:\t0", "Umask:\t0077", "\n444\n",
                 "idle", "\n3 0\n50\n60\n", "Seccomp:\t2"):  # fmt: skip
        assert part in shown


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
