"""Indexes of several platforms' images: kept whole, listed, chosen from, pushed, saved, loaded and removed."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dockyard.api.image_manifests import descriptor, manifests
from dockyard.content.registry import RegistryClient
from dockyard.engine.images import pull
from dockyard.engine.images.image import ImageUser
from dockyard.engine.repair.fsck import Fsck
from dockyard.engine.repair.rebuild import Adoption
from dockyard.engine.state.database import Database
from dockyard.errors import Conflict, NotFound
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, host
from dockyard.oci.reference import Reference
from tests.engine.test_image_transfer import Connected, registry, room
from tests.engine.test_images import BASE, TOP, contents, digest, document, pieces, tar

__all__ = ["registry", "room"]  # fixtures

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners, which needs root")

HERE = host().architecture
OTHER = "s390x"
FOREIGN = Platform(OTHER, "linux")


def config(architecture: str, layers: list[bytes]) -> bytes:
    return json.dumps({**json.loads(document(layers)), "architecture": architecture}).encode()


IMAGES = {HERE: config(HERE, [BASE, TOP]), OTHER: config(OTHER, [BASE])}
LAYERS = {HERE: [BASE, TOP], OTHER: [BASE]}


def described(media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content), **more}


def made(*, attested: bool = False) -> tuple[bytes, dict[str, bytes], list[bytes]]:
    """(an index, its manifests by what they are for, the blobs)."""
    found: dict[str, bytes] = {}
    blobs, entries = list(IMAGES.values()), []
    for architecture, raw in IMAGES.items():
        # a level that is not the engine's, so that its own would have other digests
        packed = [gzip.compress(layer, 9, mtime=0) for layer in LAYERS[architecture]]
        blobs += packed
        found[architecture] = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": described(OCI_CONFIG, raw),
                "layers": [described(OCI_LAYER_GZIP, blob) for blob in packed],
            }
        ).encode()
        platform = {"os": "linux", "architecture": architecture}
        entries.append(described(OCI_MANIFEST, found[architecture], platform=platform))
    if attested:
        statement = b'{"_type":"https://in-toto.io/Statement/v0.1"}'
        blobs += [statement, b"{}"]
        found["attestation"] = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": described(OCI_CONFIG, b"{}"),
                "layers": [described("application/vnd.in-toto+json", statement)],
            }
        ).encode()
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest(found[HERE]),
        }
        platform = {"os": "unknown", "architecture": "unknown"}
        entries.append(described(OCI_MANIFEST, found["attestation"], platform=platform, annotations=annotations))
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return index, found, blobs


async def publish(name: str, *, attested: bool = False) -> str:
    """Put the index into a registry; its digest."""
    client = RegistryClient()
    try:
        reference = Reference.parse(name)
        repository = client.repository(reference, push=True)
        index, found, blobs = made(attested=attested)
        for blob in blobs:
            await repository.upload_bytes(blob)
        for manifest in found.values():
            await repository.put_manifest(digest(manifest), OCI_MANIFEST, manifest)
        return await repository.put_manifest(reference.tag or "latest", OCI_INDEX, index)
    finally:
        await client.close()


def digests(room: Connected) -> list[str]:
    """The images that a plain list shows."""
    return [image.id for image in room.images.all() if image.repo_tags or image.repo_digests]


async def both(room: Connected, name: str) -> str:
    """Have the index `name` here with both its images; its digest."""
    target = await publish(name)
    await room.pull(name)
    await room.pull(name, platform=f"linux/{OTHER}")
    return target


async def test_a_second_platform_comes_beside_the_first_and_the_name_means_the_last_pulled(
    room: Connected, registry: str
) -> None:
    name = f"{registry}/platforms/pull:1"
    target = await publish(name, attested=True)
    await room.pull(name)
    assert room.images.find(name).platform.architecture == HERE
    with pytest.raises(NotFound, match=f"its platform .*{HERE}.* does not match the specified platform"):
        room.images.platforms.choose(name, FOREIGN)
    said = await room.pull(name, platform=f"linux/{OTHER}")
    assert said[-2:] == [f"Digest: {target}", f"Status: Downloaded newer image for {name}"]
    await room.close()
    room.open()
    assert room.images.find(name).id == digest(IMAGES[OTHER])
    assert room.images.find(name).repo_digests == [f"{registry}/platforms/pull@{target}"]
    assert room.images.platforms.choose(name, host()).id == digest(IMAGES[HERE])
    assert room.images.platforms.choose(name, FOREIGN).id == digest(IMAGES[OTHER])
    assert [image.id for image in await room.images.list()] == [digest(IMAGES[OTHER])]
    assert len(await room.images.list(all=True)) == 2
    assert await room.images.list({"dangling": ["true"]}) == []
    assert (await room.images.prune({}))[0] == []

    listed = manifests(room.images, digest(IMAGES[OTHER]))
    assert [(row["Kind"], row["Available"]) for row in listed] == [
        ("image", True),
        ("image", True),
        ("attestation", True),  # of the image that was pulled first
    ]
    assert listed[0]["ImageData"]["Platform"] == {"architecture": HERE, "os": "linux"}
    assert listed[0]["ImageData"]["Size"]["Unpacked"] == 5002
    assert listed[2]["AttestationData"] == {"For": listed[0]["ID"]}
    assert descriptor(room.images, digest(IMAGES[OTHER]))["Descriptor"]["digest"] == target


async def test_names_of_one_image_tell_of_their_own_indexes(room: Connected, registry: str) -> None:
    first, second = f"{registry}/platforms/own:1", f"{registry}/platforms/own-too:1"
    target, other = await publish(first), await publish(second, attested=True)
    await room.pull(first)
    await room.pull(second)
    image_id = digest(IMAGES[HERE])
    assert descriptor(room.images, image_id, first)["Descriptor"]["digest"] == target
    assert descriptor(room.images, image_id, second)["Descriptor"]["digest"] == other
    assert [len(manifests(room.images, image_id, name)) for name in (first, second)] == [2, 3]
    assert descriptor(room.images, image_id, image_id[7:19]) == descriptor(room.images, image_id)


async def test_an_index_whose_images_are_all_here_is_pushed_as_it_came(room: Connected, registry: str) -> None:
    name, copy = f"{registry}/platforms/push:1", f"{registry}/platforms/copy:1"
    target = await both(room, name)
    room.images.tag(room.images.resolve(name), Reference.parse(copy), name)
    said = await room.push(copy)
    assert said[-1].startswith(f"1: digest: {target} size: ")
    assert room.messages[-1]["aux"]["Digest"] == target
    repository = room.images.registry.repository(Reference.parse(copy))
    assert (await repository.manifest("1")).content == made()[0]
    for manifest in made()[1].values():
        assert (await repository.manifest(digest(manifest))).content == manifest


async def test_where_the_registry_lacks_the_blobs_the_index_leads_to_the_same_images(
    room: Connected, registry: str
) -> None:
    await both(room, f"{registry}/platforms/rebuilt:1")
    archive = await room.save(f"{registry}/platforms/rebuilt:1")
    await room.images.remove(f"{registry}/platforms/rebuilt:1")
    assert room.images.all() == []
    assert not room.images.manifests.entries(digest(made()[0]))
    await room.load(archive)
    name = f"{registry}/platforms/elsewhere:1"
    room.images.tag(
        room.images.resolve(f"{registry}/platforms/rebuilt:1"), Reference.parse(name), f"{registry}/platforms/rebuilt:1"
    )
    await room.push(name)
    target = room.messages[-1]["aux"]["Digest"]
    for platform, raw in ((f"linux/{HERE}", IMAGES[HERE]), (f"linux/{OTHER}", IMAGES[OTHER])):
        await room.pull(name, platform=platform)
        assert room.images.find(name).id == digest(raw)
    row = room.images.names.row(Reference.parse(name))
    assert row is not None
    assert row.target == target
    assert row.beside == [digest(IMAGES[HERE])]


async def test_an_index_that_is_here_in_part_is_not_pushed_and_that_is_said(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/part:1"
    target = await publish(name)
    await room.pull(name)
    await room.push(name)
    aux = [message["aux"] for message in room.messages if "aux" in message]
    assert aux[0]["Tag"] == "1"
    assert aux[1]["manifestPushedInsteadOfIndex"]
    assert aux[1]["originalIndex"].digest == target
    assert aux[1]["selectedManifest"].digest == aux[0]["Digest"]
    document = await room.images.registry.repository(Reference.parse(name)).manifest("1")
    assert document.media_type == DOCKER_MANIFEST


async def test_only_the_image_of_the_platform_that_is_asked_for_is_pushed(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/single:1"
    await both(room, name)
    await room.push(name, platform=host())
    found = json.loads((await room.images.registry.repository(Reference.parse(name)).manifest("1")).content)
    assert found["config"]["digest"] == digest(IMAGES[HERE])


async def test_several_platforms_are_saved_and_loaded_and_each_alone(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/save:1"
    await both(room, name)
    archive = await room.save(name)
    files = contents(archive)
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["mediaType"] == OCI_INDEX
    index = json.loads(files["blobs/" + entry["digest"].replace(":", "/")])
    assert {row["platform"]["architecture"] for row in index["manifests"]} == {HERE, OTHER}
    saved = json.loads(files["manifest.json"])
    assert [row["RepoTags"] for row in saved] == [[name], None]  # Docker takes the tag for the image it meant here
    one = b"".join([piece async for piece in room.images.save([name], [host()])])
    assert [row["Config"][-64:] for row in json.loads(contents(one)["manifest.json"])] == [digest(IMAGES[HERE])[7:]]
    with pytest.raises(NotFound, match="no suitable export target found for platform linux/riscv64"):
        room.images.save([name], [Platform("riscv64", "linux")])

    familiar = "save-of-hub:1"  # which the archive's documents call by different words
    room.images.tag(room.images.resolve(name), Reference.parse(familiar), name)
    hub = await room.save(familiar)
    await room.images.remove(familiar)
    assert await room.load(hub) == f"Loaded image: {familiar}\n"
    assert room.images.platforms.choose(familiar, host()).id == digest(IMAGES[HERE])
    assert room.images.platforms.choose(familiar, FOREIGN).id == digest(IMAGES[OTHER])
    await room.images.remove(familiar)

    await room.images.remove(name)
    assert await room.load(archive) == f"Loaded image: {name}\n"
    assert room.images.find(name).id == digest(IMAGES[OTHER])
    assert room.images.platforms.choose(name, host()).id == digest(IMAGES[HERE])
    await room.images.remove(name)
    assert room.images.all() == []
    await room.images.load(pieces(archive), quiet=True, progress=room.messages.append, platforms=[host()])
    assert [image.id for image in room.images.all()] == [digest(IMAGES[HERE])]
    assert room.images.find(name).repo_tags == [name]


async def test_an_oci_layout_gives_all_images_that_are_whole_in_it(room: Connected) -> None:
    index, found, blobs = made(attested=True)
    for lacking in ([], [gzip.compress(TOP, 9, mtime=0)]):
        files = {
            f"blobs/sha256/{digest(blob)[7:]}": blob for blob in (index, *found.values(), *blobs) if blob not in lacking
        }
        entry = described(OCI_INDEX, index, annotations={"io.containerd.image.name": "docker.io/library/layout:1"})
        files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        assert await room.load(tar(files)) == "Loaded image: layout:1\n"
        expected = OTHER if lacking else HERE
        assert room.images.find("layout:1").id == digest(IMAGES[expected])
        assert len(room.images.all()) == (1 if lacking else 2)
        assert room.images.platforms.target_of(digest(IMAGES[expected])) == digest(index)
        await room.images.remove("layout:1")
        assert room.images.all() == []


async def test_removing_the_name_removes_all_and_a_platform_only_that(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/remove:1"
    await both(room, name)
    removed = await room.images.remove(name, platform=FOREIGN)
    assert {"Deleted": digest(IMAGES[OTHER])} in removed
    assert not any("Untagged" in row for row in removed)
    assert room.images.find(name).id == digest(IMAGES[HERE])
    assert [row["Available"] for row in manifests(room.images, digest(IMAGES[HERE]))] == [True, False]
    await room.pull(name, platform=f"linux/{OTHER}")

    running = ImageUser("c" * 64, running=True)
    room.images.users.append(lambda image_id: [running] if image_id == digest(IMAGES[HERE]) else [])
    with pytest.raises(Conflict, match="being used by running container"):
        await room.images.remove(name, platform=host(), force=True)
    removed = await room.images.remove(name)  # what a container uses stays, without a name, as in Docker
    assert [image.id for image in room.images.all()] == [digest(IMAGES[HERE])]
    room.images.users.clear()
    await room.images.prune({})
    assert room.images.all() == []
    assert room.layers.all() == {}
    assert list((room.root / "image" / "manifests").iterdir()) == []


async def test_a_lost_index_is_found_and_its_images_stay(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/lost:1"
    target = await both(room, name)
    room.database.collection("manifests", dict).delete(target)
    (room.root / "image" / "manifests" / f"{target[7:]}.json").unlink()
    await room.close()
    room.open()
    nothing: Any = None
    checker = Fsck(Path(room.root), room.database, room.layers, nothing, room.images, nothing, nothing)
    (by_digest, by_tag) = [*checker._lost_targets(), *checker._lost_targets()]
    assert by_digest.problem == f"the index or manifest {target} that it stands for is missing"
    assert by_tag.mend is not None
    by_tag.mend()
    assert list(checker._lost_targets()) == []
    assert len(room.images.all()) == 2
    assert room.images.find(name).id == digest(IMAGES[OTHER])


async def test_a_platform_that_another_name_keeps_stays_when_one_name_goes(room: Connected, registry: str) -> None:
    one, other = f"{registry}/platforms/names:1", f"{registry}/platforms/names:2"
    target = await both(room, one)
    room.images.tag(room.images.resolve(one), Reference.parse(other), one)
    await room.images.remove(one, platform=FOREIGN)
    assert len(room.images.all()) == 2
    assert room.images.find(one).id == digest(IMAGES[HERE])
    await room.images.remove(one, force=True)
    assert len(room.images.all()) == 2
    assert room.images.platforms.choose(other, host()).id == digest(IMAGES[HERE])
    assert room.images.find(f"{registry}/platforms/names@{target}").id == digest(IMAGES[OTHER])
    await room.images.remove(digest(IMAGES[HERE]))  # by its ID
    assert [image.id for image in room.images.all()] == [digest(IMAGES[OTHER])]


async def test_a_lost_database_is_made_again_with_its_indexes(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/adopted:1"
    target = await both(room, name)
    await room.close()
    for file in room.root.glob("state.db*"):
        file.unlink()
    database = Database(room.root / "state.db")
    list(Adoption(room.root, database).adopt())
    database.close()
    room.open()
    assert room.images.platforms.choose(name, host()).id == digest(IMAGES[HERE])
    assert room.images.platforms.choose(name, FOREIGN).id == digest(IMAGES[OTHER])
    assert room.images.platforms.target_of(digest(IMAGES[OTHER])) == target


async def test_what_is_said_about_an_image_comes_with_it_and_goes_with_it(room: Connected, registry: str) -> None:
    name = f"{registry}/platforms/said:1"
    await publish(name, attested=True)
    await room.pull(name)
    folder = room.root / "image" / "statements"
    assert len(list(folder.iterdir())) == 2
    await room.close()
    room.open()
    assert manifests(room.images, digest(IMAGES[HERE]))[2]["Available"]

    broken = next(iter(folder.iterdir()))
    broken.write_bytes(b"other")
    nothing: Any = None
    checker = Fsck(Path(room.root), room.database, room.layers, nothing, room.images, nothing, nothing)
    (found,) = checker._statements()
    assert found.name == f"sha256:{broken.name}"
    assert found.mend is not None
    found.mend()
    assert list(checker._statements()) == []
    assert not manifests(room.images, digest(IMAGES[HERE]))[2]["Available"]
    await room.pull(name)  # which is up to date but for that
    assert manifests(room.images, digest(IMAGES[HERE]))[2]["Available"]
    await room.images.remove(name)
    assert list(folder.iterdir()) == []


async def test_an_image_comes_without_what_is_said_about_it_where_that_can_not_be_had(
    room: Connected, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "LARGEST", 10)  # bytes, of what is said
    name = f"{registry}/platforms/unsaid:1"
    await publish(name, attested=True)
    await room.pull(name)
    assert room.images.find(name).id == digest(IMAGES[HERE])
    assert not manifests(room.images, digest(IMAGES[HERE]))[2]["Available"]
