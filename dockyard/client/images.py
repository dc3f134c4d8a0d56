"""Images: pulled, pushed, built, saved, loaded and removed: `client.images`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypedDict

from dockyard.client.container_options import joined, pairs, size, ulimits
from dockyard.client.errors import BuildFailed, ClientError, OperationFailed
from dockyard.client.files import body_of
from dockyard.client.filters import filter_lists
from dockyard.client.framing import JsonLines, Pieces
from dockyard.client.modes import M, Resource, operation
from dockyard.client.results import Pruned
from dockyard.client.session import PATIENT
from dockyard.client.streams import Stream
from dockyard.client.urls import path
from dockyard.dockerfile.git_source import REMOTE
from dockyard.oci.quick_json import dumps

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
    from typing import BinaryIO, Unpack

    from dockyard.client.session import Exchange, Session


class Progress(NamedTuple):
    """A step of a pull, push, load or build.

    `status` is what is being done to the layer `id`, of whose `total` bytes `current` are done (0: not known); `text`
    is what a build prints; `aux` are results in the API's own words.
    """

    status: str
    id: str
    current: int
    total: int
    text: str
    aux: dict[str, Any]


class Built(NamedTuple, Generic[M]):
    """An image that was built, and what the build printed."""

    image: Image[M]
    log: str


class Layer(NamedTuple):
    """A row of an image's history, the newest first. `created` is in UNIX seconds, `size` in bytes."""

    id: str
    created: int
    created_by: str
    size: int
    comment: str
    tags: list[str]


class Found(NamedTuple):
    """A repository that a registry has found."""

    name: str
    description: str
    stars: int
    official: bool


class Image(Resource[M]):
    """An image. `attrs` is what the engine says about it (ImageInspect; shorter in a list)."""

    def __init__(self, session: Session, id: str, attrs: dict[str, Any] | None = None) -> None:
        super().__init__(session)
        self.id = id
        self.attrs = attrs or {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self.tags) or self.short_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def short_id(self) -> str:
        """The first 12 characters of its ID."""
        return self.id.removeprefix("sha256:")[:12]

    @property
    def tags(self) -> list[str]:
        """Its names."""
        return [tag for tag in self.attrs.get("RepoTags") or () if tag != "<none>:<none>"]

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        found = self.attrs["Labels"] if "Labels" in self.attrs else (self.attrs.get("Config") or {}).get("Labels")
        return dict(found or {})

    @property
    def size(self) -> int:
        """Bytes of all its layers."""
        return int(self.attrs.get("Size", 0))

    async def _loaded(self) -> Image[M]:
        self.attrs = (await self._session.request("GET", path("/images", self.id, "/json"))).json()
        self.id = str(self.attrs["Id"])
        return self

    @operation
    async def reload(self) -> None:
        """Ask the engine again. Raises ImageNotFound."""
        await self._loaded()

    @operation
    async def tag(self, repository: str, tag: str = "") -> None:
        """Give it one more name: "mine:1", or "mine" and a `tag` ("latest" by default)."""
        name, named = split_name(repository)
        await self._session.request("POST", path("/images", self.id, "/tag", repo=name, tag=tag or named or "latest"))
        await self._loaded()

    @operation
    async def history(self) -> list[Layer]:
        """What it was made by, the newest step first."""
        found = (await self._session.request("GET", path("/images", self.id, "/history"))).json()
        return [
            Layer(row["Id"], row["Created"], row["CreatedBy"], row["Size"], row["Comment"], row["Tags"] or [])
            for row in found
        ]

    def save(self) -> Stream[bytes, M]:
        """It, with its names, as pieces of a tar archive that `load` takes."""
        return _save(self._session, self.tags or [self.id])

    @operation
    async def remove(self, *, force: bool = False, prune: bool = True) -> None:
        """Remove it with all its names. Raises Conflict when a container uses it, or it has several, unless `force`."""
        await self._session.request("DELETE", path("/images", self.id, force=force, noprune=not prune))


