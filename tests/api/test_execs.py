"""Execs and terminals when something is not as it should be: Docker's statuses, texts and exit codes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import eventually, state_of


@pytest.fixture(scope="module")
def container(engine: EngineProcess) -> Iterator[str]:
    engine.docker("run", "-d", "-t", "--name", "execs", "busybox", "sleep", "600")
    yield "execs"
    engine.docker("rm", "-f", "execs")


@pytest.fixture
def api(engine: EngineProcess) -> Api:
    return Api(engine.socket)


def new_exec(api: Api, container: str, *command: str, start: bool = True) -> str:
    created: str = api.post(f"/containers/{container}/exec", {"Cmd": command, "Tty": True, "AttachStdout": True})["Id"]
    if start:
        api.post(f"/exec/{created}/start", {"Detach": True, "Tty": True})
    return created


def refusal(api: Api, path: str) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        api.post(path)
    return caught.value.status, str(caught.value).partition(": ")[2]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["-w", "/nosuch"], 127, 'chdir to cwd ("/nosuch") set in config.json failed: no such file or directory'),
        (
            ["-w", "/etc/passwd"],
            127,
            'chdir to cwd ("/etc/passwd") set in config.json failed: not a directory: Are you',
        ),
        (["-w", "relative"], 128, "OCI runtime exec failed: exec failed: Cwd must be an absolute path"),
    ],
    ids=["missing", "file", "relative"],
)
def test_a_working_directory_that_can_not_be(
    engine: EngineProcess, container: str, options: list[str], code: int, words: str
) -> None:
    done = engine.run_docker("exec", *options, container, "true")
    assert (done.returncode, words in (done.stdout + done.stderr).decode()) == (code, True), done
    detached = engine.run_docker("exec", "-d", *options, container, "true")
    assert (detached.returncode, words in detached.stderr.decode()) == (1, True), detached


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("/etc", 126, 'exec: "/etc": is a directory: permission denied'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
        ("/etc/passwd/x", 127, 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory: Are you trying to mount a'),
        ("/nosuch", 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
    ],
)
def test_a_program_that_can_not_be(engine: EngineProcess, container: str, command: str, code: int, words: str) -> None:
    done = engine.run_docker("exec", container, command)
    assert (done.returncode, words in (done.stdout + done.stderr).decode()) == (code, True), done


SIZES = [
    ("", 'height "": invalid syntax'),
    ("h=10", 'width "": invalid syntax'),
    ("h=-1&w=5", 'height "-1": value out of range'),
    ("h=5&w=-70000", 'width "-70000": value out of range'),
    ("h=x&w=5", 'height "x": invalid syntax'),
    ("h=%2B5&w=5", 'height "+5": invalid syntax'),
    ("h=5.5&w=5", 'height "5.5": invalid syntax'),
    ("h=%D9%A3&w=5", 'height "\u0663": invalid syntax'),
    ("h=4294967296&w=5", 'height "4294967296": value out of range'),
    ("h=5&w=" + "9" * 5000, f'width "{"9" * 5000}": value out of range'),
]


@pytest.mark.parametrize(("query", "words"), SIZES, ids=[query[:16] for query, _ in SIZES])
def test_a_size_that_is_none_is_refused(api: Api, container: str, query: str, words: str) -> None:
    execution = new_exec(api, container, "sleep", "100")
    for path in (f"/containers/{container}", f"/exec/{execution}", "/containers/nosuch", "/exec/nosuch"):
        assert refusal(api, f"{path}/resize?{query}") == (400, f"invalid resize {words}")


@pytest.mark.parametrize(("query", "size"), [("h=33&w=077", "33 77"), ("h=65541&w=4294901860", "5 100")])
def test_a_size_is_the_terminals(api: Api, engine: EngineProcess, container: str, query: str, size: str) -> None:
    for path in (f"/containers/{container}", f"/exec/{(execution := new_exec(api, container, 'sleep', '100'))}"):
        api.post(f"{path}/resize?{query}")
    pid = api.get(f"/exec/{execution}/json")["Pid"]
    shown = engine.docker("exec", container, "stty", "-F", "/proc/1/fd/0", "size")
    assert shown.strip() == size
    with open(f"/proc/{pid}/status") as status:
        (own,) = [row.split()[-1] for row in status if row.startswith("NSpid")]
    assert engine.docker("exec", container, "stty", "-F", f"/proc/{own}/fd/1", "size").strip() == size


def test_who_resizes_what_does_not_run_is_told_so(api: Api, engine: EngineProcess, container: str) -> None:
    stopped = api.create("sleep", "100", Tty=True)
    assert refusal(api, f"/containers/{stopped}/resize?h=5&w=5") == (409, f"container {stopped} is not running")
    api.remove(stopped)
    ended = new_exec(api, container, "true")
    while api.get(f"/exec/{ended}/json")["Running"]:
        time.sleep(0.02)
    assert refusal(api, f"/exec/{ended}/resize?h=5&w=5")[0] == 404
    failed = new_exec(api, container, "nosuch", start=False)
    assert refusal_of_start(api, failed)[0] == 400
    assert refusal(api, f"/exec/{failed}/resize?h=5&w=5") == (400, "exec process is not started")


def refusal_of_start(api: Api, execution: str) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        api.post(f"/exec/{execution}/start", {"Detach": True, "Tty": True})
    return caught.value.status, str(caught.value).partition(": ")[2]


def test_an_exec_is_gone_with_its_container(api: Api) -> None:
    other = api.run("sleep", "100")
    ran, created = new_exec(api, other, "sleep", "100"), new_exec(api, other, "sleep", "100", start=False)
    api.post(f"/containers/{other}/kill")
    for execution in (ran, created):
        assert api.get(f"/exec/{execution}/json")["Running"] is False
        assert refusal(api, f"/exec/{execution}/resize?h=5&w=5") == (409, f"container {other} is not running")
        assert refusal_of_start(api, execution) == (409, f"container {other} is not running")
    api.remove(other)
    for execution in (ran, created):
        with pytest.raises(ApiError) as caught:
            api.get(f"/exec/{execution}/json")
        assert caught.value.status == 404
        assert refusal(api, f"/exec/{execution}/resize?h=5&w=5")[0] == 404
        assert refusal_of_start(api, execution)[0] == 404


HOLDER = """
import os, signal, sys
from dockyard.linux import syscalls
syscalls.setns(os.pidfd_open(int(sys.argv[1])), syscalls.CLONE_NEWPID)
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
sys.stdin.read()
"""


def test_an_exec_that_meets_its_containers_end_is_told_so_at_once(api: Api) -> None:
    """However long the end takes: a PID namespace ends when the last process in it has been reaped by its parent."""
    other = api.run("sleep", "100")
    execution = new_exec(api, other, "true", start=False)
    init = api.inspect(other)["State"]["Pid"]
    command = [sys.executable, "-c", HOLDER, str(init)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        os.kill(init, signal.SIGKILL)
        assert eventually(lambda: state_of(child) == "Z")
        begun = time.monotonic()
        assert refusal_of_start(api, execution) == (409, f"container {other} is not running")
        assert time.monotonic() - begun < 1
        assert api.get(f"/containers/{other}/json")["State"]["Running"]
        holder.stdin.close()
    assert api.wait(other) == 137
    api.remove(other)


def test_a_first_size_beyond_the_kernels_is_cut_off(api: Api) -> None:
    """And what goes wrong in a shim is answered."""
    wide = api.run("stty", "size", Tty=True, host={"ConsoleSize": [65541, 70000]})
    api.wait(wide)
    raw = api.get(f"/containers/{wide}/logs", stdout=1)
    assert b"5 4464" in raw
    api.remove(wide)


SILENT = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
namespace = os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
if libc.unshare(0x200) or libc.setns(namespace, 0x20000):
    sys.exit(os.strerror(ctypes.get_errno()))
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"silent", b"/etc", b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(600)
"""


