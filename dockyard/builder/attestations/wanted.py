"""Which attestations a build is to have: BuildKit's options for them (frontend/attestations)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from dockyard.builder.attributes import flag
from dockyard.errors import InvalidParameter

# The scanner that BuildKit runs by itself: ours is built in, and no image is run.
SCANNER = "docker/buildkit-syft-scanner"
VERSIONS = ("v0.2", "v1")


@dataclass(frozen=True, slots=True)
class ProvenanceOptions:
    """How provenance is wanted. `full`: with the definition of every step (mode=max)."""

    full: bool
    version: str
    file_name: str
    builder: str
    reproducible: bool
    inline_only: bool


# what the history of builds tells of one that has wanted none
OF_HISTORY = ProvenanceOptions(True, VERSIONS[0], "provenance.json", "", False, False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted; None: not at all."""

    sbom: Mapping[str, str] | None = None
    provenance: ProvenanceOptions | None = None


def wanted_attestations(options: Mapping[str, str]) -> Wanted:
    """What a build's options ask for. Raises InvalidParameter."""
    found: dict[str, dict[str, str]] = {}
    for name, value in options.items():
        for prefix in ("attest:", "build-arg:BUILDKIT_ATTEST_"):
            if name.startswith(prefix):
                found[name.removeprefix(prefix).lower()] = _fields(value)
    for kind in found:
        if kind not in ("sbom", "provenance"):
            raise InvalidParameter(f'unknown attestation type "{kind}"')
    sbom = found.get("sbom")
    if sbom is not None:
        _check_generator(sbom)
    return Wanted(sbom, _provenance(found["provenance"]) if "provenance" in found else None)


def _fields(text: str) -> dict[str, str]:
    fields = next(csv.reader([text]), [])
    return {name: value for name, _, value in (field.partition("=") for field in fields if field)}


def _check_generator(sbom: Mapping[str, str]) -> None:
    generator = sbom.get("generator", SCANNER)
    if not generator:
        raise InvalidParameter("sbom generator cannot be empty")
    if not generator.removeprefix("docker.io/").startswith(SCANNER):
        raise InvalidParameter(
            f"sbom generator {generator} is not run here: packages are looked for by the engine itself"
        )


def _provenance(fields: Mapping[str, str]) -> ProvenanceOptions:
    mode, version = fields.get("mode", "max"), fields.get("version", VERSIONS[0])
    if mode not in ("min", "max", "full"):
        raise InvalidParameter(f'invalid mode "{mode}"')
    if version not in VERSIONS:
        raise InvalidParameter(f"invalid provenance SLSA version: {version}")
    return ProvenanceOptions(
        mode != "min",
        version,
        fields.get("filename") or "provenance.json",
        fields.get("builder-id", ""),
        flag(fields, "reproducible"),
        flag(fields, "inline-only"),
    )
