"""A registry of odd and hostile images: one repository for each case, by name.

`python -m tests.engine.registry_cases PORT` serves them all; what Docker 28.5 makes of each stands in
registry_verdicts.txt, which test_registry_verdicts.py holds our engine against. An image is a manifest, a config and
layers; a case changes one of these, or how they are answered for.
"""

import asyncio
import bz2
import copy
import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import zstandard
from aiohttp import web

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
HELM = "application/vnd.cncf.helm.config.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
STATUSES = (201, 202, 204, 206, 300, 304, 400, 401, 403, 404, 405, 406, 410, 415, 418, 451, 501, 505)
DELETE = object()

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def entry(name: str, data: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.size = len(data)
    for key, value in attributes.items():
        setattr(found, key, value)
    return found, data


def tar(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


PLAIN = tar(entry("a", b"hello"), entry("d", type=tarfile.DIRTYPE, mode=0o755), entry("d/b", b"x" * 5000))


def config_of(*layers: bytes) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/a"]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "a case"} for _ in layers],
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    }


@dataclass
class Case:
    """One repository."""

    manifest: bytes
    kind: str = MANIFEST
    blobs: dict[str, bytes] = field(default_factory=dict)
    others: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # manifests by digest
    answers: dict[str, Answer] = field(default_factory=dict)  # instead of: manifest, config, layer
    config: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0


def image(
    layers: tuple[bytes, ...] = (PLAIN,),
    packed: tuple[bytes, ...] | None = None,
    config: Any = None,
    manifest: Callable[[dict[str, Any]], Any] | None = None,
    **more: Any,
) -> Case:
    """An image; `config` is bytes or a document, `manifest` changes that document or gives another."""
    packed = packed if packed is not None else tuple(gzip.compress(layer, mtime=0) for layer in layers)
    raw = config if isinstance(config, bytes) else json.dumps(config_of(*layers) if config is None else config).encode()
    document: Any = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "size": len(raw), "digest": digest_of(raw)},
        "layers": [{"mediaType": LAYER, "size": len(one), "digest": digest_of(one)} for one in packed],
    }
    if manifest is not None:
        document = manifest(document) or document
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    blobs = {digest_of(one): one for one in (raw, *packed)}
    return Case(body, blobs=blobs, config=digest_of(raw), **more)


def changed(document: dict[str, Any], way: str, value: Any) -> dict[str, Any]:
    """`document` with what is at `way` ("config.size", "layers.0") changed, or taken out."""
    document = copy.deepcopy(document)
    place: Any = document
    *names, last = way.split(".")
    for name in names:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    key: Any = int(last) if isinstance(place, list) else last
    if value is DELETE:
        del place[key]
    else:
        place[key] = value
    return document


# -- how things are answered for


def with_status(status: int) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text='{"errors": [{"code": "UNKNOWN", "message": "no"}]}')

    return answer


def redirect(status: int, place: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "again" in request.query and "loop" not in place:
            return web.Response(body=request["content"])
        target = place.format(path=request.path, host=request.host, port=request.host.partition(":")[2])
        return web.Response(status=status, headers={"Location": target})

    return answer


def cut_at(share: float, times: int = 1_000_000) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        content: bytes = request["content"]
        case: Case = request["case"]
        case.asked += 1
        if case.asked > times:
            return web.Response(body=content)
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: int(len(content) * share)])
        await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def with_body(change: Callable[[bytes], bytes], **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=change(request["content"]), headers=sent)

    return answer


