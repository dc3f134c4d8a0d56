"""Files copied, made and removed without a container, several acts in one layer: what a definition of LLB asks for.

What an act means is BuildKit's (solver/llbsolver/file), which is not quite what COPY means: where a copy goes depends
on what is there, directories have to be there unless they are asked for, and links count as the act says.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from dockyard.builder.copying import SourceNotFound, excluding, find_sources, including, source_checksum
from dockyard.builder.graph.vertex import Files, Result, Rootfs, Vertex, key_of
from dockyard.builder.layer_plan import LayerPlan, Owner, Source
from dockyard.builder.owners import find_account, find_group
from dockyard.builder.trees import ArchiveFile, ArchiveTree, File, Tree
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.dockerfile.dockerignore import BadPattern, match
from dockyard.dockerfile.file_mode import ModeChange, parse_mode
from dockyard.errors import InvalidParameter
from dockyard.generators import from_thread

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work

ROOT = Owner(0, 0)
Trees = Mapping[int, Tree]  # by the number of the step's input


@dataclass(frozen=True, slots=True)
class Ownership:
    """To whom something is to belong: IDs, or names with the input in which they are looked up."""

    user: int | str | None = None
    user_input: int = 0
    group: int | str | None = None
    group_input: int = 0

    @property
    def inputs(self) -> tuple[int, ...]:
        """Where names are looked up."""
        users = (self.user_input,) if isinstance(self.user, str) else ()
        return (*users, self.group_input) if isinstance(self.group, str) else users

    def found(self, trees: Trees) -> Owner:
        """The IDs; a named user's group is that one's own. Raises InvalidParameter."""
        uid, gid = 0, 0
        if isinstance(self.user, str):
            uid, gid = find_account(self.user, trees.get(self.user_input))
        elif self.user is not None:
            uid = self.user
        if isinstance(self.group, str):
            gid = find_group(self.group, trees.get(self.group_input))
        elif self.group is not None:
            gid = self.group
        return Owner(uid, gid)


class Act(Protocol):
    """One thing to be done; `inputs`: the step's inputs that it looks at, but for the one that it is done to."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Their numbers."""

    def do(self, plan: LayerPlan, trees: Trees) -> None:
        """Do it. Raises InvalidParameter."""


@dataclass(frozen=True, slots=True)
class CopyFiles:
    """Copies `source` of the input `source_input`. `time_ns`: what the copies are dated, None for as they were.

    `contents`: of a directory what is in it is copied. `ways`: directories on the way there may be made.
    """

    source_input: int
    source: str
    destination: str
    owner: Ownership | None = None
    mode: str = ""
    contents: bool = False
    unpack: bool = False
    follow: bool = False
    ways: bool = False
    wildcard: bool = False
    nothing: bool = False
    time_ns: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    replace: bool = False
    fetched: bool = False

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.source_input, *(self.owner.inputs if self.owner is not None else ()))

    def sources(self, trees: Trees) -> list[Source]:
        """What is to be copied. Raises InvalidParameter, SourceNotFound."""
        tree, path = trees[self.source_input], posixpath.normpath(posixpath.join("/", self.source))
        if self.fetched:
            return _only_file(tree, path)
        if self.wildcard:
            found = [Source(place, file) for place, file in _matching(tree, path, self.follow)]
            if not found and not self.nothing:
                raise InvalidParameter(f"{path} not found")
        else:
            file = _look(tree, path, self.follow)
            if file is None:
                root = tree.find("")
                if root is None or not root.children():
                    raise InvalidParameter(f"lstat {path}: no such file or directory")
                raise SourceNotFound(f"stat {path}: no such file or directory", path.lstrip("/"))
            found = [Source(path, file)]
        try:
            return including(excluding(found, self.exclude), self.include)
        except BadPattern as error:
            raise InvalidParameter(str(error)) from None

    def do(self, plan: LayerPlan, trees: Trees) -> None:
        owner = self.owner.found(trees) if self.owner is not None else None
        mode = parse_mode(self.mode)
        made = int(self.mode, 8) if self.mode.isdigit() else 0o755
        plan.go_on(owner or ROOT, made, self.time_ns)
        plan.unpacked_owner = owner
        if not self.ways:
            parent = posixpath.dirname(plan.resolve(_clean(self.destination)))
            if not plan.exists(parent):
                raise InvalidParameter(f"failed to stat {self.destination}: lstat {parent}: no such file or directory")
        for source in self.sources(trees):
            self._copy(plan, source, owner, mode)

    def _copy(self, plan: LayerPlan, source: Source, owner: Owner | None, mode: ModeChange | None) -> None:
        target = plan.resolve(_clean(self.destination))
        if self.destination.endswith(("/", "/.")):
            plan.make_directories(target)
        if self.unpack and not source.file.directory and plan.unpack(source.file, target):
            return
        inside = plan.exists(target) and not self.contents if source.file.directory else plan.is_directory(target)
        if inside and posixpath.basename(source.name):
            target = posixpath.join(target, posixpath.basename(source.name))
        self._check_kinds(plan, source.file, target)
        if source.file.directory and not self.contents:
            plan.put_tree(source.file, target, owner, mode)
            return
        plan.add(replace(source, name=posixpath.basename(target), unpack=False), target, owner, mode)

    def _check_kinds(self, plan: LayerPlan, file: File, target: str) -> None:
        there = plan.entry(target)
        if there is None or (there.kind == tar_format.DIRECTORY) == file.directory:
            return
        if not self.replace:
            said = "cannot copy to non-directory" if file.directory else "cannot replace to directory"
            verb = f"{said}: {target}" if file.directory else f"{said} {target} with file"
            raise InvalidParameter(verb)
        plan.remove(target)


