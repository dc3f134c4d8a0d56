"""Signatures that come with an entry of a log or with a certificate, good and bad, and the policies they are judged by.

Each case is judged by this engine in test_certified_signatures.py, and by skopeo in conformance/certified-signatures.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dockyard.content.signatures.sigstore import BUNDLE, CERTIFICATE, CHAIN, SIGNATURE

NOW = datetime.now(UTC)
ISSUER, EMAIL = "https://accounts.example.com", "one@example.com"
CURVE = ec.SECP256R1()
KEY, OTHER, LOG, OTHER_LOG, LEAF, ROOT_KEY, BETWEEN_KEY, OTHER_ROOT_KEY = (
    ec.generate_private_key(CURVE) for _ in range(8)
)
RSA = rsa.generate_private_key(65537, 2048)


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def by(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    return key.sign(content, ec.ECDSA(SHA256()))


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def certificate(
    name: str,
    key: Any,
    signer: str,
    signing: Any,
    *,
    authority: bool = False,
    names: tuple[x509.GeneralName, ...] = (x509.RFC822Name(EMAIL),),
    issuer: tuple[tuple[str, bytes], ...] = (("1.3.6.1.4.1.57264.1.1", ISSUER.encode()),),
    usage: Any = ExtendedKeyUsageOID.CODE_SIGNING,
    begin: timedelta = timedelta(minutes=-20),
    end: timedelta = timedelta(days=1),
    critical: bool = False,
) -> x509.Certificate:
    """A certificate of an authority, or of who signs."""

    def called(word: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, word)] if word else [])

    builder = (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(signer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + begin)
        .not_valid_after(NOW + end)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if not authority:
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not name)
        for number, value in issuer:
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(number), value), False)
    if critical:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)
    return builder.sign(signing, SHA256())


ROOT = certificate("root", ROOT_KEY, "root", ROOT_KEY, authority=True, usage=None, begin=timedelta(days=-30))
BETWEEN = certificate("between", BETWEEN_KEY, "root", ROOT_KEY, authority=True, begin=timedelta(days=-30))
OTHER_ROOT = certificate("root", OTHER_ROOT_KEY, "root", OTHER_ROOT_KEY, authority=True, usage=None)


def leaf(**changes: Any) -> x509.Certificate:
    """A certificate as Fulcio makes them: good for ten minutes."""
    times = {"begin": timedelta(minutes=-15), "end": timedelta(minutes=-5)}
    return certificate("", LEAF, "between", BETWEEN_KEY, **{**times, **changes})


def entry(
    signed: bytes,
    payload: bytes,
    who: bytes,
    /,
    when: datetime = NOW - timedelta(minutes=10),
    key: Any = LOG,
    **changes: Any,
) -> str:
    """A log's entry; `changes` are of its body's spec, of its payload or of itself, by the names they have there."""
    spec = {
        "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}},
        "signature": {"content": coded(signed), "publicKey": {"content": coded(who)}},
    }
    for name in ("data", "signature"):
        spec[name] = changes.pop(name, spec[name])
    record = {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec, **changes.pop("record", {})}
    inner = {
        "body": coded(json.dumps(record).encode()),
        "integratedTime": int(when.timestamp()),
        "logIndex": 1,
        "logID": "c0d23d6ad406973f",
        **changes.pop("payload", {}),
    }
    canonical = json.dumps(inner, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({"SignedEntryTimestamp": coded(by(key, canonical)), "Payload": inner, **changes})


@dataclass(frozen=True)
class Case:
    """What an image has as a signature, under which demand; "" when that is met, else a part of the reason."""

    label: str
    annotations: dict[str, str]
    demand: dict[str, Any]
    reason: str = ""
    payload: bytes = field(default=b"", repr=False)


MATCH = {"type": "sigstoreSigned", "signedIdentity": {"type": "matchRepository"}}
LOGGED = {**MATCH, "keyData": coded(pem(KEY)), "rekorPublicKeyData": coded(pem(LOG))}


def fulcio(**changes: Any) -> dict[str, Any]:
    found = {"caData": coded(text(ROOT).encode()), "oidcIssuer": ISSUER, "subjectEmail": EMAIL, **changes}
    return {**MATCH, "fulcio": found, "rekorPublicKeyData": coded(pem(LOG))}


def pki(**changes: Any) -> dict[str, Any]:
    return {**MATCH, "pki": {"caRootsData": coded(text(ROOT).encode()), **(changes or {"subjectEmail": EMAIL})}}


def cases(payload: bytes) -> Iterator[Case]:
    """All of them, of one payload that is right."""
    yield from _logged(payload)
    yield from _fulcio(payload)
    yield from _pki(payload)


def _logged(payload: bytes) -> Iterator[Case]:
    signed = by(KEY, payload)
    who = pem(KEY)

    def case(label: str, bundle: str | None, reason: str = "", demand: dict[str, Any] | None = None) -> Case:
        notes = {SIGNATURE: coded(signed), **({} if bundle is None else {BUNDLE: bundle})}
        return Case(f"log: {label}", notes, demand or LOGGED, reason)

    good = entry(signed, payload, who)
    yield case("good", good)
    yield case("none", None, "missing dev.sigstore.cosign/bundle")
    yield case(
        "of any of the logs", good, demand={**LOGGED, "rekorPublicKeyData": coded(pem(OTHER_LOG))}, reason="Rekor"
    )
    both = {key: value for key, value in LOGGED.items() if not key.startswith("rekor")}
    logs = [coded(pem(OTHER_LOG)), coded(pem(LOG))]
    yield case("of one of several", good, demand={**both, "rekorPublicKeyDatas": logs})
    keys = {key: value for key, value in LOGGED.items() if key != "keyData"}
    yield case("of one of several keys", good, demand={**keys, "keyDatas": [coded(pem(OTHER)), coded(pem(KEY))]})
    yield case("of another key", good, demand={**keys, "keyData": coded(pem(OTHER))}, reason="publicKey in Rekor SET")
    yield case("a log's key that is no ECDSA", good, "not", {**LOGGED, "rekorPublicKeyData": coded(pem(RSA))})
    yield case("of another log", entry(signed, payload, who, key=OTHER_LOG), "Rekor SET failed")
    yield case("of another signature", entry(by(KEY, payload), payload, who), "signature in Rekor SET does not match")
    yield case("of another payload", entry(signed, payload + b" ", who), "payload in Rekor SET does not match")
    yield case("of another's key", entry(signed, payload, pem(OTHER)), "publicKey in Rekor SET does not match")
    yield case("with a tail", entry(signed, payload, who + b"x"), "PEM")
    yield case("no PEM", entry(signed, payload, b"x"), "PEM")
    yield case("another kind", entry(signed, payload, who, record={"kind": "rekord"}), "hashedrekord")
    yield case("another version", entry(signed, payload, who, record={"apiVersion": "0.0.2"}), "hashedrekord")
    yield case("without a hash", entry(signed, payload, who, data={}), "Missing")
    yield case(
        "of SHA-512", entry(signed, payload, who, data={"hash": {"algorithm": "sha512", "value": ""}}), "algorithm"
    )
    yield case("more in it", entry(signed, payload, who, extra=1), "unknown key")
    yield case("more in its payload", entry(signed, payload, who, payload={"extra": 1}), "unknown key")
    yield case("half a second", entry(signed, payload, who, payload={"integratedTime": 1.5}), "not an integer")
    yield case("a body that is none", entry(signed, payload, who, payload={"body": "e30="}), "Missing|hashedrekord")
    yield case("no JSON", "{", "Rekor SET")
    yield case("empty", "{}", "missing in the Rekor SET")
    yield case("changed", good.replace('"logIndex": 1', '"logIndex": 2'), "Rekor SET failed")
    yield case("twice", good.replace('"logIndex": 1', '"logIndex": 1, "logIndex": 1'), "duplicate keys")


def _fulcio(payload: bytes) -> Iterator[Case]:
    signed = by(LEAF, payload)
    chain = text(BETWEEN) + text(ROOT)

    def case(
        label: str,
        found: x509.Certificate | str,
        reason: str = "",
        demand: dict[str, Any] | None = None,
        chain: str = chain,
        **changes: Any,
    ) -> Case:
        said = found if isinstance(found, str) else text(found)
        bundle = changes.pop("bundle", entry(signed, payload, said.encode(), **changes))
        notes = {SIGNATURE: coded(signed), CERTIFICATE: said, CHAIN: chain, BUNDLE: bundle}
        return Case(
            f"fulcio: {label}", {key: value for key, value in notes.items() if value}, demand or fulcio(), reason
        )

    good = leaf()
    second = ("1.3.6.1.4.1.57264.1.8", b"\x0c" + bytes([len(ISSUER)]) + ISSUER.encode())
    first = ("1.3.6.1.4.1.57264.1.1", ISSUER.encode())
    yield case("good", good)
    yield case("the issuer's second form", leaf(issuer=(second,)))
    yield case("both forms", leaf(issuer=(first, second)))
    other = ("1.3.6.1.4.1.57264.1.1", b"https://other.example.com")
    yield case("forms that differ", leaf(issuer=(other, second)), "inconsistent")
    yield case("no issuer", leaf(issuer=()), "missing the issuer")
    yield case("another issuer", leaf(issuer=(other,)), "Unexpected Fulcio OIDC issuer")
    yield case("a form that is none", leaf(issuer=(("1.3.6.1.4.1.57264.1.8", b"\x0c\x05ab"),)), "invalid ASN.1")
    yield case("another email", leaf(names=(x509.RFC822Name("two@example.com"),)), "Required email")
    yield case("several emails", leaf(names=(x509.RFC822Name("two@example.com"), x509.RFC822Name(EMAIL))))
    yield case("a URI", leaf(names=(x509.UniformResourceIdentifier("https://one.example.com"),)), "Required email")
    yield case("for servers", leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH), "leaf certificate failed")
    yield case("for anything", leaf(usage=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))
    yield case("for what it does not say", leaf(usage=None))
    yield case("what is critical and unknown", leaf(critical=True), "leaf certificate failed")
    yield case("no chain", good, "leaf certificate failed", chain="")
    loops = [certificate("between", BETWEEN_KEY, "between", BETWEEN_KEY, authority=True) for _ in range(5)]
    yield case("a chain in circles", good, "leaf certificate failed", chain="".join(map(text, loops)) + text(ROOT))
    yield case("a chain of the root alone", good, "leaf certificate failed", chain=text(ROOT))
    yield case("a chain that is none", good, "parsing certificates", chain="x")
    yield case("by the root itself", certificate("", LEAF, "root", ROOT_KEY, end=timedelta(minutes=-5)), chain="")
    yield case("another root", good, "leaf certificate failed", fulcio(caData=coded(text(OTHER_ROOT).encode())))
    yield case("two roots", good, "", fulcio(caData=coded((text(OTHER_ROOT) + text(ROOT)).encode())))
    yield case("a root that is none", good, "certificates of the policy", fulcio(caData=coded(b"x")))
    false = certificate("between", BETWEEN_KEY, "root", OTHER_ROOT_KEY, authority=True)
    yield case("by another's authority", good, "leaf certificate failed", chain=text(false) + text(ROOT))
    plain = certificate("between", BETWEEN_KEY, "root", ROOT_KEY, begin=timedelta(days=-30))
    yield case("by who is no authority", good, "leaf certificate failed", chain=text(plain) + text(ROOT))
    servers = certificate(
        "between", BETWEEN_KEY, "root", ROOT_KEY, authority=True, usage=ExtendedKeyUsageOID.SERVER_AUTH
    )
    yield case("by an authority of servers", good, "leaf certificate failed", chain=text(servers) + text(ROOT))
    yield case("logged before", good, "leaf certificate failed", when=NOW - timedelta(minutes=18))
    yield case("logged too late", good, "leaf certificate failed", when=NOW)
    yield case("two certificates", text(good) + text(BETWEEN), "PEM|multiple certificates")
    yield case("no certificate", "", "missing dev.sigstore.cosign/certificate")
    yield case("not logged", good, "missing dev.sigstore.cosign/bundle", bundle="")
    another = entry(signed, payload, text(leaf()).encode())
    yield case("logged with another certificate", good, "publicKey in Rekor SET does not match", bundle=another)
    wrong = certificate("", KEY, "between", BETWEEN_KEY, begin=timedelta(minutes=-15), end=timedelta(minutes=-5))
    yield case("of another key", wrong, "cryptographic signature verification failed")


def _pki(payload: bytes) -> Iterator[Case]:
    signed = by(LEAF, payload)
    chain = text(BETWEEN) + text(ROOT)

    def case(
        label: str,
        found: x509.Certificate,
        reason: str = "",
        demand: dict[str, Any] | None = None,
        chain: str = chain,
    ) -> Case:
        notes = {SIGNATURE: coded(signed), CERTIFICATE: text(found), CHAIN: chain}
        return Case(f"pki: {label}", {key: value for key, value in notes.items() if value}, demand or pki(), reason)

    def own(**changes: Any) -> x509.Certificate:
        return certificate("", LEAF, "between", BETWEEN_KEY, **{"issuer": (), **changes})

    def named(*names: str) -> x509.Certificate:
        return own(names=tuple(x509.DNSName(name) for name in names))

    good = own()
    yield case("good", good)
    yield case("expired", own(end=timedelta(minutes=-5)), "leaf certificate failed")
    yield case("not yet", own(begin=timedelta(hours=2)), "leaf certificate failed")
    yield case("another email", own(names=(x509.RFC822Name("two@example.com"),)), "Required email")
    yield case("intermediates of the policy", good, "", _between(), chain="")
    yield case("no intermediates", good, "leaf certificate failed", chain="")
    host = pki(subjectHostname="build.example.com")
    yield case("a host", named("build.example.com"), "", host)
    yield case("any host of a domain", named("*.example.com"), "", host)
    yield case("any host below", named("*.com", "*.build.example.com"), "Unexpected subject hostname", host)
    yield case("another host", named("example.com"), "Unexpected subject hostname", host)
    yield case("a host in capitals", named("Build.Example.COM"), "", host)
    yield case("no host", good, "Unexpected subject hostname", host)
    both = pki(subjectHostname="build.example.com", subjectEmail=EMAIL)
    yield case("a host and no email", named("build.example.com"), "Required email", both)
    names = (x509.DNSName("build.example.com"), x509.RFC822Name(EMAIL))
    yield case("a host and an email", own(names=names), "", both)
    address = (x509.IPAddress(ip_address("192.0.2.1")),)
    yield case("an address", own(names=address), "", pki(subjectHostname="192.0.2.1"))
    yield case("another address", own(names=address), "Unexpected subject", pki(subjectHostname="192.0.2.2"))
    yield case("for servers", own(usage=ExtendedKeyUsageOID.SERVER_AUTH), "leaf certificate failed")
    yield case("by another root", good, "leaf certificate failed", _other_root())


def _between() -> dict[str, Any]:
    return pki(subjectEmail=EMAIL, caIntermediatesData=coded(text(BETWEEN).encode()))


def _other_root() -> dict[str, Any]:
    return {**MATCH, "pki": {"caRootsData": coded(text(OTHER_ROOT).encode()), "subjectEmail": EMAIL}}


MALFORMED: list[dict[str, Any]] = [
    {key: value for key, value in fulcio().items() if not key.startswith("rekor")},
    {**pki(), "rekorPublicKeyData": coded(pem(LOG))},
    {**LOGGED, "rekorPublicKeyPath": "/x"},
    {**LOGGED, "rekorPublicKeyDatas": []},
    {**LOGGED, "fulcio": fulcio()["fulcio"]},
    fulcio(caPath="/x"),
    fulcio(oidcIssuer=""),
    fulcio(subjectEmail=""),
    fulcio(more=1),
    pki(subjectEmail=""),
    pki(subjectEmail=EMAIL, caRootsPath="/x"),
    pki(subjectEmail=EMAIL, more=1),
    {**MATCH, "pki": {"subjectEmail": EMAIL}},
]
