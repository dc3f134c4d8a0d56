"""cosign's signatures of images, verified with public keys (sigstore's simple signing; cosign's SIGNATURE_SPEC.md).

A signature is a blob, the payload, which says which manifest it is for and what that is called, and beside it, as an
annotation, what a private key has made of the payload. Nothing of a payload is believed before it is verified.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockyard.content.signatures import strict_json
from dockyard.content.signatures.identity import SignedIdentity
from dockyard.content.signatures.policy import Requirement
from dockyard.errors import DockyardError, Forbidden, InvalidParameter, words
from dockyard.oci.digest import is_digest
from dockyard.oci.reference import Reference

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"

Verify = Callable[[bytes, bytes], bool]
"""(signature, payload) -> whether the key has made the one of the other."""


@dataclass(frozen=True)
class Signature:
    """A signature as it was found: the payload, and the base64 of what a key has made of it."""

    payload: bytes
    signed: str


def verifiers(requirement: Requirement) -> list[Verify]:
    """The keys that a requirement names. Raises Forbidden when one cannot be used: it may be the one that is meant."""
    found = []
    for path in requirement.key_paths:
        try:
            found.append(_verifier(Path(path).read_bytes()))
        except OSError as error:
            raise Forbidden(f"cannot read the key {path}: {words(error)}") from None
        except ValueError as error:
            raise Forbidden(f"cannot use the key {path}: {error}") from None
    for number, data in enumerate(requirement.key_data, 1):
        try:
            found.append(_verifier(data))
        except ValueError as error:
            raise Forbidden(f"cannot use public key {number} of keyData: {error}") from None
    return found


def _verifier(pem: bytes) -> Verify:
    # loaded by those alone who have a policy with keys: it takes long
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None

    def verify(signature: bytes, payload: bytes) -> bool:
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, payload, ec.ECDSA(SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, payload, padding.PKCS1v15(), SHA256())
            elif isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, payload)
        except InvalidSignature:
            return False
        return True

    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise ValueError(f"keys of type {type(key).__name__} are not known")
    return verify


def accepted(
    signatures: Sequence[Signature], keys: Sequence[Verify], image: Reference, digest: str, identity: SignedIdentity
) -> None:
    """Return when one of the signatures is by one of the keys, for the manifest `digest`, under an accepted name.

    Raises Forbidden, with the reason for each, when none is.
    """
    if not signatures:
        raise Forbidden("A signature was required, but no signature exists")
    reasons: list[str] = []
    for signature in signatures:
        try:
            _check(signature, keys, image, digest, identity)
        except DockyardError as error:
            reasons.append(error.message)
        else:
            return
    if len(reasons) == 1:
        raise Forbidden(reasons[0])
    raise Forbidden(f"None of the signatures were accepted, reasons: {'; '.join(dict.fromkeys(reasons))}")


def _check(
    signature: Signature, keys: Sequence[Verify], image: Reference, digest: str, identity: SignedIdentity
) -> None:
    try:
        signed = base64.b64decode(signature.signed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"base64 decoding: {error}") from None
    if not any(verify(signed, signature.payload) for verify in keys):
        raise InvalidParameter("cryptographic signature verification failed: invalid signature when validating")
    named, manifest = read_payload(signature.payload)
    if not identity.accepts(image, named):
        raise Forbidden(f'Signature for identity "{named}" is not accepted')
    if manifest != digest:
        raise Forbidden(f"Signature for digest {manifest} does not match")


def read_payload(payload: bytes) -> tuple[str, str]:
    """(what the image is called, its manifest's digest) of a verified payload. Raises InvalidParameter."""
    document = strict_json.exact(strict_json.parse(payload, "payload"), ("critical", "optional"), "the payload")
    optional: Any = document["optional"]
    if optional is not None:
        if not isinstance(optional, dict):
            raise InvalidParameter("optional is not an object")
        strict_json.string(optional.get("creator", ""), "optional.creator")
        when = optional.get("timestamp", 0)
        if not isinstance(when, int | float) or isinstance(when, bool) or when != int(when):
            raise InvalidParameter("Field optional.timestamp is not an integer")
    critical = strict_json.exact(document["critical"], ("type", "image", "identity"), "critical")
    if critical["type"] != TYPE:
        raise InvalidParameter(f"Unrecognized signature type {critical['type']}")
    image = strict_json.exact(critical["image"], ("docker-manifest-digest",), "critical.image")
    digest = strict_json.string(image["docker-manifest-digest"], "docker-manifest-digest")
    if not is_digest(digest):
        raise InvalidParameter(f'invalid docker-manifest-digest value "{digest}"')
    identity = strict_json.exact(critical["identity"], ("docker-reference",), "critical.identity")
    return strict_json.string(identity["docker-reference"], "docker-reference"), digest
