"""Registries that mean harm: a pull fails with a word on why, keeps nothing, and takes no more memory than it needs."""

import gzip
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dockyard.content.patience import Patience
from dockyard.content.registry import RegistryClient
from dockyard.content.registry_auth import Credentials
from dockyard.errors import DockyardError, InvalidParameter, Unavailable
from dockyard.oci.reference import Reference
from tests.engine.test_image_transfer import Connected, free_port
from tests.engine.test_images import BASE, digest, document

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
RAW = document([BASE])
PACKED = gzip.compress(BASE)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Connected]:
    opened = Connected(tmp_path)
    yield opened
    await opened.close()


@asynccontextmanager
async def serving(*routes: web.RouteDef, port: int = 0) -> AsyncIterator[str]:
    """A registry of these routes; its host:port."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application)
    await runner.setup()
    port = port or free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"localhost:{port}"
    finally:
        await runner.cleanup()


def _of(blobs: dict[str, bytes], manifest: bytes) -> list[web.RouteDef]:
    async def manifests(request: web.Request) -> web.Response:
        return web.Response(body=manifest, content_type=MANIFEST)

    async def blob(request: web.Request) -> web.Response:
        found = blobs.get(request.match_info["digest"])
        return web.Response(status=404) if found is None else web.Response(body=found)

    return [web.get("/v2/x/manifests/{tag}", manifests), web.get("/v2/x/blobs/{digest:.*}", blob)]


def _manifest(**changes: Any) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": len(RAW), "digest": digest(RAW)},
            "layers": [{"mediaType": LAYER, "size": len(PACKED), "digest": digest(PACKED)}],
            **changes,
        }
    ).encode()


def _config(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(_manifest())["config"]
    return config | changes


def _layer(**changes: Any) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = json.loads(_manifest())["layers"]
    return [layers[0] | changes]


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"schemaVersion": 2}',
        b'{"schemaVersion": 1, "fsLayers": []}',
        b" " * (5 << 20),
        _manifest(config=_config(digest="sha256:../../../../etc/passwd")),
        _manifest(config=_config(digest="sha256:" + "0" * 64)),
        _manifest(config=_config(size=1 << 40)),
        _manifest(config=_config(size=-1)),
        _manifest(config=_config(digest=digest(PACKED), size=len(PACKED))),
        _manifest(layers=_layer(digest="../x")),
        _manifest(layers=_layer(digest=digest(b"another"))),
        _manifest(layers=_layer(size=5)),
        _manifest(layers=[]),
        _manifest(layers=_layer() * 2),
        _manifest(layers=_layer(digest=digest(RAW), size=len(RAW))),
        # one reader's manifest, another's index (CVE-2021-41190)
        _manifest(manifests=[_config()]),
        _manifest(fsLayers=[]),
        _manifest(mediaType="application/vnd.oci.image.index.v1+json"),
    ],
    ids=range(21),
)
async def test_a_manifest_that_lies_is_refused_and_leaves_nothing(room: Connected, manifest: bytes) -> None:
    blobs = {digest(RAW): RAW, digest(PACKED): PACKED, digest(b"another"): b"not that one"}
    async with serving(*_of(blobs, manifest)) as registry:
        with pytest.raises(DockyardError) as failure:
            await room.pull(f"{registry}/x")
        assert str(failure.value)
    assert room.layers.all() == {}
    assert await room.images.list() == []


async def test_a_configuration_without_end_is_cut_off(room: Connected) -> None:
    sent = 0

    async def blob(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 1 << 30:
            await response.write(bytes(1 << 16))
            sent += 1 << 16
        return response

    manifests, _ = _of({}, _manifest(config=_config(size=0)))
    async with serving(manifests, web.get("/v2/x/blobs/{digest}", blob)) as registry:
        with pytest.raises(InvalidParameter, match="too large"):
            await room.pull(f"{registry}/x")
    assert sent < 100 << 20


async def test_lists_tokens_and_errors_are_bounded_and_must_be_json() -> None:
    client = RegistryClient(patience=Patience((0.01,)))
    pages = 0

    async def tags(request: web.Request) -> web.Response:
        nonlocal pages
        pages += 1
        kind = request.match_info["kind"]
        if kind == "loop":
            link = f'<{request.url}>; rel="next"'
            return web.json_response({"tags": ["a"]}, headers={"Link": link})
        if kind == "huge":
            return web.Response(body=b'{"tags": ["' + b"a" * (5 << 20) + b'"]}')
        if kind == "token":
            realm = f'Bearer realm="{request.url.origin()}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        return web.Response(body=b"<html>", status=500 if kind == "error" else 200)

    async def token(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (5 << 20))

    try:
        async with serving(web.get("/v2/{kind}/tags/list", tags), web.get("/token", token)) as registry:

            async def listed(kind: str) -> list[str]:
                return await client.repository(Reference.parse(f"{registry}/{kind}"), Credentials()).tags()

            assert set(await listed("loop")) == {"a"}
            assert pages <= 3
            for kind, failure in (
                ("huge", InvalidParameter),
                ("html", Unavailable),
                ("token", InvalidParameter),
                ("error", Unavailable),
            ):
                with pytest.raises(failure):
                    await listed(kind)
    finally:
        await client.close()


@pytest.mark.parametrize("public", [False, True])
async def test_a_login_goes_to_no_other_host_not_even_one_whose_name_begins_alike(public: bool) -> None:
    ours, other = _ports_that_begin_alike()
    sent: list[tuple[str, str]] = []

    async def tags(request: web.Request) -> web.Response:
        sent.append((request.host, request.headers.get("Authorization", "")))
        if request.host.endswith(f":{other}"):
            realm = f'Bearer realm="{request.url.origin()}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        if not public and not sent[-1][1]:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        link = f'<http://localhost:{other}/v2/x/tags/list>; rel="next"'
        return web.json_response({"tags": ["a"]}, headers={"Link": link})

    async def token(request: web.Request) -> web.Response:
        sent.append((request.host, request.headers.get("Authorization", "")))
        return web.json_response({"token": "t"})

    client = RegistryClient(patience=Patience((0.01,)))
    routes = [web.get("/v2/x/tags/list", tags), web.get("/token", token)]
    try:
        async with serving(*routes, port=ours) as registry, serving(*routes, port=other):
            login = Credentials(username="user", password="secret")
            with pytest.raises(DockyardError):
                await client.repository(Reference.parse(f"{registry}/x"), login).tags()
    finally:
        await client.close()
    asked = [header.partition(" ")[0] for host, header in sent if host == f"localhost:{ours}"]
    assert asked == ([""] if public else ["", "Basic"])
    assert [header for host, header in sent if host == f"localhost:{other}"] == [""]


def _ports_that_begin_alike() -> tuple[int, int]:
    """Two free ones, the first being the beginning of the second."""
    for first in range(2000, 6500):
        second = first * 10 + 1
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", first))
                other.bind(("127.0.0.1", second))
            except OSError:
                continue
            return first, second
    raise AssertionError("no free ports")
