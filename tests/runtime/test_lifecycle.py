"""A container's life through the command line."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import eventually
from tests.runtime.conftest import Runtime


def test_a_container_is_created_then_running_then_stopped_then_gone(runtime: Runtime) -> None:
    runtime.command("sleep", "1000")
    assert runtime("create", "one").returncode == 0
    assert runtime.status("one") == "created"
    assert runtime("start", "one").returncode == 0
    assert runtime.status("one") == "running"
    assert runtime("kill", "one", "KILL").returncode == 0
    eventually(lambda: runtime.status("one") == "stopped")
    assert runtime("delete", "one").returncode == 0
    assert "container does not exist" in runtime("state", "one").stderr
    assert not (runtime.state / "one").exists()


def test_state_is_that_of_the_specification(runtime: Runtime) -> None:
    runtime.config(lambda config: config.update(annotations={"a.b": "c"}))
    runtime.command("sleep", "1000")
    config = json.loads((runtime.bundle / "config.json").read_text())
    config["annotations"] = {"a.b": "c"}
    (runtime.bundle / "config.json").write_text(json.dumps(config))
    assert runtime("run", "-d", "one").returncode == 0
    state = json.loads(runtime("state", "one").stdout)
    assert state["ociVersion"].startswith("1.")
    assert state["bundle"] == str(runtime.bundle)
    assert state["rootfs"] == str(runtime.bundle / "rootfs")
    assert state["annotations"] == {"a.b": "c"}
    assert Path(f"/proc/{state['pid']}/cmdline").read_bytes() == b"sleep\x001000\x00"


def test_start_starts_only_once_and_only_what_lives(runtime: Runtime) -> None:
    runtime.command("sleep", "1000")
    runtime("create", "one")
    runtime("start", "one")
    assert "cannot start an already running container" in runtime("start", "one").stderr
    runtime("kill", "one", "KILL")
    eventually(lambda: runtime.status("one") == "stopped")
    assert "cannot start a container that has stopped" in runtime("start", "one").stderr


def test_a_name_is_taken_once(runtime: Runtime) -> None:
    runtime.started("one")
    second = runtime("run", "one")
    assert second.returncode == 1
    assert "container with given ID already exists" in second.stderr
    assert runtime.status("one") == "running"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü"])
def test_a_name_that_could_lead_elsewhere_is_refused(runtime: Runtime, name: str) -> None:
    runtime.command("true")
    done = runtime("run", name)
    assert done.returncode == 1
    assert "container id" in done.stderr


def test_a_program_that_is_not_there_fails_create(runtime: Runtime) -> None:
    runtime.command("no-such-program")
    done = runtime("create", "one")
    assert done.returncode == 1
    assert r"exec: \"no-such-program\": executable file not found in $PATH" in done.stderr
    assert runtime("list", "-q").stdout == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [("#!/no/such/interpreter\n", "no such file or directory"), ("no program\n", "exec format error")],
)
def test_a_program_that_the_kernel_refuses_says_so_itself_and_ends_with_255(
    runtime: Runtime, content: str, words: str
) -> None:
    script = runtime.bundle / "rootfs/script"
    script.write_text(content)
    script.chmod(0o755)
    runtime.command("/script")
    done = runtime("run", "one")
    assert (done.returncode, done.stderr) == (255, f"exec /script: {words}\n")
    assert runtime("create", "two").returncode == 0
    assert runtime("start", "two").returncode == 0
    eventually(lambda: runtime.status("two") == "stopped")
    runtime("delete", "two")
    runtime.command("sleep", "1000")
    assert runtime("run", "-d", "three").returncode == 0
    done = runtime("exec", "three", "/script")
    assert (done.returncode, done.stderr) == (255, f"exec /script: {words}\n")


def test_a_start_that_is_killed_leaves_the_container_to_the_next(runtime: Runtime) -> None:
    runtime.command("sleep", "1000")
    runtime("create", "one")
    for _ in range(5):
        starting = subprocess.Popen([runtime.program, "--root", runtime.state, "start", "one"])
        time.sleep(0.004)
        starting.kill()
        starting.wait()
    if runtime.status("one") == "created":
        assert runtime("start", "one").returncode == 0
    assert runtime.status("one") == "running"


def test_run_passes_streams_and_the_exit_status(runtime: Runtime) -> None:
    runtime.command("sh", "-c", "cat; echo to stderr >&2; exit 7")
    done = runtime("run", "one", input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n", "to stderr\n")
    assert runtime("list", "-q").stdout == ""


def test_run_passes_much_output_whole(runtime: Runtime) -> None:
    runtime.command("sh", "-c", "seq 200000")
    assert runtime("run", "one").stdout == "".join(f"{number}\n" for number in range(1, 200001))


def test_run_tells_a_death_by_signal_as_a_shell_does(runtime: Runtime) -> None:
    runtime.command("sh", "-c", "ulimit -c 0; kill -ABRT 0; kill -SEGV $$; sh -c 'kill -KILL $$'")
    runtime.started("one")
    program = subprocess.Popen(
        [runtime.program, "--root", runtime.state, "exec", "one", "sh", "-c", "ulimit -c 0; kill -SEGV $$"]
    )
    assert program.wait(20) == 128 + signal.SIGSEGV


def test_run_forwards_signals(runtime: Runtime) -> None:
    runtime.command("sh", "-c", 'trap "echo got it; exit 3" USR1; echo ready; while :; do sleep 0.05; done')
    running = subprocess.Popen(
        [runtime.program, "--root", runtime.state, "run", "one"],
        cwd=runtime.bundle, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGUSR1)
    assert running.stdout.read() == "got it\n"
    assert running.wait(20) == 3


def test_run_reaps_what_its_container_leaves_behind(runtime: Runtime) -> None:
    """Without a PID namespace of its own the orphans of a container come to the runtime."""

    def no_pids(config: dict) -> None:  # type: ignore[type-arg]
        config["linux"]["namespaces"] = [kind for kind in config["linux"]["namespaces"] if kind["type"] != "pid"]
        config["process"]["args"] = ["sh", "-c", "(sleep 0.05 & sleep 0.1 &) ; exec sleep 0.5"]

    runtime.config(no_pids)
    running = subprocess.Popen([runtime.program, "--root", runtime.state, "run", "one"], cwd=runtime.bundle)
    time.sleep(0.45)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    zombies = [pid for pid in children if ") Z" in Path(f"/proc/{pid}/stat").read_text()]
    assert running.wait(20) == 0
    assert zombies == []


def test_keep_keeps_the_container(runtime: Runtime) -> None:
    runtime.command("true")
    assert runtime("run", "--keep", "one").returncode == 0
    assert runtime.status("one") == "stopped"
    assert runtime("delete", "one").returncode == 0


def test_delete_refuses_a_running_container_unless_forced(runtime: Runtime) -> None:
    runtime.started("one")
    done = runtime("delete", "one")
    assert done.returncode == 1
    assert "cannot delete container one that is not stopped: running" in done.stderr
    assert runtime("delete", "--force", "one").returncode == 0
    assert runtime("list", "-q").stdout == ""


def test_force_has_nothing_against_a_container_that_is_not_there(runtime: Runtime) -> None:
    assert runtime("delete", "--force", "nobody").returncode == 0
    assert runtime("delete", "nobody").returncode == 1


def test_delete_takes_the_cgroup_away(runtime: Runtime) -> None:
    runtime.started("one")
    pid = json.loads(runtime("state", "one").stdout)["pid"]
    rows = [row.split(":", 2) for row in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    made = [(controllers, path) for _, controllers, path in rows if path.endswith(f"/{runtime.cgroup}")]
    assert made
    runtime("delete", "-f", "one")
    assert not [path for controllers, path in made if Path(f"/sys/fs/cgroup/{controllers}{path}").exists()]


def test_sigkill_ends_every_process_where_the_pid_namespace_is_the_hosts(runtime: Runtime) -> None:
    def no_pids(config: dict) -> None:  # type: ignore[type-arg]
        config["linux"]["namespaces"] = [kind for kind in config["linux"]["namespaces"] if kind["type"] != "pid"]
        config["process"]["args"] = ["sh", "-c", "sleep 1001 & exec sleep 1002"]

    runtime.config(no_pids)
    assert runtime("run", "-d", "one").returncode == 0
    pids = json.loads(runtime("ps", "-f", "json", "one").stdout)
    assert len(pids) == 2
    assert runtime("kill", "one", "KILL").returncode == 0
    eventually(lambda: runtime("ps", "-f", "json", "one").stdout.strip() == "[]")


def test_kill_knows_names_and_numbers(runtime: Runtime) -> None:
    runtime.started("one", "sh", "-c", "trap 'exit 0' TERM; trap : USR1; while :; do sleep 0.05; done")
    for signo in ("0", "USR1", "sigusr1", "SIGUSR1", str(int(signal.SIGUSR1))):
        assert runtime("kill", "one", signo).returncode == 0, signo
    assert r"unknown signal \"NOPE\"" in runtime("kill", "one", "NOPE").stderr
    assert runtime("kill", "one").returncode == 0  # TERM
    eventually(lambda: runtime.status("one") == "stopped")
    assert "container not running" in runtime("kill", "one").stderr
    assert runtime("kill", "--all", "one", "0").returncode == 0


def test_a_paused_container_runs_on_when_resumed(runtime: Runtime) -> None:
    runtime.started("one")
    assert runtime("pause", "one").returncode == 0
    assert runtime.status("one") == "paused"
    done = runtime("exec", "one", "true")
    assert done.returncode == 255
    assert "cannot exec in a paused container" in done.stderr
    assert runtime("resume", "one").returncode == 0
    assert runtime("exec", "one", "true").returncode == 0


def test_the_pid_file_has_the_pid(runtime: Runtime) -> None:
    runtime.command("sleep", "1000")
    assert runtime("create", "--pid-file", "pid", "one").returncode == 0
    assert int((runtime.bundle / "pid").read_text()) == json.loads(runtime("state", "one").stdout)["pid"]


def test_what_the_caller_left_open_is_not_open_in_a_container_that_waits(runtime: Runtime) -> None:
    runtime.command("sleep", "1000")
    secret = os.open("/etc/passwd", os.O_RDONLY)
    assert runtime("create", "one", pass_fds=(secret,)).returncode == 0
    os.close(secret)
    pid = json.loads(runtime("state", "one").stdout)["pid"]
    targets = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if int(entry.name) > 2}
    paths = [target for target in targets if target.startswith("/") and not target.startswith("/proc")]
    assert {os.path.relpath(path, runtime.state / "one") for path in paths} <= {
        "go/exec.fifo",
        "done/exec.fifo",
        "answer",
    }


def test_preserved_descriptors_are_open_in_the_program_and_no_others(runtime: Runtime) -> None:
    runtime.command("sh", "-c", "cat <&3; ls /proc/self/fd | wc -l")
    (runtime.bundle / "handed").write_text("handed over\n")
    runtime.program, usual = runtime.bundle / "with-3-and-7-open", runtime.program
    runtime.program.write_text(f'#!/bin/sh\nexec 3<handed 7<handed\nexec {usual} "$@"\n')
    runtime.program.chmod(0o755)
    done = runtime("run", "--preserve-fds", "1", "one")
    # 0, 1, 2, 3 and the one that ls reads the directory with
    assert done.stdout == "handed over\n5\n"
    missing = runtime("run", "--preserve-fds", "2", "two")
    assert "unable to stat preserved-fd 1 (of 2): bad file descriptor" in missing.stderr
    runtime.program = usual


def test_a_container_runs_on_every_processor_whatever_the_caller_is_bound_to(runtime: Runtime) -> None:
    everywhere = len(os.sched_getaffinity(0))
    runtime.command("grep", "Cpus_allowed:", "/proc/self/status")
    bound = runtime.bundle / "bound"
    bound.write_text(f'#!/bin/sh\nexec taskset -c 0 {runtime.program} "$@"\n')
    bound.chmod(0o755)
    runtime.program, usual = bound, runtime.program
    said = runtime("run", "one").stdout
    runtime.program = usual
    assert int(said.split()[1].replace(",", ""), 16).bit_count() == everywhere


def test_a_container_that_waits_can_be_ended(runtime: Runtime) -> None:
    runtime.command("sleep", "1000")
    runtime("create", "one")
    assert runtime("kill", "one", "TERM").returncode == 0
    eventually(lambda: runtime.status("one") == "stopped")
    assert runtime("delete", "one").returncode == 0


def test_a_failing_poststop_hook_is_a_warning(runtime: Runtime) -> None:
    def hooked(config: dict[str, Any]) -> None:
        config["process"]["args"] = ["true"]
        config["hooks"] = {"poststop": [{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", "exit 7"]}]}

    runtime.config(hooked)
    for words in (("run", "one"), ("run", "--keep", "two")):
        done = runtime(*words)
        assert done.returncode == 0
        if "--keep" in words:
            done = runtime("delete", "two")
            assert done.returncode == 0
        assert "level=warning" in done.stderr
        assert "error running poststop hook #1: exit status 7" in done.stderr


@pytest.mark.parametrize("by_shell", [True, False])
def test_of_many_starts_at_once_one_starts_it(runtime: Runtime, by_shell: bool) -> None:
    runtime.command("sleep", "1000")
    assert runtime("create", "contended").returncode == 0
    flags = ["--root", str(runtime.state)] if by_shell else ["--debug", "--root", str(runtime.state)]
    starts = [
        subprocess.Popen([runtime.program, *flags, "start", "contended"], stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    said = [start.communicate(timeout=30)[1] for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 1, 1, 1, 1], said
    refused = [words for start, words in zip(starts, said, strict=True) if start.returncode]
    assert all("cannot start an already running container" in words for words in refused)
    assert runtime.status("contended") == "running"


def test_the_one_whose_start_fails_hears_of_it(runtime: Runtime) -> None:
    runtime.config(lambda config: config.update(hooks={"startContainer": [{"path": "/bin/false"}]}))
    assert runtime("create", "failing").returncode == 0
    starts = [
        subprocess.Popen(
            [runtime.program, "--root", str(runtime.state), "start", "failing"], stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [start.communicate(timeout=30)[1] for start in starts]
    assert all(start.returncode for start in starts)
    assert sum("startContainer hook" in words for words in said) == 1
