"""What goes wrong on the way to a registry and back, a fault at a time: a pull or push goes on where Docker's does."""

import asyncio
import base64
import gzip
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dockyard.content.patience import Patience, seconds
from dockyard.content.registry_auth import Credentials, challenges
from dockyard.errors import DockyardError, NotFound, Unauthorized, Unavailable
from tests.engine.fake_registry import Cut, FakeRegistry
from tests.engine.test_image_transfer import Connected, free_port
from tests.engine.test_images import BASE, TOP, digest, docker_archive, document

RAW = document([BASE, TOP])
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ME = Credentials("me", "secret")
BASIC = "Basic " + base64.b64encode(b"me:secret").decode()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Connected]:
    opened = Connected(tmp_path)
    yield opened
    await opened.close()


async def pushed(room: Connected, fake: FakeRegistry, auth: Credentials | None = None) -> list[str]:
    """Push an image of two layers, and see that it is there."""
    name = f"{fake.host}/a/box:1"
    await room.load(docker_archive([BASE, TOP], RAW, name))
    said = await room.push(name, auth=auth)
    _, body = fake.manifests["1"]
    for layer in json.loads(body)["layers"]:
        assert gzip.decompress(fake.blobs[layer["digest"]]) in (BASE, TOP)
    return said


def described(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(blob), "digest": digest(blob)}


def filled(fake: FakeRegistry, layers: list[bytes] | None = None) -> None:
    """Give the registry an image of `layers` (compressed), BASE and TOP."""
    packed = layers or [gzip.compress(BASE), gzip.compress(TOP)]
    for blob in (RAW, *packed):
        fake.blobs[digest(blob)] = blob
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described("application/vnd.docker.container.image.v1+json", RAW),
        "layers": [described("application/vnd.docker.image.rootfs.diff.tar.gzip", blob) for blob in packed],
    }
    body = json.dumps(manifest).encode()
    fake.manifests["1"] = fake.manifests[digest(body)] = (MANIFEST, body)


def status(code: int, **headers: str) -> Callable[[], web.StreamResponse]:
    return lambda: web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})


def cut() -> web.StreamResponse:
    raise Cut


# -- logins


def guarded(wanted: Callable[[web.Request], bool], challenge: Callable[[web.Request], str]) -> Any:
    def fault(request: web.Request) -> web.StreamResponse | None:
        if wanted(request):
            return None
        errors = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        return web.json_response(errors, status=401, headers={"WWW-Authenticate": challenge(request)})

    return fault


@pytest.mark.parametrize("challenge", ['Basic realm="r"', "basic Realm=r", 'Negotiate, Basic realm="a, \\"b\\""'])
async def test_layers_go_side_by_side_to_a_registry_that_wants_a_login(room: Connected, challenge: str) -> None:
    fake = FakeRegistry()
    fake.faults.append(guarded(lambda request: request.headers.get("Authorization") == BASIC, lambda _: challenge))
    async with fake.serving():
        await pushed(room, fake, ME)
        with pytest.raises(DockyardError):
            await room.push(f"{fake.host}/a/box:1", auth=Credentials("me", "wrong"))


