"""Lesson 04 as a user types it: the life of a container, through the stock docker client."""

import json
import threading
import time

from tests.engine_process import EngineProcess
from tests.processes import eventually


def test_run_prints_the_output_and_removes_the_container(engine: EngineProcess) -> None:
    assert engine.docker("run", "--rm", "--name", "once", "busybox", "echo", "hi") == "hi\n"
    assert engine.docker("ps", "-aq", "-f", "name=once") == ""


def test_hello_world_greets_on_a_machine_without_images(engine: EngineProcess) -> None:
    done = engine.run_docker("run", "--rm", "hello-world")
    assert done.returncode == 0
    assert b"Hello from Dock" in done.stdout


def test_exit_codes_are_dockers(engine: EngineProcess) -> None:
    assert engine.run_docker("run", "--rm", "busybox", "sh", "-c", "exit 7").returncode == 7
    assert engine.run_docker("run", "--rm", "busybox", "no-such-program").returncode == 127
    assert engine.run_docker("run", "--rm", "busybox", "/etc/passwd").returncode == 126
    assert engine.run_docker("run", "--rm", "no-such-image:nowhere").returncode == 125
    assert engine.run_docker("run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?").returncode == 137


def test_stdin_half_close_ends_cat(engine: EngineProcess) -> None:
    assert engine.docker("run", "-i", "--rm", "busybox", "cat", input=b"to and fro\n") == "to and fro\n"


def test_stdout_and_stderr_stay_apart(engine: EngineProcess) -> None:
    done = engine.run_docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_signals_are_as_a_program_expects_them(engine: EngineProcess) -> None:
    # an ignored SIGPIPE, inherited from the interpreter, kept `yes` going for ever
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", "yes | head -n 1", timeout=60) == "y\n"
    ignored = engine.docker("run", "--rm", "busybox", "grep", "SigIgn", "/proc/self/status").split()[1]
    assert int(ignored, 16) == 0


def test_nothing_of_a_large_output_is_lost(engine: EngineProcess) -> None:
    done = engine.run_docker("run", "--rm", "busybox", "head", "-c", "5000000", "/dev/zero")
    assert len(done.stdout) == 5_000_000


def test_states_from_created_to_exited(engine: EngineProcess) -> None:
    engine.docker("create", "--name", "states", "busybox", "sleep", "1000")
    assert engine.inspect("states")["State"]["Status"] == "created"
    engine.docker("start", "states")
    assert engine.inspect("states")["State"]["Status"] == "running"
    assert "Up" in engine.docker("ps", "-f", "name=states", "--format", "{{.Status}}")
    engine.docker("pause", "states")
    assert engine.inspect("states")["State"]["Status"] == "paused"
    engine.docker("unpause", "states")
    engine.docker("kill", "states")
    assert engine.docker("wait", "states") == "137\n"
    assert "Exited (137)" in engine.docker("ps", "-a", "-f", "name=states", "--format", "{{.Status}}")
    engine.docker("start", "states")
    engine.docker("rm", "-f", "states")
    assert engine.run_docker("inspect", "states").returncode == 1