@dataclass(frozen=True, slots=True)
class MakeFile:
    """Writes a file; one that is there keeps what is not its content."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: Ownership | None = None
    time_ns: int | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.owner.inputs if self.owner is not None else ()

    def do(self, plan: LayerPlan, trees: Trees) -> None:
        target = plan.resolve(_clean(self.path))
        _check_parent(plan, target, f"open {self.path}")
        before = plan.entry(target)
        if before is not None and before.kind == tar_format.DIRECTORY:
            raise InvalidParameter(f"open {self.path}: is a directory")
        made = Entry("", mode=self.mode & 0o777) if before is None else replace(before, kind=tar_format.REGULAR)
        made.size, made.mtime_ns = len(self.content), plan.now if self.time_ns is None else self.time_ns
        _own(made, self.owner, trees)
        plan.go_on(ROOT, 0o755, None)
        plan.put(target, made, ArchiveFile(replace(made), content=self.content))


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Makes a directory unless it is there; `ways`: those above it, too."""

    path: str
    mode: int = 0o755
    ways: bool = False
    owner: Ownership | None = None
    time_ns: int | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.owner.inputs if self.owner is not None else ()

    def do(self, plan: LayerPlan, trees: Trees) -> None:
        target = plan.resolve(_clean(self.path))
        if plan.exists(target) and (plan.is_directory(target) or not self.ways):
            return
        if not self.ways:
            _check_parent(plan, target, f"mkdir {self.path}")
        owner = self.owner.found(trees) if self.owner is not None else ROOT
        plan.go_on(owner, self.mode & 0o777, self.time_ns)
        plan.make_directories(target)


@dataclass(frozen=True, slots=True)
class MakeLink:
    """Makes a symbolic link at `path`."""

    path: str
    target: str
    owner: Ownership | None = None
    time_ns: int | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.owner.inputs if self.owner is not None else ()

    def do(self, plan: LayerPlan, trees: Trees) -> None:
        place = plan.resolve(_clean(self.path))
        _check_parent(plan, place, f"symlink {self.target} {self.path}")
        if plan.exists(place):
            raise InvalidParameter(f"symlink {self.target} {self.path}: file exists")
        made = Entry("", tar_format.SYMLINK, 0o777, link=self.target)
        made.mtime_ns = plan.now if self.time_ns is None else self.time_ns
        _own(made, self.owner, trees)
        plan.go_on(ROOT, 0o755, None)
        plan.put(place, made, None)


@dataclass(frozen=True, slots=True)
class Remove:
    """Takes files away, with all that is in them."""

    path: str
    missing: bool = False
    wildcard: bool = False

    @property
    def inputs(self) -> tuple[int, ...]:
        return ()

    def do(self, plan: LayerPlan, trees: Trees) -> None:
        plan.go_on(ROOT, 0o755, None)
        for path in self._places(plan):
            if path == "/":
                raise InvalidParameter("rmPath: invalid empty path")
            folder, name = posixpath.split(path)
            place = posixpath.join(plan.resolve(folder), name)
            if plan.exists(place):
                plan.remove(place)
            elif not self.missing:
                raise InvalidParameter(f"stat {path}: no such file or directory")

    def _places(self, plan: LayerPlan) -> list[str]:
        reached = ["/"]
        if not self.wildcard:
            return [_clean(self.path)]
        for part in _clean(self.path).split("/")[1:]:
            reached = [
                posixpath.join(place, name)
                for place in reached
                for name in (plan.names(plan.resolve(place)) if plan.is_directory(plan.resolve(place)) else ())
                if match(part, name)
            ]
        return reached


