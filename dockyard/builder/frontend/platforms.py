"""For which platform a step is said to be, and what variables tell of that."""

from __future__ import annotations

from collections.abc import Mapping

from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import host, normalized, parse_platform


def crossing(platform: Platform, values: Mapping[str, str]) -> str:
    """`linux/amd64->arm64 `: where a step runs and, when the variables it knows tell another, what it builds for."""
    target = _target(platform, values)
    if target is None or (target.os, target.architecture) == (platform.os, platform.architecture):
        return f"{platform} "
    return f"{platform}->{target if target.os != platform.os else str(target).partition('/')[2]} "


def _target(platform: Platform, values: Mapping[str, str]) -> Platform | None:
    if "TARGETPLATFORM" in values:
        try:
            return normalized(parse_platform(values["TARGETPLATFORM"]))
        except InvalidParameter:
            pass
    parts = [values.get(name, "") for name in ("TARGETOS", "TARGETARCH", "TARGETVARIANT")]
    if not any(parts):
        return None
    return normalized(Platform(parts[1] or platform.architecture, parts[0] or platform.os, parts[2]))


def platform_arguments(platform: str) -> dict[str, str]:
    """BUILDPLATFORM, TARGETARCH and their like."""
    own = host()
    target = parse_platform(platform) if platform else own
    return {
        "BUILDPLATFORM": f"{own.os}/{own.architecture}",
        "BUILDOS": own.os,
        "BUILDARCH": own.architecture,
        "BUILDVARIANT": own.variant,
        "TARGETPLATFORM": "/".join(part for part in (target.os, target.architecture, target.variant) if part),
        "TARGETOS": target.os,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
    }
