"""The first process that is there before its container: who gets it, and what happens when it is killed."""

import ctypes
import mmap
import os
import signal
from pathlib import Path

from dockyard.linux import hot_pages
from tests.api_client import Api
from tests.engine_process import EngineProcess
from tests.processes import eventually, named, shim_of, zygote_of


def waiting(engine: EngineProcess) -> int:
    """The process that waits for its container: PID 1 of a namespace that nobody else is in."""
    assert engine.process is not None
    zygote = zygote_of(engine.process.pid)

    def find() -> list[int]:
        children = [child for shim in named("dockyard-shim", zygote) for child in named("dockyard-shim", shim)]
        return [child for child in children if _number_inside(child) == 1]

    return eventually(find)[0]


def _number_inside(pid: int) -> int:
    """What the process is in the innermost PID namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:  # it has just gone
        return 0
    return int(next(row for row in status.splitlines() if row.startswith("NSpid:")).split()[-1])


def test_a_container_with_a_pid_namespace_gets_the_waiting_process(crashing: EngineProcess, api: Api) -> None:
    expected = waiting(crashing)
    container = api.run("sleep", "60")
    assert api.inspect(container)["State"]["Pid"] == expected
    assert shim_of(expected)
    api.remove(container)


def test_a_container_in_the_hosts_pid_namespace_gets_another(crashing: EngineProcess, api: Api) -> None:
    waits = waiting(crashing)
    container = api.run("sleep", "60", host={"PidMode": "host"})
    assert api.inspect(container)["State"]["Pid"] != waits
    assert eventually(lambda: not Path(f"/proc/{waits}").exists())  # it has ended, and somebody has taken note
    api.remove(container)


def test_a_waiting_process_that_is_killed_is_made_up_for(crashing: EngineProcess, api: Api) -> None:
    for _ in range(3):
        killed = waiting(crashing)
        os.kill(killed, signal.SIGKILL)
        assert eventually(lambda pid=killed: not Path(f"/proc/{pid}/exe").exists())
        container = api.run("sleep", "60")
        assert api.inspect(container)["State"]["Pid"] != killed
        api.remove(container)


def test_a_waiting_process_has_nothing_open_but_its_channel(crashing: EngineProcess, api: Api) -> None:
    waits = waiting(crashing)
    api.get("/_ping")
    opened = eventually(lambda: _beyond_stdio(waits))
    assert len(opened) == 1
    assert opened[0].startswith("socket:")


def _beyond_stdio(pid: int) -> list[str]:
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if int(fd.name) > 2]


def test_pages_that_a_fork_has_written_are_known_and_can_be_had_ahead() -> None:
    pages = 4
    area = mmap.mmap(-1, 16 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(b"x" * len(area))
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))

    def own_pages(work: str) -> int:
        """How many of the first pages a fork says it has of its own after `work`."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            if work == "write":
                for page in range(pages):
                    area[page * mmap.PAGESIZE] = 1
            elif work == "copy":
                hot_pages.copy([(start, pages * mmap.PAGESIZE)])
            count = sum(
                1
                for page in range(pages)
                for address, length in hot_pages.written()
                if address <= start + page * mmap.PAGESIZE < address + length
            )
            os.write(writer, bytes([count]))
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writer)
        with open(reader, "rb") as answer:
            return answer.read()[0]

    assert own_pages("nothing") == 0
    assert own_pages("write") == pages
    assert own_pages("copy") == pages