class Tokens:
    """A token server whose tokens are good for some requests; what it was asked."""

    def __init__(self, good_for: int, answer: Callable[[str], Any] = lambda token: {"token": token}) -> None:
        self.left: dict[str, int] = {}
        self.good_for = good_for
        self.answer = answer
        self.scopes: list[list[str]] = []

    def fault(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            self.scopes.append(request.query.getall("scope"))
            token = f"t{len(self.scopes)}"
            self.left[token] = self.good_for
            return web.json_response(self.answer(token))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.left.get(token, 0) > 0:
            self.left[token] -= 1
            return None
        challenge = f'BEARER Realm="http://{request.host}/token",SERVICE=here,scope="x"'
        return web.json_response({"errors": []}, status=401, headers={"WWW-Authenticate": challenge})


@pytest.mark.parametrize("good_for", [1000, 7, 5])
async def test_a_token_that_ends_in_the_midst_is_renewed(room: Connected, good_for: int) -> None:
    fake, tokens = FakeRegistry(), Tokens(good_for)
    fake.faults.append(tokens.fault)
    async with fake.serving():
        await pushed(room, fake)
        await room.images.remove(f"{fake.host}/a/box:1")
        await room.pull(f"{fake.host}/a/box:1")
    if good_for == 1000:
        assert len(tokens.scopes) == 2  # one for the push, one for the pull, however many layers


@pytest.mark.parametrize(
    "answer",
    [
        lambda token: {"token": None, "access_token": token, "expires_in": None, "refresh_token": None},
        lambda token: {"token": token, "expires_in": "300", "issued_at": 5},
        lambda token: {"access_token": token, "token": "", "expires_in": 0.5},
    ],
)
async def test_a_token_server_may_leave_fields_null(room: Connected, answer: Any) -> None:
    fake, tokens = FakeRegistry(), Tokens(1000, answer)
    fake.faults.append(tokens.fault)
    async with fake.serving():
        await pushed(room, fake)


async def test_a_token_server_that_gives_none_is_told_of(room: Connected) -> None:
    fake, tokens = FakeRegistry(), Tokens(1000, lambda token: {})
    fake.faults.append(tokens.fault)
    async with fake.serving() as host:
        with pytest.raises(Unavailable, match="did not include a token"):
            await room.pull(f"{host}/a/box:1")


async def test_a_refused_token_is_asked_for_once_a_request(room: Connected) -> None:
    fake, tokens = FakeRegistry(), Tokens(0)
    fake.faults.append(tokens.fault)
    async with fake.serving() as host:
        with pytest.raises(NotFound, match="pull access denied"):
            await room.pull(f"{host}/a/box:1")
        assert len(tokens.scopes) == 1
        with pytest.raises(Unauthorized):
            await pushed(room, fake)


async def test_a_mount_asks_for_a_look_at_the_source_too(room: Connected) -> None:
    fake, tokens = FakeRegistry(), Tokens(1000)
    fake.faults.append(tokens.fault)
    async with fake.serving() as host:
        await pushed(room, fake)
        fake.blobs.clear()
        await room.load(docker_archive([BASE, TOP], RAW, f"{host}/b/box:1"))
        await room.push(f"{host}/b/box:1")
    assert ["repository:b/box:pull,push", "repository:a/box:pull"] in tokens.scopes


def test_challenges_are_read_in_every_spelling() -> None:
    [one, other] = challenges(['Bearer realm="https://a/b?c=d,e", Service=x,scope="a b" , BASIC REALM="q\\"q"'])
    assert (one.scheme, one.parameters) == ("bearer", {"realm": "https://a/b?c=d,e", "service": "x", "scope": "a b"})
    assert (other.scheme, other.parameters) == ("basic", {"realm": 'q"q'})
    assert [one.scheme for one in challenges(["Negotiate", "Basic", "", "=,"])] == ["negotiate", "basic"]


# -- faults that pass


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(("method", "part"), [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PATCH", "/uploads/"),
                                              ("PUT", "/uploads/"), ("PUT", "/manifests/")])  # fmt: skip
async def test_a_push_outlasts_passing_faults(room: Connected, code: int, method: str, part: str) -> None:
    fake = FakeRegistry()
    fake.once(method, part, status(code), times=3)
    async with fake.serving():
        await pushed(room, fake)


@pytest.mark.parametrize("code", [429, 500, 503])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
async def test_a_pull_outlasts_passing_faults(room: Connected, code: int, part: str) -> None:
    fake = FakeRegistry()
    filled(fake)
    fake.once("GET", part, status(code), times=3)
    async with fake.serving() as host:
        await room.pull(f"{host}/a/box:1")


@pytest.mark.parametrize(("method", "part"), [("POST", "/uploads/"), ("PATCH", "/uploads/"), ("PUT", "/uploads/"),
                                              ("PUT", "/manifests/"), ("HEAD", "/blobs/")])  # fmt: skip
async def test_a_push_outlasts_connections_that_break(room: Connected, method: str, part: str) -> None:
    fake = FakeRegistry()
    fake.once(method, part, cut, times=3)
    async with fake.serving():
        said = await pushed(room, fake)
    assert method not in ("PATCH", "PUT") or part != "/uploads/" or any("Retrying in 1 second" in line for line in said)


async def test_a_fault_that_stays_ends_in_words(room: Connected) -> None:
    fake = FakeRegistry()
    fake.once("PATCH", "/uploads/", cut, times=1000)
    async with fake.serving():
        with pytest.raises(Unavailable, match="cannot upload a blob"):
            await pushed(room, fake)


async def test_an_upload_that_the_registry_forgot_begins_anew(room: Connected) -> None:
    fake = FakeRegistry()

    def forget() -> web.StreamResponse:
        fake.uploads.clear()
        return web.Response(status=404)

    fake.once("PUT", "/uploads/", forget)
    async with fake.serving():
        await pushed(room, fake)


async def test_a_registry_that_is_away_for_a_while_is_waited_for(room: Connected) -> None:
    fake, port = FakeRegistry(), free_port()
    filled(fake)
    room.images.registry.patience = Patience((0.1,) * 30)
    halves = asyncio.Event()

    async def half(request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        halves.set()
        await asyncio.sleep(60)
        return response

    fake.serve_blob = half

    async with fake.serving(port):
        task = asyncio.ensure_future(room.pull(f"localhost:{port}/a/box:1"))
        await halves.wait()
    await asyncio.sleep(1)
    fake.serve_blob = None
    async with fake.serving(port):
        await task


async def test_a_registry_that_was_never_there_is_not_waited_for(room: Connected) -> None:
    room.images.registry.patience = Patience((30,) * 5)
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        await room.pull(f"localhost:{free_port()}/a/box:1")
    assert time.monotonic() - begun < 10


async def test_what_the_registry_says_of_when_to_come_back_counts(room: Connected) -> None:
    fake = FakeRegistry()
    filled(fake)
    fake.once("GET", "/manifests/", status(429, Retry_After="1"))
    async with fake.serving() as host:
        begun = time.monotonic()
        await room.pull(f"{host}/a/box:1")
        assert time.monotonic() - begun >= 1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert (seconds("7"), seconds(""), seconds("soon"), seconds("-1")) == (7, 0, 0, 0)
    assert seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert seconds("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9


# -- taking up a download


def breaking(resume: Callable[[web.Request, bytes, int], web.StreamResponse]) -> Any:
    """A blob server whose first answer breaks in the middle; `resume` makes those to a Range."""
    served: set[str] = set()

    async def serve(request: web.Request, content: bytes) -> web.StreamResponse:
        begin = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if begin:
            return resume(request, content, begin)
        if request.path in served:
            return web.Response(body=content)
        served.add(request.path)
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        await asyncio.sleep(0.05)
        raise Cut

    return serve


def part(content: bytes, begin: int, said: str | None) -> web.Response:
    headers = {"Content-Range": said} if said is not None else {}
    return web.Response(status=206, body=content[begin:], headers=headers)


@pytest.mark.parametrize(
    "resume",
    [
        lambda request, content, begin: part(content, begin, f"bytes {begin}-{len(content) - 1}/{len(content)}"),
        lambda request, content, begin: part(content, begin - 3, f"bytes {begin - 3}-{len(content) - 1}/*"),
        lambda request, content, begin: part(content, 0, f"bytes 0-{len(content) - 1}/{len(content)}"),
        lambda request, content, begin: part(content, begin + 2, f"bytes {begin + 2}-{len(content) - 1}/*"),
        lambda request, content, begin: part(content, 0, None),
        lambda request, content, begin: web.Response(body=content),
        lambda request, content, begin: web.Response(status=416),
        lambda request, content, begin: web.Response(status=503),
    ],
    ids="exact early zero late unsaid whole 416 503".split(),
)
async def test_a_download_is_taken_up_where_the_answer_says_it_begins(room: Connected, resume: Any) -> None:
    fake = FakeRegistry(serve_blob=breaking(resume))
    filled(fake)
    fake.blobs[digest(RAW)] = RAW
    if resume(None, b"12345678", 4).status == 503:
        with pytest.raises(Unavailable):
            async with fake.serving() as host:
                await room.pull(f"{host}/a/box:1")
        return
    async with fake.serving() as host:
        await room.pull(f"{host}/a/box:1")
    assert (await room.images.get(f"{host}/a/box:1")).raw == RAW


async def test_another_content_behind_the_break_is_refused(room: Connected) -> None:
    def resume(request: web.Request, content: bytes, begin: int) -> web.StreamResponse:
        return part(content[:begin] + bytes(len(content) - begin), begin, f"bytes {begin}-{len(content) - 1}/*")

    fake = FakeRegistry(serve_blob=breaking(resume))
    filled(fake)
    async with fake.serving() as host:
        with pytest.raises(DockyardError):
            await room.pull(f"{host}/a/box:1")
    assert room.layers.all() == {}


# -- odd but right


async def test_json_may_come_compressed(room: Connected) -> None:
    fake = FakeRegistry()
    filled(fake)
    kind, body = fake.manifests["1"]

    def packed() -> web.StreamResponse:
        return web.Response(body=gzip.compress(body), content_type=kind, headers={"Content-Encoding": "gzip"})

    fake.once("GET", "/manifests/", packed)
    async with fake.serving() as host:
        await room.pull(f"{host}/a/box:1")


async def test_an_index_may_lead_to_another(room: Connected) -> None:
    fake = FakeRegistry()
    filled(fake)
    _, body = fake.manifests["1"]
    kind = MANIFEST
    platform = {"architecture": "amd64", "os": "linux"}
    for _ in range(3):
        entry = {"mediaType": kind, "size": len(body), "digest": digest(body), "platform": platform}
        body, kind = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode(), INDEX
        fake.manifests["sha256:" + hashlib.sha256(body).hexdigest()] = (kind, body)
    fake.manifests["1"] = (kind, body)
    async with fake.serving() as host:
        await room.pull(f"{host}/a/box:1")
        loop = {"mediaType": INDEX, "size": 1, "digest": "sha256:" + "0" * 64, "platform": platform}
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [loop]}).encode()
        fake.manifests["1"] = (INDEX, body)
        with pytest.raises(DockyardError):
            await room.pull(f"{host}/a/box:1")


async def test_a_registry_that_cannot_be_reached_is_told_of_in_plain_words(room: Connected) -> None:
    port = free_port()
    with pytest.raises(Unavailable) as refused:
        await room.pull(f"localhost:{port}/a/box:1")
    assert str(refused.value).startswith(f'Get "http://localhost:{port}/v2/": dial tcp localhost:{port}: ')
    with pytest.raises(Unavailable, match=r"dial tcp: lookup no\.such\.invalid: "):
        await room.pull("no.such.invalid/a/box:1")
    assert "ssl:" not in str(refused.value)
