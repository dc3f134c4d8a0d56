"""Files in and out of a container, running or not: `container.files`. Nothing needs to be installed in it."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client.errors import ClientError, NotFound
from dockyard.client.framing import Pieces
from dockyard.client.modes import M, Resource, operation
from dockyard.client.session import PATIENT
from dockyard.client.streams import Stream
from dockyard.client.urls import path as request_path
from dockyard.oci.quick_json import loads

if TYPE_CHECKING:
    import tarfile
    from collections.abc import AsyncIterable, Iterable, Iterator
    from typing import BinaryIO

    from dockyard.client.session import Exchange, Session

TAR = {"Content-Type": "application/x-tar"}
# Go's os.FileMode, which the API uses: the kind of a file is in bits of its own above the permissions.
GO_DIRECTORY, GO_LINK = 1 << 31, 1 << 27


class FileStat(NamedTuple):
    """What a path in a container is. `mode` is its permissions, `link` the target of a symbolic link."""

    name: str
    size: int
    mode: int
    modified: str  # RFC 3339
    link: str
    is_dir: bool
    is_link: bool


class Files(Resource[M]):
    """Files of one container."""

    def __init__(self, session: Session, container: str) -> None:
        super().__init__(session)
        self._container = container

    def _place(self, path: str, **query: Any) -> str:
        return request_path("/containers", self._container, "/archive", path=path, **query)

    @operation
    async def read(self, path: str) -> bytes:
        """The content of a file; symbolic links are followed. Raises NotFound, ClientError when it is no file."""
        data = await self._whole(path)
        found = _only_file(data)
        for _ in range(40):  # as many links as the kernel follows
            if isinstance(found, bytes):
                return found
            path = posixpath.join(posixpath.dirname(path), found)
            found = _only_file(await self._whole(path))
        raise ClientError(f"too many levels of symbolic links: {path}")

    async def _whole(self, path: str) -> bytes:
        return (await self._session.request("GET", self._place(path))).data

    @operation
    async def write(
        self, path: str, data: bytes | str, *, mode: int = 0o644, uid: int = 0, gid: int = 0, parents: bool = False
    ) -> None:
        """Make a file, or replace it. `parents` makes the folders above it too.

        Raises NotFound when there is no such folder, BadRequest when the container is read-only there.
        """
        content = data.encode() if isinstance(data, str) else data
        folder, name = posixpath.split(posixpath.normpath(path))
        missing: list[str] = []
        while parents and folder not in ("/", "") and await self._stat(folder) is None:
            folder, last = posixpath.split(folder)
            missing.insert(0, last)
        archive = _archive_of([*missing, name], content, mode, uid, gid)
        await self._session.request("PUT", self._place(folder or "/"), archive, headers=TAR)

    @operation
    async def put(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or folder from here into the container, as `docker cp SOURCE CONTAINER:TARGET` does.

        Into `target` if that is a folder; else as `target`. A `source` that ends in "/." gives its contents only.
        Owners become root; permissions and times are kept. Raises OSError, NotFound.
        """
        from dockyard.client.archive import Packing

        given = os.fspath(source)
        contents = given.endswith("/.")
        name = os.path.basename(os.path.abspath(given))
        os.stat(given)  # OSError now, not from the middle of a request
        there = await self._stat(target)
        if contents:
            folder, name = target, "."
            if there is None:
                folder, name = posixpath.split(posixpath.normpath(target))
        elif there is not None and there.is_dir:
            folder = target
        else:
            folder, name = posixpath.split(posixpath.normpath(target))
        packed = Packing(given.removesuffix("/."), name, owner=(0, 0))
        await self._session.request("PUT", self._place(folder or "/"), iter(packed), headers=TAR, timeout=PATIENT)

    @operation
    async def get(self, path: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or folder out of the container, as `docker cp CONTAINER:PATH TARGET` does.

        Into `target` if that is a folder; else as `target`. A `path` that ends in "/." gives its contents only.
        Nothing is written outside of `target`, whatever the container says. Raises NotFound, OSError, ArchiveError.
        """
        from dockyard.client.archive import unpack

        place = os.fspath(target)
        contents = path.endswith("/.")
        into = os.path.isdir(place)
        if contents and not into:
            os.mkdir(place)
            into = True
        exchange = await self._session.open("GET", self._place(path), timeout=PATIENT)
        try:
            await self._session.dialer.digest(
                exchange.read, lambda pieces: unpack(pieces, place, into=into, contents=contents)
            )
        finally:
            exchange.close()

    @operation
    async def stat(self, path: str) -> FileStat:
        """What a path is; symbolic links are not followed. Raises NotFound."""
        found = await self._stat(path)
        if found is None:
            raise NotFound(404, f"Could not find the file {path} in container {self._container}")
        return found

    @operation
    async def exists(self, path: str) -> bool:
        """Whether there is such a path."""
        return await self._stat(path) is not None

    async def _stat(self, path: str) -> FileStat | None:
        import binascii

        try:
            reply = await self._session.request("HEAD", self._place(path))
        except NotFound:
            return None
        found = loads(binascii.a2b_base64(reply.headers["x-docker-container-path-stat"]))
        mode = int(found["mode"])
        return FileStat(
            found["name"],
            found["size"],
            mode & 0o777,
            found["mtime"],
            found["linkTarget"],
            bool(mode & GO_DIRECTORY),
            bool(mode & GO_LINK),
        )

    @operation
    async def glob(self, pattern: str) -> list[str]:
        """The paths that match a shell's pattern, in their order. Dockyard's own: other engines answer NotFound."""
        place = request_path("/dockyard/glob", of=self._container, path=pattern)
        found: list[str] = (await self._session.request("GET", place)).json()["Matches"]
        return found

    def get_archive(self, path: str) -> Stream[bytes, M]:
        """A file or folder as pieces of a tar archive, its last name at the top. Raises NotFound at the first."""

        async def begin() -> Exchange:
            return await self._session.open("GET", self._place(path), timeout=PATIENT)

        return Stream(self._session, begin, lambda _: Pieces())

    @operation
    async def put_archive(
        self,
        path: str,
        archive: bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes],
        *,
        keep_owners: bool = False,
        overwrite: bool = True,
    ) -> None:
        """Unpack a tar archive, plain or compressed, in the folder `path`.

        `overwrite=False` refuses to replace a folder by a file or the other way round. Raises NotFound, BadRequest.
        """
        place = self._place(path, copyUIDGID=keep_owners, noOverwriteDirNonDir=not overwrite)
        await self._session.request("PUT", place, body_of(archive), headers=TAR, timeout=PATIENT)


def body_of(data: bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]) -> Any:
    """A file object as pieces; bytes and pieces as they are."""
    if hasattr(data, "read"):
        file: Any = data
        return _pieces_of(file)
    return data


def _pieces_of(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(1 << 18):
        yield piece


def _only_file(archive: bytes) -> bytes | str:
    """The content of the file that an archive of one path holds, or the target of the symbolic link."""
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.next()
        if member is not None and member.issym():
            return member.linkname
        content = tar.extractfile(member) if member is not None and member.isreg() else None
        if content is None:
            raise ClientError(f"{member.name if member else 'that'} is not a file")
        return content.read()


def _archive_of(parts: list[str], content: bytes, mode: int, uid: int, gid: int) -> bytes:
    """A tar archive of one file, below folders that are to be made."""
    import io
    import tarfile
    import time

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for depth in range(1, len(parts) + 1):
            member: tarfile.TarInfo = tarfile.TarInfo("/".join(parts[:depth]))
            member.uid, member.gid, member.mtime = uid, gid, int(time.time())
            if depth < len(parts):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.mode, member.size = mode, len(content)
                tar.addfile(member, io.BytesIO(content))
    return data.getvalue()
