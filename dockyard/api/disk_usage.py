"""GET /system/df: what images, containers, volumes and the build cache take on disk."""

from typing import Any

from dockyard.api.container_json import list_entries
from dockyard.api.services import Services
from dockyard.builder.cache.usage import CacheEntry
from dockyard.timestamps import timestamp


def _cached(entry: CacheEntry) -> dict[str, Any]:
    return {
        "ID": entry.id,
        "Parents": list(entry.parents) or None,
        "Type": entry.kind,
        "Description": entry.description,
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.size,
        "CreatedAt": timestamp(int(entry.created * 1e9)),
        "LastUsedAt": timestamp(int(entry.used * 1e9)) if entry.uses else None,
        "UsageCount": entry.uses,
    }


async def disk_usage(services: Services, wanted: set[str], version: tuple[int, int]) -> dict[str, Any]:
    """The answer, for the kinds of object in `wanted`: container, image, volume, build-cache."""
    shown: dict[str, Any] = {}
    layers = services.layers
    if "image" in wanted:
        images = await services.images.list(all=True)
        shown["LayersSize"] = sum(layer.size for layer in layers.all().values())
        shown["Images"] = [
            {
                "Id": image.id,
                "ParentId": image.parent or "",
                "RepoTags": image.repo_tags,
                "RepoDigests": image.repo_digests,
                "Created": (image.created_ns or 0) // 10**9,
                "Size": image.size,
                "SharedSize": services.images.shared_size(image),
                **({"VirtualSize": image.size} if version < (1, 44) else {}),
                "Labels": image.labels or None,
                "Containers": len(services.images.users_of(image.id)),
            }
            for image in images
        ]
    if "container" in wanted:
        listed = [container for container in services.containers.all() if not container.hidden]
        shown["Containers"] = await list_entries(services, listed, version=version, size=True)
    if "volume" in wanted:
        shown["Volumes"] = [
            {
                "Name": volume.name,
                "Driver": volume.driver,
                "Mountpoint": volume.mountpoint,
                "CreatedAt": volume.created_at,
                "Labels": volume.labels or None,
                "Options": volume.options or None,
                "Scope": volume.scope,
                "UsageData": {"Size": size, "RefCount": users},
            }
            for volume, size, users in await services.volumes.disk_usage()
        ]
    if "build-cache" in wanted:
        shown["BuildCache"] = [_cached(entry) for entry in await services.builder.usage.entries()]
    return shown
