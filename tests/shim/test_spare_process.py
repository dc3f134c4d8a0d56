"""The parent of the first process that is there before its container: who gets it, and what if it is killed."""

import asyncio
import contextlib
import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dockyard.linux import written_pages
from dockyard.linux.cgroups import Cgroup
from dockyard.oci import runtime_spec
from dockyard.runtime.spec import defaults
from dockyard.runtime.state.record import parentage, start_time
from dockyard.shim.client import Shims
from dockyard.shim.orders import ExitStatus, LogConfig, StartRequest
from tests.api_client import Api
from tests.engine_process import EngineProcess
from tests.processes import eventually, named, zygote_of


def waiting(engine: EngineProcess) -> int:
    """The process that waits for its container: a shim's child that is in no PID namespace of its own."""
    assert engine.process is not None
    zygote = zygote_of(engine.process.pid)
    return eventually(lambda: _waiting_below(zygote))[0]


def _waiting_below(zygote: int) -> list[int]:
    children = [child for shim in named("dockyard-shim", zygote) for child in named("dockyard-shim", shim)]
    return [child for child in children if _pid_namespace(child) == _pid_namespace("self")]


def _pid_namespace(pid: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except FileNotFoundError:  # it has just gone
        return ""


def _parent(pid: int) -> int:
    return parentage(pid)[0]


def test_a_containers_first_process_is_forked_by_the_one_that_waits_which_is_gone_then(
    crashing: EngineProcess, api: Api
) -> None:
    waits = waiting(crashing)
    shim = _parent(waits)
    container = api.run("sleep", "60")
    first = api.inspect(container)["State"]["Pid"]
    assert first != waits
    assert _parent(first) == shim
    assert eventually(lambda: not Path(f"/proc/{waits}").exists())  # no zombie either
    api.remove(container)


def test_a_first_process_has_not_run_longer_than_its_container(crashing: EngineProcess, api: Api) -> None:
    waiting(crashing)
    time.sleep(1)  # as /proc counts, in hundredths of a second
    before = time.clock_gettime(time.CLOCK_BOOTTIME) - 0.02
    container = api.run("sleep", "60")
    first = api.inspect(container)["State"]["Pid"]
    assert start_time(first) / os.sysconf("SC_CLK_TCK") >= before
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


def test_a_container_with_its_own_network_has_the_hosts_settings_of_now(tmp_path: Path) -> None:
    spec = defaults.default_spec()
    assert spec.process is not None
    spec.process.args = ["sleep", "60"]
    (tmp_path / "bundle" / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "bundle" / "rootfs" / "bin" / "sleep")
    setting = Path("/proc/sys/net/ipv4/conf/default/log_martians")  # a new namespace has it from the machine's first

    def seen(*entering: str) -> str:
        return subprocess.run([*entering, "cat", str(setting)], capture_output=True, text=True, check=True).stdout

    async def container(shims: Shims, number: int) -> str:
        spec.linux.cgroups_path = f"/dockyard-test-now/{number}"
        request = StartRequest(
            f"now{number}", str(tmp_path / "bundle"), runtime_spec.encode(spec), log=LogConfig(driver="none")
        )
        shim = await shims.start(request)
        try:
            return await asyncio.to_thread(seen, "nsenter", "-t", str(shim.pid), "-n")
        finally:
            await shim.signal(signal.SIGKILL)
            await shim.wait()
            await shim.delete()

    async def live() -> None:
        shims = Shims(tmp_path / "exec")
        await shims.open()
        try:
            for number in range(4):
                await asyncio.to_thread(eventually, lambda: _waiting_below(zygote_of(os.getpid())))
                setting.write_text("01"[number % 2])
                assert await container(shims, number) == await asyncio.to_thread(seen, "unshare", "-n")
        finally:
            await shims.close()
            Cgroup("/dockyard-test-now").remove()

    before = setting.read_text()
    try:
        asyncio.run(live())
    finally:
        setting.write_text(before)


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
                written_pages.copy([(start, pages * mmap.PAGESIZE)])
            count = sum(
                1
                for page in range(pages)
                for address, length in written_pages.written()
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


def test_a_start_that_is_given_up_leaves_no_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the starter is, and however long it takes to look for what there is of the container."""
    spec = defaults.default_spec()
    assert spec.process is not None
    spec.process.args = ["sleep", "61"]
    (tmp_path / "bundle" / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "bundle" / "rootfs" / "bin" / "sleep")
    spec.linux.cgroups_path = "/dockyard-test-given-up"
    request = StartRequest(
        "given-up", str(tmp_path / "bundle"), runtime_spec.encode(spec), log=LogConfig(driver="none")
    )

    async def live() -> None:
        shims = Shims(tmp_path / "exec")
        await shims.open()
        look = shims._lost

        def look_slowly(container_id: str) -> ExitStatus:
            found = look(container_id)
            time.sleep(1)
            return found

        monkeypatch.setattr(shims, "_lost", look_slowly)
        try:
            zygote = zygote_of(os.getpid())
            (starter,) = await asyncio.to_thread(eventually, lambda: named("dockyard-start", zygote))
            os.kill(starter, signal.SIGSTOP)
            starting = asyncio.ensure_future(shims.start(request))
            await asyncio.sleep(0.2)
            starting.cancel()
            asyncio.get_running_loop().call_later(0.2, os.kill, starter, signal.SIGCONT)
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert await asyncio.to_thread(eventually, lambda: len(named("dockyard-shim", zygote)) == 1)
            assert not os.listdir(shims.state_root)
            assert not os.listdir(tmp_path / "exec" / "shims")
            assert not Cgroup("/dockyard-test-given-up").pids()
        finally:
            await shims.close()
            with contextlib.suppress(OSError):
                Cgroup("/dockyard-test-given-up").remove()

    asyncio.run(live())
