"""kill -9 of the runtime in the midst of `create`: nothing runs on, and what is left can be taken away."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux.cgroups import Cgroup
from dockyard.runtime.lifecycle.handle import ContainerHandle
from dockyard.runtime.state import record as records
from tests.processes import eventually, gone
from tests.runtime.bundle import Bundle, apart
from tests.runtime.conftest import Runtime


def of_container(runtime: Runtime) -> set[int]:
    """The processes in the cgroup of the last config."""
    return set(Cgroup(runtime.cgroup).pids())


def take_away(runtime: Runtime, name: str) -> None:
    """Delete it by force; then nothing is left."""
    done = runtime("delete", "--force", name)
    assert done.returncode == 0, done.stderr
    assert not (runtime.state / name).exists()
    assert not [folder for folder in Cgroup(runtime.cgroup).directories if os.path.exists(folder)]


@pytest.mark.parametrize("joins", [False, True])
def test_a_create_that_is_killed_at_any_moment_leaves_nothing_running(runtime: Runtime, joins: bool) -> None:
    if joins:
        runtime.started("host")
        pid = json.loads(runtime("state", "host").stdout)["pid"]

    def change(config: dict[str, Any]) -> None:
        config["process"]["args"] = ["true"]
        if joins:
            kinds = [kind for kind in config["linux"]["namespaces"] if kind["type"] != "pid"]
            config["linux"]["namespaces"] = [*kinds, {"type": "pid", "path": f"/proc/{pid}/ns/pid"}]

    half_made = 0
    for step in range(64):
        if step >= 24 and half_made:
            break
        runtime.config(change)
        name = f"one{step}"
        words = [runtime.program, "--root", runtime.state, "create", name]
        maker = subprocess.Popen(words, cwd=runtime.bundle, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if step < 24:
            time.sleep(0.012 * step)
        else:  # the moments of the clock have all missed it: as soon as it is seen
            while not (runtime.state / name / records.PLAN).exists() and maker.poll() is None:
                pass
        maker.kill()
        maker.wait()
        state = runtime.state / name
        if (state / records.STATE).exists():
            # "stopped": killed before it could tell the process, which has ended then, that it is recorded
            assert eventually(lambda name=name: runtime.status(name) in ("created", "stopped"))
        else:
            half_made += (state / records.PLAN).exists()
            assert eventually(lambda: not of_container(runtime))
            assert runtime("state", name).returncode == 1
        take_away(runtime, name)
    assert half_made, "none was killed half-way"


def test_a_first_process_whose_maker_dies_before_it_is_recorded_ends(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "pid"

    def save(_root: str, record: records.Record, *_: object) -> None:
        seen.write_text(str(record.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(records, "save", save)

    def act() -> None:
        with bundle.created(bundle.spec("sleep", "100"), exec_fifo=True):
            pass

    with pytest.raises(AssertionError, match="ended without an answer"):
        apart(act)
    assert eventually(lambda: gone(int(seen.read_text())))
    (name,) = os.listdir(bundle.state)
    remains = ContainerHandle.load_remains(bundle.state, name)
    assert remains is not None
    assert remains.group.exists()
    remains.delete(force=True)
    assert not remains.group.exists()
    assert os.listdir(bundle.state) == []


@pytest.mark.parametrize("damage", ["", "{", '{"id": 7}'])
def test_a_container_whose_state_is_damaged_is_deleted_by_force(runtime: Runtime, damage: str) -> None:
    runtime.started("one")
    assert of_container(runtime)
    (runtime.state / "one" / records.STATE).write_text(damage)
    for words in (("state", "one"), ("delete", "one")):
        done = runtime(*words)
        assert done.returncode == 1
        assert "is damaged" in done.stderr
    take_away(runtime, "one")
    assert not of_container(runtime)


def test_nothing_but_a_containers_directory_is_deleted(runtime: Runtime) -> None:
    runtime.started("one")
    for name in ("..", ".", "one/../one", "../state"):
        assert runtime("delete", "--force", name).returncode == 1
    assert runtime.status("one") == "running"
