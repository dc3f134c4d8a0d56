"""A registry that is a cache of another one (`proxy.remoteurl`): what it does not have, it fetches and keeps.

A tag's meaning is asked of the other registry each time, by a HEAD, which counts for no limit; while that does not
answer, the tag means what it last meant. What has not been asked for during `proxy.ttl` goes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from dockyard.content.patience import Patience
from dockyard.content.registry import Document, RegistryClient, Repository
from dockyard.content.registry_auth import Credentials
from dockyard.content.registry_hosts import Endpoint
from dockyard.errors import DockyardError, InvalidParameter, NotFound, Unauthorized
from dockyard.oci.digest import is_digest
from dockyard.oci.reference import Reference
from dockyard.registry import settings
from dockyard.registry.call import Call
from dockyard.registry.downloads import Download
from dockyard.registry.errors import Refused
from dockyard.registry.handlers import Handlers, PiecesResponse, blob_headers, part_of
from dockyard.registry.routes import Target
from dockyard.web import Response, StreamResponse

log = logging.getLogger("dockyard.registry")

# There is a client that waits, and perhaps a copy to give it: seconds between tries.
PATIENCE = Patience((0.3, 1.0, 2.0))


class Cache(Handlers):
    """Handlers of a registry that is only read, and gets what it gives from another one."""

    def __init__(self, proxy: settings.Proxy, *arguments: Any) -> None:
        """Raises InvalidParameter."""
        super().__init__(*arguments)
        parts = urlsplit(proxy.remoteurl)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidParameter(f"proxy.remoteurl: {proxy.remoteurl!r} is no http(s) URL")
        self._domain = parts.netloc.rpartition("@")[2]
        self._endpoint = Endpoint(f"{parts.scheme}://{self._domain}{parts.path.rstrip('/')}")
        self._credentials = Credentials(proxy.username, proxy.password)
        self._client = RegistryClient(patience=PATIENCE)
        self._repositories: dict[str, Repository] = {}
        self._downloads: dict[tuple[str, str], tuple[Download, asyncio.Task[None]]] = {}

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [task for _, task in self._downloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        await super().close()

    def _other(self, name: str) -> Repository:
        """The repository of the other registry. Its tokens are kept for a while."""
        found = self._repositories.get(name)
        if found is None:
            if len(self._repositories) > 1000:
                self._repositories.clear()
            found = Repository(self._client, Reference(self._domain, name), self._credentials, [self._endpoint], False)
            self._repositories[name] = found
        return found

    # -- manifests

    async def _get_manifest(self, target: Target, call: Call) -> Response:
        digest = await self._refresh(target.name, target.reference)
        await self.manifests.use(target.name, digest)
        return await super()._get_manifest(target, call)

    async def _refresh(self, name: str, reference: str) -> str:
        """Have the manifest that `reference` means now; its digest. Raises Refused."""
        other = self._other(name)
        try:
            known = await self.manifests.get(name, reference)
        except Refused:
            known = None
        if known is not None and is_digest(reference):
            self._metrics.count("registry_proxy_hits_total")
            return known[0]
        try:
            if known is not None:
                now = await other.manifest_digest(reference)
                if now == known[0]:
                    self._metrics.count("registry_proxy_hits_total")
                    return known[0]
                if now and await self._has(name, now):  # an earlier meaning of the tag, or another's
                    _, kind, data = await self.manifests.get(name, now)
                    await self.manifests.put(name, reference, kind, data, [], whole=False)
                    return now
            found = await other.manifest(reference)
        except (NotFound, Unauthorized) as error:
            raise Refused("MANIFEST_UNKNOWN", str(error)) from None
        except DockyardError as error:
            if known is None:
                raise Refused("UNAVAILABLE", str(error)) from None
            log.warning("proxy: %s:%s is given as it was last seen: %s", name, reference, error)
            return known[0]
        self._metrics.count("registry_proxy_misses_total")
        return await self._keep_manifest(name, reference, found)

    async def _has(self, name: str, digest: str) -> bool:
        try:
            await self.manifests.get(name, digest)
        except Refused:
            return False
        return True

    async def _keep_manifest(self, name: str, reference: str, found: Document) -> str:
        digest, _ = await self.manifests.put(name, reference, found.media_type, found.content, [], whole=False)
        return digest

    async def _list_tags(self, target: Target, call: Call) -> Response:
        try:
            names = sorted(set(await self._other(target.name).tags()))
        except (NotFound, Unauthorized) as error:
            raise Refused("NAME_UNKNOWN", str(error)) from None
        except DockyardError as error:
            log.warning("proxy: the tags of %s are those that are here: %s", target.name, error)
            return await super()._list_tags(target, call)
        return self._page_of_tags(target, names)

    # -- blobs

    async def _get_blob(self, target: Target, call: Call) -> StreamResponse:
        digest = target.reference
        try:
            await self.blobs.size(target.name, digest)
        except Refused:
            pass
        else:
            self._metrics.count("registry_proxy_hits_total")
            return await super()._get_blob(target, call)
        try:
            size = await self._other(target.name).blob_size(digest)
        except (NotFound, Unauthorized) as error:
            raise Refused("BLOB_UNKNOWN", str(error)) from None
        except DockyardError as error:
            raise Refused("UNAVAILABLE", str(error)) from None
        if size is None:
            raise Refused("BLOB_UNKNOWN", {"digest": digest})
        headers = blob_headers(digest)
        if call.request.method == "HEAD":
            return PiecesResponse(_nothing(), size, 200, headers)
        self._metrics.count("registry_proxy_misses_total")
        download = self._download(target.name, digest, size)
        status, start, count = part_of(call.request, size, headers)
        self._tell_of_blob(call, "pull", target.name, digest, size)
        return PiecesResponse(download.pieces(start, count), count, status, headers)

    def _download(self, name: str, digest: str, size: int) -> Download:
        """The download of a blob that is under way, or a new one."""
        found = self._downloads.get((name, digest))
        if found is None:
            download = Download(self._storage, self._other(name), name, digest, size)
            task = asyncio.get_running_loop().create_task(download.run(self.uploads, self._metrics))
            found = self._downloads[name, digest] = (download, task)
            task.add_done_callback(lambda _: self._downloads.pop((name, digest), None))
        return found[0]


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