class FileActions(Vertex):
    """Does acts to its first input, in their order; what they make of it is one layer."""

    def __init__(self, name: str, inputs: Sequence[Vertex], acts: Sequence[Act], *, line: int = 0) -> None:
        super().__init__(name, inputs, line=line)
        self.acts = tuple(acts)

    def definition(self) -> str:
        return repr(self.acts)

    def key(self, inputs: Sequence[Result]) -> str:
        if any(not isinstance(one, Rootfs) for one in inputs):
            return ""
        return key_of("files", self.definition(), *(_chain(one) for one in inputs))

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        if not any(isinstance(act, CopyFiles) for act in self.acts):
            return ""
        found = []
        async with AsyncExitStack() as stack:
            trees = await self._trees(work, inputs, stack)
            for act in self.acts:
                if isinstance(act, CopyFiles):
                    sources = await asyncio.to_thread(act.sources, trees)
                    found.append(await asyncio.to_thread(source_checksum, sources, owners=act.owner is None))
                named = [number for number in act.inputs if not isinstance(act, CopyFiles)]
                if isinstance(act, CopyFiles) and act.owner is not None:
                    named = list(act.owner.inputs)
                found += [_chain(inputs[number]) for number in named]
        return key_of("files-content", self.definition(), _chain(inputs[0]), *found)

    async def _trees(self, work: Work, inputs: Sequence[Result], stack: AsyncExitStack) -> dict[int, Tree]:
        trees: dict[int, Tree] = {}
        for number in {number for act in self.acts for number in act.inputs}:
            result = inputs[number]
            found = result.tree if isinstance(result, Files) else await stack.enter_async_context(work.tree(result))
            trees[number] = found if found is not None else ArchiveTree()
        return trees

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        base = inputs[0]
        assert isinstance(base, Rootfs)
        async with AsyncExitStack() as stack:
            trees = await self._trees(work, inputs, stack)
            below = await stack.enter_async_context(work.tree(base))
            plan = stack.enter_context(closing(LayerPlan(below)))

            def lay_out() -> None:
                for act in self.acts:
                    act.do(plan, trees)

            await asyncio.to_thread(lay_out)
            if plan.empty:
                return base
            return work.keep(await work.solver.layers.register(base.chain_id, from_thread(plan.pieces())))


def _clean(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path)).replace("//", "/")


def _check_parent(plan: LayerPlan, place: str, doing: str) -> None:
    parent = plan.entry(posixpath.dirname(place))
    if parent is None:
        raise InvalidParameter(f"{doing}: no such file or directory")
    if parent.kind != tar_format.DIRECTORY:
        raise InvalidParameter(f"{doing}: not a directory")


def _own(entry: Entry, owner: Ownership | None, trees: Trees) -> None:
    if owner is not None:
        found = owner.found(trees)
        entry.uid, entry.gid = found.uid, found.gid


def _only_file(tree: Tree, path: str) -> list[Source]:
    """What was fetched from an address: one file, whatever the client calls it."""
    root = tree.find("")
    inner = dict(root.children()) if root is not None else {}
    if len(inner) != 1:
        return [Source(posixpath.basename(path), root)] if root is not None else []
    name, file = next(iter(inner.items()))
    return [Source(posixpath.basename(path) or name, file)]


def _look(tree: Tree, path: str, follow: bool) -> File | None:
    """What is at `path`; a link that the last name is stands for itself, unless links are followed."""
    if follow or path == "/":
        return tree.find(path.lstrip("/"))
    folder, name = posixpath.split(path)
    found = tree.find(folder.lstrip("/"))
    inner = found.children() if found is not None and found.directory else {}
    return inner[name] if name in list(inner) else None


def _matching(tree: Tree, pattern: str, follow: bool) -> list[tuple[str, File]]:
    """What matches, links as they are unless they are followed."""
    found = find_sources(tree, [pattern], context=False, unpack=False, lenient=True) if pattern != "/" else []
    if pattern == "/" or (not found and not any(one in pattern for one in "*?[")):
        file = tree.find("")
        return [("/", file)] if pattern == "/" and file is not None else []
    seen = [(f"/{source.name}", _look(tree, f"/{source.name}", follow)) for source in found]
    return [(place, file) for place, file in seen if file is not None]


def _chain(result: Result) -> str:
    return (result.chain_id or "scratch") if isinstance(result, Rootfs) else ""
