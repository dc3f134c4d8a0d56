"""Devices by name, as vendors describe them in /etc/cdi."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine.containers.config import DeviceRequest
from dockyard.engine.containers.spec.cdi import inject, read_catalogue
from dockyard.errors import InvalidParameter
from dockyard.oci.runtime_spec import Process, Spec
from tests.engine_process import EngineProcess

VENDOR = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/device",
    "containerEdits": {"env": ["VENDOR=here"]},
    "devices": [
        {
            "name": "null",
            "containerEdits": {
                "env": ["WHICH=null"],
                "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/null"}],
                "mounts": [{"hostPath": "/proc/version", "containerPath": "/vendor.txt", "options": ["ro", "bind"]}],
                "additionalGids": [4242],
            },
        }
    ],
}
GPUS = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {env: ["GPU0=yes"]}
- name: "1"
  containerEdits: {env: ["GPU1=yes"]}
- name: all
  containerEdits: {env: ["GPU0=yes", "GPU1=yes"]}
"""


@pytest.fixture
def directories(tmp_path: Path) -> list[str]:
    first, second = tmp_path / "etc", tmp_path / "run"
    for folder in (first, second):
        folder.mkdir()
    (first / "vendor.json").write_text(json.dumps(VENDOR))
    (first / "gpus.yaml").write_text(GPUS)
    return [str(first), str(second)]


def environment(directories: list[str], request: DeviceRequest) -> list[str]:
    spec = Spec(process=Process())
    inject(spec, [request], directories)
    assert spec.process is not None
    return spec.process.env


def test_gpus_are_counted_or_named(directories: list[str]) -> None:
    gpu = [["gpu"]]
    assert environment(directories, DeviceRequest(count=-1, capabilities=gpu)) == ["GPU0=yes", "GPU1=yes"]
    assert environment(directories, DeviceRequest(count=1, capabilities=gpu)) == ["GPU0=yes"]
    assert environment(directories, DeviceRequest(driver="nvidia", device_ids=["1"])) == ["GPU1=yes"]
    with pytest.raises(InvalidParameter, match="there are only 2"):
        environment(directories, DeviceRequest(count=3, capabilities=gpu))
    with pytest.raises(InvalidParameter, match=r'could not select device driver "" with capabilities: \[\[tpu x\]\]'):
        environment(directories, DeviceRequest(capabilities=[["tpu", "x"]]))


def test_a_later_directory_replaces_a_device_and_a_conflict_removes_it(directories: list[str]) -> None:
    replaced = {**VENDOR, "devices": [{"name": "null", "containerEdits": {"env": ["WHICH=other"]}}]}
    (Path(directories[1]) / "vendor.json").write_text(json.dumps(replaced))
    request = DeviceRequest(driver="cdi", device_ids=["vendor.com/device=null"])
    assert environment(directories, request) == ["VENDOR=here", "WHICH=other"]
    (Path(directories[1]) / "again.json").write_text(json.dumps(replaced))
    assert read_catalogue(directories).problems
    with pytest.raises(InvalidParameter, match=r"unresolvable CDI devices vendor\.com/device=null"):
        environment(directories, request)


def test_a_broken_file_does_not_hide_the_others(directories: list[str]) -> None:
    (Path(directories[0]) / "broken.json").write_text("{")
    catalogue = read_catalogue(directories)
    assert "vendor.com/device=null" in catalogue.devices
    assert len(catalogue.problems) == 1


@pytest.fixture
def described() -> Iterator[None]:
    folder = Path("/etc/cdi")
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    file = folder / "dockyard-test.json"
    file.write_text(json.dumps(VENDOR))
    yield
    file.unlink()
    if made:
        folder.rmdir()


@pytest.mark.usefixtures("described")
def test_a_container_gets_what_the_vendor_says(engine: EngineProcess) -> None:
    said = engine.docker(
        "run", "--rm", "--device=vendor.com/device=null", "busybox",
        "sh", "-c", "echo $VENDOR $WHICH; echo x > /dev/vendor0 && echo written; cut -d' ' -f1 /vendor.txt; id -G",
    )  # fmt: skip
    assert said.split("\n")[:3] == ["here null", "written", "Linux"]
    assert "4242" in said
    done = engine.run_docker("run", "--rm", "--device=vendor.com/device=other", "busybox", "true")
    assert b"CDI device injection failed: unresolvable CDI devices vendor.com/device=other" in done.stderr
