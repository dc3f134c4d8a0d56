"""How images go: by name, by force, or because nobody needs them. moby's daemon/image_delete.go has the rules."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dockyard.engine.images.filters import boolean_filter, check_filters, matches_labels
from dockyard.engine.images.image import Image, is_id, short
from dockyard.errors import Conflict, InvalidParameter, NotFound
from dockyard.oci.descriptor import Platform
from dockyard.oci.reference import Reference
from dockyard.timestamps import parse_until

if TYPE_CHECKING:
    from dockyard.engine.images.service import ImageService

PRUNE_FILTERS = ("dangling", "label", "label!", "until")


class ImageInUse(Conflict):
    """The image can't be removed; `hard`: not even by force; `used`: because of a container."""

    def __init__(self, image_id: str, message: str, *, hard: bool = False, used: bool = False) -> None:
        force = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {short(image_id)} ({force}) - {message}")
        self.used = used


class ImageRemover:
    """Removes images of `images`."""

    def __init__(self, images: "ImageService") -> None:
        self._images = images
        self._names = images.names
        self._pruning = False

    def remove(self, name: str, *, force: bool = False, prune: bool = True) -> list[dict[str, str]]:
        """Take a name away, and the image with its last name; [{"Untagged": …} or {"Deleted": …}] as it happened.

        Raises NotFound, or Conflict when the image is in use.
        """
        image_id = self._images.resolve(name)
        records: list[dict[str, str]] = []
        beside = [other for reference in self._names.of(image_id) for other in self._others(reference)]
        if not is_id(name, image_id):
            if not force and _single(self._names.of(image_id)):
                users = self._images.users_of(image_id)
                if users:
                    raise Conflict(
                        f'conflict: unable to remove repository reference "{name}" (must force) - container '
                        f"{users[0].container_id[:12]} is using its referenced image {short(image_id)}"
                    )
            self._untag(Reference.parse(name), image_id, records)
            self._let_go(image_id, records, force=force, prune=prune)
        else:
            if _single(self._names.of(image_id)):
                self._check(image_id, stopped_too=not force, names_too=False)
                for reference in self._names.of(image_id):
                    self._names.delete(reference)
                    self._images.emit("untag", image_id, image_id)
                    records.append({"Untagged": reference.familiar()})
            self._delete(image_id, records, force=force, prune=prune, quiet=False)
        for other in dict.fromkeys(beside):
            self._let_go(other, records, force=force, prune=prune)
        return records

    def remove_platform(self, name: str, platform: Platform, *, force: bool, prune: bool) -> list[dict[str, str]]:
        """As `remove`, but of several platforms' images only the one for `platform`, and no name."""
        chosen = self._images.platforms.choose(name, platform)
        self._check(chosen.id, stopped_too=not force, names_too=False)
        if self._images.platforms.remove(name, platform) is None:
            return self.remove(name, force=force, prune=prune)
        records: list[dict[str, str]] = []
        self._let_go(chosen.id, records, force=force, prune=prune)
        return records

    def _taken_over(self, name: Reference) -> bool:
        """Have a digest mean what a tag of the repository that stands for the same index means, if there is one."""
        for tag, _ in self._names.in_repository(name):
            row = self._names.row(tag)
            if row is not None and row.target == name.digest:
                self._names.put(name, row.image_id, row.target, row.beside)
                return True
        return False

    def _others(self, name: Reference) -> list[str]:
        row = self._names.row(name)
        return list(row.beside) if row is not None else []

    def _let_go(self, image_id: str, records: list[dict[str, str]], *, force: bool, prune: bool) -> None:
        """Delete an image unless a name means it, or keeps it for a further platform."""
        if image_id in self._images and not self._names.of(image_id) and not self._names.beside(image_id):
            self._delete(image_id, records, force=force, prune=prune, quiet=True)

    def _untag(self, name: Reference, image_id: str, records: list[dict[str, str]]) -> None:
        """Take one name away, and the repository's digests with its last tag."""
        removed = self._names.delete(name)
        self._images.emit("untag", image_id, image_id)
        records.append({"Untagged": removed.familiar()})
        if removed.digest is not None:
            return
        same = [
            other for other in self._names.of(image_id) if (other.domain, other.path) == (removed.domain, removed.path)
        ]
        if any(other.digest is None for other in same):
            return
        for other in same:
            if self._taken_over(other):
                continue
            self._names.delete(other)
            records.append({"Untagged": other.familiar()})

    def _delete(self, image_id: str, records: list[dict[str, str]], *, force: bool, prune: bool, quiet: bool) -> None:
        try:
            self._check(image_id, stopped_too=not force, names_too=not force)
        except ImageInUse as conflict:
            dangling = not self._names.of(image_id) and not self._images.children(image_id)
            if quiet and (conflict.used or not dangling):
                return
            raise
        for reference in self._names.of(image_id):
            self._names.delete(reference)
            self._images.emit("untag", image_id, image_id)
            records.append({"Untagged": reference.familiar()})
        parent = self._images.parent(image_id)
        records += self._images.forget(image_id)
        if prune and parent is not None and parent in self._images:
            self._delete(parent, records, force=False, prune=True, quiet=True)

    def _check(self, image_id: str, *, stopped_too: bool, names_too: bool) -> None:
        """Raise ImageInUse when something forbids that the image goes."""
        if self._images.children(image_id):
            raise ImageInUse(image_id, "image has dependent child images", hard=True)
        users = self._images.users_of(image_id)
        for user in users:
            if user.running:
                message = f"image is being used by running container {user.container_id[:12]}"
                raise ImageInUse(image_id, message, hard=True, used=True)
        if names_too and self._names.of(image_id):
            raise ImageInUse(image_id, "image is referenced in multiple repositories")
        if stopped_too and users:
            message = f"image is being used by stopped container {users[0].container_id[:12]}"
            raise ImageInUse(image_id, message, used=True)

    def prune(self, filters: Mapping[str, Sequence[str]]) -> tuple[list[dict[str, str]], int]:
        """Remove images without a tag (`dangling=false`: all unused ones); (records as of `remove`, bytes freed).

        Raises InvalidParameter for a filter that is not known.
        """
        if self._pruning:
            raise Conflict("a prune operation is already running")
        check_filters(filters, PRUNE_FILTERS)
        dangling_only = boolean_filter(filters, "dangling", True)
        if len(filters.get("until", ())) > 1:
            raise InvalidParameter("more than one until filter specified")
        until = [parse_until(text) for text in filters.get("until", ())]
        sizes = {chain_id: layer.size for chain_id, layer in self._images.layers.all().items()}
        records: list[dict[str, str]] = []
        self._pruning = True
        try:
            for image in self._images.all():
                if image.id not in self._images or self._spared(image, filters, until, dangling_only):
                    continue
                targets = [name.full() for name in self._names.of(image.id)] or [image.id.removeprefix("sha256:")]
                for target in targets:
                    try:
                        records += self.remove(target)
                    except (Conflict, NotFound):
                        continue
        finally:
            self._pruning = False
        freed = sum(sizes.get(record.get("Deleted", ""), 0) for record in records)
        self._images.events.emit("image", "prune", "", {"reclaimed": str(freed)})
        return records, freed

    def _spared(
        self, image: Image, filters: Mapping[str, Sequence[str]], until: Sequence[int], dangling_only: bool
    ) -> bool:
        has_children = bool(self._images.children(image.id))
        if has_children and (dangling_only or not self._names.of(image.id)):
            return True
        if until and (image.created_ns is None or image.created_ns > until[0]):
            return True
        if not matches_labels(filters.get("label", ()), image.labels):
            return True
        if filters.get("label!") and matches_labels(filters["label!"], image.labels):
            return True
        return dangling_only and bool(image.repo_tags or self._names.beside(image.id))


def _single(names: Sequence[Reference]) -> bool:
    """Whether all names are of one repository with at most one tag; no name at all is not."""
    if len(names) <= 1:
        return len(names) == 1
    tags = [name for name in names if name.digest is None]
    repositories = {(name.domain, name.path) for name in names if name.digest is not None}
    if len(tags) > 1 or len(repositories) != 1:
        return False
    only = tags[0] if tags else names[0]
    return (only.domain, only.path) in repositories
