"""What clients ask of sources before they build with them: an image's configuration, and what is taken in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dockyard.builder.source_policy import IMAGE, SourcePolicy
from dockyard.builder.sources.image import ImageResolver
from dockyard.buildkit import wire_pb2 as wire
from dockyard.engine.images.documents import encode_config
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build


async def resolved(
    build: Build,
    identifier: str,
    attributes: Mapping[str, str],
    platform: wire.Platform,
    mode: str,
    policy: SourcePolicy,
) -> wire.ResolveSourceResponse:
    """A source as policies leave it, with what is known of the image if it is one."""
    identifier, changed = policy.together(build.job.policy).applied(identifier, attributes)
    found = wire.ResolveSourceResponse(source=wire.SourceOp(identifier=identifier, attrs=changed))
    if not identifier.startswith(IMAGE):
        return found
    name = identifier.removeprefix(IMAGE)
    images = ImageResolver(build.job, pull=mode == "pull")
    wanted = "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
    image = await images.resolve(name, wanted if platform.architecture else "")
    about = images.files(name, image)
    reference = Reference.parse(name).or_latest()
    found.image.digest = reference.digest or about.target
    found.image.config = encode_config(image.config)
    return found
