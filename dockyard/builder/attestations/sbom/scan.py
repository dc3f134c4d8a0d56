"""Looking through an image's files for packages."""

from __future__ import annotations

from collections.abc import Hashable

from dockyard.builder.attestations.sbom.binaries import binary_packages
from dockyard.builder.attestations.sbom.distributions import apk_packages, dpkg_packages
from dockyard.builder.attestations.sbom.java import java_packages
from dockyard.builder.attestations.sbom.languages import package_of
from dockyard.builder.attestations.sbom.package import Package
from dockyard.builder.attestations.sbom.rpm import rpm_packages
from dockyard.builder.trees import Tree, walk
from dockyard.content import tar_format


def packages_in(tree: Tree) -> list[Package]:
    """Every package that is told of, each once; to be called in a thread."""
    found = [*dpkg_packages(tree), *apk_packages(tree), *rpm_packages(tree)]
    root = tree.find("")
    seen: set[Hashable] = set()  # files of several names
    for place, file in walk(root) if root is not None else ():
        if file.entry.kind != tar_format.REGULAR:
            continue
        if (package := package_of(place, file)) is not None:
            found.append(package)
        found += java_packages(place, file)
        if file.inode is None or file.inode not in seen:
            seen.add(file.inode)
            found += binary_packages(place, file)
    once = {(package.purl, package.source): package for package in found}
    return sorted(once.values(), key=lambda package: (package.kind, package.name, package.version, package.source))
