"""A step of a build and what comes of it.

A vertex knows what it needs (`inputs`), by what its result is known (`key`), and how to make it. Vertices are compared
by identity: two that would do the same have the same key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from dockyard.engine.images.layer_store import chains_of

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work
    from dockyard.builder.trees import ArchiveTree


@dataclass(frozen=True, slots=True)
class Rootfs:
    """A file system made of layers, bottom first; `created`: when the topmost step ended, RFC 3339."""

    diff_ids: tuple[str, ...] = ()
    created: str = ""

    @property
    def chain_id(self) -> str | None:
        """What its layers are known by together; None for no files."""
        return _top(self.diff_ids)


@lru_cache(maxsize=4096)
def _top(diff_ids: tuple[str, ...]) -> str | None:
    """The chain ID of a stack; steps ask for the same ones again and again."""
    chains = chains_of(diff_ids)
    return chains[-1] if chains else None


@dataclass(frozen=True, slots=True)
class Files:
    """Files that are no layers (yet): a context, what a URL or a git repository leads to.

    `identity`: what tells all of them from others where their contents do not, "" where they do.
    """

    tree: ArchiveTree
    identity: str = ""


Result = Rootfs | Files


class Vertex:
    """A step; `name` as users see it, `line` of the Dockerfile (0: of none).

    `hidden`: nobody is shown it. `ready`: its result is there already; `fresh`: only since this build
    has fetched it. `base`: the input that the result's files lie on.
    """

    hidden = False
    ready = False
    fresh = False

    def __init__(self, name: str, inputs: Sequence[Vertex] = (), *, line: int = 0) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.line = line
        self.text = ""  # the instruction as it was written, before variables were replaced
        self.ignore_cache = False
        self.base = 0
        self._digest = ""

    @property
    def digest(self) -> str:
        """What clients tell steps of one build apart by."""
        if not self._digest:
            facts = "\0".join([self.name, *(vertex.digest for vertex in self.inputs), self.definition()])
            self._digest = f"sha256:{hashlib.sha256(facts.encode(errors='surrogateescape')).hexdigest()}"
        return self._digest

    def call(self, digest: str) -> None:
        """Have clients know it by a digest of theirs."""
        self._digest = digest

    def source(self) -> tuple[str, dict[str, str]] | None:
        """What it takes from outside of the build: an identifier as LLB has it, and attributes. None for nothing."""
        return None

    def definition(self) -> str:
        """What the step does, but for its inputs."""
        return ""

    def key(self, inputs: Sequence[Result]) -> str:
        """What the step's result is known by, told from its inputs' names alone; "": not to be told so."""
        return ""

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        """What it is known by, told from its inputs' contents; "": it is never known beforehand."""
        return ""

    def facts(self, inputs: Sequence[Result]) -> dict[str, str]:
        """What a later build is told about why it did not find this one's result."""
        return {}

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        """Do the step."""
        raise NotImplementedError


def key_of(*facts: str) -> str:
    """A key of facts, which may hold anything."""
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()


class Scratch(Vertex):
    """Nothing: what FROM scratch begins with."""

    hidden = True

    def __init__(self) -> None:
        super().__init__("scratch")

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        return Rootfs()
