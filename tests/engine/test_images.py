"""Images: names, archives, removal, listing; with real layers."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.content.unpack import Worker
from dockyard.engine.events.service import Events
from dockyard.engine.images.image import ImageUser
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.state.database import Database
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound
from dockyard.oci.reference import Reference
from dockyard.snapshots.choice import choose
from dockyard.timestamps import parse_time, parse_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners, which needs root")


def tar(members: dict[str, bytes]) -> bytes:
    """A tar of files by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    """The files of a tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: file.read() for member in archive if (file := archive.extractfile(member)) is not None}


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def document(layers: list[bytes], created: str = "2024-01-01T00:00:00Z", **config: Any) -> bytes:
    """An image configuration on `layers`."""
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [{"created": created, "created_by": f"step {n}"} for n in range(len(layers))],
        }
    ).encode()


def docker_archive(layers: list[bytes], raw: bytes, *tags: str) -> bytes:
    """What `docker save` of an older engine makes."""
    members = {f"{n}/layer.tar": layer for n, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": list(members)}]
    return tar({**members, "config.json": raw, "manifest.json": json.dumps(manifest).encode()})


class Room:
    """An image service that can be opened again on the same data root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.messages: list[dict[str, Any]] = []
        self.open()

    def open(self) -> None:
        self.archives = Worker()
        self.database = Database(self.root / "state.db")
        self.layers = LayerStore(choose(None, self.root), self.archives, self.database, self.root)
        self.events = Events()
        self.images = ImageService(self.layers, None, self.database, self.events)  # type: ignore[arg-type]  # no registry

    async def close(self) -> None:
        await self.layers.close()
        self.archives.close()
        self.database.close()

    async def load(self, data: bytes) -> str:
        self.messages.clear()
        await self.images.load(pieces(data), quiet=True, progress=self.messages.append)
        return "".join(message.get("stream", "") for message in self.messages)

    async def save(self, *names: str) -> bytes:
        return b"".join([piece async for piece in self.images.save(names)])


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    opened = Room(tmp_path)
    yield opened
    await opened.close()


BASE, TOP = tar({"a": b"1", "b": b"2" * 5000}), tar({"c": b"3"})


async def test_a_docker_archive_loads_under_its_names_and_survives_a_restart(room: Room) -> None:
    raw = document([BASE, TOP], Labels={"x": "y"}, Cmd=["sh"])
    assert await room.load(docker_archive([BASE, TOP], raw, "box:1", "example.com/box:2")) == (
        "Loaded image: box:1\nLoaded image: example.com/box:2\n"
    )
    await room.close()
    room.open()
    image = await room.images.get("box:1")
    assert image.id == digest(raw)
    assert image.raw == raw
    assert image.size == 5002
    assert image.repo_tags == ["box:1", "example.com/box:2"]
    assert image.config.config is not None
    assert image.config.config.cmd == ["sh"]
    for name in (image.id, image.id[7:], image.id[7:19], "docker.io/library/box:1"):
        assert (await room.images.get(name)).id == image.id


async def test_a_layer_of_an_archive_is_there_for_every_image_that_has_it_by_whatever_name(room: Room) -> None:
    """Once the last image has it, it is emptied, so that it is not written to the disk."""
    one, other, third = document([BASE]), document([TOP, BASE]), document([BASE, TOP])
    members = {"one.json": one, "other.json": other, "third.json": third, "base/layer.tar": BASE, "top": TOP}
    images = (("one", ["base/layer.tar"]), ("other", ["top", "link"]), ("third", ["base/layer.tar", "top"]))
    manifest = [{"Config": f"{name}.json", "RepoTags": [f"{name}:1"], "Layers": paths} for name, paths in images]
    data = io.BytesIO(tar({**members, "manifest.json": json.dumps(manifest).encode()}))
    with tarfile.open(fileobj=data, mode="a") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "base/layer.tar"
        archive.addfile(link)
    left = []
    settle = room.layers.settle

    async def settled() -> None:
        files = [*room.root.glob("tmp/*/base/layer.tar"), *room.root.glob("tmp/*/top")]
        left.append({file.stat().st_size for file in files})
        await settle()

    room.layers.settle = settled  # type: ignore[method-assign]  # to see what would be written to the disk
    await room.load(data.getvalue())
    assert left[0] == {len(BASE), len(TOP)}
    assert left[-3:] == [{0}] * 3  # what the third image and its name wait for
    for name, raw in (("one", one), ("other", other), ("third", third)):
        assert (await room.images.get(f"{name}:1")).raw == raw


