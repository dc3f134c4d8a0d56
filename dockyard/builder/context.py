"""The build context: what the client sent, or what a URL leads to, as a tree of files with a Dockerfile in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from dockyard.builder.archives import uncompressed
from dockyard.builder.trees import ArchiveTree
from dockyard.content import download
from dockyard.dockerfile import git_source
from dockyard.dockerfile.dockerignore import BadPattern, IgnoreRules
from dockyard.errors import InvalidParameter, SystemFailure, Unavailable

DEFAULT = "Dockerfile"
LARGEST_DOCKERFILE = 8 << 20


class Context:
    """A tree to build from and the text of its Dockerfile (called `dockerfile_name` in messages)."""

    def __init__(
        self, tree: ArchiveTree, dockerfile: str, dockerfile_name: str, archive: BinaryIO | None = None
    ) -> None:
        """`archive` holds the tree's files; it is the context's from here on."""
        self.tree = tree
        self.dockerfile = dockerfile
        self.dockerfile_name = dockerfile_name
        self._archive = archive

    def close(self) -> None:
        """Let go of the files; whatever still looks at the tree, nothing can be read there any more."""
        if self._archive is not None:
            self._archive.close()


async def spool(chunks: AsyncIterator[bytes], folder: Path) -> BinaryIO:
    """Keep a stream in a nameless file in `folder`, where no crash can leave it behind."""
    file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115  (returned open)
    try:
        async for chunk in chunks:
            file.write(chunk)
        file.flush()
        return file
    except BaseException:
        file.close()
        raise


async def from_archive(file: BinaryIO, dockerfile: str) -> Context:
    """The context in a tar archive, compressed or not; `dockerfile` is the path in it, "" for the usual one.

    `file` is the context's from here on, and closed when there is none.
    """

    def read() -> Context:
        archive = file
        try:
            if file.seek(0, os.SEEK_END) == 0:
                return _context(ArchiveTree(), dockerfile, file)
            plain = uncompressed(file)
            if plain is None:
                raise InvalidParameter("the build context is not a tar archive")
            archive = plain
            return _context(ArchiveTree(plain), dockerfile, plain)
        except BaseException:
            file.close()
            archive.close()
            raise

    reading = asyncio.ensure_future(asyncio.to_thread(read))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        reading.add_done_callback(_close_context)  # the thread reads on
        raise


def _close_context(reading: asyncio.Future[Context]) -> None:
    if not reading.cancelled() and reading.exception() is None:
        reading.result().close()


def _context(tree: ArchiveTree, dockerfile: str, archive: BinaryIO | None = None) -> Context:
    name = dockerfile or DEFAULT
    found = tree.find(name)
    if found is None and not dockerfile:
        found = tree.find(DEFAULT.lower())
        name = DEFAULT.lower() if found is not None else name
    if found is None or found.directory:
        raise InvalidParameter(f"Cannot locate specified Dockerfile: {name}")
    if found.entry.size > LARGEST_DOCKERFILE:
        raise InvalidParameter(f"the Dockerfile ({name}) is too large")
    text = b"".join(found.read()).decode(errors="replace")
    hide_ignored(tree, name)
    return Context(tree, text, name, archive)


def hide_ignored(tree: ArchiveTree, name: str) -> None:
    """Take the Dockerfile `name` and .dockerignore out of a context if that says so. Raises InvalidParameter."""
    ignore = tree.find(".dockerignore")
    if ignore is not None and not ignore.directory:
        # A client sends these two even when they are to be ignored, for the builder needs them; no COPY may see them.
        try:
            rules = IgnoreRules.parse(b"".join(ignore.read()).decode(errors="replace"))
        except BadPattern as error:
            raise InvalidParameter(f"failed to read .dockerignore: {error}") from None
        for path in (".dockerignore", name):
            if rules.excludes(path):
                tree.remove(path)


async def from_url(url: str, dockerfile: str, folder: Path, say: Callable[[str], None]) -> Context:
    """The context that a URL leads to: a git repository, a tar archive, or a Dockerfile alone."""
    if git_source.is_git(url):
        return await from_archive((await git_archive(url, folder))[0], dockerfile)
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"remoteURL ({url}) could not be recognized as URL")
    say(f"Downloading build context from remote url: {url}\n")
    file, kind, _, _ = await fetch(url, folder)
    file.seek(0)
    head = file.read(512)
    if not kind.startswith("text/plain") or head[257:262] == b"ustar":
        try:
            plain = await asyncio.to_thread(uncompressed, file)
        except BaseException:
            file.close()
            raise
        if plain is not None:
            return await from_archive(plain, dockerfile)
    with file:
        file.seek(0)
        text = file.read(LARGEST_DOCKERFILE)
    tree = ArchiveTree()
    tree.add(DEFAULT, text)
    return _context(tree, "")


async def fetch(url: str, folder: Path, headers: Mapping[str, str] | None = None) -> tuple[BinaryIO, str, str, int]:
    """Fetch a URL, with further headers: (a file with it, its content type, the name for it, UNIX ns or 0)."""
    from email.utils import parsedate_to_datetime

    async with download.opened(url, headers=headers) as found:
        name = posix_name(unquote(urlsplit(url).path)) or posix_name(found.file_name)
        file = await spool(found.pieces(), folder)
        time_ns = 0
        if found.last_modified:
            try:
                time_ns = int(parsedate_to_datetime(found.last_modified).timestamp()) * 1_000_000_000
            except ValueError:
                time_ns = 0
        return file, found.content_type, name, time_ns


def posix_name(path: str) -> str:
    """The last component of a path that is a safe file name; "" when there is none."""
    name = path.rpartition("/")[2]
    return "" if name in (".", "..") or "\0" in name else name


async def git_archive(
    url: str, folder: Path, *, keep_git: bool = False, commit: str = "", authorization: str = ""
) -> tuple[BinaryIO, str]:
    """The files at a git address as a nameless tar archive, those of submodules too, and the commit; by the host's git.

    With `keep_git`, or where the address says so, those of git itself too; `commit`: what has to be checked out, "" for
    anything; `authorization`: the HTTP header of that name for the repository's server. Raises InvalidParameter.
    """
    try:
        source = git_source.parse(url)
        if commit and source.commit and commit != source.commit:
            raise ValueError(f'checksum conflicts: "{commit}" vs "{source.commit}"')
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    program = shutil.which("git")
    if program is None:
        raise SystemFailure("unable to find 'git' on this host: it is needed for a git context")
    git = Git(program, git_header(source.repository, authorization))
    clone = Path(tempfile.mkdtemp(prefix="git-", dir=folder))
    bounds = download.BOUNDS
    try:
        async with asyncio.timeout(bounds.whole):
            wanted = commit or source.commit
            exact = wanted if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", wanted) else ""
            await _clone(git, clone, source.repository, source.reference or exact or "HEAD")
            head = (await _git(git, clone, "rev-parse", "HEAD")).strip()
            # of a tag with a text of its own, which is an object beside the commit, either will do
            fetched = (await _git(git, clone, "rev-parse", "FETCH_HEAD")).strip() if wanted else head
            if not head.startswith(wanted) and not fetched.startswith(wanted):
                raise InvalidParameter(f"expected checksum to match {wanted}, got {head}")
            if source.submodules and (clone / ".gitmodules").is_file():
                await _deep_or_whole(git, clone, "submodule", "update", "--init", "--recursive", "--depth=1", "--quiet")
            try:
                top = await asyncio.to_thread(git_source.top, clone, source.directory)
            except ValueError as error:
                raise InvalidParameter(str(error)) from None
            return await _packed(top, folder, keep_git=keep_git or bool(source.keep_git)), head
    except TimeoutError:
        raise Unavailable(f"cannot fetch {source.repository}: it has not ended for {bounds.whole:.0f} s") from None
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, clone, True))


# How a fetch fails from a repository whose digests are of another kind: with a server that says so, and one that can't.
_OTHER_DIGESTS = ("mismatched algorithms", "did not send all necessary objects")


async def _clone(git: Git, clone: Path, repository: str, reference: str) -> None:
    """Fetch and check out, whichever digests the repository is made with. Raises InvalidParameter."""
    for kind in ("sha1", "sha256"):
        await _git(git, clone, "init", "--quiet", f"--object-format={kind}")
        await _git(git, clone, "remote", "add", "origin", repository)
        try:
            await _fetch(git, clone, reference)
            return
        except InvalidParameter as error:
            if kind == "sha256" or not any(text in str(error) for text in _OTHER_DIGESTS):
                raise
            await asyncio.to_thread(shutil.rmtree, clone / ".git")


class Git(NamedTuple):
    """The host's git, and settings in its environment, which nobody else can read."""

    program: str
    settings: Mapping[str, str]


