"""File systems put together and taken apart: layers of one on top of those of another, and what one has more.

Layers are taken as they are wherever that says what is meant; only two file systems of which neither is made from the
other are compared file by file.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from dockyard.builder.graph.vertex import Result, Rootfs, Vertex, key_of
from dockyard.builder.layer_plan import LayerPlan
from dockyard.builder.trees import File
from dockyard.content import tar_format
from dockyard.engine.images.layer_store import chain_of, chains_of
from dockyard.generators import from_thread

if TYPE_CHECKING:
    from dockyard.builder.graph.solver import Work


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
        if upper.diff_ids[:shared] == lower.diff_ids:
            return await _stacked(work, Rootfs(), upper, shared)
        async with AsyncExitStack() as stack:
            before = await stack.enter_async_context(work.tree(lower))
            after = await stack.enter_async_context(work.tree(upper))
            plan = stack.enter_context(closing(LayerPlan(None)))
            roots = (None if before is None else before.find("/"), None if after is None else after.find("/"))
            await asyncio.to_thread(_Comparison(plan).run, "/", *roots)
            if plan.empty:
                return Rootfs(created=upper.created)
            return work.keep(await work.solver.layers.register(None, from_thread(plan.pieces())))


async def _stacked(work: Work, base: Rootfs, other: Rootfs, begin: int) -> Rootfs:
    """The layers of `other` from the one numbered `begin` on top of `base`."""
    if not base.diff_ids and not begin:
        return other
    layers = work.solver.layers
    made = base
    pairs = list(zip(other.diff_ids, chains_of(other.diff_ids), strict=True))
    for diff_id, own in pairs[begin:]:
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