class Images(Resource[M]):
    """The engine's images."""

    @operation
    async def get(self, name: str) -> Image[M]:
        """The image of that name or ID. Raises ImageNotFound."""
        image: Image[M] = Image(self._session, name)
        return await image._loaded()

    @operation
    async def pull(
        self, name: str, tag: str = "", *, platform: str = "", auth: Mapping[str, str] | None = None
    ) -> Image[M]:
        """Fetch an image from its registry: "alpine", "alpine:3.20", "registry.example/x@sha256:…".

        `auth`: {"username": …, "password": …}, instead of the login that `login` or `docker login` has left. Raises
        ImageNotFound, OperationFailed, Unauthorized.
        """
        return await self._pull(name, tag, platform=platform, auth=auth)

    async def _pull(
        self, name: str, tag: str = "", *, platform: str = "", auth: Mapping[str, str] | None = None
    ) -> Image[M]:
        progress = self._stream_pull(name, tag, platform, False, auth)
        while isinstance(await progress._next(), Progress):
            pass
        repository, named = split_name(name)
        whole = name if "@" in name else f"{repository}:{tag or named or 'latest'}"
        if tag.startswith("sha256:"):
            whole = f"{repository}@{tag}"
        return await Image(self._session, whole)._loaded()

    def stream_pull(
        self,
        name: str,
        tag: str = "",
        *,
        platform: str = "",
        all_tags: bool = False,
        auth: Mapping[str, str] | None = None,
    ) -> Stream[Progress, M]:
        """As `pull`, step by step; `all_tags` fetches everything in the repository."""
        return self._stream_pull(name, tag, platform, all_tags, auth)

    def _stream_pull(
        self, name: str, tag: str, platform: str, all_tags: bool, auth: Mapping[str, str] | None
    ) -> Stream[Progress, Any]:
        repository, named = split_name(name)
        wanted = tag or named or ("" if all_tags else "latest")
        if "@" in name:
            repository, wanted = name, ""

        async def begin() -> Exchange:
            place = path("/images/create", fromImage=repository, tag=wanted, platform=platform)
            headers = {"X-Registry-Auth": await registry_auth(self._session, repository, auth)}
            return await self._session.open("POST", place, headers=headers, timeout=PATIENT)

        return Stream(self._session, begin, lambda _: JsonLines(), _progress)

    @operation
    async def push(self, name: str, tag: str = "", *, auth: Mapping[str, str] | None = None) -> str:
        """Send an image to its registry; the digest it has there. Raises OperationFailed, ImageNotFound."""
        digest = ""
        progress = self.stream_push(name, tag, auth=auth)
        while isinstance(step := await progress._next(), Progress):
            digest = step.aux.get("Digest", digest)
        return digest

    def stream_push(
        self, name: str, tag: str = "", *, all_tags: bool = False, auth: Mapping[str, str] | None = None
    ) -> Stream[Progress, M]:
        """As `push`, step by step; `all_tags` sends every tag of the repository."""
        repository, named = split_name(name)
        wanted = tag or named or ("" if all_tags else "latest")

        async def begin() -> Exchange:
            headers = {"X-Registry-Auth": await registry_auth(self._session, repository, auth)}
            place = path("/images", repository, "/push", tag=wanted)
            return await self._session.open("POST", place, headers=headers, timeout=PATIENT)

        return Stream(self._session, begin, lambda _: JsonLines(), _progress)

    @operation
    async def build(self, source: str | os.PathLike[str] | None = None, **options: Unpack[BuildOptions]) -> Built[M]:
        """Build an image from a folder (with its Dockerfile and .dockerignore) or a URL.

        image, log = client.images.build(".", tag="mine")
        client.images.build(dockerfile_text="FROM busybox\nRUN touch /x", tag="mine")

        See BuildOptions for the rest. Raises BuildFailed, with the build's log; OSError, ArchiveError for a folder
        that cannot be packed.
        """
        return await self._build(self._stream_build(source, options))

    async def _build(self, steps: Stream[Progress, Any]) -> Built[M]:
        printed: list[str] = []
        made = ""
        try:
            while isinstance(step := await steps._next(), Progress):
                printed.append(step.text)
                made = step.aux.get("ID", made)
                if step.text.startswith("Successfully built "):
                    made = made or step.text.split()[-1]
        except OperationFailed as failure:
            raise BuildFailed(failure.message, "".join(printed)) from None
        if not made:
            raise BuildFailed("the build gave no image", "".join(printed))
        return Built(await Image(self._session, made)._loaded(), "".join(printed))

    def stream_build(
        self, source: str | os.PathLike[str] | None = None, **options: Unpack[BuildOptions]
    ) -> Stream[Progress, M]:
        """As `build`, step by step: `text` is what it prints, the last `aux` has the image's ID."""
        return self._stream_build(source, options)

    def _stream_build(self, source: Any, options: Mapping[str, Any]) -> Stream[Progress, Any]:
        unknown = set(options) - set(BuildOptions.__annotations__)
        if unknown:
            raise TypeError(f"there is no build option {unknown.pop()!r}")

        async def begin() -> Exchange:
            remote, dockerfile, body = build_source(source, options)
            headers = {"Content-Type": "application/x-tar", "X-Registry-Config": await registry_config(self._session)}
            place = path("/build", remote=remote, dockerfile=dockerfile, **build_query(options))
            return await self._session.open("POST", place, body, headers=headers, timeout=PATIENT)

        return Stream(self._session, begin, lambda _: JsonLines(), _progress)

    @operation
    async def load(self, archive: bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]) -> list[Image[M]]:
        """Take in what `save` (or `docker save`, or an OCI tool) has written: the images in it. Raises
        OperationFailed, BadRequest."""
        body: Any = body_of(archive)
        exchange = await self._session.open(
            "POST", "/images/load", body, headers={"Content-Type": "application/x-tar"}, timeout=PATIENT
        )

        async def begin() -> Exchange:
            return exchange

        steps: Stream[Progress, Any] = Stream(self._session, begin, lambda _: JsonLines(), _progress)
        found = []
        while isinstance(step := await steps._next(), Progress):
            for start in ("Loaded image ID: ", "Loaded image: "):
                if step.text.startswith(start):
                    found.append(step.text.removeprefix(start).strip())
        return [await Image(self._session, name)._loaded() for name in found]

    def save(self, *names: str) -> Stream[bytes, M]:
        """Images by name as pieces of one tar archive. Raises ImageNotFound at the first piece."""
        return _save(self._session, list(names))

    @operation
    async def import_archive(
        self,
        archive: bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes],
        repository: str = "",
        tag: str = "",
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
    ) -> Image[M]:
        """Make an image of one layer from a file system in a tar archive. `changes`: Dockerfile instructions."""
        name, named = split_name(repository)
        place = path(
            "/images/create",
            fromSrc="-",
            repo=name,
            tag=tag or named,
            changes=list(changes),
            message=message,
            platform=platform,
        )
        body: Any = body_of(archive)
        reply = await self._session.request(
            "POST", place, body, headers={"Content-Type": "application/x-tar"}, timeout=PATIENT
        )
        made = ""
        for value in [*(lines := JsonLines()).feed(reply.data), *lines.finish()]:
            made = _progress(value).status or made
        return await Image(self._session, made)._loaded()

    @operation
    async def remove(self, name: str, *, force: bool = False, prune: bool = True) -> list[str]:
        """Remove a name, and with the last of them the image; `prune` also parents without names.

        What was untagged and deleted. Raises ImageNotFound, Conflict when a container uses it, unless `force`.
        """
        place = path("/images", name, force=force, noprune=not prune)
        found = (await self._session.request("DELETE", place)).json()
        return [row.get("Untagged") or row["Deleted"] for row in found]

    @operation
    async def prune(self, *, all: bool = False, filters: Mapping[str, str | Sequence[str]] | None = None) -> Pruned:
        """Remove images without a name, or with `all` those that no container uses. `filters`: until, label."""
        wanted = {**filter_lists(filters), "dangling": ["false" if all else "true"]}
        found = (await self._session.request("POST", path("/images/prune", filters=wanted), timeout=PATIENT)).json()
        removed = [row.get("Untagged") or row["Deleted"] for row in found["ImagesDeleted"] or ()]
        return Pruned(removed, found["SpaceReclaimed"])

    @operation
    async def prune_builds(self, *, all: bool = False) -> Pruned:
        """Remove the builder's cache, with `all` what is in use too."""
        found = (await self._session.request("POST", path("/build/prune", all=all), timeout=PATIENT)).json()
        return Pruned(found["CachesDeleted"] or [], found["SpaceReclaimed"])

    @operation
    async def search(self, term: str, *, limit: int | None = None) -> list[Found]:
        """Repositories that the registry finds for a term."""
        found = (await self._session.request("GET", path("/images/search", term=term, limit=limit))).json()
        return [Found(row["name"], row["description"], row["star_count"], row["is_official"]) for row in found]

    @operation
    async def list(
        self,
        name: str = "",
        *,
        all: bool = False,
        filters: Mapping[str, str | bool | Sequence[str]] | None = None,
    ) -> list[Image[M]]:
        """Images, or those of one repository (`name`, in which * is a wildcard); `all` has unnamed parents too.

        `filters`: before, dangling, label, reference, since, until.
        """
        wanted = filter_lists(filters)
        if name:
            wanted.setdefault("reference", []).append(name)
        found = (await self._session.request("GET", path("/images/json", all=all, filters=wanted))).json()
        return [Image(self._session, row["Id"], row) for row in found]


