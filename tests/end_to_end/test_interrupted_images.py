"""A daemon killed, and a disk filled, in the midst of work on an index: nothing half made is left."""

import asyncio
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.oci.manifest import host
from tests.engine.test_platforms import OTHER, publish
from tests.engine_process import EngineProcess
from tests.registry.server import Server
from tests.small_disk import fill, small_disk


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Two names of an index in a registry; the name without its tag."""
    server = Server(tmp_path).start()
    try:
        name = f"localhost:{server.port}/interrupted/box"
        asyncio.run(publish(f"{name}:1"))
        asyncio.run(publish(f"{name}:2"))
        yield name
    finally:
        server.stop()


def whole(engine: EngineProcess) -> None:
    """Nothing is broken, nothing lies about, and each name that is known leads to an image that can be packed."""
    checked = engine.dockyard("system", "fsck", "--content")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    names = [
        name for name in engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split() if "<none>" not in name
    ]
    for name in names:
        for row in engine.api("GET", f"/images/{name}/json?manifests=1")[1]["Manifests"]:
            platform = row["ImageData"]["Platform"]["architecture"]
            if row["Available"]:
                saved = engine.run_docker("save", "--platform", f"linux/{platform}", name)
                assert saved.returncode == 0, saved.stderr
    layers = engine.api("GET", "/system/df?type=image")[1]["LayersSize"]
    if not engine.docker("images", "-aq"):
        assert layers == 0
        snapshots = [one.name for one in (engine.data_root / "overlay2").iterdir() if one.name != "l"]
        assert snapshots == []
        assert list((engine.data_root / "image" / "manifests").iterdir()) == []


def commands(name: str, archive: Path) -> list[list[str]]:
    return [
        ["pull", f"{name}:1"],
        ["pull", "--platform", f"linux/{OTHER}", f"{name}:1"],
        ["pull", "--platform", f"linux/{OTHER}", f"{name}:2"],
        ["push", f"{name}:1"],
        ["tag", f"{name}:1", f"{name}:3"],
        ["rmi", "--platform", f"linux/{host().architecture}", f"{name}:1"],
        ["load", "-i", str(archive)],
        ["rmi", "-f", f"{name}:1", f"{name}:2", f"{name}:3"],
        ["image", "prune", "-af"],
    ]


def interrupt(engine: EngineProcess, registry: str, folder: Path, rounds: int) -> None:
    engine.start()
    engine.docker("pull", f"{registry}:1")
    engine.docker("pull", "--platform", f"linux/{OTHER}", f"{registry}:1")
    archive = folder / "archive.tar"
    engine.docker("save", "-o", str(archive), f"{registry}:1")
    for number in range(rounds):
        script = commands(registry, archive)
        work = subprocess.Popen(
            ["sh", "-c", "; ".join(" ".join(["docker", *words]) for words in script[number % 4 :])],
            env={**os.environ, "DOCKER_HOST": engine.host},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.uniform(0, 1.5))
        engine.kill()
        work.wait()
        engine.start()
        whole(engine)
    engine.docker("pull", f"{registry}:1")
    engine.docker("pull", "--platform", f"linux/{OTHER}", f"{registry}:1")
    engine.docker("rmi", "-f", *set(engine.docker("images", "-q").split()))
    engine.docker("image", "prune", "-af")
    whole(engine)


def test_a_killed_daemon_leaves_indexes_and_images_whole(tmp_path: Path, registry: str) -> None:
    engine = EngineProcess(tmp_path, number=35)
    try:
        interrupt(engine, registry, tmp_path, 2)
    finally:
        engine.clean_up()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_daemon_killed_forty_times_leaves_indexes_and_images_whole(tmp_path: Path, registry: str) -> None:
    engine = EngineProcess(tmp_path, number=36)
    try:
        interrupt(engine, registry, tmp_path, 40)
    finally:
        engine.clean_up()


def test_what_a_full_disk_does_not_take_is_not_half_there(tmp_path: Path, registry: str) -> None:
    with small_disk(tmp_path, 64 << 20) as disk:
        engine = EngineProcess(tmp_path / "engine", number=37)
        engine.data_root = disk / "data"
        engine.arguments = [f"--data-root={engine.data_root}" if "--data-root" in a else a for a in engine.arguments]
        try:
            engine.start()
            fill(disk / "ballast")
            for words in (
                ["pull", f"{registry}:1"],
                ["pull", "--platform", f"linux/{OTHER}", f"{registry}:1"],
                ["tag", f"{registry}:1", f"{registry}:3"],
                ["pull", "--platform", f"linux/{OTHER}", f"{registry}:2"],
            ):
                engine.run_docker(*words)  # what is small may still fit into what the engine has put by
            (disk / "ballast").unlink()
            engine.kill()
            engine.start()
            whole(engine)
            engine.docker("pull", "--platform", f"linux/{OTHER}", f"{registry}:1")
            engine.docker("image", "prune", "-af")
            whole(engine)
        finally:
            engine.clean_up()