def test_stop_sends_sigterm_and_then_sigkill_after_the_timeout(engine: EngineProcess) -> None:
    obeying = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    engine.docker("run", "-d", "--name", "obeys", "busybox", "sh", "-c", obeying)
    eventually(lambda: engine.docker("logs", "obeys"))
    engine.docker("stop", "obeys")
    assert engine.inspect("obeys")["State"]["ExitCode"] == 3
    engine.docker("run", "-d", "--name", "ignores", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    begin = time.monotonic()
    engine.docker("stop", "-t", "1", "ignores")
    assert time.monotonic() - begin >= 1
    assert engine.inspect("ignores")["State"]["ExitCode"] == 137
    engine.docker("rm", "obeys", "ignores")


def test_exec_runs_beside_pid_1(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "host-of-execs", "busybox", "sleep", "1000")
    try:
        assert engine.docker("exec", "host-of-execs", "cat", "/proc/1/cmdline") == "sleep\x001000\x00"
        said = engine.docker("exec", "-e", "A=b", "-w", "/tmp", "host-of-execs", "sh", "-c", "echo $A; pwd")
        assert said == "b\n/tmp\n"
        assert engine.docker("exec", "-i", "host-of-execs", "cat", input=b"x" * 100_000) == "x" * 100_000
        assert engine.run_docker("exec", "host-of-execs", "sh", "-c", "exit 9").returncode == 9
        assert engine.run_docker("exec", "host-of-execs", "no-such").returncode in (126, 127)
        processes = engine.docker("exec", "host-of-execs", "ps")
        assert "sleep 1000" in processes
        assert "dockyard" not in processes
    finally:
        engine.docker("rm", "-f", "host-of-execs")


def test_logs_can_be_read_back(engine: EngineProcess) -> None:
    engine.docker("run", "--name", "talks", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; done; echo e >&2")
    done = engine.run_docker("logs", "talks")
    assert (done.stdout, done.stderr) == (b"1\n2\n3\n", b"e\n")
    assert engine.run_docker("logs", "--tail", "2", "talks").stdout == b"3\n"
    assert engine.docker("logs", "-t", "talks").split()[0].endswith("Z")
    engine.docker("rm", "talks")


def test_a_name_is_taken_once(engine: EngineProcess) -> None:
    engine.docker("create", "--name", "mine", "busybox")
    refused = engine.run_docker("create", "--name", "mine", "busybox")
    assert b'The container name "/mine" is already in use' in refused.stderr
    engine.docker("rename", "mine", "yours")
    engine.docker("rm", "yours")


def test_limits_hold(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "bounded", "--cpus=1", "-m=64m", "--pids-limit=100", "busybox", "sleep", "100")
    try:
        pid = engine.inspect("bounded")["State"]["Pid"]
        with open(f"/proc/{pid}/cgroup") as groups:
            lines = dict(line.strip().split(":", 2)[1:] for line in groups)
        if "memory" in lines:
            with open(f"/sys/fs/cgroup/memory{lines['memory']}/memory.limit_in_bytes") as limit:
                assert int(limit.read()) == 64 << 20
            with open(f"/sys/fs/cgroup/pids{lines['pids']}/pids.max") as most:
                assert most.read() == "100\n"
    finally:
        engine.docker("rm", "-f", "bounded")


def test_a_process_over_its_memory_is_killed_and_reported(engine: EngineProcess) -> None:
    greedy = ("sh", "-c", "x=a; while :; do x=$x$x; done")
    done = engine.run_docker("run", "--name", "greedy", "-m=16m", "--memory-swap=16m", "busybox", *greedy)
    assert done.returncode == 137
    assert engine.inspect("greedy")["State"]["OOMKilled"] is True
    engine.docker("rm", "greedy")


def test_cp_both_ways(engine: EngineProcess, tmp_path_factory: object) -> None:
    engine.docker("run", "-d", "--name", "files", "busybox", "sleep", "100")
    try:
        engine.docker("exec", "files", "sh", "-c", "echo inside > /tmp/a")
        source = engine.folder / "b"
        source.write_text("outside\n")
        engine.docker("cp", "files:/tmp/a", str(engine.folder / "a"))
        assert (engine.folder / "a").read_text() == "inside\n"
        engine.docker("cp", str(source), "files:/tmp/")
        assert engine.docker("exec", "files", "cat", "/tmp/b") == "outside\n"
        assert "A /tmp/a" in engine.docker("diff", "files")
    finally:
        engine.docker("rm", "-f", "files")


def test_restart_policy_brings_a_container_back(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "phoenix", "--restart=on-failure:2", "busybox", "sh", "-c", "exit 1")
    deadline = time.monotonic() + 20
    while engine.inspect("phoenix")["RestartCount"] < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert engine.inspect("phoenix")["RestartCount"] == 2
    engine.docker("rm", "-f", "phoenix")


def test_inspect_format_and_ps_format(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "shown", "-l", "a=b", "busybox", "sleep", "100")
    try:
        assert engine.docker("inspect", "-f", "{{.State.Running}} {{.Config.Labels.a}}", "shown") == "true b\n"
        row = json.loads(engine.docker("ps", "-f", "name=shown", "--format", "json"))
        assert row["Names"] == "shown"
        assert row["Image"] == "busybox"
    finally:
        engine.docker("rm", "-f", "shown")


def test_every_exec_ends_with_its_own_code_however_many_there_are(engine: EngineProcess) -> None:
    """The end of the process that made it was taken for its own, and who asked at once was told of none."""
    engine.docker("run", "-d", "--name", "host-of-many", "busybox", "top")
    codes: list[int] = []

    def work(code: int) -> None:
        for _ in range(20):
            codes.append(engine.run_docker("exec", "host-of-many", "sh", "-c", f"exit {code}").returncode - code)

    try:
        workers = [threading.Thread(target=work, args=(code,)) for code in (3, 5, 7, 9, 11, 13)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        engine.docker("rm", "-f", "host-of-many")
    assert codes == [0] * 120


def test_a_program_that_the_kernel_refuses_says_so_in_the_log_and_ends_with_255(engine: EngineProcess) -> None:
    write = "printf '#!/no/such\\n' > /script; echo no program > /text; chmod 755 /script /text; exec sleep 1000"
    engine.docker("run", "-d", "--name", "refusing", "busybox", "sh", "-c", write)
    try:
        eventually(lambda: "/text" in engine.docker("diff", "refusing"))
        engine.docker("commit", "refusing", "refusing")
        for program, words in (("/script", "no such file or directory"), ("/text", "exec format error")):
            done = engine.run_docker("exec", "refusing", program)
            assert (done.returncode, done.stderr) == (255, f"exec {program}: {words}\n".encode())
            done = engine.run_docker("run", "--name", "refused", "refusing", program)
            assert (done.returncode, done.stderr) == (255, f"exec {program}: {words}\n".encode())
            state = engine.inspect("refused")["State"]
            assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 255, "")
            assert engine.run_docker("logs", "refused").stderr == done.stderr
            engine.docker("rm", "refused")
        engine.docker("run", "-d", "--name", "refused", "--restart", "on-failure:2", "refusing", "/text")
        eventually(lambda: engine.inspect("refused")["RestartCount"] == 2)
        engine.docker("rm", "-f", "refused")
    finally:
        engine.docker("rm", "-f", "refusing", "refused", check=False)
        engine.docker("rmi", "refusing", check=False)
