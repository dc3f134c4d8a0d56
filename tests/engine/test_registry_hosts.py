"""Where registries are reached: hosts.toml of certs.d."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from dockyard.content import registry_hosts
from dockyard.content.patience import Patience
from dockyard.content.registry import RegistryClient, Repository
from dockyard.content.registry_auth import Credentials
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import digest_of
from dockyard.oci.reference import Reference
from tests.engine.fake_registry import FakeRegistry

NAME = "images.test:5000"
BLOB = b"a layer" * 1000
MANIFEST = b'{"schemaVersion": 2}'
KIND = "application/vnd.oci.image.manifest.v1+json"


class Place:
    """A folder of settings, the registry itself and a mirror of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = FakeRegistry()
        self.mirror = FakeRegistry()
        self.client = RegistryClient(patience=Patience((0.01, 0.02)))
        self.server_url = self.mirror_url = ""
        self.seen: list[tuple[str, str, str, str]] = []  # what the mirror is asked with

    def write(self, text: str, name: str = NAME) -> None:
        place = self.folder / name / "hosts.toml"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text.replace("SERVER", self.server_url).replace("MIRROR", self.mirror_url))

    def repository(self, *, push: bool = False) -> Repository:
        return self.client.repository(Reference(NAME, "team/box"), Credentials("me", "secret"), push=push)

    async def pull(self) -> bytes:
        repository = self.repository()
        await repository.manifest("latest")
        return b"".join([piece async for piece in repository.blob(Descriptor(digest=digest_of(BLOB), size=len(BLOB)))])


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(registry_hosts, "FOLDERS", (str(tmp_path),))
    found = Place(tmp_path)
    for one in (found.server, found.mirror):
        one.blobs[digest_of(BLOB)] = BLOB
        one.manifests["latest"] = (KIND, MANIFEST)

    def see(request: web.Request) -> None:
        headers = request.headers
        found.seen.append(
            (request.query_string, headers.get("Authorization", ""), headers.get("X-Team", ""), request.path)
        )

    found.mirror.faults.append(see)
    async with AsyncExitStack() as stack:
        found.server_url = f"http://{await stack.enter_async_context(found.server.serving())}"
        found.mirror_url = f"http://{await stack.enter_async_context(found.mirror.serving())}"
        yield found
        await found.client.close()


async def test_a_mirror_is_asked_first_and_hears_no_login(place: Place) -> None:
    place.write('server = "SERVER"\n[host."MIRROR"]\ncapabilities = ["pull", "resolve"]\nheader = {x-team = "one"}\n')
    place.mirror.once("GET", "/manifests/", lambda: web.Response(status=401, headers={"WWW-Authenticate": "Basic"}))
    assert await place.pull() == BLOB
    assert place.server.asked  # the mirror wanted a login that it is not given
    place.server.asked.clear()
    assert await place.pull() == BLOB
    assert place.server.asked == []
    assert {(query, authorization, team) for query, authorization, team, _ in place.seen} == {
        (f"ns={NAME}", "", "one"),
    }


async def test_what_a_mirror_lacks_or_cannot_give_whole_comes_from_the_registry(place: Place) -> None:
    place.write('server = "SERVER"\n[host."MIRROR"]\n')
    del place.mirror.blobs[digest_of(BLOB)]
    assert await place.pull() == BLOB
    place.mirror.blobs[digest_of(BLOB)] = BLOB
    place.mirror.once("GET", "/blobs/", lambda: web.Response(status=500), times=100)
    assert await place.pull() == BLOB
    place.mirror.once("GET", "/manifests/", lambda: web.Response(status=503), times=100)
    assert await place.pull() == BLOB


async def test_pushes_pass_by_a_mirror_that_takes_none(place: Place) -> None:
    place.write('server = "SERVER"\n[host."MIRROR"]\ncapabilities = ["pull"]\n')
    assert await place.repository(push=True).upload_bytes(b"new") == digest_of(b"new")
    assert b"new" in place.server.blobs.values()
    assert place.mirror.asked == []


async def test_a_path_may_be_the_root_of_the_api(place: Place) -> None:
    place.write('[host."MIRROR/proxy/v2"]\noverride_path = true\n', name="_default")
    place.mirror.faults.append(lambda request: web.Response(status=200, body=MANIFEST, content_type=KIND))
    await place.repository().manifest("latest")
    assert place.seen[0][3] == "/proxy/v2/team/box/manifests/latest"


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        'server = "ftp://x"',
        'server = "http://me:secret@x"',
        "host = 1",
        '[host."http://x"]\ncapabilities = ["fly"]',
        '[host."http://x"]\nskip_verify = "yes"',
        '[host."http://x"]\nclient = [["a", "b", "c"]]',
        '[host."http://x"]\nheader = {a = 1}',
        '[host."http://x"]\nca = 1',
    ],
)
def test_a_file_that_cannot_be_used_is_not_passed_over(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_hosts, "FOLDERS", (str(tmp_path),))
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "hosts.toml").write_text(text)
    with pytest.raises(InvalidParameter, match=r"hosts\.toml"):
        RegistryClient().endpoints(NAME)
