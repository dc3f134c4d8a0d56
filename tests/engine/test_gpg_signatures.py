"""Images that a policy wants signed by GPG (`signedBy`); their signatures are beside the registry."""

import asyncio
import base64
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pysequoia import SignatureMode, Tsk, sign

from dockyard.content.signatures import lookaside, openpgp
from dockyard.content.signatures.gate import SignatureGate
from dockyard.content.signatures.lookaside import LARGEST_SIGNATURE, MOST_SIGNATURES
from dockyard.content.signatures.payload import COSIGN, GPG
from dockyard.errors import Forbidden, InvalidParameter
from dockyard.oci.reference import Reference
from tests.engine.test_image_transfer import Connected, registry, room
from tests.engine.test_images import digest
from tests.engine.test_signatures import RAW, published

__all__ = ["registry", "room"]  # fixtures

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("docker-registry") is None, reason="needs root and Debian's docker-registry"
)

KEY, OTHER = Tsk.generate("One <one@example.com>"), Tsk.generate("Other <other@example.com>")
OLD, GONE = Tsk.generate("Old <old@example.com>"), Tsk.generate("Gone <gone@example.com>")
EXPIRY = datetime.now(UTC) + timedelta(seconds=1)
EXPIRED = OLD.extract_certificate().set_expiration(EXPIRY, OLD.certifier())
REVOKED = bytes(GONE.extract_certificate()) + bytes(GONE.extract_certificate().revoke(GONE.certifier()))


def armored(key: Tsk) -> bytes:
    return str(key.extract_certificate()).encode()


def payload_for(manifest: str, reference: str, kind: str = GPG, optional: Any = None) -> bytes:
    critical = {
        "type": kind,
        "image": {"docker-manifest-digest": manifest},
        "identity": {"docker-reference": reference},
    }
    found = {"creator": "me", "timestamp": 1} if optional is None else optional
    return json.dumps({"critical": critical, "optional": found}).encode()


def by_key(content: bytes, key: Tsk = KEY) -> bytes:
    return sign(key.signer(), content, armor=False)


def demand(room: Connected, requirement: dict[str, Any] | None = None, place: str = "") -> Path:
    """Have a policy that demands `requirement` (a signature by KEY) of all images; where signatures go."""
    keys = room.root / "key.asc"
    keys.write_bytes(armored(KEY))
    wanted = requirement or {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(keys)}
    (room.root / "policy.json").write_text(json.dumps({"default": [wanted]}))
    folder = room.root / "registries.d"
    folder.mkdir(exist_ok=True)
    store = room.root / "sigstore"
    (folder / "one.yaml").write_text(json.dumps({"default-docker": {"lookaside": place or f"file://{store}"}}))
    room.images.gate.configure(str(room.root / "policy.json"), str(folder))
    return store


def put(store: Path, name: str, manifest: str, *signatures: bytes) -> None:
    """Lay signatures down as all that there are of a manifest."""
    folder = store / f"{Reference.parse(name).path}@{manifest.replace(':', '=')}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, signature in enumerate(signatures, 1):
        (folder / f"signature-{number}").write_bytes(signature)


