"""Each container runs under its own filter, however many are kept of those that others have brought."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockyard.linux import cgroups, seccomp
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Seccomp, SeccompRule
from dockyard.runtime.spec import defaults
from dockyard.shim import client
from dockyard.shim.client import Shims
from dockyard.shim.orders import LogConfig, StartRequest

GROUP = "/dytest-filters"


@pytest.fixture
async def shims(tmp_path: Path) -> AsyncIterator[Shims]:
    (tmp_path / "bundle/rootfs/bin").mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tmp_path / "bundle/rootfs/bin/mkdir")
    (tmp_path / "exec").mkdir()
    shims = Shims(tmp_path / "exec")
    await shims.open()
    yield shims
    await shims.close()
    cgroups.Cgroup(GROUP).remove()


def allows_all_but(*calls: str) -> bytes:
    rules = [SeccompRule(names=[call], action="SCMP_ACT_ERRNO") for call in calls]
    return seccomp.compile_profile(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=rules))


async def exit_code_of_mkdir(shims: Shims, name: str, program: bytes) -> int:
    spec = defaults.default_spec()
    assert spec.process is not None
    spec.process.args = ["mkdir", "-p", f"/made/{name}"]
    spec.linux.seccomp = None
    spec.linux.cgroups_path = f"{GROUP}/{name}"
    bundle = str(shims.exec_root.parent / "bundle")
    request = StartRequest(
        name, bundle, runtime_spec.encode(spec), seccomp_program=program, log=LogConfig(driver="none")
    )
    shim = await shims.start(request)
    status = await shim.wait()
    await shim.delete()
    return status.code


async def test_one_that_is_given_up_meanwhile_is_not_taken_for_anothers(
    shims: Shims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FILTERS_KEPT", 1)
    strict, lax = allows_all_but("mkdir", "mkdirat"), allows_all_but("reboot")
    for turn in range(10):
        codes = await asyncio.gather(
            exit_code_of_mkdir(shims, f"strict{turn}", strict), exit_code_of_mkdir(shims, f"lax{turn}", lax)
        )
        assert codes == [1, 0]
