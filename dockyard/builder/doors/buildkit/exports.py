"""What a client wants done with a build's results: outputs, attestations, caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from dockyard.builder.attestations.making import attestations_of
from dockyard.builder.attestations.provenance import Request
from dockyard.builder.attestations.statements import PROVENANCE
from dockyard.builder.attestations.wanted import OF_HISTORY, Wanted, wanted_attestations
from dockyard.builder.doors.buildkit.build import Predicate
from dockyard.builder.doors.buildkit.caches import check_exports, export_caches
from dockyard.builder.doors.buildkit.options import CacheEntry, platforms_of, several_platforms
from dockyard.builder.doors.buildkit.results import IMAGE_CONFIG, configured
from dockyard.builder.exporters.archive import export_archive
from dockyard.builder.exporters.blobs import PackedLayers
from dockyard.builder.exporters.files import export_directory, export_tar
from dockyard.builder.exporters.image import export_image
from dockyard.builder.exporters.writer import Results
from dockyard.builder.frontend.conversion import parsed_epoch
from dockyard.builder.graph.request import Built
from dockyard.errors import InvalidParameter

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build

Output = tuple[str, Mapping[str, str]]  # type and attributes


def check_wishes(options: Mapping[str, str], caches: Sequence[CacheEntry]) -> None:
    """Say what cannot be had before anything is built. Raises InvalidParameter."""
    wanted_attestations(options)
    check_exports(caches)


def in_order(found: Mapping[str, Built], platforms: Sequence[str]) -> dict[str, Built]:
    """Results in the order in which platforms were asked for: what a client returns has none."""
    wanted = [platform for platform in platforms if platform in found]
    return {platform: found[platform] for platform in (*wanted, *(one for one in found if one not in wanted))}


async def export_all(
    build: Build, found: Mapping[str, Built], outputs: Sequence[Output], caches: Sequence[CacheEntry]
) -> dict[str, str]:
    """Write all outputs and caches of a build that is done. What the client is told."""
    found = in_order(found, platforms_of(build.options))
    several = len(found) > 1 or several_platforms(build.options)
    packed = PackedLayers(build.job)
    wanted = wanted_attestations(build.options)
    began = int(build.began * 1e9)
    request = Request(build.ref, build.options, build.file_name, build.text, began, build.remote)
    attestations = attestations_of(build.job, found, packed.known, wanted, request)
    if wanted.provenance is None:
        of_history = attestations_of(build.job, found, packed.known, Wanted(provenance=OF_HISTORY), request)
        build.untold = {platform if several else "": said[0] for platform, said in of_history.items()}
    results = Results(build.job, found, attestations, several=several)
    told: dict[str, str] = {}
    for number, (kind, attributes) in enumerate(outputs):
        configs = {name: value.encode() for name, value in attributes.items() if name.startswith(IMAGE_CONFIG)}
        dated = _dated(replace_found(results, configured(results.found, configs)), attributes)
        told.update(await _export(dated, packed, kind, attributes, number))
    for platform, said in attestations.items():
        for one in said:
            if one.predicate_type in PROVENANCE.values():
                content = msgspec.json.encode(await one.predicate())
                build.predicates[platform if several else ""] = Predicate(one.predicate_type, content)
    return told | await export_caches(build.job, found, packed, caches)


def _dated(results: Results, attributes: Mapping[str, str]) -> Results:
    """Results at the time that an output wants for itself; none at all, if it says so."""
    if "source-date-epoch" not in attributes:
        return results
    epoch = parsed_epoch(attributes["source-date-epoch"])
    return replace_found(results, {name: replace(built, epoch=epoch) for name, built in results.found.items()})


def replace_found(results: Results, found: Mapping[str, Built]) -> Results:
    """The same, but for what has been built."""
    return Results(results.job, found, results.attestations, several=results.several)


async def _export(
    results: Results, packed: PackedLayers, kind: str, attributes: Mapping[str, str], number: int
) -> dict[str, str]:
    if kind == "local":
        return await export_directory(results, attributes, number)
    if kind == "tar":
        return await export_tar(results, attributes, number)
    if kind in ("oci", "docker"):
        return await export_archive(results, packed, attributes, number, docker=kind == "docker")
    if kind not in ("moby", "image"):
        raise InvalidParameter(f'exporter "{kind}" could not be found')
    return await export_image(results, packed, attributes)
