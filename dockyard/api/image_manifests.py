"""`Manifests` of an image: what the index it came in lists, and what of that is here (API 1.47, 1.48)."""

from typing import Any

import msgspec

from dockyard.engine.images.platforms import Listed
from dockyard.engine.images.service import ImageService
from dockyard.oci.descriptor import Descriptor, Platform


def manifests(images: ImageService, image_id: str, name: str = "") -> list[dict[str, Any]]:
    """A summary of each manifest of the index that `name`, or a name of the image, stands for; sizes are bytes."""
    target = images.platforms.target_of(image_id, name)
    return [_summary(images, entry) for entry in images.platforms.listed(target)]


def descriptor(images: ImageService, image_id: str, name: str = "") -> dict[str, Any]:
    """{"Descriptor": …} of the index or manifest that `name`, or a name of the image, stands for; {} for none."""
    target = images.platforms.target_of(image_id, name)
    kept = images.manifests.get(target)
    if kept is None:
        return {}
    return {"Descriptor": {"mediaType": kept.media_type, "digest": target, "size": len(kept.raw)}}


def _summary(images: ImageService, entry: Listed) -> dict[str, Any]:
    kept = images.manifests.get(entry.descriptor.digest)
    content = len(kept.raw) if kept is not None else 0
    summary: dict[str, Any] = {
        "ID": entry.descriptor.digest,
        "Descriptor": _shown(entry.descriptor),
        "Available": bool(entry.image_id),
        "Size": {"Content": content, "Total": content},
        "Kind": "image",
    }
    if entry.attests:
        content += sum(blob.size for blob in entry.statements)
        summary.update(Available=bool(entry.statements), Size={"Content": content, "Total": content})
        return {**summary, "Kind": "attestation", "AttestationData": {"For": entry.attests}}
    platform = entry.descriptor.platform or Platform()
    unpacked, users = 0, []
    if entry.image_id:
        image = images.describe(entry.image_id)
        content += len(image.raw)
        unpacked, users = image.size, [user.container_id for user in images.users_of(image.id)]
        if not platform.architecture:
            platform = image.platform
    return {
        **summary,
        "Size": {"Content": content, "Total": content + unpacked},
        "ImageData": {
            "Platform": {**msgspec.to_builtins(platform), "architecture": platform.architecture, "os": platform.os},
            "Size": {"Unpacked": unpacked},
            "Containers": users,
        },
    }


def _shown(entry: Descriptor) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(entry)
    return {"mediaType": "", "digest": "", "size": 0, **shown}
