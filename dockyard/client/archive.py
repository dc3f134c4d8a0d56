"""Tar archives on their way to and from the engine: packed and unpacked as a stream, never whole in memory."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading

from dockyard.client.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

CHUNK = 1 << 18


class _Pieces(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                return 0
        view = memoryview(buffer)
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def unpack(pieces: Iterator[bytes], target: str, *, into: bool, contents: bool, owners: bool = False) -> int:
    """Unpack what the engine sent below `target`; how many bytes the files have.

    `into` an existing folder, under the names in the archive (or, with `contents`, without the first part of them);
    otherwise the first name is replaced by the target's. `owners` keeps the archive's, which root may.
    """
    place = os.path.abspath(target)
    base, new = (place, "") if into else os.path.split(place)
    size = 0
    with (
        _Folder(base) as folder,
        tarfile.open(fileobj=io.BufferedReader(_Pieces(pieces), CHUNK), mode="r|") as archive,
    ):
        first = True
        for member in archive:
            if first and not into and member.isdir() and os.path.lexists(place) and not os.path.isdir(place):
                raise ArchiveError("cannot copy directory")
            first = False
            name = _renamed(member.name, new, contents=contents and into)
            link = _renamed(member.linkname, new, contents=contents and into) if member.islnk() else member.linkname
            if name:
                folder.make(archive, member, name, link, owners=owners)
            size += member.size
    return size


def _renamed(name: str, new: str, *, contents: bool) -> str:
    top, _, below = name.strip("/").partition("/")
    return below if contents else f"{new or top}/{below}".rstrip("/")


class _Folder:
    """A folder that nothing gets out of: every part of a name is opened by itself and never through a symlink.

    The archive comes from a container, which may have put `x -> /etc` and then `x/passwd` into it (CVE-2019-14271 and
    its like). Python's own filter for that (PEP 706) is not in every release that we run on.
    """

    def __init__(self, path: str) -> None:
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def _open_parent(self, name: str) -> tuple[int, str]:
        *parents, last = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in (*parents, last):
            raise ArchiveError(f"refusing to unpack {name!r}: it leads outside")
        current = os.dup(self._root)
        for part in parents:
            try:
                following = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=current)
                following = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            except OSError:
                raise ArchiveError(f"refusing to unpack {name!r}: it leads through a symbolic link") from None
            finally:
                os.close(current)
            current = following
        return current, last

    def make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, link: str, *, owners: bool) -> None:
        """Make one member, in place of what is there unless both are folders."""
        parent, last = self._open_parent(name)
        try:
            self._clear(parent, last, member)
            if member.isdir():
                try:
                    os.mkdir(last, 0o755, dir_fd=parent)
                except FileExistsError:
                    pass  # and stays
            elif member.issym():
                os.symlink(link, last, dir_fd=parent)
            elif member.islnk():
                self._hard_link(link, parent, last)
                return
            elif member.isfifo() or member.ischr() or member.isblk():
                kind = stat.S_IFIFO if member.isfifo() else stat.S_IFCHR if member.ischr() else stat.S_IFBLK
                os.mknod(last, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
            else:
                self._regular(archive, member, parent, last)
            if owners:
                os.chown(last, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            if not member.issym():
                # the parent's descriptor and a last part that we have just made: no link can be followed
                os.chmod(last, member.mode & 0o7777, dir_fd=parent)
            os.utime(last, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    @staticmethod
    def _clear(parent: int, last: str, member: tarfile.TarInfo) -> None:
        try:
            mode = os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            if not member.isdir():
                raise ArchiveError(f"cannot overwrite directory {last!r} with non-directory")
        elif member.isdir():
            raise ArchiveError(f"cannot overwrite non-directory {last!r} with directory")
        else:
            os.unlink(last, dir_fd=parent)

    def _hard_link(self, link: str, parent: int, last: str) -> None:
        source, name = self._open_parent(link)
        try:
            os.link(name, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    @staticmethod
    def _regular(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, last: str) -> None:
        fd = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        with os.fdopen(fd, "wb") as file:
            content = archive.extractfile(member)
            assert content is not None
            while data := content.read(CHUNK):
                file.write(data)


class Packing:
    """A tree packed by a thread while its pieces are read: iterate over it.

    `size` is the files' bytes so far, `sent` those of the whole archive in the end.
    """

    def __init__(
        self,
        source: str,
        name: str,
        *,
        owner: tuple[int, int] | None = None,
        wanted: Callable[[str, bool], bool] | None = None,
        extra: dict[str, bytes] | None = None,
    ) -> None:
        """`source` is packed as `name`; "." means: its contents at the archive's top.

        `owner` replaces everybody's; `wanted(path, is_folder)` chooses; `extra` files are added at the end.
        """
        self.size = self.sent = 0
        self._source, self._name, self._owner = source, name, owner
        self._wanted, self._extra = wanted, extra or {}
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        reader, writer = os.pipe()
        thread = threading.Thread(target=self._pack, args=(writer,), daemon=True)
        thread.start()
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while data := pipe.read(CHUNK):
                yield data
        thread.join()
        if self._error is not None:
            raise self._error

    def _pack(self, writer: int) -> None:
        try:
            with os.fdopen(writer, "wb", CHUNK) as pipe, tarfile.open(fileobj=pipe, mode="w|") as archive:
                self._add_tree(archive)
                for name, data in self._extra.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                self.sent = archive.offset + 2 * tarfile.BLOCKSIZE  # and not the filling of the last record
        except BaseException as error:
            self._error = error  # raised where the pieces are read

    def _add_tree(self, archive: tarfile.TarFile) -> None:
        stack = [(self._source, self._name)]
        while stack:
            place, name = stack.pop()
            mode = os.lstat(place).st_mode
            if stat.S_ISSOCK(mode):
                continue  # tar has no word for it
            if stat.S_ISDIR(mode):
                for entry in sorted(os.listdir(place), reverse=True):
                    inside = entry if name == "." else f"{name}/{entry}"
                    child = os.path.join(place, entry)
                    is_folder = os.path.isdir(child) and not os.path.islink(child)
                    if self._wanted is None or self._wanted(inside, is_folder):
                        stack.append((child, inside))
            self._add(archive, place, name)

    def _add(self, archive: tarfile.TarFile, place: str, name: str) -> None:
        info = archive.gettarinfo(place, name)
        if self._owner is not None:
            info.uid, info.gid = self._owner
            info.uname = info.gname = ""
        if info.isreg():
            file: BinaryIO
            with open(place, "rb") as file:
                archive.addfile(info, file)
            self.size += info.size
        else:
            archive.addfile(info)
