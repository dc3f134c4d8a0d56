"""cosign's signatures of images, by public keys or certificates (sigstore's simple signing; SIGNATURE_SPEC.md).

A signature is a blob, the payload, which says which manifest it is for and what that is called, and beside it, as an
annotation, what a private key has made of the payload. Nothing of a payload is believed before it is verified.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from dockyard.content.signatures import certificates, payload, rekor
from dockyard.content.signatures.certificates import Authority
from dockyard.content.signatures.identity import SignedIdentity
from dockyard.content.signatures.payload import one_accepted
from dockyard.content.signatures.policy import Requirement
from dockyard.errors import Forbidden, InvalidParameter, words
from dockyard.oci.reference import Reference

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"
CHAIN = "dev.sigstore.cosign/chain"
BUNDLE = "dev.sigstore.cosign/bundle"

Verify = Callable[[bytes, bytes], bool]
"""(signature, payload) -> whether the key has made the one of the other."""


@dataclass(frozen=True)
class Signature:
    """A signature as it was found: the payload, the base64 of what a key has made of it, and what came along.

    `certificate` and `chain` are PEM: of the signer's, and of those that lead from it to a root. `bundle` is the entry
    of a log.
    """

    payload: bytes
    signed: str
    certificate: str = ""
    chain: str = ""
    bundle: str = ""


@dataclass(frozen=True)
class Key:
    """A public key: as it is written (DER, SubjectPublicKeyInfo), and what it verifies with."""

    der: bytes
    verify: Verify


@dataclass(frozen=True)
class Trusted:
    """What a requirement names, read from disk: keys, those of a log, an authority."""

    keys: Sequence[Key]
    logs: Sequence[Verify] = ()
    authority: Authority | None = None


def trusted(requirement: Requirement) -> Trusted:
    """What a requirement trusts. Raises Forbidden when a key cannot be used: it may be the one that is meant."""
    keys = _keys(requirement.key_paths, requirement.key_data)
    logs = [key.verify for key in _keys(requirement.log_paths, requirement.log_data, ecdsa=True)]
    return Trusted(keys, logs, requirement.authority)


def _keys(paths: Sequence[str], datas: Sequence[bytes], *, ecdsa: bool = False) -> list[Key]:
    found = []
    for path in paths:
        try:
            found.append(_key(Path(path).read_bytes(), ecdsa))
        except OSError as error:
            raise Forbidden(f"cannot read the key {path}: {words(error)}") from None
        except ValueError as error:
            raise Forbidden(f"cannot use the key {path}: {error}") from None
    for number, data in enumerate(datas, 1):
        try:
            found.append(_key(data, ecdsa))
        except ValueError as error:
            raise Forbidden(f"cannot use public key {number} of the policy: {error}") from None
    return found


def _key(pem: bytes, ecdsa: bool) -> Key:
    # loaded by those alone who have a policy with keys: it takes long
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if ecdsa and not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("it is not one of ECDSA")
    return Key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), _verifier(key))


def _verifier(key: object) -> Verify:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

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
    signatures: Sequence[Signature], trust: Trusted, image: Reference, digest: str, identity: SignedIdentity
) -> None:
    """Return when one of the signatures is by one who is trusted, for the manifest `digest`, under an accepted name.

    Raises Forbidden, with the reason for each, when none is.
    """
    one_accepted(partial(_check, signature, trust, image, digest, identity) for signature in signatures)


def _check(signature: Signature, trust: Trusted, image: Reference, digest: str, identity: SignedIdentity) -> None:
    try:
        signed = base64.b64decode(signature.signed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"base64 decoding: {error}") from None
    if trust.authority is not None:
        verifiers = [_certified(signature, signed, trust.logs, trust.authority)]
    elif trust.logs:
        verifiers = [_logged(signature, signed, trust)]
    else:
        verifiers = [key.verify for key in trust.keys]
    if not any(verify(signed, signature.payload) for verify in verifiers):
        raise InvalidParameter("cryptographic signature verification failed: invalid signature when validating")
    payload.check(signature.payload, payload.COSIGN, image, digest, identity)


def _logged(signature: Signature, signed: bytes, trust: Trusted) -> Verify:
    """The key by which the log has an entry of the signature. Raises InvalidParameter."""
    reasons = []
    for key in trust.keys:
        try:
            rekor.entered(_needed(signature.bundle, BUNDLE), trust.logs, key.der, signed, signature.payload)
        except InvalidParameter as error:
            reasons.append(error.message)
        else:
            return key.verify
    raise InvalidParameter(f"No public key verified against the RekorSET: {', '.join(reasons)}")


def _certified(signature: Signature, signed: bytes, logs: Sequence[Verify], authority: Authority) -> Verify:
    """The key of the certificate that comes with the signature, which the authority vouches for.

    Raises InvalidParameter, Forbidden.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = certificates.leaf(_needed(signature.certificate, CERTIFICATE))
    when = None
    if logs:  # a certificate that is good for minutes counts when it was good as the log took the signature in
        der = certificate.public_bytes(Encoding.DER)
        second = rekor.entered(_needed(signature.bundle, BUNDLE), logs, der, signed, signature.payload)
        try:
            when = datetime.fromtimestamp(second, UTC)
        except (ValueError, OverflowError):
            raise InvalidParameter("the Rekor SET is of no time that there can be") from None
    certificates.check(certificate, signature.chain, authority, when)
    try:
        return _verifier(certificate.public_key())
    except ValueError as error:
        raise InvalidParameter(f"the certificate's key: {error}") from None


def _needed(annotation: str, name: str) -> str:
    if not annotation:
        raise InvalidParameter(f"missing {name} annotation")
    return annotation
