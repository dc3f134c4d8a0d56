"""/images/… and /distribution/…: what is here, and how it comes, goes and is called."""

from contextlib import AsyncExitStack
from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api import json_body, logins
from dockyard.api.archive import send_archive
from dockyard.api.image_manifests import descriptor, manifests
from dockyard.api.router import Call, Route, json_response
from dockyard.api.services import Services
from dockyard.api.streams import ProgressStream
from dockyard.api.system import rfc3339
from dockyard.engine.images.image import Image
from dockyard.engine.images.service import ImageService
from dockyard.generators import closing
from dockyard.oci.descriptor import Platform
from dockyard.oci.reference import Reference

# What an image's own "Config" may lack and clients rely on (moby daemon/server/router/image/inspect_response.go).
CONFIG_DEFAULTS: dict[str, Any] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
OLDER_CONFIG_DEFAULTS: dict[str, Any] = {
    **CONFIG_DEFAULTS,
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Domainname": "",
    "Hostname": "",
    "Image": "",
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
}


# What an image's "Config" may hold from API 1.50 on: the OCI fields and Docker's own few.
CONFIG_FIELDS = frozenset(
    {*CONFIG_DEFAULTS, "ExposedPorts", "StopSignal", "ArgsEscaped", "Healthcheck", "Shell", "StopTimeout"}
)


def routes(services: Services) -> list[Route]:
    """Operations on images."""
    images = Images(services)
    return [
        Route("GET", "/images/json", images.list),
        Route("POST", "/images/create", images.create),
        Route("POST", "/images/load", images.load),
        Route("GET", "/images/get", images.save),
        Route("GET", "/images/search", images.search),
        Route("POST", "/images/prune", images.prune),
        Route("GET", "/images/{name:path}/get", images.save),
        Route("GET", "/images/{name:path}/json", images.inspect),
        Route("GET", "/images/{name:path}/history", images.history),
        Route("POST", "/images/{name:path}/push", images.push),
        Route("POST", "/images/{name:path}/tag", images.tag),
        Route("DELETE", "/images/{name:path}", images.remove),
        Route("GET", "/distribution/{name:path}/json", images.distribution),
    ]