class BuildOptions(TypedDict, total=False):
    """Everything that `build` takes by name."""

    tag: str | Sequence[str]
    dockerfile: str  # its name in the folder, or a path of its own
    dockerfile_text: str  # the Dockerfile itself; without a folder there is no context
    fileobj: BinaryIO  # the same, read from a file
    context: bytes | BinaryIO | Iterable[bytes]  # instead of a folder: a tar archive, plain or compressed
    build_args: Mapping[str, str | None]  # None: as it is here
    labels: Mapping[str, str]
    target: str
    platform: str
    no_cache: bool
    pull: bool  # ask for newer base images
    rm: bool  # intermediate containers; True by default
    force_rm: bool
    squash: bool
    cache_from: Sequence[str]
    network_mode: str
    extra_hosts: Mapping[str, str] | Sequence[str]
    shm_size: int | str
    mem_limit: int | str
    memswap_limit: int | str
    cpu_shares: int
    cpu_period: int
    cpu_quota: int
    cpuset_cpus: str
    cpuset_mems: str
    cgroup_parent: str
    ulimits: Mapping[str, int | tuple[int, int]]


def build_query(options: Mapping[str, Any]) -> dict[str, Any]:
    """The query of POST /build."""
    tag = options.get("tag") or ()
    arguments = {
        name: os.environ.get(name) if value is None else str(value)
        for name, value in (options.get("build_args") or {}).items()
    }
    limits = {name: size(options[option]) for name, option in _SIZES.items() if option in options}
    return {
        "t": [tag] if isinstance(tag, str) else list(tag),
        "buildargs": arguments,
        "labels": pairs(options.get("labels") or {}),
        "target": options.get("target"),
        "platform": options.get("platform"),
        "nocache": options.get("no_cache"),
        "pull": options.get("pull"),
        "rm": None if options.get("rm", True) else "0",
        "forcerm": options.get("force_rm"),
        "squash": options.get("squash"),
        "cachefrom": dumps(list(options["cache_from"])) if options.get("cache_from") else None,
        "networkmode": options.get("network_mode"),
        "extrahosts": joined(options.get("extra_hosts") or [], ":"),
        "cpushares": options.get("cpu_shares"),
        "cpuperiod": options.get("cpu_period"),
        "cpuquota": options.get("cpu_quota"),
        "cpusetcpus": options.get("cpuset_cpus"),
        "cpusetmems": options.get("cpuset_mems"),
        "cgroupparent": options.get("cgroup_parent"),
        "ulimits": dumps(ulimits(options["ulimits"])) if options.get("ulimits") else None,
        **limits,
    }


