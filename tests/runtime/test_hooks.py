"""Hooks: order, namespaces, failures."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from dockyard.oci.runtime_spec import (
    Hook,
    Hooks,
)
from dockyard.runtime.lifecycle.container import RuntimeFailure
from tests.runtime.bundle import (
    Bundle,
    bind,
)
from tests.runtime.conftest import Runtime


def test_hooks_run_in_their_order_with_the_state_and_in_their_namespaces(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    note = 'read state; echo "$0 $(readlink /proc/self/ns/mnt) $state" >>{}'
    spec = bundle.spec("sh", "-c", "echo program - >>/log")
    spec.mounts.append(bind(log, "/log"))

    def hook(kind: str, path: Path | str) -> list[Hook]:
        args = ["sh", "-c", note.format(path), kind]
        return [Hook(path="/bin/sh", args=args, env=["PATH=/bin:/usr/bin"])]

    spec.hooks = Hooks(
        prestart=hook("prestart", log),
        create_runtime=hook("createRuntime", log),
        create_container=hook("createContainer", log),
        start_container=hook("startContainer", "/log"),
        poststart=hook("poststart", log),
        poststop=hook("poststop", log),
    )
    bundle.run(spec)
    rows = [line.split(" ", 2) for line in log.read_text().splitlines()]
    order = [row[0] for row in rows]
    assert order[:4] == ["prestart", "createRuntime", "createContainer", "startContainer"]
    assert sorted(order[4:6]) == ["poststart", "program"]
    assert order[6:] == ["poststop"]
    own = os.readlink("/proc/self/ns/mnt")
    by_kind = {row[0]: row for row in rows}
    for kind, here in (
        ("prestart", True),
        ("createRuntime", True),
        ("createContainer", False),
        ("startContainer", False),
    ):
        assert (by_kind[kind][1] == own) == here
    statuses = {kind: json.loads(by_kind[kind][2])["status"] for kind in order if kind != "program"}
    assert statuses == {
        "prestart": "creating",
        "createRuntime": "creating",
        "createContainer": "creating",
        "startContainer": "created",
        "poststart": "running",
        "poststop": "stopped",
    }


@pytest.mark.parametrize("kind", ["prestart", "create_runtime", "create_container", "start_container", "poststart"])
def test_a_failing_hook_ends_the_container_and_poststop_runs(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    after = tmp_path / "after"
    spec = bundle.spec("sleep", "100")
    hooks = Hooks(poststop=[Hook(path="/bin/sh", args=["sh", "-c", f"echo end >>{after}"])])
    setattr(hooks, kind, [Hook(path="/bin/sh", args=["sh", "-c", "echo why >&2; exit 3"])])
    spec.hooks = hooks
    with pytest.raises(RuntimeFailure, match=r"hook #0: exit status 3.*why"):
        bundle.run(spec)
    assert after.read_text() == "end\n"
    assert os.listdir(bundle.state) == []


def test_a_hook_that_takes_too_long_is_ended(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.hooks = Hooks(create_runtime=[Hook(path="/bin/sleep", args=["sleep", "60"], timeout=1)])
    began = time.monotonic()
    with pytest.raises(RuntimeFailure, match=r"ran past specified timeout of 1\.0s"):
        bundle.run(spec)
    assert time.monotonic() - began < 20


def test_a_hook_without_an_environment_has_its_runners_and_one_with_an_empty_one_none(
    runtime: Runtime, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()

    def change(config: dict[str, Any]) -> None:
        def hook(kind: str, **more: Any) -> dict[str, Any]:
            note = f"echo {kind} ${{SECRET:-none}} >>{log}"
            return {"path": str(tools / "busybox"), "args": ["sh", "-c", note], **more}

        tools = tmp_path / "tools"
        config["process"].update(args=["true"], env=["PATH=/bin", "SECRET=container"])
        for place in (log, tools):
            config["mounts"].append(
                {"destination": str(place), "type": "bind", "source": str(place), "options": ["bind"]}
            )
        config["hooks"] = {kind: [hook(kind), hook(kind + "-empty", env=[])] for kind in kinds}

    (tmp_path / "tools").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "tools")
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    runtime.config(change)
    env = {**os.environ, "SECRET": "caller"}
    for words in (("create", "hooked"), ("start", "hooked"), ("delete", "-f", "hooked")), (("run", "hooked"),):
        log.write_text("")
        for word in words:
            done = runtime(*word, env=env)
            assert done.returncode == 0, done.stderr
        said = dict(line.split() for line in log.read_text().splitlines())
        assert said == {
            **dict.fromkeys(kinds, "caller"),
            "createContainer": "none",
            "startContainer": "container",
            **{f"{kind}-empty": "none" for kind in kinds},
        }
