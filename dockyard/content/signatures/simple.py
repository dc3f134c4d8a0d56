"""Signatures by GPG (`signedBy`): OpenPGP messages that hold a payload, kept beside the registry (lookaside.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dockyard.content.signatures import openpgp, payload
from dockyard.content.signatures.openpgp import Verified
from dockyard.content.signatures.policy import Requirement
from dockyard.errors import Forbidden, InvalidParameter, words
from dockyard.oci.reference import Reference


def accepted(signatures: Sequence[bytes], requirement: Requirement, image: Reference, digest: str) -> None:
    """Return when one of the signatures is by a key of the requirement, for the manifest `digest`, as it demands.

    Raises Forbidden, with the reason for each, when none is.
    """
    found = openpgp.verified(_keys(requirement), signatures)
    payload.one_accepted(partial(_check, one, requirement, image, digest) for one in found)


def _keys(requirement: Requirement) -> list[bytes]:
    found = list(requirement.key_data)
    for path in requirement.key_paths:
        try:
            found.append(Path(path).read_bytes())
        except OSError as error:
            raise Forbidden(f"cannot read the key {path}: {words(error)}") from None
    return found


def _check(found: Verified, requirement: Requirement, image: Reference, digest: str) -> None:
    if found.failure:
        raise InvalidParameter(found.failure)
    payload.check(found.content, payload.GPG, image, digest, requirement.identity)