_SIZES = {"shmsize": "shm_size", "memory": "mem_limit", "memswap": "memswap_limit"}


def build_source(source: Any, options: Mapping[str, Any]) -> tuple[str, str, Any]:
    """Where the engine finds the context, the Dockerfile's name in it, and the context itself."""
    dockerfile = options.get("dockerfile", "")
    text = options.get("dockerfile_text")
    if "fileobj" in options:
        text = options["fileobj"].read()
    if "context" in options:
        return "", dockerfile, body_of(options["context"])
    if source is None:
        if text is None:
            raise ClientError("a build needs a folder, a URL, a context or a Dockerfile")
        from dockyard.client.files import _archive_of

        return "", "", _archive_of(["Dockerfile"], text.encode() if isinstance(text, str) else text, 0o644, 0, 0)
    place = os.fspath(source)
    if place.startswith(REMOTE):
        return place, dockerfile, b""
    if not os.path.isdir(place):
        raise NotADirectoryError(f"the context must be a folder: {place}")
    from dockyard.client.build_context import pack_folder

    if text is not None:
        data = text.encode() if isinstance(text, str) else text
        return "", *pack_folder(place, "-", lambda: data)
    return "", *pack_folder(place, dockerfile)


def _save(session: Session, names: list[str]) -> Stream[bytes, Any]:
    async def begin() -> Exchange:
        return await session.open("GET", path("/images/get", names=names), timeout=PATIENT)

    return Stream(session, begin, lambda _: Pieces())


def _progress(value: dict[str, Any]) -> Progress:
    """A message of a progress stream. Raises OperationFailed when it reports a failure."""
    if "error" in value or "errorDetail" in value:
        raise OperationFailed(str((value.get("errorDetail") or {}).get("message") or value.get("error")))
    detail = value.get("progressDetail") or {}
    return Progress(
        str(value.get("status", "")),
        str(value.get("id", "")),
        detail.get("current", 0) or 0,
        detail.get("total", 0) or 0,
        value.get("stream", ""),
        value.get("aux") or {},
    )


def split_name(name: str) -> tuple[str, str]:
    """Repository and tag of an image's name; a digest stays with the repository."""
    if "@" in name:
        return name, ""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")


async def registry_auth(session: Session, image: str, auth: Mapping[str, str] | None) -> str:
    """The X-Registry-Auth header for an image."""
    if auth is None:
        from dockyard.client import credentials

        registry = credentials.registry_of(image)
        auth = session.logins.get(registry) or await session.dialer.apart(
            lambda: credentials.find(session.config_folder, registry)
        )
    return _encoded(dict(auth or {}))


async def registry_config(session: Session) -> str:
    """The X-Registry-Config header: every login, for base images."""
    from dockyard.client import credentials

    stored = await session.dialer.apart(lambda: credentials.every_login(session.config_folder))
    return _encoded({**stored, **session.logins})


def _encoded(value: dict[str, Any]) -> str:
    import base64

    return base64.urlsafe_b64encode(dumps(value).encode()).decode()
