"""File systems put together and taken apart: layers of one on top of those of another, and what one has more.

Layers are taken as they are wherever that says what is meant; only two file systems of which neither is made from the
other are compared file by file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from dockyard.builder.graph.vertex import Result, Rootfs, Vertex, key_of
from dockyard.builder.layer_plan import LayerPlan
from dockyard.builder.trees import DirectoryTree, File
from dockyard.content import tar_format
from dockyard.content.extraction import WHITEOUT
from dockyard.engine.images.layer_store import chain_of, chains_of
from dockyard.generators import from_thread
from dockyard.snapshots.overlay_marks import is_opaque, is_whiteout

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work


class Merge(Vertex):
    """All layers of its inputs, those of later ones on top."""

    def key(self, inputs: Sequence[Result]) -> str:
        return key_of("merge", *(_chain(one) for one in inputs))

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        made = Rootfs()
        for one in inputs:
            assert isinstance(one, Rootfs)
            made = await _stacked(work, made, one, 0)
        return made


class Difference(Vertex):
    """What has to be put on top of the first input, so that it is as the second; by itself."""

    def __init__(self, name: str, lower: Vertex, upper: Vertex) -> None:
        super().__init__(name, (lower, upper))

    def key(self, inputs: Sequence[Result]) -> str:
        return key_of("difference", *(_chain(one) for one in inputs))

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        lower, upper = inputs
        assert isinstance(lower, Rootfs)
        assert isinstance(upper, Rootfs)
        shared = len(lower.diff_ids)
        if upper.diff_ids[:shared] != lower.diff_ids:
            return await _compared(work, Rootfs(), lower, upper)
        if not shared:
            return upper
        made = Rootfs()
        for height in range(shared, len(upper.diff_ids)):
            below, above = Rootfs(upper.diff_ids[:height]), Rootfs(upper.diff_ids[: height + 1], upper.created)
            if await _tells(work, below, above):
                made = await _stacked(work, made, above, height)
            else:
                made = await _compared(work, made, below, above)
        return replace(made, created=upper.created)


async def _compared(work: Work, base: Rootfs, lower: Rootfs, upper: Rootfs) -> Rootfs:
    """What is other in `upper` than in `lower`, on top of `base`."""
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(work.tree(lower))
        after = await stack.enter_async_context(work.tree(upper))
        plan = stack.enter_context(closing(LayerPlan(None)))
        roots = (None if before is None else before.find("/"), None if after is None else after.find("/"))
        await asyncio.to_thread(_Comparison(plan).run, "/", *roots)
        if plan.empty:
            return base
        return work.keep(await work.solver.layers.register(base.chain_id, from_thread(plan.pieces())))


async def _tells(work: Work, lower: Rootfs, upper: Rootfs) -> bool:
    """Whether the topmost layer of `upper` says what is other in it, no more and no less: then it is taken as it is."""
    folder = work.solver.layers.graph_data(upper.chain_id).get("UpperDir")
    places = await asyncio.to_thread(_places, folder) if folder is not None else None
    if places is None:
        return False
    async with work.tree(lower) as before, work.tree(upper) as after:
        ways = {posixpath.dirname(place) for place in places}
        return await asyncio.to_thread(lambda: all(_is_other(place, ways, before, after) for place in places))


def _is_other(place: str, ways: set[str], before: DirectoryTree | None, after: DirectoryTree | None) -> bool:
    """Whether what a layer says of a place makes it another one; `ways`: directories that it has to name anyway."""
    folder, name = posixpath.split(place)
    if name.startswith(WHITEOUT):
        gone = posixpath.join(folder, name.removeprefix(WHITEOUT))
        return before is not None and before.find(gone, follow=False) is not None
    old = before.find(place, follow=False) if before is not None else None
    new = after.find(place, follow=False) if after is not None else None
    if new is None:
        return False
    if old is None or not _same(old, new):
        return True
    return new.directory and place in ways


def _places(folder: str) -> set[str] | None:
    """What a layer of overlayfs tells of; None if it hides whole directories, which has to be told otherwise."""
    found = set[str]()
    for parent, folders, files in os.walk(folder):
        inside = posixpath.join("/", os.path.relpath(parent, folder)) if parent != folder else "/"
        if is_opaque(parent):
            return None
        for name in folders:
            found.add(posixpath.join(inside, name))
        for name in files:
            gone = is_whiteout(os.lstat(os.path.join(parent, name)))
            found.add(posixpath.join(inside, f"{WHITEOUT}{name}" if gone else name))
    return found


async def _stacked(work: Work, base: Rootfs, other: Rootfs, begin: int) -> Rootfs:
    """The layers of `other` from the one numbered `begin` on top of `base`."""
    if not base.diff_ids and not begin:
        return other
    layers = work.solver.layers
    made = base
    for height, own in list(enumerate(chains_of(other.diff_ids)))[begin:]:
        folder, diff_id = layers.graph_data(own).get("UpperDir"), other.diff_ids[height]
        if folder is not None and await asyncio.to_thread(_places, folder) is None:
            # it hides whole directories of its own base: of another's it must not hide what that base has not
            made = await _compared(work, made, Rootfs(other.diff_ids[:height]), Rootfs(other.diff_ids[: height + 1]))
            continue
        below = made.chain_id
        layer = await layers.register(below, layers.pack(own), diff_id=diff_id, chain_id=chain_of(below, diff_id))
        made = work.keep(layer)
    return replace(made, created=other.created or base.created)


class _Comparison:
    """Two file systems being compared, and the layer that tells of it."""

    def __init__(self, plan: LayerPlan) -> None:
        self._plan = plan
        self._ways: list[tuple[str, File]] = []  # the directories down to where it is, as they are to be

    def run(self, place: str, before: File | None, after: File | None) -> None:
        """Note what is other below two directories; None for one that is not there."""
        old = dict(before.children()) if before is not None and before.directory else {}
        new = dict(after.children()) if after is not None and after.directory else {}
        for name in sorted(old.keys() - new.keys()):
            self._pass_through()
            self._plan.hide(posixpath.join(place, name))
        for name, file in sorted(new.items()):
            here, there = posixpath.join(place, name), old.get(name)
            if there is None or not _same(there, file):
                self._pass_through()
                self._plan.put_as_it_is(here, file)
            if file.directory:
                self._ways.append((here, file))
                self.run(here, there, file)
                self._ways.pop()

    def _pass_through(self) -> None:
        for place, folder in self._ways:
            if not self._plan.exists(place):
                self._plan.put_as_it_is(place, folder)


def _same(one: File, other: File) -> bool:
    """Whether two files are the same, as containerd decides it: by what is known of them, unless that is too coarse."""
    ours, theirs = one.entry, other.entry
    facts = ("kind", "mode", "uid", "gid", "link", "major", "minor", "xattrs")
    if any(getattr(ours, name) != getattr(theirs, name) for name in facts):
        return False
    if ours.kind == tar_format.DIRECTORY:
        return True
    if ours.size != theirs.size or ours.mtime_ns != theirs.mtime_ns:
        return False
    if ours.kind != tar_format.REGULAR or ours.mtime_ns % 10**9:
        return True
    return _digest(one) == _digest(other)


def _digest(file: File) -> bytes:
    total = hashlib.sha256()
    for piece in file.read():
        total.update(piece)
    return total.digest()


def _chain(result: Result) -> str:
    return (result.chain_id or "scratch") if isinstance(result, Rootfs) else ""