class Images:
    """Handlers of the operations on images."""

    def __init__(self, services: Services) -> None:
        self._images: ImageService = services.images
        self._driver = services.layers.driver.name
        self._graph_data = services.layers.graph_data

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters()
        if call.version < (1, 41) and call.text("filter") and "reference" not in filters:
            filters["reference"] = [call.text("filter")]
        images = await self._images.list(filters, all=call.flag("all"))
        shared = call.flag("shared-size") and call.version >= (1, 42)
        listed = call.flag("manifests") and call.version >= (1, 47)
        return json_response([self._summary(image, call.version, shared, listed) for image in images])

    def _summary(self, image: Image, version: tuple[int, int], shared: bool, listed: bool) -> dict[str, Any]:
        tags, digests = image.repo_tags, image.repo_digests
        if version < (1, 43) and not tags and not digests:
            tags, digests = ["<none>:<none>"], ["<none>@<none>"]
        created = image.created_ns
        summary = {
            "Containers": len(self._images.users_of(image.id)) if version >= (1, 51) else -1,
            "Created": created // 1_000_000_000 if created is not None else 0,
            "Id": image.id,
            "Labels": image.labels or None,
            "ParentId": image.parent or "",
            "RepoDigests": digests,
            "RepoTags": tags,
            "SharedSize": self._images.shared_size(image) if shared else -1,
            "Size": image.size,
        }
        if version < (1, 44):
            summary["VirtualSize"] = image.size
        if listed:
            summary |= descriptor(self._images, image.id) if version >= (1, 48) else {}
            summary["Manifests"] = manifests(self._images, image.id)
        return summary

    async def inspect(self, call: Call) -> web.StreamResponse:
        platform = _platform(call, (1, 49))
        if platform is not None and call.flag("manifests"):
            raise errors.InvalidParameter("conflicting options: manifests and platform options cannot both be set")
        image = self._images.platforms.choose(call.params["name"], platform)
        document = msgspec.json.decode(image.raw)
        history = document.get("history") or []
        comment = document.get("comment") or (history[-1].get("comment") if history else "") or ""
        config = {**OLDER_CONFIG_DEFAULTS, **(document.get("config") or {})}
        if call.version >= (1, 50):
            config = {
                key: value
                for key, value in config.items()
                if key in CONFIG_DEFAULTS or (key in CONFIG_FIELDS and value)
            }
        created = document.get("created") or ("0001-01-01T00:00:00Z" if call.version < (1, 44) else "")
        answer: dict[str, Any] = {
            "Id": image.id,
            "RepoTags": image.repo_tags,
            "RepoDigests": image.repo_digests,
            "Parent": image.parent or "",
            "Comment": comment,
            **({"Created": created} if created else {}),
            "DockerVersion": document.get("docker_version", ""),
            "Author": document.get("author", ""),
            "Config": config,
            "Architecture": document.get("architecture", ""),
            **({"Variant": document["variant"]} if document.get("variant") else {}),
            "Os": document.get("os") or "linux",
            **({"OsVersion": document["os.version"]} if document.get("os.version") else {}),
            "Size": image.size,
            "GraphDriver": {"Data": self._graph_data(image.chain_id) or None, "Name": self._driver},
            "RootFS": {
                "Type": document.get("rootfs", {}).get("type") or "layers",
                **({"Layers": image.config.rootfs.diff_ids} if image.config.rootfs.diff_ids else {}),
            },
            "Metadata": {"LastTagTime": _moment(image.last_tag_ns)},
        }
        if call.flag("manifests") and call.version >= (1, 48):
            answer |= descriptor(self._images, image.id, call.params["name"])
            answer["Manifests"] = manifests(self._images, image.id, call.params["name"])
        if call.version < (1, 44):
            answer["VirtualSize"] = image.size
        if call.version < (1, 45):
            answer["Container"] = document.get("container", "")
            answer["ContainerConfig"] = {**OLDER_CONFIG_DEFAULTS, **(document.get("container_config") or {})}
        return json_response(answer)

    async def history(self, call: Call) -> web.StreamResponse:
        entries = await self._images.history(call.params["name"], _platform(call, (1, 48)))
        return json_response(
            [
                {
                    "Comment": entry.comment,
                    "Created": entry.created,
                    "CreatedBy": entry.created_by,
                    "Id": entry.id,
                    "Size": entry.size,
                    "Tags": entry.tags,
                }
                for entry in entries
            ]
        )

    async def tag(self, call: Call) -> web.StreamResponse:
        name = tagged_reference(call.text("repo"), call.text("tag"))
        if name is None:
            raise errors.InvalidParameter("repository name must have at least one component")
        if name.familiar().partition(":")[0] == "sha256":
            raise errors.InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
        source = call.params["name"]
        self._images.tag(self._images.resolve(source), name, source)
        await self._images.on_disk()
        return web.Response(status=201)

    async def remove(self, call: Call) -> web.StreamResponse:
        name = call.params["name"]
        if not name.strip():
            raise errors.InvalidParameter("image name cannot be blank")
        platforms = _platforms(call, (1, 50), "platforms")
        if len(platforms) > 1:
            raise errors.InvalidParameter("multiple platforms are not supported")
        removed = await self._images.remove(
            name,
            force=call.flag("force"),
            prune=not call.flag("noprune"),
            platform=platforms[0] if platforms else None,
        )
        return json_response(removed)

    async def prune(self, call: Call) -> web.StreamResponse:
        records, freed = await self._images.prune(call.filters())
        return json_response({"ImagesDeleted": records or None, "SpaceReclaimed": freed})

    async def search(self, call: Call) -> web.StreamResponse:
        if not call.text("term"):
            raise errors.InvalidParameter("no search term given: GET /images/search needs term=…")
        raise errors.Unavailable(
            f'cannot search for "{call.text("term")}": searching is an operation of Docker Hub\'s own index, '
            "which this engine does not ask; the registry protocol has none. Pull by name instead"
        )

    async def create(self, call: Call) -> web.StreamResponse:
        progress = ProgressStream(call)
        platform = call.text("platform") if call.version >= (1, 32) else ""
        if call.text("fromImage"):
            name = Reference.parse(call.text("fromImage").removesuffix(":"))
            tag = call.text("tag")
            if tag:
                separator = "@" if ":" in tag else ":"
                name = Reference.parse(f"{name.domain}/{name.path}{separator}{tag}")
            every = not tag and name.tag is None and name.digest is None and call.version >= (1, 24)
            work = self._images.pull(
                name, auth=logins.for_image(call), platform=platform, progress=progress.send, all_tags=every
            )
            return await progress.run(work)
        source = call.text("fromSrc")
        if not source:
            raise errors.InvalidParameter("POST /images/create needs fromImage or fromSrc")
        name_for = tagged_reference(call.text("repo"), call.text("tag"))

        async def run() -> None:
            async with AsyncExitStack() as opened:
                chunks = call.chunks()
                if source != "-":
                    chunks = await opened.enter_async_context(self._images.download(source, progress.send))
                image = await self._images.import_(
                    chunks,
                    name=name_for,
                    changes=call.texts("changes"),
                    message=call.text("message") or f"Imported from {source}",
                    platform=platform,
                )
            progress.send({"status": image.id})

        return await progress.run(run())

    async def push(self, call: Call) -> web.StreamResponse:
        name = Reference.parse(call.params["name"])
        tag = call.text("tag")
        if tag:
            name = Reference.parse(f"{name.domain}/{name.path}:{tag}")
        wanted = _platform(call, (1, 46))
        if wanted is not None:
            self._images.platforms.choose(name.familiar(), wanted)
        progress = ProgressStream(call)
        return await progress.run(
            self._images.push(name, auth=logins.for_image(call), platform=wanted, progress=progress.send)
        )

    async def load(self, call: Call) -> web.StreamResponse:
        wanted = _platforms(call, (1, 48), "platform")
        progress = ProgressStream(call)
        return await progress.run(
            self._images.load(call.chunks(), quiet=call.flag("quiet", True), progress=progress.send, platforms=wanted),
            errors_in_stream=True,
        )

    async def save(self, call: Call) -> web.StreamResponse:
        names = [call.params["name"]] if "name" in call.params else call.texts("names")
        async with closing(self._images.save(names, _platforms(call, (1, 48), "platform"))) as pieces:
            return await send_archive(call, pieces, {})

    async def distribution(self, call: Call) -> web.StreamResponse:
        return json_response(await self._images.distribution(call.params["name"], auth=logins.for_image(call)))


