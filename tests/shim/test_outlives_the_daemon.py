"""What a shim does while no daemon lives, and what the next daemon can do with it."""

import os
import select
import signal
import threading
import time

from tests.api_client import Api, unframed
from tests.engine_process import EngineProcess
from tests.processes import eventually, gone, shim_of


def test_logs_go_on_without_a_daemon(crashing: EngineProcess, api: Api) -> None:
    counting = "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.02; done; exec sleep 60"
    container = api.run("sh", "-c", counting)
    crashing.kill()
    time.sleep(1.2)
    crashing.start()
    assert [int(line) for line in api.logs(container).split()] == list(range(40))
    api.remove(container)


def test_an_exit_without_a_daemon_is_reported_with_its_code_and_time(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sh", "-c", "sleep 0.3; exit 7")
    crashing.kill()
    time.sleep(1.5)
    back = time.time()
    crashing.start()
    state = api.inspect(container)["State"]
    assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 7, False)
    finished = time.mktime(time.strptime(state["FinishedAt"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert finished < back - 0.5
    api.remove(container)


def test_attached_clients_do_not_notice_that_the_daemon_dies(crashing: EngineProcess, api: Api) -> None:
    container = api.create("cat", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    with api.attach(container) as client:
        api.post(f"/containers/{container}/start")
        client.write(b"before\n")
        assert b"before" in client.read_until(b"before\n")
        crashing.kill()
        client.write(b"between\n")
        assert b"between" in client.read_until(b"between\n")
        crashing.start()
        with api.attach(container, stdin=False) as second:
            while not select.select([second.connection], [], [], 0.1)[0]:
                client.write(b"still\n")  # the head is answered a moment before the streams are connected
            client.write(b"after\n")
            client.read_until(b"after\n")
            second.read_until(b"after\n")
            client.end_input()
            assert client.read() == b""
            assert second.read() == b""
    assert api.wait(container) == 0
    said = api.logs(container).split()
    assert (said[:2], said[-1], set(said[2:-1])) == ([b"before", b"between"], b"after", {b"still"})
    api.remove(container)


def test_a_container_with_open_stdin_goes_on_after_its_client_and_the_daemon_died(
    crashing: EngineProcess, api: Api
) -> None:
    container = api.create("cat", OpenStdin=True)
    with api.attach(container) as client:
        api.post(f"/containers/{container}/start")
        client.write(b"one\n")
        client.read_until(b"one\n")
        crashing.kill()
    crashing.start()
    with api.attach(container) as client:
        client.write(b"two\n")
        client.read_until(b"two\n")
    assert api.inspect(container)["State"]["Running"]
    api.remove(container)


def test_terminal_resize_detach_and_attach_after_a_restart(crashing: EngineProcess, api: Api) -> None:
    container = api.create("sh", Tty=True, OpenStdin=True)
    with api.attach(container) as client:
        api.post(f"/containers/{container}/start")
        api.post(f"/containers/{container}/resize", h=20, w=50)
        client.write(b"stty size\n")
        client.read_until(b"20 50")
        client.write(b"\x10\x11")  # the detach keys
        client.read()
    crashing.kill()
    crashing.start()
    api.post(f"/containers/{container}/resize", h=33, w=77)
    with api.attach(container) as client:
        client.write(b"stty size\n")
        client.read_until(b"33 77")
        client.write(b"exit 5\n")
        client.read()
    assert api.wait(container) == 5
    api.remove(container)


def test_execs_outlive_the_daemon_and_new_ones_start(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sleep", "60")
    exec_id, stream = api.exec(container, "sh", "-c", "read line; echo got $line; exit 4", stdin=True)
    with stream:
        time.sleep(0.2)
        crashing.kill()
        crashing.start()
        assert api.get(f"/exec/{exec_id}/json")["Running"] is True
        stream.write(b"it\n")
        assert unframed(stream.read()) == b"got it\n"
    assert eventually(lambda: not api.get(f"/exec/{exec_id}/json")["Running"])
    assert api.get(f"/exec/{exec_id}/json")["ExitCode"] == 4
    assert api.execute(container, "echo", "new") == b"new\n"
    api.remove(container)


def test_a_paused_container_is_still_known_as_paused(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sleep", "60")
    api.post(f"/containers/{container}/pause")
    crashing.kill()
    crashing.start()
    assert api.inspect(container)["State"]["Status"] == "paused"
    api.post(f"/containers/{container}/unpause")
    assert api.execute(container, "echo", "awake") == b"awake\n"
    api.remove(container)


def test_removal_works_when_the_shim_went_while_no_daemon_lived(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sleep", "60")
    pid = api.inspect(container)["State"]["Pid"]
    shim = shim_of(pid)
    crashing.kill()
    os.kill(shim, signal.SIGKILL)
    crashing.start()
    state = api.inspect(container)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert eventually(lambda: gone(pid))
    api.post(f"/containers/{container}/start")
    api.remove(container)


def test_the_daemon_ends_although_clients_are_attached(crashing: EngineProcess, api: Api) -> None:
    container = api.run("sleep", "60")
    with api.attach(container, stdin=False):
        waiting = threading.Thread(target=_swallow, args=(api, container))
        waiting.start()
        time.sleep(0.1)
        begun = time.monotonic()
        crashing.stop()
        assert time.monotonic() - begun < 8
        waiting.join(5)
        assert not waiting.is_alive()
    crashing.start()
    assert api.inspect(container)["State"]["Running"]
    api.remove(container)


def _swallow(api: Api, container: str) -> None:
    try:
        api.wait(container)
    except (OSError, ValueError, TypeError):
        pass


def test_a_builds_containers_go_with_the_daemon_that_built(crashing: EngineProcess, api: Api) -> None:
    def build() -> None:
        crashing.run_docker("build", "-", input=b"FROM busybox\nVOLUME /data\nRUN echo begun; sleep 60\n")

    before = {volume["Name"] for volume in api.get("/volumes")["Volumes"] or []}
    building = threading.Thread(target=build)
    building.start()
    assert eventually(lambda: [entry for entry in api.get("/containers/json") if "sleep 60" in entry["Command"]])
    crashing.kill()
    building.join(10)
    assert not building.is_alive()
    crashing.start()
    assert api.get("/containers/json", all=1) == []
    assert {volume["Name"] for volume in api.get("/volumes")["Volumes"] or []} == before
