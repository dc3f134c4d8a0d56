"""COPY and ADD on their way into the graph: where their files come from, and where they go."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dockyard.builder.files import CopyOrder, From, Stack
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.sources.remote import Download, Repository
from dockyard.dockerfile import git_source
from dockyard.dockerfile.file_mode import parse_mode
from dockyard.dockerfile.image_config import cleaned
from dockyard.dockerfile.instructions import Copy
from dockyard.dockerfile.substitution import document_expansion, go_quoted
from dockyard.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an instruction means depends on: how a word's variables are replaced, their values, and WORKDIR.

    `unknown` is told of variables in documents that stand for nothing.
    """

    expand: Callable[[str], str]
    environment: Callable[[], Mapping[str, str]]
    folder: str
    unknown: Callable[[Sequence[str]], None] = lambda names: None


@dataclass(slots=True)
class CopyPlan:
    """A copy as it is to be done to its first input. `words`, `destination`: as they are named, variables replaced."""

    inputs: list[Vertex]
    order: CopyOrder
    words: list[str]
    destination: str
    base: Vertex

    def stacked(self, copy: Vertex, kind: type[Stack] = Stack) -> Vertex:
        """The step whose result has the copy on top of the base: `copy` itself, unless that does not look at it."""
        return kind(self.base, copy, self.order.destination) if self.order.linked else copy


async def plan_copy(
    step: Copy,
    base: Vertex,
    around: Surroundings,
    tree: Callable[[str, Sequence[str]], Awaitable[Vertex]],
) -> CopyPlan:
    """What an instruction wants. `tree`: of a stage or an image, "" for the context, from which paths are wanted.

    Raises InvalidParameter.
    """
    owner, mode, digest = (around.expand(word) for word in (step.owner, step.mode, step.checksum))
    words = [around.expand(word) for word in step.sources]
    destination = around.expand(step.destination)
    checksum = checked_checksum(digest, words)
    inputs, sources, plain = [base], list[From](), list[str]()
    for word in words:
        if git_source.is_git(word) and not word.startswith("github.com/"):
            if step.word == "COPY":
                raise InvalidParameter("source can't be a git ref for COPY")
            inputs.append(_repository(word, step, checksum))
            sources.append(From(len(inputs) - 1, (".",), fetched=True))
        elif re.match(r"https?://", word):
            if step.word == "COPY":
                raise InvalidParameter("source can't be a URL for COPY")
            inputs.append(Download(word, word, checksum))
            sources.append(From(len(inputs) - 1, (), unpack=bool(step.unpack), fetched=True))
        else:
            plain.append(word)
    if plain:
        inputs.append(await tree(step.stage, plain))
        unpack = step.word == "ADD" and step.unpack is not False
        sources.append(From(len(inputs) - 1, tuple(plain), unpack=unpack, context=not step.stage))
    order = CopyOrder(
        step.word,
        tuple(sources),
        _place(destination, around.folder),
        owner,
        mode,
        step.parents,
        step.excludes,
        tuple(_documents(step, around)),
        bool(step.stage),
    )
    parse_mode(order.mode)
    # whose name has to be looked up in the base image can't be linked: it has to wait for it; nor is a copy that makes
    # directories of another mode, as with BuildKit
    if step.link and not order.mode and re.fullmatch(r"[\d:]*", order.owner):
        inputs[0] = Scratch()
        order = replace(order, linked=True)
    return CopyPlan(inputs, order, words, destination, base)


def _repository(url: str, step: Copy, commit: str) -> Repository:
    """What ADD takes from a git address. Raises InvalidParameter where that says another thing than a flag."""
    try:
        said = git_source.parse(url)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    if step.keep_git is not None and said.keep_git not in (None, step.keep_git):
        raise InvalidParameter("inconsistent keep-git-dir configuration")
    if commit and said.commit and commit != said.commit:
        raise InvalidParameter(f"checksum mismatch {go_quoted(commit)} != {go_quoted(said.commit)}")
    return Repository(url, url, keep_git=bool(step.keep_git), commit=commit)


def _place(destination: str, folder: str) -> str:
    """An absolute path, which ends with a slash if it has to be a directory."""
    place = cleaned(folder, destination)
    into = destination.endswith(("/", "/.")) or destination in ("", ".", "..")
    return place.rstrip("/") + "/" if into else place


def _documents(step: Copy, around: Surroundings) -> Iterator[tuple[str, str]]:
    for document in step.documents:
        if not document.expand:
            yield document.name, document.text
            continue
        found = document_expansion(document.text, around.environment())
        around.unknown(found.unknown)
        yield document.name, found.text


def checked_checksum(text: str, sources: Sequence[str]) -> str:
    """What ADD wants its source's digest to be, `sha256:…`, or its commit; "" for anything. Raises InvalidParameter."""
    if not text:
        return ""
    if len(sources) != 1:
        raise InvalidParameter("checksum can't be specified for multiple sources")
    if git_source.is_git(sources[0]) and re.fullmatch(r"[0-9a-f]{7,64}", text):
        return text
    if not re.match(r"https?://", sources[0]):
        raise InvalidParameter("checksum requires HTTP(S) or Git sources")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise InvalidParameter("invalid checksum digest format")
    return text