async def in_chunks(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    content: bytes = request["content"]
    for start in range(0, len(content), 37):
        await response.write(content[start : start + 37])
    await response.write_eof()
    return response


# -- the cases


def transport() -> Iterator[tuple[str, Case]]:
    for what in ("manifest", "config", "layer"):
        for status in STATUSES:
            yield f"{what}-status-{status}", image(answers={what: with_status(status)})
        for status in (301, 302, 303, 307, 308):
            yield f"{what}-redirect-{status}", image(answers={what: redirect(status, "{path}?again=1")})
        yield f"{what}-redirect-loop", image(answers={what: redirect(302, "{path}?loop=1")})
        yield (
            f"{what}-redirect-elsewhere",
            image(answers={what: redirect(307, "http://127.0.0.1:{port}{path}?again=1")}),
        )
        for name, place in (
            ("file", "file:///etc/passwd"),
            ("ftp", "ftp://{host}/x"),
            ("nowhere", "http://127.0.0.1:1/"),
        ):
            yield f"{what}-redirect-{name}", image(answers={what: redirect(302, place)})
        yield f"{what}-in-chunks", image(answers={what: in_chunks})
        yield f"{what}-cut-half", image(answers={what: cut_at(0.5)})
        yield f"{what}-cut-at-once", image(answers={what: cut_at(0)})
        yield f"{what}-empty", image(answers={what: with_body(lambda data: b"")})
        yield f"{what}-longer", image(answers={what: with_body(lambda data: data + b" ")})
        yield f"{what}-shorter", image(answers={what: with_body(lambda data: data[:-1])})
        yield f"{what}-other-bytes", image(answers={what: with_body(lambda data: data[:-9] + b"X" * 9)})
        yield f"{what}-huge-header", image(answers={what: with_body(bytes, X_Large="x" * 20_000)})
        yield f"{what}-many-headers", image(answers={what: with_body(bytes, **{f"X_{n}": "y" for n in range(150)})})
        yield (
            f"{what}-wrong-content-digest",
            image(answers={what: with_body(bytes, Docker_Content_Digest=digest_of(b"wrong"))}),
        )
    yield "layer-cut-once", image(answers={"layer": cut_at(0.5, times=1)})


def manifests() -> Iterator[tuple[str, Case]]:
    ways = {
        "schemaVersion": [DELETE, None, 0, 1, 3, "2"],
        "mediaType": [DELETE, None, "", "text/plain", OCI_MANIFEST, INDEX, 5],
        "config": [DELETE, None, [], {}, "x"],
        "config.digest": [DELETE, None, "", "x", "sha256:", "sha256:../../x", "sha256:" + "A" * 64, "md5:" + "0" * 32],
        "config.size": [DELETE, None, 0, -1, 1, 1 << 40, "5", 1.5],
        "config.mediaType": [DELETE, None, "", "application/octet-stream", "text/plain", HELM],
        "layers": [DELETE, None, [], {}, "x"],
        "layers.0": [None, {}, "x", []],
        "layers.0.digest": [DELETE, None, "", "x", "sha256:../../x", "sha256:" + "0" * 64, "sha512:" + "0" * 128],
        "layers.0.size": [DELETE, None, 0, -1, 1, 1 << 40, "5"],
        "layers.0.mediaType": [
            DELETE, None, "", "text/plain", "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ],
        "layers.0.urls": [[], ["http://127.0.0.1:1/x"], "x"],
        "layers.0.annotations": [{"a": "b"}, {"a": 1}, []],
        "annotations": [{"a": "b"}, {"a": "x" * (5 << 20)}, []],
        "manifests": [[], None, [{"digest": digest_of(b"x")}]],
        "fsLayers": [[], None, [{"blobSum": digest_of(b"x")}]],
        "unknown": [1, {"a": [None]}],
    }  # fmt: skip
    for way, values in ways.items():
        for number, value in enumerate(values):
            yield (
                f"manifest-{way.lower()}-{number}",
                image(manifest=lambda document, way=way, value=value: changed(document, way, value)),
            )
    whole = json.loads(image().manifest)
    texts = {
        "empty": b"", "null": b"null", "list": b"[]", "string": b'"x"', "number": b"1", "object": b"{}",
        "html": b"<html></html>", "garbage-after": json.dumps(whole).encode() + b"x",
        "two-documents": json.dumps(whole).encode() * 2, "bom": b"\xef\xbb\xbf" + json.dumps(whole).encode(),
        "bad-utf8": json.dumps({**whole, "x": "y"}).encode().replace(b'"y"', b'"\xff"'),
        "deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "spaces": b" \n" * 1000 + json.dumps(whole).encode(),
        "duplicate-keys": b'{"schemaVersion": 1, ' + json.dumps(whole).encode()[1:],
    }  # fmt: skip
    for name, text in texts.items():
        yield f"manifest-text-{name}", image(manifest=lambda document, text=text: text)
    for number, kind in enumerate(
        ("text/plain", "application/json", "application/octet-stream", OCI_MANIFEST, f"{MANIFEST}; charset=utf-8",
         MANIFEST.upper(), "application/vnd.docker.distribution.manifest.v1+prettyjws", INDEX, "x")
    ):  # fmt: skip
        yield f"manifest-type-{number}", image(kind=kind)
    yield "layers-twice-the-same", image((PLAIN, PLAIN))
    many = tuple(tar(entry(f"f{number}", b"x")) for number in range(140))
    yield "layers-100", image(many[:100])
    yield "layers-140", image(many)


def configs() -> Iterator[tuple[str, Case]]:
    ways: dict[str, list[Any]] = {
        "architecture": [DELETE, None, "", "arm64", "x", 5],
        "os": [DELETE, None, "", "windows", "freebsd", "x", 5],
        "variant": ["v8", 5],
        "created": [DELETE, None, "", "yesterday", 5, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"],
        "author": [5],
        "config": [DELETE, None, {}, [], "x"],
        "config.Env": [None, [], ["A"], ["=x"], "x", [1], {}],
        "config.Cmd": [None, [], "x", [1]],
        "config.Entrypoint": [None, "x"],
        "config.ExposedPorts": [None, {"80/tcp": {}}, {"x": {}}, [], {"80/tcp": 1}],
        "config.Volumes": [None, {"/v": {}}, [], {"/v": None}],
        "config.Labels": [None, {"a": "b"}, {"a": 1}, []],
        "config.User": [5, "me"],
        "config.WorkingDir": [5, "x", "/a/../b"],
        "config.StopTimeout": [5, "5"],
        "config.Healthcheck": [None, {}, [], {"Test": ["CMD", "x"]}, {"Test": "x"}],
        "config.Healthcheck.Interval": ["5s", 1 << 63, -1, 1.5, 1 << 62],
        "config.unknown": [{"a": 1}],
        "history": [DELETE, None, [], [{}, {}, {}], [None], "x", [{"created": "x"}]],
        "rootfs": [DELETE, None, {}, [], "x"],
        "rootfs.type": [DELETE, "x", 5],
        "rootfs.diff_ids": [DELETE, None, [], ["x"], [digest_of(b"other")], [digest_of(PLAIN)] * 2, "x", [5]],
    }
    for way, values in ways.items():
        for number, value in enumerate(values):
            yield f"config-{way.lower()}-{number}", image(config=changed(config_of(PLAIN), way, value))
    for name, text in (("empty", b""), ("null", b"null"), ("list", b"[]"), ("html", b"<html>"), ("nul", b"\0" * 100)):
        yield f"config-text-{name}", image(config=text)


def archives() -> Iterator[tuple[str, Case]]:
    packings: dict[str, Callable[[bytes], bytes]] = {
        "plain": lambda data: data,
        "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
        "bzip2": bz2.compress,
        "xz": lzma.compress,
        "gzip-members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        "gzip-zeros-after": lambda data: gzip.compress(data) + bytes(1000),
        "gzip-garbage-after": lambda data: gzip.compress(data) + b"garbage" * 10,
        "gzip-cut": lambda data: gzip.compress(data)[:-20],
        "gzip-bad-crc": lambda data: gzip.compress(data)[:-8] + bytes(8),
        "zstd-cut": lambda data: zstandard.ZstdCompressor().compress(data)[:-20],
        "nothing": lambda data: b"",
    }
    for name, pack in packings.items():
        yield f"packed-{name}", image(packed=(pack(PLAIN),))
    directory = tarfile.DIRTYPE
    link, hard = tarfile.SYMTYPE, tarfile.LNKTYPE
    pax = tarfile.PAX_FORMAT
    layers = {
        "no-bytes": b"",
        "zeros": bytes(1024),
        "no-end": PLAIN[: -len(PLAIN) % 512 or -1024],
        "garbage": b"this is no tar at all" * 100,
        "bad-checksum": PLAIN[:148] + b"0000000\0" + PLAIN[156:],
        "up": tar(entry("../x", b"1")),
        "up-and-down": tar(entry("d/../../x", b"1")),
        "up-inside": tar(entry("d", type=directory), entry("d/../x", b"1")),
        "absolute": tar(entry("/x", b"1")),
        "empty-name": tar(entry("", b"")),
        "root": tar(entry("/", type=directory, mode=0o700)),
        "dot": tar(entry("./", type=directory, mode=0o755), entry("./x", b"1")),
        "through-absolute-link": tar(entry("l", type=link, linkname="/etc"), entry("l/x", b"1")),
        "through-link-up": tar(entry("l", type=link, linkname="../../.."), entry("l/x", b"1")),
        "link-in-a-circle": tar(entry("l", type=link, linkname="l"), entry("l/x", b"1")),
        "hard-link-up": tar(entry("h", type=hard, linkname="../../etc/passwd")),
        "hard-link-absolute": tar(entry("x", b"1"), entry("h", type=hard, linkname="/x")),
        "hard-link-to-none": tar(entry("h", type=hard, linkname="none")),
        "hard-link-to-itself": tar(entry("h", type=hard, linkname="h")),
        "hard-link-to-link-out": tar(entry("l", type=link, linkname="/etc"), entry("h", type=hard, linkname="l")),
        "device": tar(entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
        "block-device": tar(entry("sda", type=tarfile.BLKTYPE, devmajor=8)),
        "fifo": tar(entry("pipe", type=tarfile.FIFOTYPE)),
        "unknown-type": tar(entry("x", b"1", type=b"V")),
        "contiguous": tar(entry("x", b"1", type=b"7")),
        "file-below-file": tar(entry("x", b"1"), entry("x/y", b"1")),
        "file-then-directory": tar(entry("x", b"1"), entry("x", type=directory), entry("x/y", b"1")),
        "directory-then-file": tar(entry("x", type=directory), entry("x/y", b"1"), entry("x", b"1")),
        "file-twice": tar(entry("x", b"1"), entry("x", b"22")),
        "whiteout": tar(entry(".wh.x")),
        "whiteout-of-nothing": tar(entry(".wh.")),
        "whiteout-of-dot": tar(entry(".wh..")),
        "whiteout-of-up": tar(entry("d", type=directory), entry("d/.wh...")),
        "whiteout-opaque": tar(entry("d", type=directory), entry("d/.wh..wh..opq")),
        "whiteout-aufs": tar(entry(".wh..wh.plnk", type=directory)),
        "whiteout-below-none": tar(entry("n/.wh.x")),
        "setuid": tar(entry("x", b"1", mode=0o6755)),
        "owner-large": tar(entry("x", b"1", uid=1 << 31, gid=(1 << 32) - 2)),
        "owner-too-large": tar(entry("x", b"1", uid=1 << 33)),
        "owner-minus-one": tar(entry("x", b"1", uid=(1 << 32) - 1)),
        "time-negative": tar(entry("x", b"1", mtime=-5)),
        "time-large": tar(entry("x", b"1", mtime=1 << 40)),
        "long-name": tar(entry("x" * 250, b"1")),
        "name-too-long": tar(entry("x" * 256, b"1")),
        "path-too-long": tar(entry("/".join(["x" * 200] * 30), b"1")),
        "deep": tar(entry("/".join(["x"] * 900), b"1")),
        "not-utf8": tar(entry("\udcff\udcfe", b"1")),
        "newline": tar(entry("a\nb", b"1")),
        "pax-path-up": tar(entry("x", b"1", pax_headers={"path": "../../x"}), format=pax),
        "pax-link-up": tar(entry("l", type=hard, linkname="x", pax_headers={"linkpath": "../../x"}), format=pax),
        "pax-xattr": tar(entry("x", b"1", pax_headers={"SCHILY.xattr.user.a": "b"}), format=pax),
        "pax-overlay-opaque": tar(
            entry("d", type=directory, pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}), format=pax
        ),
        "pax-capability-bad": tar(
            entry("x", b"1", pax_headers={"SCHILY.xattr.security.capability": "bad"}), format=pax
        ),
        "pax-unknown": tar(entry("x", b"1", pax_headers={"A.b": "c"}), format=pax),
        "pax-size-lies": tar(entry("x", b"1", pax_headers={"size": "100000"}), format=pax),
        "pax-huge": tar(entry("x", b"1", pax_headers={"comment": "x" * 900_000}), format=pax),
        "pax-too-huge": tar(entry("x", b"1", pax_headers={"comment": "x" * 3_000_000}), format=pax),
        "sock-type": tar(entry("x", type=b"s")),
        "bomb": tar(entry("x", bytes(60 << 20))),
        "many-files": tar(*(entry(f"f{number}", b"") for number in range(3000))),
    }  # fmt: skip
    for name, layer in layers.items():
        yield f"archive-{name}", image((layer,))


def indexes() -> Iterator[tuple[str, Case]]:
    inner = image()

    def index(*entries: dict[str, Any], kind: str = INDEX, **more: Any) -> Case:
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": list(entries), **more}).encode()
        own = digest_of(inner.manifest)
        return Case(body, kind, dict(inner.blobs), {own: (MANIFEST, inner.manifest)}, config=inner.config)

    def one(os: str = "linux", architecture: str = "amd64", **more: Any) -> dict[str, Any]:
        own = {"mediaType": MANIFEST, "size": len(inner.manifest), "digest": digest_of(inner.manifest)}
        return {**own, "platform": {"os": os, "architecture": architecture}, **more}

    attestation = one("unknown", "unknown", digest=digest_of(b"attestation"))
    yield "index-plain", index(one())
    yield "index-oci", index(one(), kind=OCI_INDEX)
    yield "index-with-attestation", index(one(), attestation, kind=OCI_INDEX)
    yield "index-attestation-first", index(attestation, one(), kind=OCI_INDEX)
    yield "index-other-architecture", index(one(architecture="s390x"))
    yield "index-other-system", index(one("windows"))
    yield "index-empty", index()
    yield "index-without-platform", index({key: value for key, value in one().items() if key != "platform"})
    yield "index-null-platform", index(one(platform=None))
    yield "index-wrong-size", index(one(size=5))
    yield "index-size-missing", index({key: value for key, value in one().items() if key != "size"})
    yield "index-digest-of-none", index(one(digest=digest_of(b"none")))
    yield "index-bad-digest", index(one(digest="sha256:x"))
    yield "index-wrong-type-inside", index(one(mediaType="text/plain"))
    yield "index-null", index(kind=INDEX, manifests=None)
    yield "index-with-layers", index(one(), layers=[])
    variants = [one(platform={"os": "linux", "architecture": "arm", "variant": f"v{number}"}) for number in range(5, 8)]
    yield "index-variants", index(*variants, one())


def all_cases() -> dict[str, Case]:
    """Every case by its name, which is its repository's."""
    found: dict[str, Case] = {"plain": image()}
    for group in (transport, manifests, configs, archives, indexes):
        for name, case in group():
            assert name not in found, name
            found[name] = case
    return found


def application(cases: dict[str, Case]) -> web.Application:
    """The registry."""

    async def base(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async def answer(request: web.Request) -> web.StreamResponse:
        case = cases.get(request.match_info["case"])
        if case is None:
            return web.Response(status=404)
        reference = request.match_info["reference"]
        kind = ""
        if request.match_info["what"] == "manifests":
            own = reference == "latest" or reference == digest_of(case.manifest)
            kind, content = (case.kind, case.manifest) if own else case.others.get(reference, ("", b""))
            what = "manifest"
        else:
            content = case.blobs.get(reference, b"")
            what = "config" if reference == case.config else "layer"
            if reference not in case.blobs:
                return web.Response(status=404)
        if what == "manifest" and not kind:
            return web.Response(status=404)
        request["content"], request["case"] = content, case
        headers = {"Content-Type": kind} if kind else {}
        if what in case.answers:
            response = await case.answers[what](request)
            if kind and not response.prepared:
                response.headers["Content-Type"] = kind
            return response
        return web.Response(body=content, headers=headers)

    made = web.Application(client_max_size=1 << 30)
    made.router.add_get("/v2/", base)
    made.router.add_route("*", "/v2/{case}/{what:manifests|blobs}/{reference:.+}", answer)
    return made


if __name__ == "__main__":
    if sys.argv[1] == "names":
        print("\n".join(all_cases()))
    else:
        web.run_app(application(all_cases()), host="127.0.0.1", port=int(sys.argv[1]), print=None)
