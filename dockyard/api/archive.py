"""/containers/{id:path}/archive, /export and /changes: files in and out of containers."""

import base64
import stat
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api.router import COMMON_HEADERS, Call, Route, json_response
from dockyard.api.services import Services
from dockyard.api.system import rfc3339
from dockyard.engine.containers.archive import ArchiveService, PathStat

STAT_HEADER = "X-Docker-Container-Path-Stat"
# Go's os.FileMode, which the header speaks, for the kernel's st_mode.
GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def routes(services: Services) -> list[Route]:
    """Operations on the files of containers."""
    archive = Archive(services)
    return [
        Route("HEAD", "/containers/{id:path}/archive", archive.head),
        Route("GET", "/containers/{id:path}/archive", archive.get),
        Route("PUT", "/containers/{id:path}/archive", archive.put),
        Route("GET", "/containers/{id:path}/export", archive.export),
        Route("GET", "/containers/{id:path}/changes", archive.changes),
    ]


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    bits = sum(go for unix, go in GO_BITS.items() if mode & unix)
    return (mode & 0o777) | bits | GO_KINDS.get(stat.S_IFMT(mode), 0)


def stat_header(found: PathStat) -> str:
    """The value of STAT_HEADER."""
    facts: dict[str, Any] = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": rfc3339(found.mtime_ns),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(msgspec.json.encode(facts)).decode()


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise errors.InvalidParameter("bad parameter: path cannot be empty")
    return path


class Archive:
    """Handlers of the operations on the files of containers."""

    def __init__(self, services: Services) -> None:
        self._archive: ArchiveService = services.archive

    async def head(self, call: Call) -> web.StreamResponse:
        found = await self._archive.stat(call.params["id"], _path(call))
        return web.Response(headers={STAT_HEADER: stat_header(found)})

    async def get(self, call: Call) -> web.StreamResponse:
        async with self._archive.read(call.params["id"], _path(call)) as (found, pieces):
            return await send_archive(call, pieces, {STAT_HEADER: stat_header(found)})

    async def put(self, call: Call) -> web.StreamResponse:
        await self._archive.write(
            call.params["id"],
            _path(call),
            call.chunks(),
            keep_directories=call.flag("noOverwriteDirNonDir"),
            take_owner=call.flag("copyUIDGID"),
        )
        return web.Response(headers=COMMON_HEADERS)

    async def export(self, call: Call) -> web.StreamResponse:
        async with self._archive.export(call.params["id"]) as pieces:
            return await send_archive(call, pieces, {}, "application/octet-stream")

    async def changes(self, call: Call) -> web.StreamResponse:
        changes = await self._archive.changes(call.params["id"])
        return json_response([{"Path": change.path, "Kind": int(change.kind)} for change in changes] or None)


async def send_archive(
    call: Call, pieces: AsyncIterator[bytes], headers: dict[str, str], content_type: str = "application/x-tar"
) -> web.StreamResponse:
    """Stream an archive to the client."""
    first = await anext(pieces, b"")  # what goes wrong at once must still become a proper error
    response = await call.open_stream(content_type, headers=headers)
    await response.write(first)
    async for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response
