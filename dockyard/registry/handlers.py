"""What each request does (distribution-spec, "Endpoints")."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.oci.digest import is_digest
from dockyard.oci.manifest import OCI_INDEX
from dockyard.oci.reference import is_path
from dockyard.registry import layout
from dockyard.registry.blobs import Blobs
from dockyard.registry.call import Call
from dockyard.registry.catalog import Catalog
from dockyard.registry.errors import Refused, response
from dockyard.registry.manifests import LARGEST, Manifests, Missed
from dockyard.registry.metrics import Metrics
from dockyard.registry.quotas import Quotas
from dockyard.registry.routes import Target
from dockyard.registry.storage import Missing, Storage
from dockyard.registry.uploads import Upload, Uploads
from dockyard.web import FileResponse, Request, Response, StreamResponse
from dockyard.web.body import Body

REFERRERS_IN_A_PAGE = 4 << 20  # bytes that clients have to take
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d+)-(\d+)(?:/(?:\d+|\*))?")

Handler = Callable[[Target, Call], Awaitable[StreamResponse]]
Tell = Callable[..., None]


@dataclass(frozen=True)
class Options:
    """What may be done, and how much at a time (0: no limit)."""

    delete: bool = True
    read_only: bool = False
    mount_from_anywhere: bool = False
    repositories_in_a_page: int = 1000
    tags_in_a_page: int = 0
    redirect: bool = True  # to a storage that clients can reach themselves


class Handlers:
    """The operations, by kind of target and method."""

    def __init__(self, storage: Storage, options: Options, quotas: Quotas, metrics: Metrics, tell: Tell) -> None:
        """`tell` hears of what is done (Notifier.tell)."""
        self._quotas = quotas
        self._storage = storage
        self._options = options
        self._metrics = metrics
        self._tell = tell
        self.blobs = Blobs(storage)
        self.uploads = Uploads(storage, self.blobs)
        self.manifests = Manifests(storage, self.blobs)
        self.catalog = Catalog(storage)
        self._table: dict[tuple[str, str], Handler] = {
            ("base", "GET"): self._base,
            ("catalog", "GET"): self._list_repositories,
            ("tags", "GET"): self._list_tags,
            ("manifest", "GET"): self._get_manifest,
            ("referrers", "GET"): self._list_referrers,
            ("blob", "GET"): self._get_blob,
            ("upload", "GET"): self._get_upload,
        }
        if not options.read_only:
            self._table |= {
                ("manifest", "PUT"): self._put_manifest,
                ("uploads", "POST"): self._begin_upload,
                ("upload", "PATCH"): self._go_on_with_upload,
                ("upload", "PUT"): self._finish_upload,
                ("upload", "DELETE"): self._cancel_upload,
            }
            if options.delete:
                self._table |= {
                    ("manifest", "DELETE"): self._delete_manifest,
                    ("blob", "DELETE"): self._delete_blob,
                }

    async def close(self) -> None:
        """Let go of what is open."""
        await self.uploads.close()

    def find(self, kind: str, method: str) -> Handler:
        """The operation. Raises Refused when there is none."""
        handler = self._table.get((kind, "GET" if method == "HEAD" else method))
        if handler is None:
            allowed = sorted({known for of, known in self._table if of == kind})
            raise Refused("UNSUPPORTED", headers={"Allow": ", ".join(allowed)})
        return handler

    async def _base(self, target: Target, call: Call) -> Response:
        return Response(200, content_type="application/json", body=b"{}")

    # -- lists

    async def _list_repositories(self, target: Target, call: Call) -> Response:
        names = await self.catalog.repositories()
        count = target.number("n")
        page, more = _page(names, count, target.parameter("last"), self._options.repositories_in_a_page)
        return _json({"repositories": page}, _next("/v2/_catalog", page, more))

    async def _list_tags(self, target: Target, call: Call) -> Response:
        tags = await self.manifests.tags(target.name)
        return self._page_of_tags(target, tags)

    def _page_of_tags(self, target: Target, tags: list[str]) -> Response:
        page, more = _page(tags, target.number("n"), target.parameter("last"), self._options.tags_in_a_page)
        return _json({"name": target.name, "tags": page}, _next(f"/v2/{target.name}/tags/list", page, more))

    async def _list_referrers(self, target: Target, call: Call) -> Response:
        wanted = target.parameter("artifactType")
        found = await self.manifests.referrers(target.name, target.reference, wanted)
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        start = target.number("after") or 0
        end, size = start, 0
        while end < len(found) and (end == start or size < REFERRERS_IN_A_PAGE):
            size += len(msgspec.json.encode(found[end]))
            end += 1
        if end < len(found):
            query = urlencode({"after": end} | ({"artifactType": wanted} if wanted else {}))
            headers["Link"] = f'</v2/{target.name}/referrers/{target.reference}?{query}>; rel="next"'
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found[start:end]}
        return _json(index, headers, OCI_INDEX)

    # -- manifests

    async def _get_manifest(self, target: Target, call: Call) -> Response:
        digest, kind, data = await self.manifests.get(target.name, target.reference)
        headers = {"Docker-Content-Digest": digest, "Etag": f'"{digest}"'}
        if _matches(call.request, digest):
            return Response(304, headers)
        if call.request.method == "GET":
            tag = "" if is_digest(target.reference) else target.reference
            self._tell_of_manifest(call, "pull", digest, kind, len(data), tag)
        return Response(200, headers, kind, data)

    def _tell_of_manifest(self, call: Call, action: str, digest: str, kind: str, size: int, tag: str) -> None:
        assert call.target is not None
        name = call.target.name
        url = f"/v2/{name}/manifests/{digest}"
        self._tell(call, action, name, mediaType=kind, size=size, digest=digest, url=url, tag=tag)

    def _tell_of_blob(self, call: Call, action: str, name: str, digest: str, size: int, source: str = "") -> None:
        url = f"/v2/{name}/blobs/{digest}"
        kind = "application/octet-stream"
        self._tell(call, action, name, mediaType=kind, size=size, digest=digest, url=url, fromRepository=source)

    async def _put_manifest(self, target: Target, call: Call) -> Response:
        data = await _whole(call.request.body, LARGEST)
        content_type = call.request.headers.get("Content-Type").partition(";")[0].strip().lower()
        tags = target.query.get("tag", [])
        try:
            digest, content = await self.manifests.put(target.name, target.reference, content_type, data, tags)
        except Missed as missed:
            entries = [Refused(missed.code, {"digest": digest}).entry() for digest in missed.digests]
            return response(missed.status, entries)
        headers = {"Location": f"/v2/{target.name}/manifests/{digest}", "Docker-Content-Digest": digest}
        tag = "" if is_digest(target.reference) else target.reference
        self._tell_of_manifest(call, "push", digest, content.kind, len(data), tag)
        if content.subject is not None:
            headers["OCI-Subject"] = content.subject.digest
        if tags and is_digest(target.reference):
            headers["OCI-Tag"] = ", ".join(tags)
        return Response(201, headers)

    async def _delete_manifest(self, target: Target, call: Call) -> Response:
        if is_digest(target.reference):
            await self.manifests.delete(target.name, target.reference)
            self._tell(call, "delete", target.name, digest=target.reference)
        else:
            await self.manifests.untag(target.name, target.reference)
            self._tell(call, "delete", target.name, tag=target.reference)
        return Response(202)

    # -- blobs

    async def _get_blob(self, target: Target, call: Call) -> StreamResponse:
        request = call.request
        digest = target.reference
        headers = blob_headers(digest)
        size = await self.blobs.size(target.name, digest, wanted=request.method == "HEAD")
        if _matches(request, digest):
            return Response(304, headers)
        status, start, count = part_of(request, size, headers)
        path = layout.blob_data(digest)
        if request.method == "GET":
            self._tell_of_blob(call, "pull", target.name, digest, size)
            if self._options.redirect and (place := await self._storage.url(path)):
                return Response(307, {"Location": place, "Docker-Content-Digest": digest})
            self._metrics.count("registry_blob_sent_bytes_total", count)
        try:
            opened = await self._storage.open(path)
        except Missing:
            raise Refused("BLOB_UNKNOWN", {"digest": digest}) from None
        if opened is not None:
            return FileResponse(opened[0], start, count, status, headers)
        return PiecesResponse(self._storage.pieces(path, start, count), count, status, headers)

    async def _delete_blob(self, target: Target, call: Call) -> Response:
        await self.blobs.delete(target.name, target.reference)
        self._tell(call, "delete", target.name, digest=target.reference)
        return Response(202, {"Docker-Content-Digest": target.reference})

    # -- uploads

    async def _begin_upload(self, target: Target, call: Call) -> Response:
        digest = target.parameter("digest")
        if digest and not is_digest(digest):
            raise Refused("DIGEST_INVALID", digest)
        mounted = target.parameter("mount")
        if mounted and is_digest(mounted):
            source = target.parameter("from")
            size = await self._mount(target.name, source, mounted)
            if size is not None:
                self._quotas.add(target.name, size)
                self._tell_of_blob(call, "mount", target.name, mounted, size, source)
                return _created(target.name, mounted)
        await self._quotas.check(target.name, call.request.length or 1)
        algorithm = digest.partition(":")[0] or target.parameter("digest-algorithm") or "sha256"
        upload = await self.uploads.begin(target.name, algorithm)
        if not digest:
            return Response(202, self.uploads.headers(upload))
        try:
            await self.uploads.receive(upload, self._pieces(upload, call.request.body))
        except BaseException:
            await self.uploads.cancel(upload)  # nobody knows its name
            raise
        return await self._keep(call, upload, digest)

    async def _mount(self, name: str, source: str, digest: str) -> int | None:
        """Have a blob of `source` in `name`; its size, None when it is not there."""
        if is_path(source):
            if self._quotas:
                try:
                    await self._quotas.check(name, await self.blobs.size(source, digest))
                except Refused as refused:
                    if refused.code == "DENIED":
                        raise
                    return None
            return await self.blobs.mount(name, source, digest)
        if source or not self._options.mount_from_anywhere:
            return None
        return await self.blobs.mount_from_anywhere(name, digest)

    async def _keep(self, call: Call, upload: Upload, digest: str) -> Response:
        size = await self.uploads.finish(upload, digest)
        self._quotas.add(upload.name, size)
        self._tell_of_blob(call, "push", upload.name, digest, size)
        return _created(upload.name, digest)

    async def _get_upload(self, target: Target, call: Call) -> Response:
        upload = await self.uploads.find(target.name, target.reference)
        return Response(204, self.uploads.headers(upload))

    async def _go_on_with_upload(self, target: Target, call: Call) -> Response:
        upload = await self.uploads.find(target.name, target.reference)
        await self._receive(upload, call.request)
        return Response(202, self.uploads.headers(upload))

    async def _receive(self, upload: Upload, request: Request) -> None:
        told = request.headers.get("Content-Range")
        start = None
        if told:
            found = _CONTENT_RANGE.fullmatch(told)
            if found is None or int(found[1]) > int(found[2]):
                raise Refused("RANGE_INVALID", told, headers=self.uploads.headers(upload))
            start = int(found[1])
            if request.length is not None and request.length != int(found[2]) - start + 1:
                raise Refused("SIZE_INVALID", told)
        await self.uploads.receive(upload, self._pieces(upload, request.body), start)

    async def _pieces(self, upload: Upload, body: Body) -> AsyncIterator[bytes]:
        """What comes. Raises Refused as soon as it is too much."""
        await self._quotas.check(upload.name, upload.size)
        async for piece in _pieces(body):
            self._metrics.count("registry_blob_received_bytes_total", len(piece))
            yield piece
            room = self._quotas.room(upload.name)
            if room is not None and upload.size > room:
                await self._quotas.check(upload.name, upload.size)

    async def _finish_upload(self, target: Target, call: Call) -> Response:
        digest = target.parameter("digest")
        if not is_digest(digest):
            raise Refused("DIGEST_INVALID", digest or "digest missing")
        upload = await self.uploads.find(target.name, target.reference)
        await self._receive(upload, call.request)
        return await self._keep(call, upload, digest)

    async def _cancel_upload(self, target: Target, call: Call) -> Response:
        upload = await self.uploads.find(target.name, target.reference)
        await self.uploads.cancel(upload)
        return Response(204, {"Docker-Upload-UUID": target.reference})


class PiecesResponse(StreamResponse):
    """A response whose body comes from a storage that has no files."""

    def __init__(self, pieces: AsyncIterator[bytes], count: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(status, headers)
        self._pieces = pieces
        self._count = count

    async def prepare(self, request: Request) -> None:
        """Send all of it."""
        if self._request is not None:
            return
        self.announce(request, self._count)
        if request.method == "HEAD":
            return
        left = self._count
        async for piece in self._pieces:
            left -= len(piece)
            await self.write(piece)
        if left:
            raise OSError("the storage has given less than it has announced")


def _created(name: str, digest: str) -> Response:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return Response(201, headers)


def _json(value: Any, headers: dict[str, str], content_type: str = "application/json") -> Response:
    return Response(200, headers, content_type, msgspec.json.encode(value))


def _page(names: list[str], count: int | None, last: str, limit: int) -> tuple[list[str], bool]:
    """(Those that are asked for, at most `limit` if that is not 0; whether there are more)."""
    rest = [name for name in names if name > last] if last else names
    if limit > 0:
        count = limit if count is None else min(count, limit)
    if count is None:
        return rest, False
    return rest[:count], 0 < count < len(rest)


def _next(path: str, page: list[str], more: bool) -> dict[str, str]:
    if not more:
        return {}
    query = urlencode({"n": len(page), "last": page[-1]})
    return {"Link": f'<{path}?{query}>; rel="next"'}


def _matches(request: Request, digest: str) -> bool:
    """Whether the client has it already (If-None-Match)."""
    known = request.headers.get("If-None-Match")
    return bool(known) and any(one.strip().removeprefix("W/").strip('"') == digest for one in known.split(","))


def blob_headers(digest: str) -> dict[str, str]:
    """What is said of a blob."""
    return {
        "Docker-Content-Digest": digest,
        "Etag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Cache-Control": "max-age=31536000",  # it will never be another
    }


def part_of(request: Request, size: int, headers: dict[str, str]) -> tuple[int, int, int]:
    """(Status, start, length) of what the request wants of a blob; `headers` come to say so. Raises Refused."""
    part = _range(request.headers.get("Range"), size)
    if part is None:
        return 200, 0, size
    start, count = part
    headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
    return 206, start, count


def _range(header: str, size: int) -> tuple[int, int] | None:
    """(Start, length) of the part that is asked for (RFC 9110, 14.2); None: all. Raises Refused."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[0] == "bytes=-":
        return None  # several parts, or another unit: all of it is as good an answer
    if not found[1]:
        length = min(int(found[2]), size)
        start = size - length
    else:
        start = int(found[1])
        end = min(int(found[2]), size - 1) if found[2] else size - 1
        length = end - start + 1
    if start >= size or length <= 0:
        raise Refused("RANGE_INVALID", header, headers={"Content-Range": f"bytes */{size}"})
    return start, length


async def _whole(body: Body, limit: int) -> bytes:
    """A body that is kept in memory. Raises Refused."""
    found = b""
    async for piece in _pieces(body):
        found += piece
        if len(found) > limit:
            raise Refused("MANIFEST_INVALID", f"it is larger than {limit} bytes", status=413)
    return found


async def _pieces(body: Body) -> AsyncIterator[bytes]:
    """What comes. Raises ConnectionError when the client goes away, Refused when what it sends is malformed."""
    try:
        while piece := await body.readany():
            yield piece
    except InvalidParameter as error:
        raise Refused("BLOB_UPLOAD_INVALID", error.message, status=400) from None
