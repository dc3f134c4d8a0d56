"""Images as a source: found here, or pulled when they are not, or when the newest is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dockyard.builder.graph.vertex import Result, Rootfs, Vertex
from dockyard.builder.source_policy import IMAGE, SourceDenied
from dockyard.engine.images.image import Image
from dockyard.errors import DockyardError, NotFound
from dockyard.oci.manifest import host, parse_platform
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.builder.graph.job import Job
    from dockyard.builder.graph.work import Work


class ImageFiles(Vertex):
    """The files of an image, which is here."""

    ready = True

    def __init__(
        self, name: str, image: Image, *, reference: Reference | None = None, target: str = "", line: int = 0
    ) -> None:
        """`reference`: by what it was asked for; `target`: the digest of the index or manifest behind that."""
        super().__init__(name, line=line)
        self.image = image
        self.reference = reference
        self.target = target or image.id

    def definition(self) -> str:
        return self.image.id

    def rootfs(self) -> Rootfs:
        """What comes of it."""
        return Rootfs(tuple(self.image.config.rootfs.diff_ids), self.image.config.created or "")

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        return self.rootfs()


class ImageResolver:
    """Resolves the images of one build, each once."""

    def __init__(
        self,
        job: Job,
        *,
        pull: bool,
        several: bool = False,
        exact: bool = False,
        told: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`several`: the build is for several platforms, so that it is told for which one something is done.

        `exact`: where none is asked for, a name means an image for this host, not whatever it last stood for.
        `told` is given a pull's messages as the API has them, beside what the job's progress is told.
        """
        self._told = told
        self._job = job
        self._pull = pull
        self._several = several
        self._exact = exact
        self._known: dict[tuple[str, str], Image] = {}
        self._fetched: set[str] = set()  # images of which layers came only now

    async def resolve(self, name: str, platform: str) -> Image:
        """The image called `name` for `platform` ("": this host's). Raises NotFound, Unauthorized, Unavailable."""
        found = self._known.get((name, platform))
        if found is None:
            taken = self._allowed(name)
            reference = Reference.parse(taken).or_latest()
            where = f"{platform} " if self._several and platform else ""
            async with self._job.shown(f"[{where}internal] load metadata for {reference.full()}") as part:
                found = await self._find(taken, reference, platform, part)
            if found.chain_id is not None:
                self._job.hold(found.chain_id)
            self._known[name, platform] = found
            self._job.solver.images.note_use(found.id)
        return found

    def files(self, name: str, image: Image, *, shown: str = "", line: int = 0) -> ImageFiles:
        """The files of an image that was resolved as `name`, as a step."""
        reference = Reference.parse(self._allowed(name)).or_latest()
        names = self._job.solver.images.names
        row = names.row(reference)
        target = reference.digest or (row.target if row is not None else "")
        if not target:  # what a registry has had it under
            same = [one for one in names.of(image.id) if one.digest and one.repository == reference.repository]
            target = str(same[0].digest) if same else ""
        made = ImageFiles(shown or f"FROM {reference.full()}", image, reference=reference, target=target, line=line)
        made.fresh = image.id in self._fetched
        return made

    def _allowed(self, name: str) -> str:
        """The image to take, if the client's policy has none of another kind. Raises SourceDenied."""
        policy = self._job.policy
        if not policy:
            return name
        identifier, _ = policy.applied(f"{IMAGE}{Reference.parse(name).or_latest().full()}", {})
        if not identifier.startswith(IMAGE):
            raise SourceDenied(f"could not resolve image due to policy: {name} is {identifier}, which is none")
        return identifier.removeprefix(IMAGE)

    async def _find(self, name: str, reference: Reference, platform: str, part: Any) -> Image:
        images = self._job.solver.images
        wanted = parse_platform(platform) if platform else None
        if not self._pull:
            try:
                return images.platforms.choose(name, wanted or (host() if self._exact else None))
            except NotFound:
                pass
        try:
            return await self._pulled(name, reference, platform, part)
        except DockyardError:
            if not self._exact or self._pull or wanted is not None:
                raise
            try:  # what is here for another platform is better than nothing; the checks tell of it
                return images.platforms.choose(name, None)
            except NotFound:
                pass
            raise

    async def _pulled(self, name: str, reference: Reference, platform: str, part: Any) -> Image:
        images = self._job.solver.images
        wanted = parse_platform(platform) if platform else None
        fetched = False

        def progress(message: dict[str, Any]) -> None:
            nonlocal fetched
            if self._told is not None:
                self._told(message)
            fetched |= message.get("status") == "Pull complete"
            detail = message.get("progressDetail") or {}
            if message.get("id"):
                name, word = str(message["id"]), str(message.get("status", ""))
                done = word in ("Pull complete", "Already exists")
                part(name, detail.get("current", 0), detail.get("total", 0), done)

        auth = await self._job.client.credentials(reference.domain)
        await images.pull(reference, auth=auth, platform=platform, progress=progress)
        found = images.platforms.choose(name, wanted)
        if fetched:
            self._fetched.add(found.id)
        return found
