"""In-toto statements (in-toto/attestation, v0.1, as BuildKit writes them) and the names of what they are about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from dockyard.oci.descriptor import Platform
from dockyard.oci.reference import Reference

STATEMENT = "https://in-toto.io/Statement/v0.1"
SPDX = "https://spdx.dev/Document"
PROVENANCE = {"v0.2": "https://slsa.dev/provenance/v0.2", "v1": "https://slsa.dev/provenance/v1"}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about."""

    name: str
    digest: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attestation:
    """Something to be said; `predicate` makes it when it is wanted.

    `file_name`: of the file that it is where there is no image. `inline_only`: only where it takes no such file.
    """

    predicate_type: str
    file_name: str
    predicate: Callable[[], Awaitable[Any]]
    inline_only: bool = False
    reason: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    async def statement(self, subjects: Sequence[Subject]) -> bytes:
        """The statement about `subjects`, as JSON."""
        return msgspec.json.encode(
            {
                "_type": STATEMENT,
                "predicateType": self.predicate_type,
                "subject": [{"name": one.name, "digest": dict(one.digest)} for one in subjects],
                "predicate": await self.predicate(),
            }
        )


def digest_set(digest: str) -> dict[str, str]:
    """A digest as in-toto has it: {"sha256": …}."""
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def purl_of(name: Reference, platform: Platform | None = None, *, kind: str = "docker") -> str:
    """A package URL for an image (BuildKit, util/purl): `pkg:docker/debian@12?platform=linux%2Famd64`."""
    path, _, last = name.familiar_name().rpartition("/")
    found = f"pkg:{kind}/{quote(f'{path}/' if path else '', safe='/:')}{quote(last, safe='')}"
    if name.tag or not name.digest:
        found += f"@{quote(name.tag or 'latest', safe='')}"
    qualifiers = []
    if name.digest:
        qualifiers.append(f"digest={name.digest}")
    if platform is not None:
        qualifiers.append(f"platform={quote(str(platform), safe='')}")
    return found + (f"?{'&'.join(qualifiers)}" if qualifiers else "")
