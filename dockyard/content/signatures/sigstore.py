"""cosign's signatures of images, verified with public keys (sigstore's simple signing; cosign's SIGNATURE_SPEC.md).

A signature is a blob, the payload, which says which manifest it is for and what that is called, and beside it, as an
annotation, what a private key has made of the payload. Nothing of a payload is believed before it is verified.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dockyard.content.signatures import payload
from dockyard.content.signatures.identity import SignedIdentity
from dockyard.content.signatures.payload import one_accepted
from dockyard.content.signatures.policy import Requirement
from dockyard.errors import Forbidden, InvalidParameter, words
from dockyard.oci.reference import Reference

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"

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

    def verify(signature: bytes, content: bytes) -> bool:
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, content, ec.ECDSA(SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, content, padding.PKCS1v15(), SHA256())
            elif isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, content)
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
    one_accepted(partial(_check, signature, keys, image, digest, identity) for signature in signatures)


def _check(
    signature: Signature, keys: Sequence[Verify], image: Reference, digest: str, identity: SignedIdentity
) -> None:
    try:
        signed = base64.b64decode(signature.signed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"base64 decoding: {error}") from None
    if not any(verify(signed, signature.payload) for verify in keys):
        raise InvalidParameter("cryptographic signature verification failed: invalid signature when validating")
    payload.check(signature.payload, payload.COSIGN, image, digest, identity)
