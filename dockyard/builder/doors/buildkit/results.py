"""What a client returns as the results of its build: which of what was solved, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from dockyard.builder.frontend.conversion import parsed_epoch
from dockyard.builder.graph.request import Built
from dockyard.buildkit import wire_pb2 as wire
from dockyard.engine.images.documents import decode_config, encode_config
from dockyard.errors import DockyardError, InvalidParameter

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build

IMAGE_CONFIG = "containerimage.config"
PLATFORMS = "refs.platforms"
OF_FRONTEND = "frontend."  # metadata that the build's caller is told


def returned_results(build: Build, result: wire.Result, nothing: Built) -> dict[str, Built]:
    """The results by their platforms; `nothing`: one without files. Raises InvalidParameter."""
    refs = dict(result.refs.refs) if result.WhichOneof("result") == "refs" else {"": result.ref}
    found = {platform: build.built[ref.id] for platform, ref in refs.items() if ref.id in build.built}
    platforms = _check(result.metadata)
    if not found and build.exporters:
        found = {platform: replace(nothing, platform=platform) for platform in platforms or [nothing.platform]}
    for name, value in result.metadata.items():
        if name.startswith(OF_FRONTEND):
            build.told[name] = value.decode(errors="replace")
    return configured(found, result.metadata)


def _check(metadata: Mapping[str, bytes]) -> list[str]:
    """The platforms that metadata name, if any (exporter/containerimage/exptypes/parse.go).

    Raises InvalidParameter for what makes no sense.
    """
    platforms = []
    if PLATFORMS in metadata:
        try:
            listed = msgspec.json.decode(metadata[PLATFORMS] or b"null", type=_Platforms | None)
        except msgspec.MsgspecError as error:
            raise InvalidParameter(f"failed to parse platforms passed to provenance processor: {error}") from None
        if listed is None or not listed.platforms:
            raise InvalidParameter("invalid empty platforms index for exporter")
        for one in listed.platforms:
            if not one.id:
                raise InvalidParameter("invalid empty platform key for exporter")
            if not one.platform.os or not one.platform.architecture:
                about = one.platform
                raise InvalidParameter(f"invalid platform value {{{about.architecture} {about.os}}} for exporter")
            platforms.append(one.id)
    for name, value in metadata.items():
        if name.partition("/")[0] != IMAGE_CONFIG:
            continue
        if value.strip() == b"null":
            raise InvalidParameter("invalid null image config for export")
        try:
            where = msgspec.json.decode(value, type=_Where)
        except msgspec.MsgspecError as error:
            raise InvalidParameter(f"failed to parse image config: {error}") from None
        if bool(where.os) != bool(where.architecture):
            raise InvalidParameter("invalid image config: os and architecture must be specified together")
    return platforms


class _Where(msgspec.Struct):
    architecture: str = ""
    os: str = ""


class _Platform(msgspec.Struct):
    id: str = msgspec.field(default="", name="ID")
    platform: _Where = msgspec.field(default_factory=_Where, name="Platform")


class _Platforms(msgspec.Struct):
    platforms: list[_Platform] | None = msgspec.field(default=None, name="Platforms")


def dated(found: Mapping[str, Built], options: Mapping[str, str]) -> dict[str, Built]:
    """Results at the time that the options say, unless they have one of their own. Raises InvalidParameter."""
    epoch = parsed_epoch(options.get("build-arg:SOURCE_DATE_EPOCH", ""))
    return {name: replace(built, epoch=epoch) if built.epoch is None else built for name, built in found.items()}


def configured(found: Mapping[str, Built], said: Mapping[str, bytes]) -> dict[str, Built]:
    """Results with the configurations that a client gives them: one for each platform, or the same for all.

    Raises InvalidParameter for what is none.
    """
    results = {}
    for platform, built in found.items():
        given = said.get(f"{IMAGE_CONFIG}/{platform}", said.get(IMAGE_CONFIG))
        if given and given != encode_config(built.config):
            try:
                config = decode_config(given)
            except (DockyardError, msgspec.MsgspecError) as error:
                raise InvalidParameter(f"failed to parse image config: {error}") from None
            config = msgspec.structs.replace(config, rootfs=built.config.rootfs)
            built = replace(built, config=config)
        results[platform] = built
    return results