async def test_a_saved_image_loads_as_the_same_image(room: Room) -> None:
    raw = document([BASE, TOP])
    await room.load(docker_archive([BASE, TOP], raw, "box:1"))
    saved = await room.save("box:1")
    names = set(contents(saved))
    assert {"index.json", "manifest.json", "oci-layout", "repositories"} < names
    await room.images.remove("box:1")
    assert room.layers.all() == {}
    assert await room.load(saved) == "Loaded image: box:1\n"
    assert (await room.images.get("box:1")).id == digest(raw)


async def test_an_oci_layout_without_dockers_manifest_loads(room: Room) -> None:
    await room.load(docker_archive([BASE], document([BASE]), "box:1"))
    members = contents(await room.save("box:1"))
    del members["manifest.json"], members["repositories"]
    await room.images.remove("box:1")
    assert await room.load(tar(members)) == "Loaded image: box:1\n"


async def test_an_image_without_a_name_is_loaded_and_saved_by_id(room: Room) -> None:
    raw = document([BASE])
    assert await room.load(docker_archive([BASE], raw)) == f"Loaded image ID: {digest(raw)}\n"
    saved = await room.save(digest(raw)[7:19])
    assert json.loads(contents(saved)["manifest.json"])[0]["RepoTags"] is None


@pytest.mark.parametrize(
    "data",
    [
        b"this is no archive" * 100,
        tar({"hello": b"1"}),
        tar({"manifest.json": b"{"}),
        tar({"manifest.json": b'[{"Config":"../../../etc/passwd","RepoTags":["a:b"],"Layers":[]}]'}),
        docker_archive([BASE], document([TOP]), "box:1"),
        docker_archive([BASE, TOP], document([BASE]), "box:1"),
    ],
)
async def test_a_broken_or_hostile_archive_is_refused_and_leaves_nothing(room: Room, data: bytes) -> None:
    with pytest.raises(DockyardError):
        await room.load(data)
    assert room.images.all() == []
    assert room.layers.all() == {}
    assert os.listdir(room.root / "tmp") == []


async def test_a_symlink_in_an_archive_leads_nowhere_outside(room: Room) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InvalidParameter, match="does not contain"):
        await room.load(buffer.getvalue())


async def test_rmi_untags_first_and_deletes_with_the_last_name(room: Room) -> None:
    raw = document([BASE, TOP])
    await room.load(docker_archive([BASE, TOP], raw, "box:1", "box:2"))
    chains = list(room.layers.all())
    with pytest.raises(Conflict, match=r"unable to delete \w{12} \(must be forced\) - image is referenced in multiple"):
        await room.images.remove(digest(raw))
    assert await room.images.remove("box:2") == [{"Untagged": "box:2"}]
    assert await room.images.remove("box:1") == [
        {"Untagged": "box:1"},
        {"Deleted": digest(raw)},
        {"Deleted": chains[1]},
        {"Deleted": chains[0]},
    ]
    with pytest.raises(NotFound, match="No such image: box:1"):
        await room.images.remove("box:1")


async def test_an_image_in_use_is_kept_as_docker_keeps_it(room: Room) -> None:
    raw = document([BASE])
    await room.load(docker_archive([BASE], raw, "box:1"))
    running = False
    room.images.users.append(lambda image_id: [ImageUser("c" * 64, running)] if image_id == digest(raw) else [])
    with pytest.raises(
        Conflict,
        match=r'unable to remove repository reference "box:1" \(must force\) - container c{12} is using its referenced',
    ):
        await room.images.remove("box:1")
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container c{12}"):
        await room.images.remove(digest(raw))
    running = True
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container c{12}"):
        await room.images.remove(digest(raw), force=True)
    assert await room.images.remove("box:1", force=True) == [{"Untagged": "box:1"}]
    running = False
    assert {"Deleted": digest(raw)} in await room.images.remove(digest(raw), force=True)


async def test_a_parent_goes_with_its_last_child_unless_it_has_a_name(room: Room) -> None:
    raw = document([BASE])
    await room.load(docker_archive([BASE], raw, "box:1"))
    parent = await room.images.get("box:1")
    layer = await room.layers.register(parent.chain_id, pieces(TOP))
    child = await room.images.create(parent.config, parent, layer, tag="child:1")
    room.layers.drop(layer.chain_id)
    assert child.parent == parent.id
    assert await room.images.remove("box:1") == [{"Untagged": "box:1"}]
    with pytest.raises(Conflict, match="image has dependent child images"):
        await room.images.remove(parent.id)
    assert [image.id for image in await room.images.list()] == [child.id]
    deleted = [record["Deleted"] for record in await room.images.remove("child:1") if "Deleted" in record]
    assert child.id in deleted
    assert parent.id in deleted
    assert room.layers.all() == {}


