"""Images whose signatures a policy demands: those that are signed as it says come in, and no others."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dockyard.content.registry import RegistryClient, Repository
from dockyard.content.signatures import policy
from dockyard.content.signatures.gate import ARTIFACT, LARGEST_PAYLOAD, MOST_SIGNATURES, SignatureGate
from dockyard.content.signatures.identity import SignedIdentity
from dockyard.content.signatures.payload import COSIGN as TYPE
from dockyard.content.signatures.sigstore import PAYLOAD, SIGNATURE
from dockyard.errors import Forbidden, InvalidParameter, NotFound
from dockyard.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from dockyard.oci.reference import Reference
from tests.engine.test_image_transfer import Connected, registry, room
from tests.engine.test_images import BASE, digest, docker_archive, document
from tests.engine.test_platforms import described
from tests.registry.server import Server

__all__ = ["registry", "room"]  # fixtures

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("docker-registry") is None, reason="needs root and Debian's docker-registry"
)

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()
RAW = document([BASE])


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def by_key(payload: bytes, key: Any = KEY) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        made = key.sign(payload, ec.ECDSA(SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(payload, padding.PKCS1v15(), SHA256())
    else:
        made = key.sign(payload)
    return base64.b64encode(made).decode()


def payload_for(manifest: str, reference: str, **optional: Any) -> bytes:
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": manifest},
        "type": TYPE,
    }
    return json.dumps({"critical": critical, "optional": optional or None}).encode()


class Signer:
    """Puts what it is given beside an image of a registry, as cosign puts signatures."""

    def __init__(self, name: str) -> None:
        self.name = Reference.parse(name)
        self.client = RegistryClient()
        self.repository: Repository = self.client.repository(self.name, push=True)

    async def manifest(self) -> str:
        return (await self.repository.manifest(self.name.tag or "latest")).digest

    async def attach(
        self, *signatures: tuple[bytes, str], size: int | None = None, referrer: bool = False, api: bool = False
    ) -> None:
        layers = []
        for payload in {payload for payload, _ in signatures}:
            await self.repository.upload_bytes(payload)
        for payload, signed in signatures:
            layer = described(PAYLOAD, payload, annotations={SIGNATURE: signed})
            layers.append({**layer, "size": size} if size is not None else layer)
        await self.repository.upload_bytes(b"{}")
        target = await self.manifest()
        subject = {"subject": {"mediaType": OCI_MANIFEST, "digest": target, "size": 1}, "artifactType": ARTIFACT}
        made = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(OCI_CONFIG, b"{}"), "layers": layers}
        content = json.dumps({**made, **(subject if referrer else {})}).encode()
        tag = target.replace(":", "-")
        if not referrer:
            await self.repository.put_manifest(f"{tag}.sig", OCI_MANIFEST, content)
            return
        await self.repository.put_manifest(digest(content), OCI_MANIFEST, content)
        if not api:  # the registry is one of before: cosign keeps a tag up
            entry = described(OCI_MANIFEST, content, artifactType=ARTIFACT)
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
            await self.repository.put_manifest(tag, OCI_INDEX, json.dumps(index).encode())


Sign = Callable[[str, str], Any]


def demand(room: Connected, requirement: dict[str, Any] | None = None, **scopes: list[dict[str, Any]]) -> None:
    """Have a policy that demands `requirement` (a signature by KEY, for the repository) of all images."""
    key = room.root / "key.pem"
    key.write_bytes(pem(KEY))
    signed = {"type": "sigstoreSigned", "keyPath": str(key), "signedIdentity": {"type": "matchRepository"}}
    file = room.root / "policy.json"
    file.write_text(json.dumps({"default": [requirement or signed], "transports": {"docker": scopes}}))
    room.images.gate.configure(str(file))


async def published(room: Connected, name: str) -> Signer:
    """An image in the registry, and not here."""
    await room.load(docker_archive([BASE], RAW, name))
    await room.push(name)
    await room.images.remove(name, force=True)
    assert room.images.all() == []
    return Signer(name)


async def test_only_what_is_signed_comes_in(room: Connected, registry: str) -> None:
    name = f"{registry}/signed/one:1"
    signer = await published(room, name)
    try:
        demand(room)
        with pytest.raises(
            Forbidden, match=r"^Source image rejected: A signature was required, but no signature exists$"
        ):
            await room.pull(name)
        assert room.images.all() == []
        assert room.layers.all() == {}
        payload = payload_for(await signer.manifest(), f"{registry}/signed/one", creator="me", timestamp=1)
        await signer.attach((payload, by_key(payload)))
        await room.pull(name)
        assert room.images.find(name).id == digest(RAW)
        # what is here already must still be what is signed
        await signer.attach((payload, by_key(payload, OTHER)))
        with pytest.raises(Forbidden, match="cryptographic signature verification failed"):
            await room.pull(name)
    finally:
        await signer.client.close()


@pytest.mark.parametrize("key", [RSA, ED], ids=["rsa", "ed25519"])
async def test_keys_of_all_kinds_and_any_of_several(room: Connected, registry: str, key: Any) -> None:
    name = f"{registry}/signed/keys:1"
    signer = await published(room, name)
    try:
        data = [base64.b64encode(pem(each)).decode() for each in (KEY, key)]
        demand(room, {"type": "sigstoreSigned", "keyDatas": data, "signedIdentity": {"type": "matchRepository"}})
        payload = payload_for(await signer.manifest(), f"{registry}/signed/keys")
        await signer.attach((payload, by_key(payload, key)))
        await room.pull(name)
    finally:
        await signer.client.close()


async def test_signatures_that_refer_to_the_image_count(room: Connected, registry: str, tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        for host, api in ((registry, False), (f"localhost:{server.port}", True)):
            name = f"{host}/signed/referrer:1"
            room.images.gate.configure("")
            signer = await published(room, name)
            try:
                demand(room)
                with pytest.raises(Forbidden, match="no signature exists"):
                    await room.pull(name)
                payload = payload_for(await signer.manifest(), f"{host}/signed/referrer")
                await signer.attach((payload, by_key(payload)), referrer=True, api=api)
                await room.pull(name)
                await room.images.remove(name, force=True)
            finally:
                await signer.client.close()
    finally:
        server.stop()


def hostile(target: str, name: str) -> Iterator[tuple[str, bytes, str, str]]:
    """(what it is, payload, signature, the reason why it is refused)."""
    good = payload_for(target, name)
    yield "another key's", good, by_key(good, OTHER), "cryptographic signature verification failed"
    yield "of another payload", good, by_key(good + b" "), "cryptographic signature verification failed"
    yield "no base64", good, by_key(good)[:-5] + "\n!!", "base64 decoding"
    yield "empty", good, "", "cryptographic signature verification failed"
    for label, payload, reason in (
        ("another image's", payload_for("sha256:" + "0" * 64, name), "Signature for digest sha256:0+ does not match"),
        ("for another name", payload_for(target, name + "x"), 'Signature for identity ".*x" is not accepted'),
        ("for no name", payload_for(target, ""), 'Signature for identity "" is not accepted'),
        ("no digest", payload_for("latest", name), "invalid docker-manifest-digest value"),
        ("no JSON", b"\x00\xff", "payload:"),
        ("a list", b"[]", "the payload is not an object"),
        ("deep", b"[" * 100_000, "payload:"),
        ("without optional", good.replace(b', "optional": null', b""), 'key "optional" missing'),
        ("of another type", good.replace(TYPE.encode(), b"atomic container signature"), "Unrecognized signature type"),
        (
            "with a member twice",
            good.replace(b'"type"', b'"image": {"docker-manifest-digest": "sha256:%s"}, "type"' % (b"0" * 64)),
            "duplicate keys",
        ),
        ("with more", good.replace(b'"type"', b'"extra": 1, "type"'), 'unknown key "extra"'),
        ("of a name that is none", good.replace(name.encode(), b"UPPER/../x"), "is not accepted"),
        ("with half a second", payload_for(target, name, timestamp=1.5), "not an integer"),
    ):
        yield label, payload, by_key(payload), reason


async def test_hostile_signatures_are_refused_with_their_reason(room: Connected, registry: str) -> None:
    name = f"{registry}/signed/hostile"
    signer = await published(room, f"{name}:1")
    try:
        demand(room)
        target = await signer.manifest()
        cases = list(hostile(target, name))
        for label, payload, signed, reason in cases:
            await signer.attach((payload, signed))
            with pytest.raises(Forbidden, match=reason):
                await room.pull(f"{name}:1")
            assert room.images.all() == [], label
        good = payload_for(target, name)
        await signer.attach(*[(payload, signed) for _, payload, signed, _ in cases], (good, by_key(good)))
        await room.pull(f"{name}:1")  # one that counts is enough
        await room.images.remove(f"{name}:1", force=True)
        for size in (0, -1, LARGEST_PAYLOAD + 1):  # Debian's registry does not look at sizes
            await signer.attach((good, by_key(good)), size=size)
            with pytest.raises(Forbidden, match="no signature exists"):
                await room.pull(f"{name}:1")
        await signer.attach((good, by_key(good)), size=len(good) - 1)
        with pytest.raises(Exception, match="larger than its manifest says"):
            await room.pull(f"{name}:1")
        await signer.attach(*[(good, "")] * (MOST_SIGNATURES + 1))
        with pytest.raises(Forbidden, match=f"more than {MOST_SIGNATURES} signatures"):
            await room.pull(f"{name}:1")
        assert room.layers.all() == {}
    finally:
        await signer.client.close()


async def test_the_most_specific_scope_counts(room: Connected, registry: str) -> None:
    name = f"{registry}/signed/scope:1"
    signer = await published(room, name)
    await signer.client.close()
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    for scopes, taken in (
        ({registry: accept}, True),
        ({registry: accept, f"{registry}/signed": reject}, False),
        ({registry: reject, f"{registry}/signed": reject, f"{registry}/signed/scope": accept}, True),
        ({name: accept, f"{registry}/signed/scope": reject}, True),
        ({"": accept}, True),
        ({"": reject, registry: accept}, True),
        ({f"{registry}/sign": accept}, False),
    ):
        demand(room, {"type": "reject"}, **scopes)
        if taken:
            await room.pull(name)
            await room.images.remove(name, force=True)
        else:
            with pytest.raises(Forbidden, match=f"Running image docker:{name} is rejected by policy"):
                await room.pull(name)


async def test_a_policy_that_changes_or_breaks_counts_at_once(room: Connected, registry: str) -> None:
    name = f"{registry}/signed/file:1"
    signer = await published(room, name)
    await signer.client.close()
    demand(room, {"type": "insecureAcceptAnything"})
    await room.pull(name)
    (room.root / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnythin"}]}')
    with pytest.raises(InvalidParameter, match=r'invalid policy in ".*": unknown policy requirement type'):
        await room.pull(name)
    (room.root / "policy.json").unlink()
    with pytest.raises(InvalidParameter, match="cannot read the signature policy"):
        await room.pull(name)
    demand(room)
    (room.root / "key.pem").write_text("no key")
    with pytest.raises(Forbidden, match="cannot use the key"):
        await room.pull(name)


async def test_the_engines_own_images_are_not_taken_for_signed_ones(room: Connected) -> None:
    room.images.registry.configure(["http://127.0.0.1:1"], [])
    demand(room)
    with pytest.raises(Exception, match=r"connect|lookup"):
        await room.pull("busybox")
    with pytest.raises(NotFound):
        room.images.find("busybox")


@pytest.mark.parametrize(
    ("kind", "image", "signed", "counts"),
    [
        (("matchExact",), "r.example/a:1", "r.example/a:1", True),
        (("matchExact",), "r.example/a:1", "r.example/a", False),
        (("matchExact",), "r.example/a:1", "r.example/a:2", False),
        (("matchRepoDigestOrExact",), "r.example/a:1", "r.example/a:1", True),
        (("matchRepoDigestOrExact",), "r.example/a:1", "r.example/a:2", False),
        (("matchRepoDigestOrExact",), f"r.example/a@sha256:{'0' * 64}", "r.example/a:2", True),
        (("matchRepoDigestOrExact",), f"r.example/a@sha256:{'0' * 64}", "r.example/a", False),
        (("matchRepository",), "r.example/a:1", "r.example/a", True),
        (("matchRepository",), "r.example/a:1", "r.example/b", False),
        (("matchRepository",), "busybox:1", "docker.io/library/busybox", True),
        (("exactReference", "r.example/b:1"), "r.example/a:1", "r.example/b:1", True),
        (("exactReference", "r.example/b:1"), "r.example/a:1", "r.example/a:1", False),
        (("exactRepository", "r.example/b"), "r.example/a:1", "r.example/b:7", True),
        (("remapIdentity", "m.example", "r.example/x"), "m.example/a:1", "r.example/x/a:1", True),
        (("remapIdentity", "m.example", "r.example/x"), "m.example/a:1", "m.example/a:1", False),
        (("remapIdentity", "m.example/b", "r.example"), "m.example/a:1", "m.example/a:1", True),
        (("remapIdentity", "m.example/b", "r.example"), "m.example/bc:1", "r.example/c:1", False),
    ],
)
def test_the_name_that_a_signature_must_bear(kind: tuple[str, ...], image: str, signed: str, counts: bool) -> None:
    assert SignedIdentity(*kind).accepts(Reference.parse(image), signed) is counts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "Default policy is missing"),
        ("[]", "not an object"),
        ('{"default": []}', "must not be empty"),
        ('{"default": [{"type": "reject"}], "defaults": []}', 'unknown key "defaults"'),
        ('{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}', "duplicate keys"),
        ('{"default": [{"type": "reject", "keyPath": "/x"}]}', 'unknown key "keyPath"'),
        ('{"default": [{"type": "sigstoreSigned"}]}', "exactly one of keyPath"),
        ('{"default": [{"type": "sigstoreSigned", "keyPath": "/x", "keyData": "eA=="}]}', "exactly one of keyPath"),
        ('{"default": [{"type": "sigstoreSigned", "keyPaths": []}]}', "keyPaths must not be empty"),
        ('{"default": [{"type": "sigstoreSigned", "keyData": "%"}]}', "not base64"),
        ('{"default": [{"type": "sigstoreSigned", "keyPath": "/x", "signedIdentity": {"type": "any"}}]}', "unknown"),
        ('{"default": [{"type": "signedBy"}]}', 'key "keyType" missing'),
        ('{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}', "exactly one of keyPath, keyPaths and keyData"),
        ('{"default": [{"type": "signedBy", "keyType": "PGP", "keyPath": "/x"}]}', 'invalid keyType "PGP"'),
        ('{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": ""}]}', "keyPath must not be empty"),
        ('{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "%"}]}', "not base64"),
        ('{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x", "x": 1}]}', 'unknown key "x"'),
        ('{"default": [{"type": "reject"}], "transports": {"docker": {"x": []}}}', "must not be empty"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        policy.parse(text.encode())


@pytest.mark.parametrize(
    "requirement",
    [
        {"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/x"},
        {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchRepository"}},
    ],
    ids=lambda requirement: requirement["type"],
)
def test_what_this_engine_cannot_verify_it_refuses_to_take(requirement: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"default": [requirement]}))
    gate = SignatureGate(str(file))
    gate.check()
    with pytest.raises(Forbidden, match=r"not (verified|implemented)|Unimplemented"):
        gate.requirements(Reference.parse("busybox:1"))


def test_the_scopes_of_a_name_are_those_of_containers_image() -> None:
    assert policy.scopes_of(Reference.parse("reg.example.com:8443/a/b:1")) == [
        "reg.example.com:8443/a/b:1",
        "reg.example.com:8443/a/b",
        "reg.example.com:8443/a",
        "reg.example.com:8443",
        "*.example.com",
        "*.com",
        "",
    ]
