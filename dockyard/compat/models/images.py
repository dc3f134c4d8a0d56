"""docker-py's images: `client.images`."""

from __future__ import annotations

import itertools
import re
from typing import Any

from dockyard.compat.constants import DEFAULT_DATA_CHUNK_SIZE
from dockyard.compat.errors import BuildError, ImageLoadError, InvalidArgument
from dockyard.compat.models.resource import Collection, Model
from dockyard.compat.utils import parse_repository_tag

_BUILT = re.compile(r"(?:^Successfully built |sha256:)([0-9a-f]+)$")
_LOADED = re.compile(r"^Loaded image(?: ID)?: (.+)$")


class Image(Model):
    """An image."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self.tags)!r}>"

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict((self.attrs.get("Config") or {}).get("Labels") or {})

    @property
    def short_id(self) -> str:
        """The first characters of its ID."""
        return self.id[:19] if self.id.startswith("sha256:") else self.id[:12]

    @property
    def tags(self) -> list[str]:
        """Its names."""
        return [tag for tag in self.attrs.get("RepoTags") or () if tag != "<none>:<none>"]

    def history(self) -> Any:
        """What it was made by."""
        return self.client.api.history(self.id)

    def remove(self, force: bool = False, noprune: bool = False) -> Any:
        """Remove it."""
        return self.client.api.remove_image(self.id, force, noprune)

    def save(self, chunk_size: int | None = DEFAULT_DATA_CHUNK_SIZE, named: bool | str = False) -> Any:
        """It as pieces of a tar archive; `named`: with its first name, or the one that is given."""
        name: str = self.id
        if named:
            if isinstance(named, str) and named not in self.tags:
                raise InvalidArgument(f"{named} is not a valid tag for this image")
            name = named if isinstance(named, str) else next(iter(self.tags), self.id)
        return self.client.api.get_image(name, chunk_size)

    def tag(self, repository: str, tag: str | None = None, **options: Any) -> bool:
        """Give it one more name."""
        return self.client.api.tag(self.id, repository, tag, **options)


class RegistryData(Model):
    """What a registry has under a name."""

    def __init__(self, image_name: str, attrs: dict[str, Any], client: Any, collection: Any) -> None:
        super().__init__(attrs, client, collection)
        self.image_name = image_name

    @property
    def id(self) -> str:
        """The digest."""
        return str(self.attrs["Descriptor"]["digest"])

    @property
    def short_id(self) -> str:
        """The first characters of the digest."""
        return self.id[:19]

    def pull(self, platform: str | None = None) -> Image:
        """Fetch it."""
        found: Image = self.collection.pull(parse_repository_tag(self.image_name)[0], self.id, platform=platform)
        return found

    def has_platform(self, platform: str | dict[str, str]) -> bool:
        """Whether it is there for a platform: "linux/arm64" or {"os": …, "architecture": …}."""
        if isinstance(platform, str):
            platform = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        return any(all(place.get(key) == value for key, value in platform.items()) for place in self.attrs["Platforms"])

    def reload(self) -> None:
        """Ask the registry again."""
        self.attrs = self.client.api.inspect_distribution(self.image_name)


class ImageCollection(Collection[Image]):
    """The engine's images."""

    model = Image

    def build(self, **options: Any) -> Any:
        """Build an image: (the image, a generator of the engine's messages). See APIClient.build.

        Raises BuildError.
        """
        messages = self.client.api.build(**{**options, "decode": True})
        log, kept = itertools.tee(messages)
        made, said = "", "Unknown"
        for message in log:
            if "error" in message:
                raise BuildError(message["error"], kept)
            if found := _BUILT.search(message.get("stream", "").rstrip("\n")):
                made = found[1]
            made = (message.get("aux") or {}).get("ID") or made
            said = message.get("stream") or said
        if not made:
            raise BuildError(said, kept)
        return self.get(made), kept

    def get(self, name: str) -> Image:
        """The image of that name or ID. Raises ImageNotFound."""
        return self.prepare_model(self.client.api.inspect_image(name))

    def get_registry_data(self, name: str, auth_config: Any = None) -> RegistryData:
        """What a registry has under a name."""
        return RegistryData(name, self.client.api.inspect_distribution(name, auth_config), self.client, self)

    def load(self, data: Any) -> list[Image]:
        """Take in what `save` has given: the images in it. Raises ImageLoadError."""
        found = []
        for message in self.client.api.load_image(data):
            if "errorDetail" in message or "error" in message:
                raise ImageLoadError((message.get("errorDetail") or {}).get("message") or message.get("error"))
            if match := _LOADED.search(message.get("stream", "").strip()):
                found.append(match[1])
        return [self.get(name) for name in found]

    def list(self, name: str | None = None, all: bool = False, filters: Any = None) -> list[Image]:
        """The images, or those of a repository."""
        return [self.get(row["Id"]) for row in self.client.api.images(name=name, all=all, filters=filters)]

    def pull(self, repository: str, tag: str | None = None, all_tags: bool = False, **options: Any) -> Any:
        """Fetch an image; with `all_tags` all of the repository, as a list."""
        name, named = parse_repository_tag(repository)
        options.pop("stream", None)
        wanted = tag or named or "latest"
        self.client.api.pulled(name, None if all_tags else wanted, all_tags, options)
        if all_tags:
            return self.list(name)
        return self.get(f"{name}{'@' if wanted.startswith('sha256:') else ':'}{wanted}")

    def push(self, repository: str, tag: str | None = None, **options: Any) -> Any:
        """Send an image to its registry: stream, auth_config, decode."""
        return self.client.api.push(repository, tag, **options)

    def remove(self, *given: Any, **options: Any) -> None:
        """Remove a name: image, force, noprune."""
        self.client.api.remove_image(*given, **options)

    def search(self, *given: Any, **options: Any) -> Any:
        """What a registry finds: term, limit."""
        return self.client.api.search(*given, **options)

    def prune(self, filters: Any = None) -> Any:
        """Remove images without a name."""
        return self.client.api.prune_images(filters)

    def prune_builds(self, *given: Any, **options: Any) -> Any:
        """Remove the builder's cache."""
        return self.client.api.prune_builds(*given, **options)