async def test_lists_are_filtered_and_newest_first(room: Room) -> None:
    await room.load(docker_archive([BASE], document([BASE], Labels={"a": "1"}), "old:1"))
    await room.load(docker_archive([TOP], document([TOP], "2024-06-01T00:00:00Z", Labels={"a": "2"}), "new/er:1"))
    await room.load(docker_archive([BASE, TOP], document([BASE, TOP], "2025-01-01T00:00:00Z")))

    async def listed(**filters: list[str]) -> list[list[str]]:
        return [image.repo_tags for image in await room.images.list(filters)]

    assert await listed() == [[], ["new/er:1"], ["old:1"]]
    assert await listed(dangling=["true"]) == [[]]
    assert await listed(dangling=["false"]) == [["new/er:1"], ["old:1"]]
    assert await listed(label=["a"]) == [["new/er:1"], ["old:1"]]
    assert await listed(label=["a=2"]) == [["new/er:1"]]
    assert await listed(reference=["old"]) == [["old:1"]]
    assert await listed(reference=["*"]) == [["old:1"]]
    assert await listed(reference=["*/er"]) == [["new/er:1"]]
    assert await listed(before=["new/er:1"]) == [["old:1"]]
    assert await listed(since=["new/er:1"]) == [[]]
    assert await listed(until=["2024-03-01"]) == [["old:1"]]
    with pytest.raises(InvalidParameter, match="invalid filter 'colour'"):
        await listed(colour=["blue"])


async def test_prune_takes_the_dangling_and_with_all_the_unused(room: Room) -> None:
    await room.load(docker_archive([BASE], document([BASE]), "box:1"))
    await room.load(docker_archive([TOP], document([TOP])))
    records, freed = await room.images.prune({})
    assert {"Deleted": digest(document([TOP]))} in records
    assert freed == 1
    records, freed = await room.images.prune({"dangling": ["false"]})
    assert {"Untagged": "box:1"} in records
    assert freed == 5001


async def test_history_names_the_image_and_its_parents(room: Room) -> None:
    raw = document([BASE, TOP])
    await room.load(docker_archive([BASE, TOP], raw, "box:1"))
    history = await room.images.history("box:1")
    assert [(entry.id, entry.created_by, entry.size, entry.tags) for entry in history] == [
        (digest(raw), "step 1", 1, ["box:1"]),
        ("<missing>", "step 0", 5001, None),
    ]


async def test_import_makes_an_image_of_one_layer_with_changes(room: Room) -> None:
    image = await room.images.import_(
        pieces(BASE),
        name=Reference.parse("mine:1"),
        changes=['CMD ["a","b"]', "ENV X=1 Y=two", "EXPOSE 80", "LABEL k=v", "WORKDIR /w", "USER me"],
        message="from afar",
    )
    config = image.config.config
    assert config is not None
    assert (config.cmd, config.env, config.exposed_ports) == (["a", "b"], ["X=1", "Y=two"], {"80/tcp": {}})
    assert (config.labels, config.working_dir, config.user) == ({"k": "v"}, "/w", "me")
    assert image.repo_tags == ["mine:1"]
    assert image.config.rootfs.diff_ids == [digest(BASE)]
    assert (await room.images.history("mine:1"))[0].comment == "from afar"
    with pytest.raises(InvalidParameter, match="RUN is not a valid change command"):
        await room.images.import_(pieces(BASE), changes=["RUN true"])


async def test_a_tag_moves_from_one_image_to_the_other(room: Room) -> None:
    await room.load(docker_archive([BASE], document([BASE]), "box:1"))
    first = (await room.images.get("box:1")).id
    assert f"The image box:1 already exists, renaming the old one with ID {first} to empty string" in (
        await room.load(docker_archive([TOP], document([TOP]), "box:1"))
    )
    assert (await room.images.get(first)).repo_tags == []
    room.images.tag(first, Reference.parse("box"))
    assert (await room.images.get("box")).id == first


def test_times_are_read_as_docker_writes_them() -> None:
    assert parse_time("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert parse_time("2024-01-01T02:00:00.123456789+02:00") == 1_704_067_200_123_456_789
    assert parse_time("0001-01-01T00:00:00Z") is None
    assert parse_time(None) is None
    assert parse_until("1700000000") == 1_700_000_000_000_000_000
    with pytest.raises(InvalidParameter):
        parse_until("yesterday")
