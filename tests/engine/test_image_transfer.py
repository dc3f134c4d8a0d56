"""Pulling and pushing against the distribution's own registry server."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.content.patience import Patience
from dockyard.content.registry import RegistryClient
from dockyard.content.registry_auth import Credentials
from dockyard.errors import DockyardError, NotFound, Unavailable
from dockyard.oci.reference import Reference
from tests.engine.test_images import BASE, TOP, Room, digest, docker_archive, document

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs Debian's docker-registry")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of our own on loopback; its host:port. DOCKYARD_REGISTRY names another to take instead."""
    if given := os.environ.get("DOCKYARD_REGISTRY"):
        yield given
        return
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    settings = folder / "config.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", str(settings)], stderr=subprocess.DEVNULL)
    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield f"localhost:{port}"
    server.terminate()
    server.wait()


class Connected(Room):
    """An image service with a way to registries."""

    def open(self) -> None:
        super().open()
        self.images.registry = RegistryClient(patience=Patience((0.01, 0.02, 0.05, 0.1)))

    async def close(self) -> None:
        await self.images.registry.close()
        await super().close()

    async def pull(self, name: str, **options: Any) -> list[str]:
        self.messages.clear()
        await self.images.pull(Reference.parse(name), progress=self.messages.append, **options)
        return self.said()

    async def push(self, name: str, **options: Any) -> list[str]:
        self.messages.clear()
        await self.images.push(Reference.parse(name), progress=self.messages.append, **options)
        return self.said()

    def said(self) -> list[str]:
        return [
            f"{message['id']}: {message['status']}" if "id" in message else message["status"]
            for message in self.messages
            if "status" in message and not message.get("progressDetail")
        ]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Connected]:
    opened = Connected(tmp_path)
    yield opened
    await opened.close()


async def test_what_is_pushed_is_pulled_as_the_same_image(room: Connected, registry: str) -> None:
    raw = document([BASE, TOP])
    name = f"{registry}/one/box:1"
    await room.load(docker_archive([BASE, TOP], raw, name))
    base, top = digest(BASE)[7:19], digest(TOP)[7:19]
    said = await room.push(name)
    assert said[0] == f"The push refers to repository [{registry}/one/box]"
    assert said[1:3] == [f"{base}: Preparing", f"{top}: Preparing"]
    assert {f"{base}: Pushed", f"{top}: Pushed"} < set(said)
    aux = room.messages[-1]["aux"]
    assert said[-1] == f"1: digest: {aux['Digest']} size: {aux['Size']}"
    assert (await room.images.get(name)).repo_digests == [f"{registry}/one/box@{aux['Digest']}"]

    await room.images.remove(name)
    assert room.layers.all() == {}
    said = await room.pull(name)
    assert said[0] == "1: Pulling from one/box"
    assert sum(line.endswith(": Pulling fs layer") for line in said) == 2
    assert sum(line.endswith(": Pull complete") for line in said) == 2
    assert said[-2:] == [f"Digest: {aux['Digest']}", f"Status: Downloaded newer image for {name}"]
    assert (await room.images.get(name)).raw == raw
    assert (await room.pull(name))[-1] == f"Status: Image is up to date for {name}"
    by_digest = f"{registry}/one/box@{aux['Digest']}"
    assert (await room.pull(by_digest))[0] == f"{aux['Digest']}: Pulling from one/box"


async def test_layers_that_a_registry_has_are_not_sent_again(room: Connected, registry: str) -> None:
    await room.load(docker_archive([BASE], document([BASE]), f"{registry}/two/box:1", f"{registry}/two/other:1"))
    base = digest(BASE)[7:19]
    await room.push(f"{registry}/two/box:1")
    assert f"{base}: Layer already exists" in await room.push(f"{registry}/two/box:1")
    assert f"{base}: Mounted from two/box" in await room.push(f"{registry}/two/other:1")


async def test_all_tags_go_and_come_together(room: Connected, registry: str) -> None:
    name = f"{registry}/three/box"
    await room.load(docker_archive([BASE], document([BASE]), f"{name}:1"))
    await room.load(docker_archive([TOP], document([TOP]), f"{name}:2"))
    await room.push(name)
    await room.images.remove(f"{name}:1")
    await room.images.remove(f"{name}:2")
    assert (await room.pull(name, all_tags=True))[-1] == f"Status: Downloaded newer image for {name}"
    assert sorted(tag for image in room.images.all() for tag in image.repo_tags) == [f"{name}:1", f"{name}:2"]


async def test_a_failed_pull_leaves_nothing(room: Connected, registry: str) -> None:
    with pytest.raises(NotFound, match=f"manifest for {registry}/nosuch:latest not found"):
        await room.pull(f"{registry}/nosuch")
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: nosuch"):
        await room.push("nosuch")
    assert room.layers.all() == {}


async def test_the_registrys_word_on_an_image(room: Connected, registry: str) -> None:
    name = f"{registry}/four/box:1"
    await room.load(docker_archive([BASE], document([BASE]), name))
    await room.push(name)
    told = await room.images.distribution(name)
    assert told["Descriptor"]["digest"] == room.messages[-1]["aux"]["Digest"]
    assert json.dumps([platform.architecture for platform in told["Platforms"]]) == '["amd64"]'


async def test_without_a_registry_the_embedded_image_is_taken_and_said_so(
    room: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dockyard.content.registry.HUB", f"http://localhost:{free_port()}")
    said = await room.pull("hello-world")
    assert said[0] == "latest: Pulling from library/hello-world"
    assert said[1].startswith("No registry answers: ")
    assert said[2] == "Using the image hello-world:latest that is embedded in Dockyard"
    assert said[-1] == "Status: Took embedded image for hello-world:latest"
    assert (await room.images.get("hello-world")).repo_tags == ["hello-world:latest"]
    with pytest.raises(Unavailable):
        await room.pull("no-such-image")
    with pytest.raises(Unavailable):
        await room.pull("busybox:1.36")


async def test_a_login_is_not_checked_by_a_mirror(registry: str) -> None:
    # the mirror takes anyone; the Hub, if it can be reached, takes no one of that name
    client = RegistryClient(mirrors=[f"http://{registry}"])
    try:
        with pytest.raises(DockyardError):
            await client.login("docker.io", Credentials("no-such-user-there", "wrong"))
    finally:
        await client.close()