def git_header(repository: str, authorization: str) -> dict[str, str]:
    """Settings by which git sends a header to the repository's server, and to no other."""
    parts = urlsplit(repository)
    if not authorization or parts.scheme not in ("http", "https") or "\n" in authorization:
        return {}
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{where}.extraheader",
        "GIT_CONFIG_VALUE_0": f"Authorization: {authorization}",
    }


async def _fetch(git: Git, clone: Path, reference: str) -> None:
    """Fetch and check out a branch, a tag or a commit. Raises InvalidParameter."""
    commit = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", reference)
    try:
        await _git(git, clone, "fetch", "--quiet", "--depth=1", "--", "origin", reference)
    except InvalidParameter as error:
        if commit is not None:
            # a server may give commits only as parts of its branches and tags
            everything = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
            await _git(git, clone, "fetch", "--quiet", "--", "origin", *everything)
            await _git(git, clone, "checkout", "--quiet", "--detach", reference)
            return
        if not _knows_no_depth(error):
            raise _absent(error, reference) from None
        try:
            await _git(git, clone, "fetch", "--quiet", "--", "origin", reference)
        except InvalidParameter as failure:
            raise _absent(failure, reference) from None
    await _git(git, clone, "checkout", "--quiet", "FETCH_HEAD")


def _absent(error: InvalidParameter, reference: str) -> InvalidParameter:
    """The error for a reference that is not there; `error` itself for another one."""
    if "couldn't find remote ref" not in str(error):
        return error
    said = str(error).partition(": ")[2]
    return InvalidParameter(f"repository does not contain ref {reference}, output: {said!r}")


