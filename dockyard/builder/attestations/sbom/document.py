"""SPDX 2.3 as JSON (spdx.github.io/spdx-spec/v2.3): what packages there are, and where each was found."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from dockyard.builder.attestations.sbom.package import Package
from dockyard.timestamps import timestamp
from dockyard.version import VERSION

NOTHING = "NOASSERTION"
_LICENSE_ID = r"\(*(?:DocumentRef-[\w.-]+:)?[A-Za-z0-9][A-Za-z0-9.-]*\+?\)*"
_EXPRESSION = re.compile(rf"{_LICENSE_ID}(?: (?:AND|OR|WITH) {_LICENSE_ID})*")


def spdx_document(packages: Sequence[Package], platform: str, epoch: int | None) -> dict[str, Any]:
    """The document about what is in one platform's result; `epoch`: what it is dated, UNIX s."""
    root = "SPDXRef-DocumentRoot-Image"
    listed = [_package(package) for package in packages]
    image = platform or "image"
    terms = [(one["licenseDeclared"], text) for one, text in listed]
    extracted = {name: text for name, text in terms if name.startswith("LicenseRef-")}
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": image,
        "creationInfo": {
            "creators": ["Organization: Dockyard", f"Tool: dockyard-{VERSION}"],
            "created": _moment(epoch),
        },
        "packages": [
            {
                "name": image,
                "SPDXID": root,
                "downloadLocation": NOTHING,
                "filesAnalyzed": False,
                "licenseConcluded": NOTHING,
                "licenseDeclared": NOTHING,
                "copyrightText": NOTHING,
                "primaryPackagePurpose": "CONTAINER",
            },
            *(one for one, _ in listed),
        ],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": root},
            *(
                {"spdxElementId": root, "relationshipType": "CONTAINS", "relatedSpdxElement": one["SPDXID"]}
                for one, _ in listed
            ),
        ],
    }
    if extracted:
        document["hasExtractedLicensingInfos"] = [
            {"licenseId": name, "extractedText": text} for name, text in sorted(extracted.items())
        ]
    digest = hashlib.sha256(msgspec.json.encode(document)).hexdigest()
    document["documentNamespace"] = f"https://dockyard.invalid/spdx/{digest}"
    return document


def _moment(epoch: int | None) -> str:
    return (timestamp(epoch * 10**9) if epoch is not None else timestamp()).rstrip("Z").partition(".")[0] + "Z"


def _package(package: Package) -> tuple[dict[str, Any], str]:
    """A package as SPDX has it, and its licence as it was written."""
    digest = hashlib.sha256(f"{package.purl}\0{package.source}".encode(errors="replace")).hexdigest()[:16]
    name = (
        f"{package.namespace}/{package.name}"
        if package.kind in ("npm", "golang") and package.namespace
        else package.name
    )
    found = {
        "name": name,
        "SPDXID": f"SPDXRef-Package-{package.kind}-{re.sub(r'[^A-Za-z0-9.-]', '-', package.name)}-{digest}",
        "versionInfo": package.version,
        "supplier": f"Person: {' '.join(package.supplier.split())}" if package.supplier else NOTHING,
        "downloadLocation": NOTHING,
        "filesAnalyzed": False,
        "sourceInfo": f"acquired package info from: /{package.source}",
        "licenseConcluded": NOTHING,
        "licenseDeclared": _license(package.kind, package.license),
        "copyrightText": NOTHING,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.purl}
        ],
    }
    if re.match(r"https?://\S+$", package.home):
        found["homepage"] = package.home
    return found, package.license


def _license(kind: str, text: str) -> str:
    """A licence as SPDX has it: an expression, or a reference to what it was called."""
    text = text.strip()
    if not text:
        return NOTHING
    if kind in ("apk", "npm", "golang") and _EXPRESSION.fullmatch(text):  # whose makers agree on SPDX's names
        return text
    return f"LicenseRef-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]}"
