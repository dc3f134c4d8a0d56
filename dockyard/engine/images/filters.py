"""Which images a list shows: filters by name, label, age and use."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dockyard.engine.images.image import Image
from dockyard.errors import InvalidParameter
from dockyard.oci.reference import Reference
from dockyard.timestamps import parse_until

if TYPE_CHECKING:
    from dockyard.engine.images.service import ImageService

LIST_FILTERS = ("dangling", "label", "before", "since", "reference", "until")


def select(images: "ImageService", filters: Mapping[str, Sequence[str]], *, all: bool) -> list[Image]:
    """The images that match, newest first; without `all`, none that is only the parent of another.

    Raises InvalidParameter for an unknown filter, NotFound when `before` or `since` name no image.
    """
    check_filters(filters, LIST_FILTERS)
    dangling = boolean_filter(filters, "dangling", False)
    before = [images.find(name).created_ns or 0 for name in filters.get("before", ())]
    before += [parse_until(text) for text in filters.get("until", ())]
    since = [images.find(name).created_ns or 0 for name in filters.get("since", ())]
    selected = []
    for image in images.all():
        created = image.created_ns
        if before and (created is None or created >= min(before)):
            continue
        if since and (created is None or created <= max(since)):
            continue
        if not matches_labels(filters.get("label", ()), image.labels):
            continue
        if dangling and images.children(image.id):
            continue
        patterns = filters.get("reference")
        tags, digests = image.repo_tags, image.repo_digests
        if patterns:
            names = [name for name in images.names.of(image.id) if _matches_reference(name, patterns)]
            tags = [name.familiar() for name in names if name.digest is None]
            digests = [name.familiar() for name in names if name.digest is not None]
        if not image.repo_tags and not image.repo_digests and images.names.beside(image.id):
            # it is a further platform of an image that is listed
            if not all or dangling or patterns:
                continue
        elif not tags and not digests:
            if images.children(image.id) and not all:
                continue
            if ("dangling" in filters and not dangling) or patterns:
                continue
        elif dangling and tags:
            continue
        selected.append(_with_names(image, tags, digests))
    selected.sort(key=lambda image: image.created_ns or 0, reverse=True)
    return selected


def check_filters(filters: Mapping[str, Sequence[str]], known: Sequence[str]) -> None:
    """Raise InvalidParameter when a filter is not one of `known`."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def boolean_filter(filters: Mapping[str, Sequence[str]], name: str, default: bool) -> bool:
    """The value of a filter that says yes or no. Raises InvalidParameter when it says neither, or both."""
    values = filters.get(name)
    if not values:
        return default
    truths = {value.lower() in ("1", "true") for value in values}
    if len(truths) > 1 or any(value.lower() not in ("0", "1", "true", "false") for value in values):
        raise InvalidParameter(f"invalid filter '{name}={list(values)}'")
    return truths.pop()


def matches_labels(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` has every key, or key=value, of `wanted`."""
    for item in wanted:
        key, separator, value = item.partition("=")
        if key not in labels or (separator and labels[key] != value):
            return False
    return True


def _matches_reference(name: Reference, patterns: Sequence[str]) -> bool:
    targets = (name.familiar(), name.familiar_name(), name.full(), name.repository.full())
    return any(_path_match(pattern, target) for pattern in patterns for target in targets)


def _path_match(pattern: str, target: str) -> bool:
    """Go's path.Match: a star does not reach over a slash."""
    wanted, given = pattern.split("/"), target.split("/")
    return len(wanted) == len(given) and all(map(fnmatch.fnmatchcase, given, wanted))


def _with_names(image: Image, tags: list[str], digests: list[str]) -> Image:
    return Image(
        image.id,
        image.config,
        image.raw,
        image.chain_id,
        image.parent,
        tags,
        digests,
        image.size,
        image.last_tag_ns,
    )
