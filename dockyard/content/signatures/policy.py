"""policy.json: what is demanded of an image before it may come in (containers-policy.json(5)).

Strict, as containers-image is: a member that nobody knows may be a misspelt demand, so it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dockyard.content.signatures import certificates, identity, strict_json
from dockyard.content.signatures.certificates import Authority
from dockyard.content.signatures.identity import SignedIdentity
from dockyard.errors import InvalidParameter
from dockyard.oci.reference import Reference

TRANSPORT = "docker"  # of images that come from registries

_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
# Of signatures by GPG; those but the first are known by name alone, here as elsewhere.
_KEY_TYPES = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
# The keys of a log that must have taken the signature in.
_REKOR = ("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")


@dataclass(frozen=True)
class Requirement:
    """One demand. `unmet`: why it can't be met by any image here, if it can't.

    `key_paths` are files with a public key each (of GPG, with any number), `key_data` public keys: any may have signed.
    `log_paths` and `log_data` are those of a log (Rekor) that must have taken the signature in, if there are any.
    `authority` stands instead of keys: of whom a certificate comes with the signature.
    """

    kind: str
    key_paths: tuple[str, ...] = ()
    key_data: tuple[bytes, ...] = ()
    identity: SignedIdentity = field(default_factory=SignedIdentity)
    unmet: str = ""
    log_paths: tuple[str, ...] = ()
    log_data: tuple[bytes, ...] = ()
    authority: Authority | None = None


@dataclass(frozen=True)
class Policy:
    """What is demanded: of images of a scope (a name, a namespace, a host), and of all others."""

    default: Sequence[Requirement]
    scopes: Mapping[str, Sequence[Requirement]]

    def requirements(self, name: Reference) -> Sequence[Requirement]:
        """What is demanded of the image `name`: by the most specific scope that it is in."""
        for scope in scopes_of(name):
            if scope in self.scopes:
                return self.scopes[scope]
        return self.default


def scopes_of(name: Reference) -> list[str]:
    """The scopes that an image is in, the most specific first; the last is that of its whole transport."""
    whole = f"{name.domain}/{name.path}"
    found = [name.full(), whole]
    while "/" in whole:
        whole = whole.rpartition("/")[0]
        found.append(whole)
    host = whole.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        found.append(f"*.{host}")
    return [*found, ""]


def parse(text: bytes) -> Policy:
    """Read policy.json. Raises InvalidParameter."""
    document = strict_json.exact(
        strict_json.parse(text, "no JSON"), (), "the policy", optional=("default", "transports")
    )
    if document.get("default") is None:
        raise InvalidParameter("Default policy is missing")
    default = _requirements(document["default"], "default")
    transports = document.get("transports") or {}
    if not isinstance(transports, dict):
        raise InvalidParameter("transports is not an object")
    scopes: dict[str, Sequence[Requirement]] = {}
    for transport, given in transports.items():
        if not isinstance(given, dict):
            raise InvalidParameter(f'transport "{transport}" is not an object')
        parsed = {scope: _requirements(value, f"{transport}:{scope}") for scope, value in given.items()}
        if transport == TRANSPORT:
            scopes = parsed
    return Policy(default, scopes)


def _requirements(value: Any, where: str) -> Sequence[Requirement]:
    if not isinstance(value, list) or not value:
        raise InvalidParameter(f"List of verification policy requirements must not be empty ({where})")
    return [_requirement(one) for one in value]


def _requirement(value: Any) -> Requirement:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("insecureAcceptAnything", "reject"):
        strict_json.exact(value, ("type",), f'a requirement of type "{kind}"')
        return Requirement(kind)
    if kind == "signedBy":
        return _signed_by(value)
    if kind == "signedBaseLayer":
        strict_json.exact(value, ("type", "baseLayerIdentity"), "a signedBaseLayer requirement")
        return Requirement(kind, unmet="signedBaseLayer is not implemented, here as elsewhere")
    if kind == "sigstoreSigned":
        return _sigstore(value)
    raise InvalidParameter(f'unknown policy requirement type "{kind}"')


def _signed_by(value: dict[str, Any]) -> Requirement:
    optional = ("keyPath", "keyPaths", "keyData", "signedIdentity")
    strict_json.exact(value, ("type", "keyType"), "a signedBy requirement", optional=optional)
    if value["keyType"] not in _KEY_TYPES:
        raise InvalidParameter(f'invalid keyType "{value["keyType"]}"')
    signed = identity.parse(value.get("signedIdentity"))
    sources = [key for key in _KEYS[:3] if key in value]
    if len(sources) != 1:
        raise InvalidParameter("exactly one of keyPath, keyPaths and keyData must be specified")
    paths, data = _keys_of(sources[0], value[sources[0]])
    unmet = f'Unimplemented "keyType" value "{value["keyType"]}"' if value["keyType"] != _KEY_TYPES[0] else ""
    return Requirement("signedBy", paths, data, signed, unmet)


def _sigstore(value: dict[str, Any]) -> Requirement:
    optional = (*_KEYS, *_REKOR, "fulcio", "pki", "signedIdentity")
    strict_json.exact(value, ("type",), "a sigstoreSigned requirement", optional=optional)
    signed = identity.parse(value.get("signedIdentity"))
    sources = [key for key in (*_KEYS, "fulcio", "pki") if key in value]
    if len(sources) != 1:
        raise InvalidParameter("exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, and pki must be specified")
    logs = [key for key in _REKOR if key in value]
    if len(logs) > 1:
        raise InvalidParameter(f"at most one of {', '.join(_REKOR)} can be used simultaneously")
    source = sources[0]
    if source == "fulcio" and not logs:
        raise InvalidParameter(f"At least one of {', '.join(_REKOR)} must be specified if fulcio is used")
    if source == "pki" and logs:
        raise InvalidParameter(f"{logs[0]} is not supported for pki")
    log_paths, log_data = _keys_of(logs[0], value[logs[0]]) if logs else ((), ())
    authority = certificates.parse(source, value[source]) if source in ("fulcio", "pki") else None
    paths, data = _keys_of(source, value[source]) if authority is None else ((), ())
    return Requirement("sigstoreSigned", paths, data, signed, "", log_paths, log_data, authority)


def _keys_of(source: str, given: Any) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """The files with keys, and the keys, that a requirement names by its member `source`."""
    items = given if source.endswith("s") else [given]
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item for item in items):
        raise InvalidParameter(f"{source} must not be empty")
    if "Path" in source:
        return tuple(items), ()
    return (), tuple(strict_json.binary(item, source) for item in items)
