"""The vertices that write files without a container: COPY, ADD, WORKDIR."""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from dockyard.builder import context as contexts
from dockyard.builder.copying import excluding, find_sources, source_checksum
from dockyard.builder.graph.vertex import Files, Result, Rootfs, Vertex, key_of
from dockyard.builder.layer_plan import PIECE, LayerPlan, Owner, Source
from dockyard.builder.owners import find_owner
from dockyard.builder.trees import ArchiveFile, ArchiveTree, Tree, components, walk
from dockyard.content.tar_format import Entry
from dockyard.dockerfile.dockerignore import BadPattern
from dockyard.dockerfile.file_mode import made_directory_mode, parse_mode
from dockyard.engine.images.layer_store import chain_of
from dockyard.errors import InvalidParameter
from dockyard.generators import from_thread

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work


MOST_FILES_NAMED = 200
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class From:
    """Some sources of a copy: `patterns` in the step's input `input`; `unpack`: archives are to be unpacked.

    `context`: it is the client's, and paths that lead out of it are refused. `fetched`: whatever it holds.
    """

    input: int
    patterns: tuple[str, ...]
    unpack: bool = False
    context: bool = False
    fetched: bool = False


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """What a COPY or ADD is to do. `destination` is absolute; `documents`: names and contents of in-line files."""

    word: str
    sources: tuple[From, ...]
    destination: str
    owner: str = ""
    mode: str = ""
    parents: bool = False
    excludes: tuple[str, ...] = ()
    documents: tuple[tuple[str, str], ...] = ()
    keeps_owners: bool = False
    # what is made lies over a base that is not looked at
    linked: bool = False


class Copy(Vertex):
    """Copies from its further inputs onto the first."""

    gives_unpacked = True

    def __init__(self, name: str, inputs: Sequence[Vertex], order: CopyOrder, *, line: int = 0) -> None:
        super().__init__(name, inputs, line=line)
        self.order = order
        self._files: dict[str, str] = {}  # what it copies, for who asks why it was not in the cache

    def definition(self) -> str:
        return repr(self.order) + (" owned" if self._owns_unpacked else "")

    @property
    def _owns_unpacked(self) -> bool:
        """Whether what an archive holds is given the owner that the copy says."""
        return self.gives_unpacked and bool(self.order.owner) and any(source.unpack for source in self.order.sources)

    def key(self, inputs: Sequence[Result]) -> str:
        if any(not isinstance(one, Rootfs) for one in inputs):
            return ""
        return key_of("copy", self.definition(), *(_chain(one) for one in inputs))

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        async with AsyncExitStack() as stack:
            sources = await self._sources(work, inputs, stack)
            digest = await asyncio.to_thread(source_checksum, sources, owners=self.order.keeps_owners)
            self._files = {"files": digest, **await asyncio.to_thread(_digests, sources)}
        order = self.order
        shape = [(source.patterns, source.unpack) for source in order.sources] if order.parents else []
        facts = repr((order.word, order.destination, order.owner, order.mode, order.parents, shape, order.linked))
        facts += " owned" if self._owns_unpacked else ""
        return key_of("copy-content", facts, _chain(inputs[0]), digest)

    def facts(self, inputs: Sequence[Result]) -> dict[str, str]:
        order = self.order
        about = {"owner": order.owner, "mode": order.mode, "destination": order.destination}
        return {"base": _chain(inputs[0]), **about, **self._files}

    async def _sources(self, work: Work, inputs: Sequence[Result], stack: AsyncExitStack) -> list[Source]:
        found: list[Source] = []
        if self.order.documents:
            inline = ArchiveTree()
            for name, content in self.order.documents:
                inline.add(name, content.encode(errors="surrogateescape"))
            found += find_sources(inline, [name for name, _ in self.order.documents], context=True, unpack=False)
        trees: dict[int, Tree] = {}
        for source in self.order.sources:
            if source.input not in trees:
                trees[source.input] = await self._tree(work, inputs[source.input], stack)
            tree = trees[source.input]
            # what a received context has under a name is known at once: a thread would take longer
            known = isinstance(tree, ArchiveTree) and not any(map(_WILD.search, source.patterns))
            look = partial(_find, tree, source, self.order)
            found += _identified(look() if known else await asyncio.to_thread(look), inputs[source.input])
        try:
            found = excluding(found, self.order.excludes)
        except BadPattern as error:
            raise InvalidParameter(str(error)) from None
        wild = any(_WILD.search(pattern) for source in self.order.sources for pattern in source.patterns)
        if not found and not self.order.excludes and not wild:  # a wildcard may match nothing (AllowEmptyWildcard)
            raise InvalidParameter("no source files were specified")
        return found

    @staticmethod
    async def _tree(work: Work, result: Result, stack: AsyncExitStack) -> Tree:
        if isinstance(result, Files):
            return result.tree
        tree = await stack.enter_async_context(work.tree(result))
        return tree if tree is not None else ArchiveTree()

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        order, base = self.order, inputs[0]
        assert isinstance(base, Rootfs)
        async with AsyncExitStack() as stack:
            sources = await self._sources(work, inputs, stack)
            below = await stack.enter_async_context(work.tree(base))
            owner = find_owner(order.owner, below) if order.owner else Owner(0, 0)
            # directories on the way may be there in a base that is not looked at, where they have to stay usable
            made = 0o755 if order.linked else made_directory_mode(order.mode)
            plan = stack.enter_context(closing(LayerPlan(below, owner, made)))
            plan.unpacked_owner = owner if self._owns_unpacked else None
            mode = parse_mode(order.mode)
            own = None if order.keeps_owners and not order.owner else owner

            pieces = plan.pieces()

            def lay_out() -> bytes:
                for source in sources:
                    for place, folder in source.above:
                        plan.add_folder(folder, posixpath.join(order.destination, place), own, mode)
                    place = posixpath.join(order.destination, source.place) if source.place else order.destination
                    plan.add(source, place, own, mode)
                return next(pieces)

            layer = _layer(await asyncio.to_thread(lay_out), pieces)
            return work.keep(await work.solver.layers.register(base.chain_id, layer), base)