def test_a_container_whose_files_never_answer_holds_up_itself_alone(api: Api, container: str) -> None:
    """It may mount what it likes on its /etc, where users are looked up."""
    silent = api.run("sleep", "600")
    pid = str(api.inspect(silent)["State"]["Pid"])
    with subprocess.Popen([sys.executable, "-c", SILENT, pid], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n"
        try:
            asking = [threading.Thread(target=_refused_for_silence, args=(api, silent)) for _ in range(8)]
            for thread in asking:
                thread.start()
            time.sleep(0.5)
            begin = time.monotonic()
            api.get("/_ping")
            assert api.execute(container, "echo", "well") == b"well\n"
            assert time.monotonic() - begin < 3
            for thread in asking:
                thread.join(20)
                assert not thread.is_alive()
            begin = time.monotonic()
            _refused_for_silence(api, silent)  # at once: one has not come back
            assert time.monotonic() - begin < 3
        finally:
            server.kill()  # and its file system answers with errors
    assert eventually(lambda: "answers again" in answered(api, silent))
    api.remove(silent)


def answered(api: Api, container: str) -> str:
    try:
        return api.execute(container, "echo", "answers again").decode()
    except ApiError as error:
        return str(error)


def _refused_for_silence(api: Api, container: str) -> None:
    with pytest.raises(ApiError, match="do not answer") as caught:
        api.post(f"/containers/{container}/exec", {"Cmd": ["true"]})
    assert caught.value.status == 503