class PlatformParameter(msgspec.Struct):
    """A platform as the query has it: JSON, of which all but the first two may be left out."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")


def _platform(call: Call, since: tuple[int, int]) -> Platform | None:
    """The platform of the query; None without one, and before the version that brought it. Raises InvalidParameter."""
    given = _platforms(call, since, "platform")
    if len(given) > 1:
        raise errors.InvalidParameter("multiple platform parameters not supported")
    return given[0] if given else None


def _platforms(call: Call, since: tuple[int, int], name: str) -> list[Platform]:
    return [_decoded_platform(text) for text in call.texts(name) if text] if call.version >= since else []


def _decoded_platform(text: str) -> Platform:
    try:
        given = json_body.decode(text.encode(), PlatformParameter)
    except errors.InvalidParameter as error:
        reason = error.message.removeprefix("invalid JSON: ")
        raise errors.InvalidParameter(f"failed to parse platform: {reason}") from None
    if not given.os and not given.architecture and (given.variant or given.os_version or given.os_features):
        raise errors.InvalidParameter("optional platform fields provided, but OS and Architecture are missing")
    if not given.os or not given.architecture:
        raise errors.InvalidParameter("both OS and Architecture must be provided")
    return Platform(given.architecture, given.os, given.variant)


def tagged_reference(repo: str, tag: str) -> Reference | None:
    """The name that `repo` and `tag` make; None without a repo. Raises InvalidParameter for a digest."""
    if not repo:
        return None
    name = Reference.parse(repo)
    if name.digest is not None:
        raise errors.InvalidParameter("cannot import digest reference")
    if tag:
        return Reference.parse(f"{name.domain}/{name.path}:{tag}")
    return name if name.tag is not None else Reference.parse(f"{name.domain}/{name.path}:latest")


def _moment(time_ns: int) -> str:
    return rfc3339(time_ns) if time_ns else "0001-01-01T00:00:00Z"
