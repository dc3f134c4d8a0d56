"""kill -9 and SIGSTOP of zygote, spare, starter and shims: one container is hit at most, and nothing is left of it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from dockyard.linux import memory_files
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Spec
from dockyard.shim import handover, protocol, supervisor
from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import children_of, descriptors_of, eventually, gone, named, shim_of, state_of, zygote_of


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """SIGSTOP for the time of the block; what has been killed meanwhile is left alone."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if state_of(pid) == "T":
                os.kill(pid, signal.SIGCONT)


def groups_of(container: str, parent: str) -> list[Path]:
    """The container's cgroups that are still there."""
    return [path for top in Path("/sys/fs/cgroup").iterdir() if (path := top / parent / container).is_dir()]


def daemon_of(engine: EngineProcess) -> int:
    assert engine.process is not None
    return engine.process.pid


def spare_of(zygote: int, shims: list[int]) -> int:
    """The shim that waits for a container."""
    return eventually(lambda: [pid for pid in named("dockyard-shim", zygote) if pid not in shims])[0]


def test_a_container_whose_shim_is_killed_ends_with_137_and_leaves_nothing(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sh", "-c", "sleep 60 & sleep 60")
    other = api.run("sleep", "60")
    pid = api.inspect(container)["State"]["Pid"]
    os.kill(shim_of(pid), signal.SIGKILL)
    assert api.wait(container) == 137
    assert eventually(lambda: gone(pid))
    assert eventually(lambda: not groups_of(container, crashing.bridge))
    assert eventually(lambda: not list(Path(crashing.run, "shims").glob(container)))
    assert api.inspect(other)["State"]["Running"]
    api.post(f"/containers/{container}/start")
    assert api.execute(container, "echo", "again") == b"again\n"
    api.remove(container)
    api.remove(other)


def test_a_restart_policy_acts_when_the_shim_is_killed(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sleep", "60", host={"RestartPolicy": {"Name": "always"}})
    pid = api.inspect(container)["State"]["Pid"]
    os.kill(shim_of(pid), signal.SIGKILL)
    assert eventually(lambda: api.inspect(container)["State"]["Pid"] not in (0, pid))
    api.remove(container)


def test_a_killed_zygote_is_replaced(crashing: EngineProcess, api: Api) -> None:
    before = api.run("sleep", "60")
    zygote = zygote_of(daemon_of(crashing))
    os.kill(zygote, signal.SIGKILL)
    assert api.wait(api.run("true", host={"AutoRemove": True})) == 0
    assert api.execute(before, "echo", "well") == b"well\n"
    assert zygote_of(daemon_of(crashing)) != zygote
    api.remove(before)


def test_the_spare_of_a_killed_zygote_goes_with_it(crashing: EngineProcess, api: Api) -> None:
    zygote = zygote_of(daemon_of(crashing))
    spare = spare_of(zygote, [])
    with stopped(spare):
        os.kill(zygote, signal.SIGKILL)
        assert eventually(lambda: gone(spare))
    api.wait(api.run("true", host={"AutoRemove": True}))


def test_a_killed_spare_costs_nothing(crashing: EngineProcess, api: Api) -> None:
    for _ in range(3):
        os.kill(spare_of(zygote_of(daemon_of(crashing)), []), signal.SIGKILL)
        container = api.run("true")
        assert api.wait(container) == 0
        api.remove(container)


@pytest.mark.slow
def test_a_stopped_zygote_holds_nobody_up_but_starts_and_those_not_for_ever(crashing: EngineProcess, api: Api) -> None:
    other = api.run("sleep", "60")
    with stopped(zygote_of(daemon_of(crashing))):
        begun = time.monotonic()
        # one or two are taken by shims that wait already; no more of these come
        starting = [threading.Thread(target=lambda: api.remove(api.run("sleep", "60"))) for _ in range(4)]
        for thread in starting:
            thread.start()
        time.sleep(0.5)
        asked = time.monotonic()
        assert api.execute(other, "echo", "well") == b"well\n"
        assert api.get("/containers/json")
        assert time.monotonic() - asked < 2
        for thread in starting:
            thread.join(25)
            assert not thread.is_alive()
        assert time.monotonic() - begun > 5
    api.remove(other)


@pytest.mark.slow
def test_a_stopped_shim_holds_up_no_request_about_others(crashing: EngineProcess, api: Api) -> None:
    hung, other = api.run("sleep", "60"), api.run("sleep", "60")
    with stopped(shim_of(api.inspect(hung)["State"]["Pid"])):
        pending = threading.Thread(target=lambda: _refused(api, f"/containers/{hung}/pause"))
        pending.start()
        begun = time.monotonic()
        assert len(api.get("/containers/json")) == 2
        api.get("/info")
        assert api.execute(other, "echo", "well") == b"well\n"
        assert api.inspect(hung)["State"]["Running"]
        assert time.monotonic() - begun < 2
        pending.join(20)
        assert not pending.is_alive()
    assert api.execute(hung, "echo", "back") == b"back\n"
    api.remove(hung)
    api.remove(other)


def _refused(api: Api, path: str) -> None:
    with pytest.raises(ApiError) as refusal:
        api.post(path)
    assert refusal.value.status == 503


@pytest.mark.slow
def test_stop_and_removal_end_a_container_whose_shim_is_stopped(crashing: EngineProcess, api: Api) -> None:
    first, second = api.run("sleep", "60"), api.run("sleep", "60")
    pids = [api.inspect(container)["State"]["Pid"] for container in (first, second)]
    with stopped(*(shim_of(pid) for pid in pids)):
        begun = time.monotonic()
        removing = threading.Thread(target=api.remove, args=(second,))
        removing.start()
        api.post(f"/containers/{first}/stop", t=1)
        removing.join(20)
        assert not removing.is_alive()
        assert time.monotonic() - begun < 20
    assert api.inspect(first)["State"]["ExitCode"] == 137
    assert eventually(lambda: all(map(gone, pids)))
    assert not groups_of(second, crashing.bridge)
    api.remove(first)


def test_the_stop_signal_and_the_grace_period_do_not_depend_on_the_shim(crashing: EngineProcess, api: Api) -> None:
    """A machine that is overwhelmed may hold up a shim for longer than that."""
    script = "trap 'sleep 1; echo well > /ended; exit 0' TERM; echo > /ready; while :; do sleep 0.1; done"
    container = api.run("sh", "-c", script)
    assert eventually(lambda: crashing.run_docker("exec", container, "test", "-e", "/ready").returncode == 0)
    pid = api.inspect(container)["State"]["Pid"]
    with stopped(shim_of(pid)):
        stopping = threading.Thread(target=lambda: api.post(f"/containers/{container}/stop", t=25))
        stopping.start()
        assert eventually(lambda: state_of(pid) == "Z")
    stopping.join()
    assert api.inspect(container)["State"]["ExitCode"] == 0
    assert crashing.docker("cp", f"{container}:/ended", "-", timeout=60)
    api.remove(container)


@pytest.mark.slow
def test_daemons_start_and_end_although_a_shim_is_stopped(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sh", "-c", "sleep 3; exit 9")
    with stopped(shim_of(api.inspect(container)["State"]["Pid"])):
        begun = time.monotonic()
        crashing.kill()
        crashing.start()
        assert api.inspect(container)["State"]["Running"]
        crashing.stop()
        crashing.start()
        assert time.monotonic() - begun < 20
        assert api.inspect(container)["State"]["Running"]
    assert api.wait(container) == 9
    api.remove(container)


def test_a_starter_killed_in_mid_start_leaves_nothing_and_the_next_start_works(
    crashing: EngineProcess, api: Api
) -> None:
    container = api.create("sleep", "60")
    zygote = zygote_of(daemon_of(crashing))
    failed: list[str] = []
    for delay in (0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008):
        starters = eventually(lambda: named("dockyard-start", zygote))
        killer = threading.Thread(target=_kill_after, args=(starters, delay))
        killer.start()
        try:
            api.post(f"/containers/{container}/start")
            api.post(f"/containers/{container}/kill")
        except ApiError as error:
            failed.append(str(error))
        killer.join()
        assert eventually(lambda: not groups_of(container, crashing.bridge))
        assert eventually(lambda: not Path(crashing.run, "runtime", container).exists())
    assert not [message for message in failed if "starter" not in message and "is not running" not in message]
    api.post(f"/containers/{container}/start")
    api.remove(container)


def _kill_after(pids: list[int], delay: float) -> None:
    time.sleep(delay)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_start_that_is_passed_on_to_a_starter_of_its_own_leaves_nothing_when_that_is_killed(
    crashing: EngineProcess, api: Api
) -> None:
    container = api.create("sleep", "60", host={"PidMode": "host"})
    zygote = zygote_of(daemon_of(crashing))
    told: list[str] = []
    for _ in range(20):
        shim = spare_of(zygote, [])
        killer = threading.Thread(target=_kill_starter_of, args=(shim,))
        killer.start()
        try:
            api.post(f"/containers/{container}/start")
            api.post(f"/containers/{container}/kill")
        except ApiError as error:
            told.append(str(error))
        killer.join()
        assert eventually(lambda: not groups_of(container, crashing.bridge))
        assert eventually(lambda: not Path(crashing.run, "runtime", container).exists())
    # killed after its last word to the daemon, the container has started and ends at once
    assert any("starter" in message for message in told)
    assert not [message for message in told if "starter" not in message and "is not running" not in message]
    api.post(f"/containers/{container}/start")
    api.remove(container)


def _kill_starter_of(shim: int) -> None:
    """Kill the child that the shim forks besides its spare process, as soon as it is there."""
    before = set(children_of(shim))
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        for pid in sorted(set(_children(shim)) - before):  # what it forks itself comes later
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # it has just gone
        return []


def test_starters_serve_on_and_keep_nothing_open(crashing: EngineProcess, api: Api) -> None:
    container = api.create("true")
    zygote = zygote_of(daemon_of(crashing))

    def start() -> None:
        api.post(f"/containers/{container}/start")
        api.wait(container)

    for _ in range(3):
        start()
    starters = named("dockyard-start", zygote)
    opened = [descriptors_of(pid) for pid in starters]
    for _ in range(20):
        start()
    assert set(starters) <= set(named("dockyard-start", zygote))
    assert [descriptors_of(pid) for pid in starters] == opened
    assert {os.readlink(f"/proc/{pid}/cwd") for pid in starters} == {"/"}
    api.remove(container)


def test_a_start_that_fails_ends_its_starter_and_no_other_start(crashing: EngineProcess, api: Api) -> None:
    good, bad = api.create("true"), api.create("/no/such/program")
    for _ in range(5):
        with pytest.raises(ApiError) as refusal:
            api.post(f"/containers/{bad}/start")
        assert "no such file or directory" in str(refusal.value)
        api.post(f"/containers/{good}/start")
        assert api.wait(good) == 0
    api.remove(good)
    api.remove(bad)


def test_many_starts_at_once_leave_two_starters(crashing: EngineProcess, api: Api) -> None:
    containers = [api.create("sleep", "60") for _ in range(12)]
    threads = [threading.Thread(target=api.post, args=(f"/containers/{name}/start",)) for name in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(api.inspect(name)["State"]["Running"] for name in containers)
    zygote = zygote_of(daemon_of(crashing))
    assert eventually(lambda: len(named("dockyard-start", zygote)) <= 2)
    for name in containers:
        api.remove(name)


def test_an_exec_that_is_stuck_in_a_frozen_container_leaves_the_shim_free(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sleep", "60")
    body = {"AttachStdout": True, "Cmd": ["echo", "late"]}
    exec_id = api.post(f"/containers/{container}/exec", body)["Id"]
    api.post(f"/containers/{container}/pause")
    with pytest.raises(ApiError):
        api.post(f"/exec/{exec_id}/start", {"Detach": True})
    api.post(f"/containers/{container}/unpause")
    assert api.execute(container, "echo", "well") == b"well\n"
    api.remove(container)


def test_a_client_that_never_reads_keeps_neither_the_container_nor_its_next_start(
    crashing: EngineProcess, api: Api
) -> None:
    container = api.create("sh", "-c", "head -c 900000 /dev/zero; exit 3")
    with api.attach(container, stdin=False):
        api.post(f"/containers/{container}/start")
        assert api.wait(container) == 3
        api.post(f"/containers/{container}/start")
        assert api.wait(container) == 3
    api.remove(container)
    zygote = zygote_of(daemon_of(crashing))
    assert eventually(lambda: len(named("dockyard-shim", zygote)) <= 1)


def test_the_daemons_output_ends_with_it_though_shims_live_on(crashing: EngineProcess, api: Api) -> None:
    crashing.kill()
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "dockyard.daemon", *crashing.arguments], stdout=writer, stderr=writer
    )
    os.close(writer)
    crashing.process = process
    eventually(lambda: _answers(api))
    container = api.run("sleep", "60")
    process.kill()
    process.wait()
    done = threading.Thread(target=_read_to_the_end, args=(reader,))
    done.start()
    done.join(5)
    assert not done.is_alive()
    os.close(reader)
    crashing.start()
    api.remove(container)


def _read_to_the_end(fd: int) -> None:
    while os.read(fd, 1 << 16):
        pass


def _answers(api: Api) -> bool:
    try:
        api.get("/_ping")
        return True
    except OSError:
        return False


def _order(tmp_path: Path) -> protocol.Start:
    return protocol.Start(
        seq=1, container_id="half", directory=str(tmp_path / "shim"), state_root=str(tmp_path), bundle=str(tmp_path),
        filtered=False, terminal=False, open_stdin=False, stdin_once=False,
        log=protocol.LogOptions("none", "", 0, 0, {}), attachments=[], init=False, console_size=None,
    )  # fmt: skip


def _fork_shim(shim: socket.socket, live: Callable[[handover.Left], None]) -> int:
    """A process that does what a shim does with what a starter has left; its PID."""
    pid = os.fork()
    if pid == 0:
        try:
            left = handover.Left()
            left.take(shim)
            live(left)
        finally:
            os._exit(0)
    return pid


@pytest.mark.parametrize("told", [False, True])
def test_a_shim_tells_of_a_start_that_its_starter_was_killed_before_telling(tmp_path: Path, told: bool) -> None:
    (tmp_path / "shim").mkdir()
    shim, starter = handover.pair()
    daemon, theirs = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "shim" / "shim.sock"))
    listener.listen()
    spec = memory_files.hold("spec", runtime_spec.encode(Spec()))
    handover.put_order(starter, msgspec.msgpack.encode(_order(tmp_path)), spec, theirs)
    with subprocess.Popen(["sleep", "60"]) as container, daemon, theirs, listener:
        pidfd = os.pidfd_open(container.pid)
        held = handover.Held(container.pid, "", False, [])
        handover.put_container(starter, held, [pidfd, listener.fileno()])
        handover.put_outcome(starter, handover.RUNS)
        if told:
            handover.put_outcome(starter, handover.TOLD)
        starter.close()
        pid = _fork_shim(shim, supervisor.run)
        try:
            daemon.settimeout(0.5 if told else 10)
            inbox = protocol.Inbox()
            with suppress(TimeoutError):
                inbox.feed(daemon.recv(1 << 12))
            frame = inbox.frame()
            assert (frame is None) is told
            if frame is not None:
                reply = msgspec.msgpack.decode(frame[0], type=protocol.Reply)
                assert (reply.seq, reply.pid, reply.failure) == (1, container.pid, None)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            container.kill()
            os.close(pidfd)
            os.close(spec)
            shim.close()


def test_a_record_that_a_killed_starter_was_writing_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for name in ("spec.json", "state.json.new"):  # and no state.json yet
        (tmp_path / "half" / name).write_text("{}")
    shim, starter = handover.pair()
    daemon, theirs = socket.socketpair()
    spec = memory_files.hold("spec", runtime_spec.encode(Spec()))
    handover.put_order(starter, msgspec.msgpack.encode(_order(tmp_path)), spec, theirs)
    starter.close()
    os.waitpid(_fork_shim(shim, supervisor.clear_up), 0)  # a fork: it takes its caller's children away
    os.close(spec)
    with shim, daemon, theirs:
        assert b"ended unexpectedly" in daemon.recv(4096)
    assert not (tmp_path / "half").exists()