async def test_only_what_is_signed_comes_in_from_a_folder_and_from_a_web_server(room: Connected, registry: str) -> None:
    name = f"{registry}/gpg/one:1"
    signer = await published(room, name)
    manifest = await signer.manifest()
    await signer.client.close()
    store = demand(room)
    with pytest.raises(Forbidden, match=r"^Source image rejected: A signature was required, but no signature exists$"):
        await room.pull(name)
    assert room.images.all() == []
    assert room.layers.all() == {}
    put(store, name, manifest, by_key(payload_for(manifest, name)))
    await room.pull(name)
    assert room.images.find(name).id == digest(RAW)
    await room.images.remove(name, force=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(store)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        demand(room, place=f"http://127.0.0.1:{server.server_port}")
        await room.pull(name)
        await room.images.remove(name, force=True)
        put(store, name, manifest)
        with pytest.raises(Forbidden, match="no signature exists"):
            await room.pull(name)
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


async def test_keys_come_in_files_and_in_the_policy_and_any_of_several_counts(room: Connected, registry: str) -> None:
    name = f"{registry}/gpg/keys:1"
    signer = await published(room, name)
    manifest = await signer.manifest()
    await signer.client.close()
    store = demand(room)
    put(store, name, manifest, by_key(payload_for(manifest, name), OTHER), by_key(payload_for(manifest, name)))
    one, both = room.root / "one", room.root / "both"
    one.write_bytes(bytes(KEY.extract_certificate()))
    both.write_bytes(bytes(OTHER.extract_certificate()) + bytes(KEY.extract_certificate()))
    other = room.root / "other"
    other.write_bytes(armored(OTHER))
    put(store, name, manifest, by_key(payload_for(manifest, name)))
    for source, taken in (
        ({"keyPath": str(one)}, True),
        ({"keyPath": str(both)}, True),
        ({"keyPaths": [str(other), str(one)]}, True),
        ({"keyData": base64.b64encode(armored(KEY)).decode()}, True),
        ({"keyPath": str(other)}, False),
    ):
        demand(room, {"type": "signedBy", "keyType": "GPGKeys", **source})
        if taken:
            await room.pull(name)
            await room.images.remove(name, force=True)
        else:
            with pytest.raises(Forbidden, match="Invalid GPG signature"):
                await room.pull(name)
    for content, reason in ((b"", "No public keys imported"), (b"no key", "cannot use GPG key 1")):
        one.write_bytes(content)
        demand(room, {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(one)})
        with pytest.raises(Forbidden, match=reason):
            await room.pull(name)
    one.unlink()
    with pytest.raises(Forbidden, match="cannot read the key"):
        await room.pull(name)


def hostile(target: str, name: str) -> Iterator[tuple[str, bytes, str]]:
    """(what it is, the signature, the reason why it is refused)."""
    good = payload_for(target, name)
    signed = by_key(good)
    yield "another key's", by_key(good, OTHER), "Invalid GPG signature"
    yield "an expired key's", by_key(good, OLD), "has expired|Invalid GPG signature"
    yield "a revoked key's", by_key(good, GONE), "Invalid GPG signature"
    yield "cut", signed[:-3], "Invalid GPG signature"
    yield "changed", bytes(signed[:40]) + bytes([signed[40] ^ 1]) + signed[41:], "Invalid GPG signature"
    yield "armored", sign(KEY.signer(), good), "unrecognized signature format"
    yield "clear text", sign(KEY.signer(), good, mode=SignatureMode.CLEAR), "unrecognized signature format"
    yield "detached", sign(KEY.signer(), good, mode=SignatureMode.DETACHED, armor=False), "Invalid GPG signature"
    yield "empty", b"", "unrecognized signature format"
    yield "HTML", b"<html>", "unrecognized signature format"
    yield "noise", b"\xff" * 1000, "Invalid GPG signature"
    yield "a bomb", bomb(), "out of memory|too much to read"
    for label, payload, reason in (
        ("another image's", payload_for("sha256:" + "0" * 64, name), "Signature for digest sha256:0+ does not match"),
        ("for another tag", payload_for(target, name + "x"), 'Signature for identity ".*x" is not accepted'),
        ("without a tag", payload_for(target, name.rpartition(":")[0]), "is not accepted"),
        ("no JSON", b"\x00", "payload:"),
        ("without optional", payload_for(target, name, optional=[]), "optional is not an object"),
        ("cosign's", payload_for(target, name, COSIGN), "Unrecognized signature type"),
        ("with more", good.replace(b'"type"', b'"extra": 1, "type"'), 'unknown key "extra"'),
        ("empty", b"", "payload:"),
    ):
        yield label, by_key(payload), reason


def bomb() -> bytes:
    """The beginning of a signature by KEY of two gigabytes, compressed (RFC 9580: 5.4, 5.6, 5.9)."""
    issuer = bytes.fromhex(KEY.extract_certificate().fingerprint)[-8:]
    begin = (
        b"\xc4\x0d\x03\x00\x08\x16" + issuer + b"\x01" + b"\xcb\xff" + (1 << 31).to_bytes(4, "big") + b"b" + bytes(5)
    )
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = deflate.compress(begin) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(bytes(1 << 24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\xa3\x01" + head + zeros * 128 + deflate.flush()


async def test_hostile_signatures_are_refused_with_their_reason(room: Connected, registry: str) -> None:
    name = f"{registry}/gpg/hostile:1"
    signer = await published(room, name)
    manifest = await signer.manifest()
    await signer.client.close()
    store = demand(room)
    for number, key in enumerate((armored(KEY), bytes(EXPIRED), REVOKED)):
        (room.root / f"key{number}").write_bytes(key)
    paths = [str(room.root / f"key{number}") for number in range(3)]
    demand(room, {"type": "signedBy", "keyType": "GPGKeys", "keyPaths": paths})
    await asyncio.sleep(max(0.0, (EXPIRY - datetime.now(UTC)).total_seconds() + 1))
    for label, signature, reason in hostile(manifest, name):
        put(store, name, manifest, signature)
        with pytest.raises(Forbidden, match=reason):
            await room.pull(name)
        assert room.images.all() == [], label
    good = by_key(payload_for(manifest, name))
    put(store, name, manifest, by_key(b"{}"), by_key(payload_for(manifest, name), OTHER), good)
    await room.pull(name)  # one that counts is enough
    await room.images.remove(name, force=True)
    put(store, name, manifest, b"\x80" * (LARGEST_SIGNATURE + 1))
    with pytest.raises(InvalidParameter, match="is larger than"):
        await room.pull(name)
    put(store, name, manifest, *[good] * (MOST_SIGNATURES + 1))
    with pytest.raises(Forbidden, match=f"more than {MOST_SIGNATURES} signatures"):
        await room.pull(name)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.yaml": "default-docker:", "b.yaml": "default-docker: {lookaside: 'file:///x'}"}, None),
        ({"a.yaml": "default-docker: {lookaside: x}", "b.yaml": "default-docker: {}"}, '"default-docker" is defined'),
        ({"a.yaml": "docker: {x: {}}", "b.yaml": "docker: {x: {}}"}, 'namespace "x" is defined in another file'),
        ({"a.yaml": "docker: ["}, "parsing"),
        ({"a.yaml": "docker: 1"}, "docker is not a mapping"),
        ({"a.yaml": "docker: {x: 1}"}, "a namespace is not a mapping"),
        ({"a.yaml": "docker: {x: {lookaside: 1}}"}, "lookaside is not a string"),
        ({"a.yaml": "[]"}, "it is not a mapping"),
        ({"a.yml": "docker: 1", "b.yaml": ""}, None),
    ],
)
def test_files_that_are_not_understood_are_refused(files: dict[str, str], reason: str | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if reason is None:
        lookaside.read(str(tmp_path))
        return
    with pytest.raises(InvalidParameter, match=reason):
        lookaside.read(str(tmp_path))


def test_the_most_specific_place_counts(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "default-docker: {sigstore: 'file:///all'}\n"
        "docker:\n"
        "  r.example: {lookaside: 'https://host'}\n"
        "  r.example/team: {use-sigstore-attachments: true}\n"
        "  r.example/team/one: {lookaside: 'https://one', sigstore: 'https://old'}\n"
        "  '*.example.org': {lookaside: 'https://org'}\n"
    )
    places = lookaside.read(str(tmp_path))
    assert [
        places.base(Reference.parse(name))
        for name in ("r.example/team/one:1", "r.example/team/two:1", "a.example.org/x:1", "busybox:1")
    ] == ["https://one", "https://host", "https://org", "file:///all"]
    assert lookaside.read(str(tmp_path / "none")).base(Reference.parse("busybox")) == lookaside.DEFAULT


def test_a_policy_that_needs_what_is_not_here_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.json"
    file.write_text('{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"}]}')
    SignatureGate(str(file)).check()
    monkeypatch.setattr(openpgp.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidParameter, match=r"needs the package pysequoia"):
        SignatureGate(str(file)).check()
