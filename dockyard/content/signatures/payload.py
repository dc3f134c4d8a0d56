"""What a signature is of: a payload that says which manifest it is for and what that is called ("simple signing").

Both signatures by GPG and cosign's have it (containers/image, atomic-signature.md; cosign's SIGNATURE_SPEC.md). Nothing
of a payload is believed before its signature is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dockyard.content.signatures import strict_json
from dockyard.content.signatures.identity import SignedIdentity
from dockyard.errors import DockyardError, Forbidden, InvalidParameter
from dockyard.oci.digest import is_digest
from dockyard.oci.reference import Reference

GPG = "atomic container signature"
COSIGN = "cosign container image signature"


def one_accepted(checks: Iterable[Callable[[], None]]) -> None:
    """Return when one of the checks, each of a signature, does. Raises Forbidden, with the reason of each, if none."""
    reasons: list[str] = []
    for check in checks:
        try:
            check()
        except DockyardError as error:
            reasons.append(error.message)
        else:
            return
    if not reasons:
        raise Forbidden("A signature was required, but no signature exists")
    if len(reasons) == 1:
        raise Forbidden(reasons[0])
    raise Forbidden(f"None of the signatures were accepted, reasons: {'; '.join(dict.fromkeys(reasons))}")


def check(payload: bytes, kind: str, image: Reference, digest: str, identity: SignedIdentity) -> None:
    """Return when a verified payload is for the manifest `digest`, under an accepted name. Raises DockyardError."""
    named, manifest = read(payload, kind)
    if not identity.accepts(image, named):
        raise Forbidden(f'Signature for identity "{named}" is not accepted')
    if manifest != digest:
        raise Forbidden(f"Signature for digest {manifest} does not match")


def read(payload: bytes, kind: str) -> tuple[str, str]:
    """(what the image is called, its manifest's digest) of a verified payload. Raises InvalidParameter."""
    document = strict_json.exact(strict_json.parse(payload, "payload"), ("critical", "optional"), "the payload")
    optional: Any = document["optional"]
    if optional is not None or kind != COSIGN:
        if not isinstance(optional, dict):
            raise InvalidParameter("optional is not an object")
        strict_json.string(optional.get("creator", ""), "optional.creator")
        when = optional.get("timestamp", 0)
        if not isinstance(when, int | float) or isinstance(when, bool) or when != int(when):
            raise InvalidParameter("Field optional.timestamp is not an integer")
    critical = strict_json.exact(document["critical"], ("type", "image", "identity"), "critical")
    if critical["type"] != kind:
        raise InvalidParameter(f"Unrecognized signature type {critical['type']}")
    image = strict_json.exact(critical["image"], ("docker-manifest-digest",), "critical.image")
    digest = strict_json.string(image["docker-manifest-digest"], "docker-manifest-digest")
    if not is_digest(digest):
        raise InvalidParameter(f'invalid docker-manifest-digest value "{digest}"')
    identity = strict_json.exact(critical["identity"], ("docker-reference",), "critical.identity")
    return strict_json.string(identity["docker-reference"], "docker-reference"), digest