async def _layer(first: bytes, others: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A layer's archive, whose first piece is made already; a small one has no other."""
    yield first
    if len(first) >= PIECE:
        async for piece in from_thread(others):
            yield piece


def _digests(sources: list[Source]) -> dict[str, str]:
    """What the sources hold, as far as it is known anyway and can be kept: {`file NAME`: the beginning of a digest}."""
    found: dict[str, str] = {}
    for source in sources:
        for place, file in walk(source.file):
            if len(found) >= MOST_FILES_NAMED:
                return found
            if isinstance(file, ArchiveFile) and file.digest is not None:
                found[f"file {posixpath.normpath(posixpath.join(source.name, place))}"] = file.digest.hex()[:12]
    return found


def _identified(sources: list[Source], result: Result) -> list[Source]:
    """Those that are all that a context is, known by what that is known by."""
    if not isinstance(result, Files) or not result.identity:
        return sources
    return [replace(one, identity=result.identity) if one.file is result.tree.root else one for one in sources]


def _find(tree: Tree, source: From, order: CopyOrder) -> list[Source]:
    if source.fetched:
        root = tree.find("")
        assert root is not None
        patterns = ["."] if source.patterns == (".",) else sorted(root.children())
    else:
        patterns = list(source.patterns)
    if not order.parents:
        return find_sources(tree, patterns, context=source.context, unpack=source.unpack, lenient=True)
    found: list[Source] = []
    for pattern in patterns:
        # what is before "/./" in a source is not repeated at the destination
        before, pivot, after = pattern.partition("/./")
        whole = f"{before}/{after}" if pivot else pattern
        depth = len(components(before)) if pivot else 0
        for one in find_sources(tree, [whole], context=source.context, unpack=False, deep=True, lenient=True):
            found.append(_with_parents(tree, one, depth))
    return found


def _with_parents(tree: Tree, source: Source, depth: int) -> Source:
    """A source that is copied with the directories above it, but for `depth` of them."""
    parts = components(source.name)
    above = []
    for height in range(depth + 1, len(parts)):
        folder = tree.find("/".join(parts[:height]))
        if folder is not None and folder.directory:
            above.append(("/".join(parts[depth:height]), folder))
    return replace(source, place="/".join(parts[depth:]), above=tuple(above))


class MakeDirectory(Vertex):
    """WORKDIR: a directory that is there afterwards. `owner`: as USER says it, of what is made; "" for root."""

    def __init__(
        self, name: str, base: Vertex, path: str, *, owner: str = "", line: int = 0, epoch: int | None = None
    ) -> None:
        """`epoch`: what it is dated, UNIX s; None for the time of its making."""
        super().__init__(name, (base,), line=line)
        self.path = path
        self.owner = owner
        self._time = None if epoch is None else epoch * 10**9

    def definition(self) -> str:
        dated = "" if self._time is None else f" @{self._time}"
        return f"{self.path} {self.owner}".rstrip() + dated

    def key(self, inputs: Sequence[Result]) -> str:
        return key_of("mkdir", self.definition(), _chain(inputs[0]))

    def facts(self, inputs: Sequence[Result]) -> dict[str, str]:
        return {"base": _chain(inputs[0]), "folder": self.path, "owner": self.owner}

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        base = inputs[0]
        assert isinstance(base, Rootfs)
        async with work.tree(base) as below:
            owner = find_owner(self.owner, below) if self.owner else Owner(0, 0)
            with closing(LayerPlan(below, owner)) as plan:
                plan.go_on(owner, 0o755, self._time)
                target = plan.resolve(self.path)
                if plan.is_directory(target):
                    return base
                plan.make_directories(target)
                return work.keep(await work.solver.layers.register(base.chain_id, from_thread(plan.pieces())), base)


class Stack(Vertex):
    """The layer of the second input on top of the first, which need not be known when that is made (COPY --link).

    Directories on the way to the `destination` stay as the first has them.
    """

    hidden = True

    def __init__(self, base: Vertex, copy: Vertex, destination: str = "/") -> None:
        super().__init__(copy.name, (base, copy))
        self.destination = destination

    def definition(self) -> str:
        return self.destination

    def key(self, inputs: Sequence[Result]) -> str:
        return key_of("stack", self.definition(), *(_chain(one) for one in inputs))

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        base, copy = inputs
        assert isinstance(base, Rootfs)
        assert isinstance(copy, Rootfs)
        if not copy.diff_ids:
            return base
        layers, own = work.solver.layers, copy.chain_id
        assert own is not None
        kept = await self._kept(work, base, copy)
        if kept:  # so it is a layer for this base alone
            with ExitStack() as stack:
                archive = stack.enter_context(await contexts.spool(layers.pack(own), work.solver.folder))
                plan = stack.enter_context(closing(LayerPlan(None)))
                await asyncio.to_thread(plan.merge, archive, below=False)
                plan.keep_directories(kept)
                layer = await layers.register(base.chain_id, from_thread(plan.pieces()))
            return replace(work.keep(layer), created=copy.created)
        chain_id = chain_of(base.chain_id, copy.diff_ids[-1])
        layer = await layers.register(base.chain_id, layers.pack(own), diff_id=copy.diff_ids[-1], chain_id=chain_id)
        return replace(work.keep(layer), created=copy.created)

    async def _kept(self, work: Work, base: Rootfs, copy: Rootfs) -> dict[str, Entry]:
        """The base's directories on the way that the copy would change, by their places."""
        found: dict[str, Entry] = {}
        parts = components(self.destination)
        async with work.tree(base) as below, work.tree(copy) as above:
            for height in range(1, len(parts) + 1 if below is not None and above is not None else 0):
                place = "/" + "/".join(parts[:height])
                here, there = below.find(place, follow=False), above.find(place, follow=False)
                if here is None or there is None or not (here.directory and there.directory):
                    break
                if _attributes(here.entry) != _attributes(there.entry):
                    found[place] = here.entry
        return found


def _attributes(entry: Entry) -> tuple[int, int, int, dict[str, bytes]]:
    return entry.mode & 0o7777, entry.uid, entry.gid, dict(entry.xattrs)


class Selection(Vertex):
    """Files of a context as layers, so that they can be mounted; what is selected lies at the top."""

    hidden = True

    def __init__(self, source: Vertex, path: str) -> None:
        super().__init__(f"[internal] {path} of {source.name}", (source,))
        self.path = path

    def definition(self) -> str:
        return self.path

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        sources = await asyncio.to_thread(self._sources, inputs)
        return key_of("selection", self.path, await asyncio.to_thread(source_checksum, sources, owners=False))

    def _sources(self, inputs: Sequence[Result]) -> list[Source]:
        files = inputs[0]
        assert isinstance(files, Files)
        return find_sources(files.tree, [self.path], context=True, unpack=False)

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        sources = await asyncio.to_thread(self._sources, inputs)
        with closing(LayerPlan(None, Owner(0, 0))) as plan:

            def lay_out() -> None:
                for source in sources:
                    place = "/" if source.file.directory else posixpath.join("/", posixpath.basename(source.name))
                    plan.add(source, place, Owner(0, 0), None)

            await asyncio.to_thread(lay_out)
            return work.keep(await work.solver.layers.register(None, from_thread(plan.pieces())))


def _chain(result: Result) -> str:
    return (result.chain_id or "scratch") if isinstance(result, Rootfs) else ""
