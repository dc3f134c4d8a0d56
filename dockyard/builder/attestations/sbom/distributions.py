"""Packages of Debian's and Alpine's kind: databases that are text."""

from __future__ import annotations

from collections.abc import Iterator

from dockyard.builder.attestations.sbom.package import Package, content, distribution, os_release, paragraphs
from dockyard.builder.trees import Tree

DPKG, DPKG_PARTS, APK = (
    "var/lib/dpkg/status",
    "var/lib/dpkg/status.d",
    ("lib/apk/db/installed", "usr/lib/apk/db/installed"),
)


def dpkg_packages(tree: Tree) -> Iterator[Package]:
    """Debian's and Ubuntu's; images without dpkg itself have a file for each in `status.d`."""
    release = os_release(tree)
    texts = [(DPKG, content(tree, DPKG))]
    parts = tree.find(DPKG_PARTS)
    for name, file in sorted(parts.children().items()) if parts is not None and parts.directory else ():
        if not file.directory and not name.endswith(".md5sums"):
            texts.append((f"{DPKG_PARTS}/{name}", content(tree, f"{DPKG_PARTS}/{name}")))
    for place, text in texts:
        for record in paragraphs(text.decode(errors="replace")):
            installed = record.get("Status", "install ok installed").endswith(" installed")
            if installed and record.get("Package") and record.get("Version"):
                yield Package(
                    "deb",
                    record["Package"],
                    record["Version"],
                    place,
                    release.get("ID", "debian"),
                    supplier=record.get("Maintainer", ""),
                    home=record.get("Homepage", ""),
                    qualifiers={
                        "arch": record.get("Architecture", ""),
                        "distro": distribution(release),
                        "upstream": record.get("Source", "").replace(" (", "@").rstrip(")"),
                    },
                )


def apk_packages(tree: Tree) -> Iterator[Package]:
    """Alpine's and Wolfi's: lines of one letter, a colon and a value (apk-tools, db)."""
    release = os_release(tree)
    for place in APK:
        for record in paragraphs(content(tree, place).decode(errors="replace")):
            if record.get("P") and record.get("V"):
                yield Package(
                    "apk",
                    record["P"],
                    record["V"],
                    place,
                    release.get("ID", "alpine"),
                    record.get("L", ""),
                    record.get("m", ""),
                    record.get("U", ""),
                    {"arch": record.get("A", ""), "distro": distribution(release), "upstream": record.get("o", "")},
                )
