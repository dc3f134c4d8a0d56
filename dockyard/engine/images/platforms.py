"""Which images of an index are here, and which of them a name means for a platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dockyard.engine.images.image import is_id, of_other_platform
from dockyard.engine.images.manifests import attested
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.manifest import distance, host, runs_on
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.engine.images.image import Image
    from dockyard.engine.images.service import ImageService


@dataclass(frozen=True, slots=True)
class Listed:
    """A manifest that an index lists. `image_id` is that of its image, "" when it is not here.

    `attests`: the digest of the manifest that it is an attestation for, "" for an image's; `statements`: the blobs of
    that, none when they are not all here.
    """

    descriptor: Descriptor
    image_id: str
    attests: str = ""
    statements: Sequence[Descriptor] = ()


class Platforms:
    """The platforms of `images`."""

    def __init__(self, images: ImageService) -> None:
        self._images = images
        self._manifests = images.manifests

    def listed(self, target: str) -> list[Listed]:
        """Every manifest behind the index (or manifest) `target`, in order; none when `target` is not kept."""
        return [self._listed(entry) for entry in self._manifests.entries(target)]

    def _listed(self, entry: Descriptor) -> Listed:
        about = attested(entry)
        if about:
            return Listed(entry, "", about, self._manifests.statements_of(entry.digest) or ())
        return Listed(entry, self._image_of(entry.digest))

    def target_of(self, image_id: str, name: str = "") -> str:
        """What `name` stands for, or any name of the image: an index before a manifest; "" when nothing is kept."""
        row = self._images.names.row(Reference.parse(name)) if name and not is_id(name, image_id) else None
        if row is not None and self._manifests.get(row.target):
            return row.target
        kept = [target for target in self._images.names.targets_of(image_id) if self._manifests.get(target)]
        return next((target for target in kept if self._manifests.index(target)), kept[0] if kept else "")

    def _image_of(self, digest: str) -> str:
        manifest = self._manifests.manifest(digest)
        return manifest.config.digest if manifest is not None and manifest.config.digest in self._images else ""

    def here(self, target: str) -> list[str]:
        """IDs of the images of an index that are here, this host's platform first."""
        found = list(dict.fromkeys(entry.image_id for entry in self.listed(target) if entry.image_id))
        wanted = host()
        return sorted(found, key=lambda image_id: not runs_on(self._images.describe(image_id).platform, wanted))

    def images_of(self, name: str) -> list[Image]:
        """The image that `name` means, and those for further platforms that are here under it. Raises NotFound."""
        image_id = self._images.resolve(name)
        row = None
        if not is_id(name, image_id):
            row = self._images.names.row(Reference.parse(name))
        others = [*row.beside, *self.here(row.target)] if row is not None else []
        return [self._images.describe(found) for found in dict.fromkeys([image_id, *others]) if found in self._images]

    def choose(self, name: str, wanted: Platform | None) -> Image:
        """The image that `name` means for the platform `wanted` (None: the one it means by itself). Raises NotFound."""
        found = self.images_of(name)
        if wanted is None:
            return found[0]
        fitting = [image for image in found if not image.platform.architecture or runs_on(image.platform, wanted)]
        if not fitting:
            raise of_other_platform(name, found[0].platform, wanted)
        return min(fitting, key=lambda image: distance(image.platform, wanted))

    def remove(self, name: str, wanted: Platform) -> str | None:
        """Take the image for one of several platforms from under `name`; its ID. None when it is the only one there.

        Raises NotFound when there is none for that platform, InvalidParameter for an ID.
        """
        chosen = self.choose(name, wanted)
        if len(self.images_of(name)) == 1:
            return None
        if is_id(name, self._images.resolve(name)):
            raise InvalidParameter("a platform can be removed of a name only")
        names = self._images.names
        reference = Reference.parse(name)
        row = names.row(reference)
        assert row is not None
        same = [reference.repository.with_digest(row.target)] if row.target else []
        for each in [reference, *same]:
            kept = names.row(each)
            if kept is None or chosen.id not in (kept.image_id, *kept.beside):
                continue
            left = [image_id for image_id in (kept.image_id, *kept.beside) if image_id != chosen.id]
            if left:
                names.put(each, left[0], kept.target, left[1:])
        return chosen.id
