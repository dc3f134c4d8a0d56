"""What URLs and git repositories lead to, as sources: fetched once in a build, told apart by their contents."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

from dockyard.builder import context as contexts
from dockyard.builder.archives import uncompressed
from dockyard.builder.graph.vertex import Files, Result, Vertex
from dockyard.builder.sources.addresses import redacted
from dockyard.builder.sources.http_headers import login_headers
from dockyard.builder.trees import ArchiveFile, ArchiveTree
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.dockerfile import git_source
from dockyard.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from dockyard.builder.graph.client import ClientSide
    from dockyard.builder.graph.work import Work


UNNAMED = "__unnamed__"  # a file behind a URL that ends without a name
HEADER, TOKEN = "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"  # secrets (BuildKit, source/git)


class Download(Vertex):
    """The file behind a URL; `checksum`: what its digest has to be, "" for anything.

    `file_name`: what it is called in its tree, "" for as the server calls it; `owner`: user and group. `secret`: which
    one of the client's is its login for the server, "" for the one of that host.
    """

    def __init__(
        self,
        name: str,
        url: str,
        checksum: str = "",
        *,
        file_name: str = "",
        mode: int = 0o600,
        owner: tuple[int, int] = (0, 0),
        headers: Mapping[str, str] | None = None,
        secret: str = "",
    ) -> None:
        super().__init__(name.replace(url, redacted(url)))
        self.url = url
        self.checksum = checksum
        self._file_name = file_name
        self._mode = mode
        self._owner = owner
        self._headers = dict(headers or {})
        self._secret = secret
        self.found = ""  # the digest of what was there, hexadecimal

    def source(self) -> tuple[str, dict[str, str]]:
        return self.url, {"http.checksum": self.checksum} if self.checksum else {}

    def definition(self) -> str:
        return repr((self.url, self.checksum))

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        headers = self._headers | await login_headers(work.job.client, self.url, self._secret)
        file, _, name, time_ns = await contexts.fetch(self.url, work.solver.folder, headers)
        work.job.closing.append(file.close)
        self.found = await asyncio.to_thread(_digest, file)
        if self.checksum and f"sha256:{self.found}" != self.checksum:
            raise InvalidParameter(f"digest mismatch sha256:{self.found}: {self.checksum}")
        tree = ArchiveTree()
        entry = Entry("", tar_format.REGULAR, self._mode, *self._owner, size=file.seek(0, 2), mtime_ns=time_ns)
        tree.root.inner[self._file_name or name or UNNAMED] = ArchiveFile(entry, file, 0)
        return Files(tree)


class RemoteContext(Vertex):
    """A build's context behind a URL or on the client's standard input: a tar archive, or a Dockerfile alone.

    `upload`: the client's own name for what it sends, None for a URL.
    """

    def __init__(self, name: str, client: ClientSide, url: str, upload: str | None = None) -> None:
        super().__init__(name.replace(url, redacted(url)))
        self._client = client
        self.url = url
        self._upload = upload
        self.alone = False  # it was a Dockerfile and no archive
        self.found = ""  # the digest of what was behind the URL, hexadecimal

    def source(self) -> tuple[str, dict[str, str]] | None:
        return (self.url, {}) if self._upload is None else None

    def definition(self) -> str:
        return self.url

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        folder = work.solver.folder
        if self._upload is not None:
            file = await contexts.spool(self._client.upload(self._upload), folder)
        else:
            headers = await login_headers(self._client, self.url)
            file = (await contexts.fetch(self.url, folder, headers))[0]
            self.found = await asyncio.to_thread(_digest, file)
        try:
            plain = await asyncio.to_thread(uncompressed, file)
            if plain is None:
                tree = ArchiveTree()
                self.alone = True
                file.seek(0)
                tree.add("Dockerfile", file.read(contexts.LARGEST_DOCKERFILE))
                file.close()
                return Files(tree)
        except BaseException:
            file.close()
            raise
        work.job.closing.append(plain.close)
        return Files(await asyncio.to_thread(ArchiveTree, plain))


class Repository(Vertex):
    """The files of a git repository; `commit`: what has to be checked out, "" for anything."""

    def __init__(self, name: str, url: str, *, keep_git: bool = False, commit: str = "") -> None:
        super().__init__(name.replace(url, redacted(url)))
        self.url = url
        self.keep_git = keep_git
        self.commit = commit
        self.found = ""  # the commit that was checked out

    def source(self) -> tuple[str, dict[str, str]]:
        place = re.sub(r"^\w+://|^git@(?=[^/]+:)", "", self.url).replace(":", "/", 1 if "://" not in self.url else 0)
        return f"git://{place}", {"git.fullurl": self.url.partition("#")[0]}

    def definition(self) -> str:
        return repr((self.url, self.keep_git, self.commit))

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        archive, self.found = await contexts.git_archive(
            self.url,
            work.solver.folder,
            keep_git=self.keep_git,
            commit=self.commit,
            authorization=await _authorization(work.job.client, self.url),
        )
        work.job.closing.append(archive.close)
        return Files(await asyncio.to_thread(ArchiveTree, archive), self._identity())

    def _identity(self) -> str:
        """The commit and what was asked of it, where git's own files are among what was: no two clones are the same."""
        asked = git_source.parse(self.url)
        if not (self.keep_git or asked.keep_git):
            return ""
        return repr(("git", self.found, asked.directory, asked.submodules))


class Inside(Vertex):
    """A directory of a context from elsewhere, as a context."""

    hidden = True

    def __init__(self, context: Vertex, directory: str) -> None:
        super().__init__(f"[internal] {directory} of {context.name}", (context,))
        self.directory = directory

    def definition(self) -> str:
        return self.directory

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        files = inputs[0]
        assert isinstance(files, Files)
        found = files.tree.find(self.directory.strip("/"))
        if found is None or not found.directory:
            raise InvalidParameter(f"failed to solve: {self.directory}: not found")
        return Files(ArchiveTree(root=found), files.identity and f"{files.identity} {self.directory}")


async def _authorization(client: ClientSide, url: str) -> str:
    """The client's login for a git server: secrets of these names, for the host alone if they have it behind them."""
    if not url.startswith(("http://", "https://", "github.com/")):
        return ""
    host = urlsplit(url if "://" in url else f"https://{url}").netloc.rpartition("@")[2]
    for name in (f"{HEADER}.{host}", HEADER, f"{TOKEN}.{host}", TOKEN):
        try:
            value = await client.secret(name)
        except NotFound:  # there is no client any more who could have one
            return ""
        if value is None:
            continue
        if name.startswith(HEADER):
            return value.decode(errors="replace").strip()
        encoded = base64.b64encode(b"x-access-token:" + value.strip()).decode()
        return f"basic {encoded}"
    return ""


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
