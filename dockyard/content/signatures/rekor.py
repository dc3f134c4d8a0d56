"""Entries of Rekor, a public log of signatures: what its key has signed says that a signature was there, and when.

The entry comes with the signature (cosign's "bundle", a signed entry timestamp); nobody is asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from dockyard.content.signatures import strict_json
from dockyard.errors import InvalidParameter

# (signature, content) -> whether a key of the log has made the one of the other
Verify = Callable[[bytes, bytes], bool]

LARGEST_NUMBER = 1 << 53  # beyond it, who reads JSON's numbers as floating point sees others
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----\r?\n?")


def entered(bundle: str, log_keys: Sequence[Verify], der: bytes, signature: bytes, payload: bytes) -> int:
    """When the log took in `signature` of `payload` by the key or certificate `der`, in UNIX seconds.

    Raises InvalidParameter when the bundle does not say so.
    """
    document = strict_json.exact(
        strict_json.parse(bundle, "the Rekor SET"), ("SignedEntryTimestamp", "Payload"), "the Rekor SET"
    )
    members = ("body", "integratedTime", "logIndex", "logID")
    entry = strict_json.exact(document["Payload"], members, "the Rekor SET's payload")
    when, index = entry["integratedTime"], entry["logIndex"]
    body, log = strict_json.string(entry["body"], "body"), strict_json.string(entry["logID"], "logID")
    if not all(type(number) is int and abs(number) < LARGEST_NUMBER for number in (when, index)):
        raise InvalidParameter("a number of the Rekor SET's payload is not an integer")
    if not (body.isascii() and log.isascii()):
        raise InvalidParameter("a string of the Rekor SET's payload is not ASCII")
    # canonical, RFC 8785: of such members sorted and without spaces
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    timestamp = strict_json.binary(document["SignedEntryTimestamp"], "SignedEntryTimestamp")
    if not any(verify(timestamp, canonical) for verify in log_keys):
        raise InvalidParameter("cryptographic signature verification of Rekor SET failed")
    _compare(strict_json.binary(body, "body"), der, signature, payload)
    assert isinstance(when, int)
    return when


def _compare(body: bytes, der: bytes, signature: bytes, payload: bytes) -> None:
    """Return when the log's entry is of this signature. Raises InvalidParameter."""
    record = strict_json.parse(body, "the body of the Rekor SET")
    if _member(record, "kind") != "hashedrekord" or _member(record, "apiVersion") != "0.0.1":
        raise InvalidParameter("the body of the Rekor SET is no hashedrekord of version 0.0.1")
    signed, data = _member(record, "spec", "signature"), _member(record, "spec", "data", "hash")
    pem = _PEM.fullmatch(strict_json.binary(_member(signed, "publicKey", "content"), "publicKey"))
    if pem is None:
        raise InvalidParameter("publicKey in Rekor SET is not in PEM format")
    if strict_json.binary(b"".join(pem[2].split()).decode(), "publicKey") != der:
        raise InvalidParameter("publicKey in Rekor SET does not match")
    if strict_json.binary(_member(signed, "content"), "signature") != signature:
        raise InvalidParameter("signature in Rekor SET does not match")
    if _member(data, "algorithm") != "sha256":
        raise InvalidParameter('Unexpected "data.hash.algorithm" value in Rekor SET')
    if str(_member(data, "value")).lower() != hashlib.sha256(payload).hexdigest():
        raise InvalidParameter("payload in Rekor SET does not match")


def _member(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise InvalidParameter(f'Missing "{name}" field in the body of the Rekor SET')
        value = value[name]
    return value
