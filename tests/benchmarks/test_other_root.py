"""Programs of another release, with the folder they are unpacked in as their /."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.other_root import OtherRoot


@pytest.fixture
def inside(tmp_path: Path):
    (tmp_path / "root" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "root" / "bin" / "busybox")
    root = OtherRoot(tmp_path / "root", threads=4, shared=[str(tmp_path / "shared")])
    yield root
    root.close()


def listed(root: OtherRoot, *words: str) -> list[str]:
    return root.run(["/bin/busybox", *words], capture_output=True, check=True).stdout.decode().split()


def test_a_program_sees_its_folder_as_the_root_and_of_the_host_only_what_is_shared(inside, tmp_path: Path):
    assert set(listed(inside, "ls", "/")) == {"bin", "dev", "proc", "sys", tmp_path.parts[1]}
    assert listed(inside, "ls", str(tmp_path)) == ["shared"]


def test_every_thread_is_in_the_same_mount_namespace_and_the_callers_are_not(inside, tmp_path: Path):
    # each waits for the others, so that no thread runs two
    wait = "echo >$$; while [ $(ls | wc -l) -lt 4 ]; do sleep 0.01; done; readlink /proc/self/ns/mnt"
    meeting = ["sh", "-c", f"cd {tmp_path}/shared; {wait}"]
    with ThreadPoolExecutor(4) as callers:
        found = {tuple(words) for words in callers.map(lambda _: listed(inside, *meeting), range(4))}
    own = subprocess.run(["readlink", "/proc/self/ns/mnt"], capture_output=True, check=True).stdout.decode().split()
    assert len(found) == 1
    assert found != {tuple(own)}
