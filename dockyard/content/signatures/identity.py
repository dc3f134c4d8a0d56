"""What a signature must call the image it is for: `signedIdentity` of policy.json (containers-policy.json(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dockyard.content.signatures import strict_json
from dockyard.errors import InvalidParameter
from dockyard.oci.reference import Reference

_DOMAIN = re.compile(r"[a-zA-Z0-9.-]+(:[0-9]+)?|\[[a-fA-F0-9:]+\](:[0-9]+)?")


@dataclass(frozen=True)
class SignedIdentity:
    """One rule. `first` and `second` are what the rule's kind names: a reference, a repository, two prefixes."""

    kind: str = "matchRepoDigestOrExact"
    first: str = ""
    second: str = ""

    def accepts(self, image: Reference, signed: str) -> bool:
        """Whether a signature of something called `signed` counts for `image`, which has a tag or a digest."""
        try:
            named = Reference.parse(signed)
            intended = self._intended(image)
        except InvalidParameter:
            return False
        same_repository = named.repository == intended.repository
        if self.kind in ("matchRepository", "exactRepository"):
            return same_repository
        if named.tag is None and named.digest is None:
            return False
        by_digest = intended.tag is None and intended.digest is not None
        if by_digest and self.kind in ("matchRepoDigestOrExact", "remapIdentity"):
            return same_repository  # that the digest is the image's is looked at in any case
        return named == intended

    def _intended(self, image: Reference) -> Reference:
        if self.kind in ("exactReference", "exactRepository"):
            return Reference.parse(self.first)
        name = f"{image.domain}/{image.path}"
        if self.kind == "remapIdentity" and (name == self.first or name.startswith(self.first + "/")):
            return Reference.parse(image.full().replace(self.first, self.second, 1))
        return image


def parse(value: Any) -> SignedIdentity:
    """`signedIdentity` as policy.json has it. Raises InvalidParameter."""
    if value is None:
        return SignedIdentity()
    if not isinstance(value, dict) or "type" not in value:
        raise InvalidParameter("missing reference match type")
    kind = value["type"]
    members = {
        "matchExact": (),
        "matchRepoDigestOrExact": (),
        "matchRepository": (),
        "exactReference": ("dockerReference",),
        "exactRepository": ("dockerRepository",),
        "remapIdentity": ("prefix", "signedPrefix"),
    }
    if not isinstance(kind, str) or kind not in members:
        raise InvalidParameter(f'unknown policy reference match type "{kind}"')
    keys = members[kind]
    strict_json.exact(value, ("type", *keys), f'a signedIdentity of type "{kind}"')
    values = [strict_json.string(value[key], key) for key in keys]
    if kind == "exactReference":
        reference = _parsed(values[0])
        if reference.tag is None and reference.digest is None:
            raise InvalidParameter(f'dockerReference "{values[0]}" contains neither a tag nor digest')
    elif kind == "exactRepository":
        _parsed(values[0])
    elif kind == "remapIdentity":
        for prefix in values:
            _check_prefix(prefix)
    return SignedIdentity(kind, *values)


def _parsed(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except InvalidParameter as error:
        raise InvalidParameter(f'invalid format of "{text}": {error}') from None


def _check_prefix(prefix: str) -> None:
    if _DOMAIN.fullmatch(prefix):
        return
    try:
        reference = Reference.parse(prefix)
    except InvalidParameter:
        reference = None
    if reference is None or f"{reference.domain}/{reference.path}" != prefix:
        raise InvalidParameter(f'prefix "{prefix}" is not valid')