def _knows_no_depth(error: InvalidParameter) -> bool:
    """Whether a server has no shallow clones: it is no more than files behind HTTP."""
    return "does not support shallow" in str(error)


async def _deep_or_whole(git: Git, clone: Path, *arguments: str) -> None:
    """Run git with `--depth=1`, without where the server knows no such thing (files behind HTTP)."""
    try:
        await _git(git, clone, *arguments)
    except InvalidParameter as error:
        if not _knows_no_depth(error):
            raise
        await _git(git, clone, *(one for one in arguments if one != "--depth=1"))


async def _packed(top: str, folder: Path, *, keep_git: bool) -> BinaryIO:
    """The files of a checked out repository as a nameless tar archive in `folder`."""
    file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (returned open)
    try:
        left_out = [] if keep_git else ["--exclude=.git"]  # of submodules, too
        tar = await asyncio.create_subprocess_exec("tar", "-C", top, *left_out, "-c", ".", stdout=file)
        try:
            if await tar.wait() != 0:
                raise SystemFailure("cannot read the git context")
        except asyncio.CancelledError:
            tar.kill()
            await tar.wait()
            raise
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


async def _git(git: Git, clone: Path, *arguments: str) -> str:
    """Run git in `clone`; what it prints. Raises InvalidParameter with what it says when it fails."""
    # Only protocols that fetch: `ext::` and `file://` would let a client run commands or read the host's repositories.
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(clone),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": f"{download.BOUNDS.silence:.0f}",
        **git.settings,
    }
    process = await asyncio.create_subprocess_exec(
        git.program, "-C", str(clone), "-c", "core.symlinks=true", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with contextlib.suppress(ProcessLookupError):  # it may have done already
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (download.BOUNDS.size, download.BOUNDS.size))
        printed, said, _ = await asyncio.gather(_begin(process.stdout), _begin(process.stderr), process.wait())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
        await process.wait()
        raise
    if process.returncode != 0:
        host = urlsplit(arguments[-1]).hostname or ""
        raise InvalidParameter(f"error fetching {host}: {said.decode(errors='replace').strip()}")
    return printed.decode(errors="replace")


async def _begin(stream: asyncio.StreamReader) -> bytes:
    """The first 64 KiB of what comes, to its end: git hands on what a server says, as much as that is."""
    kept = b""
    while piece := await stream.read(1 << 16):
        kept += piece[: (1 << 16) - len(kept)]
    return kept
