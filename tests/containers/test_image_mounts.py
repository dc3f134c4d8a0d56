"""`--mount type=image`: a container has another image's files, read-only, whatever becomes of the image's name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.linux.mounts import mount_table
from tests.engine_process import EngineProcess

DOCKERFILE = b"""FROM busybox
RUN mkdir -p /data/sub && echo hello > /data/sub/file && ln -s /etc /data/abs && ln -s ../../../etc /data/up \\
 && ln -s sub /data/in && chown 7:8 /data/sub/file
"""
MOUNT = "type=image,source=content,target=/m"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("image-mounts"), number=5) as process:
        process.docker("build", "-q", "-t", "content", "-", input=DOCKERFILE)
        yield process
        process.docker("rmi", "-f", "content", check=False)


def snapshots(engine: EngineProcess) -> list[str]:
    """The snapshots of mounted images that are there; what is being removed has another name."""
    names = os.listdir(engine.data_root / "overlay2")
    return [name for name in names if "-" in name and not name.endswith(("-init", "-removing"))]


def test_an_image_is_seen_as_it_is_and_cannot_be_written_to(engine: EngineProcess) -> None:
    look = "stat -c '%u %g' /m/data/sub/file; cat /m/data/sub/file; touch /m/x || echo refused; ls -d /m/etc"
    said = engine.docker("run", "--rm", "--mount", MOUNT, "busybox", "sh", "-c", look)
    assert said == "7 8\nhello\nrefused\n/m/etc\n"
    assert engine.docker("run", "--rm", "--privileged", "--mount", MOUNT, "busybox", "touch", "/m/x", check=False) == ""
    assert snapshots(engine) == []


@pytest.mark.parametrize(
    ("subpath", "said"), [("data/sub", "file\n"), ("data/in", "file\n"), ("data/sub/file", "/m\n")]
)
def test_a_part_of_an_image_can_be_had(engine: EngineProcess, subpath: str, said: str) -> None:
    assert engine.docker("run", "--rm", "--mount", f"{MOUNT},image-subpath={subpath}", "busybox", "ls", "/m") == said


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (f"{MOUNT},image-subpath=data/abs", "subpath must be a relative path within the volume"),
        (f"{MOUNT},image-subpath=data/up", "subpath must be a relative path within the volume"),
        (f"{MOUNT},image-subpath=nosuch", "/nosuch: no such file or directory"),
        (
            f"{MOUNT},image-subpath=../x",
            'invalid mount config for type "image": subpath must be a relative path within',
        ),
        (f"{MOUNT},image-subpath=/data", "subpath must be a relative path within the volume"),
        ("type=image,target=/m", 'invalid mount config for type "image": field Source must not be empty'),
        ("type=image,source=content,target=/", "destination can't be '/'"),
        ("type=image,source=nosuch,target=/m", "No such image: nosuch:latest"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(engine: EngineProcess, mount: str, message: str) -> None:
    refused = engine.run_docker("run", "--rm", "--mount", mount, "busybox", "true")
    assert message.encode() in refused.stderr
    assert engine.docker("ps", "-aq") == ""
    assert snapshots(engine) == []


def test_older_clients_and_other_mounts_know_no_images(engine: EngineProcess) -> None:
    def create(version: str, mount: dict[str, object]) -> tuple[int, str]:
        body = {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}
        status, answer = engine.api("POST", f"/{version}/containers/create", body)
        return status, answer["message"]

    image = {"Type": "image", "Source": "content", "Target": "/m"}
    assert create("v1.47", image) == (400, 'Mount type "Image" needs API v1.48 or newer')
    bind = {"Type": "bind", "Source": "/usr", "Target": "/m", "ImageOptions": {"Subpath": "x"}}
    assert create("v1.48", bind)[1] == 'invalid mount config for type "bind": field ImageOptions must not be specified'
    assert create("v1.48", {**image, "BindOptions": {}})[0] == 400


def test_it_outlives_the_name_of_the_image_a_restart_and_the_daemon_and_goes_with_the_container(
    engine: EngineProcess,
) -> None:
    part = ("--mount", "type=image,source=content,target=/n,image-subpath=data")
    engine.docker("run", "-d", "--name", "has", "--mount", MOUNT, *part, "busybox", "sleep", "1000")
    shown = engine.inspect("has")["Mounts"]
    assert [(mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) for mount in shown] == [
        ("image", "content", "/m", False),
        ("image", "content", "/n", False),
    ]
    refused = engine.run_docker("rmi", "content")
    assert b"is using its referenced image" in refused.stderr
    engine.docker("rmi", "-f", "content")
    assert engine.docker("exec", "has", "cat", "/n/sub/file", "/m/data/sub/file") == "hello\nhello\n"
    engine.kill()
    engine.start()
    assert engine.docker("exec", "has", "cat", "/n/sub/file") == "hello\n"
    engine.docker("restart", "-t", "0", "has")
    assert engine.docker("exec", "has", "cat", "/n/sub/file") == "hello\n"
    assert "hello\n" in engine.docker("cp", "has:/n/sub/file", "-")
    engine.docker("stop", "-t", "0", "has")
    assert "hello\n" in engine.docker("cp", "has:/n/sub/file", "-")
    assert b"read-only" in engine.run_docker("cp", "/etc/hostname", "has:/n/").stderr
    engine.docker("commit", "has", "made")
    assert engine.docker("run", "--rm", "made", "find", "/m", "/n", "-type", "f") == ""
    engine.docker("rmi", "made")
    engine.stop()
    engine.start()
    engine.docker("start", "has")
    assert engine.docker("exec", "has", "cat", "/n/sub/file") == "hello\n"
    assert len(snapshots(engine)) == 2
    engine.docker("rm", "-f", "has")
    assert snapshots(engine) == []
    mounted = [Path(mount.target).parent.name for mount in mount_table()]
    assert not [name for name in mounted if len(name) > 64 and name[64] == "-"]
    engine.docker("build", "-q", "-t", "content", "-", input=DOCKERFILE)


def test_a_container_with_ids_of_its_own_sees_the_owners(engine: EngineProcess) -> None:
    look = ("busybox", "stat", "-c", "%u %g", "/m/data/sub/file")
    ran = engine.dockyard("run", "--rm", "--userns", "auto", "--mount", MOUNT, *look)
    assert (ran.returncode, ran.stdout) == (0, b"7 8\n"), ran.stderr
