"""Images in OCI layouts of the client's (`--build-context x=oci-layout://…`), which serves them as content stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from dockyard.builder.graph.vertex import Result, Rootfs, Vertex
from dockyard.builder.sources.caches import StorePlace, kind_of
from dockyard.engine.images.documents import decode_config
from dockyard.engine.images.layers import register_layers
from dockyard.errors import InvalidParameter, NotFound
from dockyard.oci.digest import check_digest
from dockyard.oci.image_config import ImageConfig
from dockyard.oci.manifest import INDEXES, Index, Manifest, host, parse_platform
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.builder.graph.job import Job
    from dockyard.builder.graph.work import Work

DEEPEST = 4  # indexes in one another


class LayoutImage(Vertex):
    """The files of an image that the client has; layers that are not here are sent when something needs them."""

    def __init__(
        self, name: str, reference: Reference, config: ImageConfig, manifest: Manifest, place: StorePlace
    ) -> None:
        """`reference`: the context's name with the digest that the client has given."""
        super().__init__(name)
        self.reference = reference
        self.config = config
        self._manifest = manifest
        self._place = place

    def definition(self) -> str:
        return f"{self.reference.digest} {self._manifest.config.digest}"

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        def source(index: int, diff_id: str) -> Callable[[], Awaitable[AsyncIterator[bytes]]]:
            async def opened() -> AsyncIterator[bytes]:
                return self._place.layer(self._manifest.layers[index])

            return opened

        diff_ids = self.config.rootfs.diff_ids
        for layer in await register_layers(work.solver.images, list(diff_ids), source):
            work.job.holds.append(layer.chain_id)
        return Rootfs(tuple(diff_ids), self.config.created or "")


async def layout_image(job: Job, name: str, address: str, platform: str) -> LayoutImage:
    """The image that a context `oci-layout://STORE@DIGEST` means. Raises InvalidParameter, NotFound."""
    store_id, _, digest = address.removeprefix("//").partition("@")
    if not digest:
        raise InvalidParameter(f'oci-layout reference "{address}" has no digest')
    check_digest(digest)
    place = StorePlace(await job.client.store(f"oci:{store_id.partition(':')[0]}"), digest)
    async with job.shown(f"[context {name}] load metadata for {name}@{digest}"):
        manifest = await _manifest(place, digest, platform)
        config = decode_config(await place.document(manifest.config))
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise InvalidParameter(f"the image {digest} has not as many layers as it says")
    reference = Reference.parse(name).repository.with_digest(digest)
    return LayoutImage(f"[context {name}] OCI load from client", reference, config, manifest, place)


async def _manifest(place: StorePlace, digest: str, platform: str) -> Manifest:
    """The manifest of an image: `digest` itself, or what an index has for the platform."""
    wanted = parse_platform(platform) if platform else host()
    raw, _ = await place.top()
    for _ in range(DEEPEST):
        if kind_of(raw) not in INDEXES:
            return Manifest.decode(raw)
        chosen = Index.decode(raw).choose(wanted)
        if chosen is None:
            break
        raw = await place.manifest(chosen)
    raise NotFound(f"no match for platform {wanted} in the OCI layout's {digest}")
