"""One build that came through BuildKit's door: what its client has asked the gateway, and what it returned."""

from __future__ import annotations

import asyncio
import logging
import posixpath
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from dockyard.builder.attestations.statements import Attestation
from dockyard.builder.context import LARGEST_DOCKERFILE
from dockyard.builder.doors.buildkit.caches import import_caches
from dockyard.builder.doors.buildkit.client import SessionClient
from dockyard.builder.doors.buildkit.definitions import definition_of
from dockyard.builder.doors.buildkit.options import (
    EXPLAIN,
    LINT,
    cache_sources,
    check_frontend,
    check_syntax,
    platforms_of,
    request_of,
)
from dockyard.builder.frontend.contexts import ContextResolver, ignore_patterns
from dockyard.builder.frontend.conversion import Conversion
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.progress import Finding, Progress
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.vertex import Files, Vertex
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Inside, RemoteContext, Repository
from dockyard.buildkit import wire_pb2 as wire
from dockyard.dockerfile import git_source
from dockyard.dockerfile.checks import Violation
from dockyard.dockerfile.dockerignore import IgnoreRules
from dockyard.dockerfile.includes import includes, whole
from dockyard.errors import InvalidParameter, Unavailable
from dockyard.grpc.status import CallFailed
from dockyard.oci.digest import digest_of

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.control import Control


log = logging.getLogger("dockyard.builder")

DOCKERFILE_INPUT = "dockerfile"  # an input in which the Dockerfile is, and the context if there is no other
KEEP_GIT = "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR"
UPLOAD = "http://buildkit-session/"  # where buildx says that it has what is on its standard input


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step of a client's own is from: a source of its, and ranges of that."""

    source: wire.SourceInfo
    ranges: Sequence[wire.Range]


@dataclass(frozen=True, slots=True)
class Predicate:
    """Provenance, for who asks after the build: its type, and its JSON."""

    kind: str
    content: bytes

    @property
    def digest(self) -> str:
        """By which it is asked for."""
        return digest_of(self.content)


class Build:
    """A build under way, or one that was."""

    def __init__(
        self,
        control: Control,
        ref: str,
        session: str,
        options: Mapping[str, str],
        entitlements: Sequence[str],
    ) -> None:
        self.ref = ref
        self.options = dict(options)
        self.progress = Progress()
        local = {
            name.partition(":")[2]: value for name, value in options.items() if name.startswith("local-sessionid:")
        }
        self.client = SessionClient(control.sessions, control.contexts, session, local, control.solver.beside)
        self.job = Job(control.solver, self.client, self.progress)
        self.job.closing.append(self.client.close)
        self.entitlements = entitlements
        self.built: dict[str, Built] = {}
        self.vertices: dict[tuple[str, int], Vertex] = {}  # what its definitions of LLB have become
        self.places: dict[str, list[Place]] = {}  # where the client's own steps are from, by their digests
        self.inputs: dict[str, wire.Definition] = {}  # what the client has given the frontend
        self.returned: asyncio.Future[dict[str, Built]] = asyncio.get_running_loop().create_future()
        self.began = time.time()
        self.ended = 0.0
        self.violations: list[Violation] = []
        self.digest = f"sha256:{secrets.token_hex(32)}"  # of the step that has read the Dockerfile
        self.internal = False
        self.pinned = False
        self.trace = b""  # what took how long, once somebody has asked for that
        self.untold: dict[str, Attestation] = {}  # how the results were made, if nobody has wanted to know
        self.exporters: list[wire.Exporter] = []
        self.predicates: dict[str, Predicate] = {}  # how each platform's result was made, "" for the only one
        self.failure: CallFailed | None = None
        self.told: dict[str, str] = {}
        self.file_name = ""
        self.text = b""
        self._ignored: IgnoreRules | None = None
        self.remote: Vertex | None = None  # where the Dockerfile is from, if it is not the client's

    def note_places(self, definition: wire.Definition) -> None:
        """Note where the steps of a definition are from, as its client says it."""
        infos = definition.source.infos
        for digest, found in definition.source.locations.items():
            known = [one for one in found.locations if 0 <= one.source_index < len(infos)]
            self.places[digest] = [Place(infos[one.source_index], list(one.ranges)) for one in known]

    async def tell_provenance(self) -> None:
        """Have the predicates of a build that has wanted none, for whoever asks for its history."""
        untold, self.untold = self.untold, {}
        for platform, said in untold.items():
            content = msgspec.json.encode(await said.predicate())
            self.predicates[platform] = Predicate(said.predicate_type, content)

    def said(self) -> list[bytes]:
        """What its record in the history names only: provenance, and the error in full."""
        error = [self.failure.details] if self.failure is not None and self.failure.details else []
        trace = [self.trace] if self.trace else []
        return [*(predicate.content for predicate in self.predicates.values()), *error, *trace]

    async def dockerfile(self, options: Mapping[str, str], inputs: Mapping[str, Built]) -> str:
        """The text of the Dockerfile that the options name."""
        return (await self._definition(options, inputs))[0]

    async def convert(self, frontend: str, options: Mapping[str, str], inputs: Mapping[str, Built]) -> dict[str, Built]:
        """What the Dockerfile that the options name leads to: {platform: …}. Nothing is built yet."""
        check_frontend(frontend, options)
        self.job.explain = options.get(f"build-arg:{EXPLAIN}", "") not in ("", "0", "false")
        text, main = await self._definition(options, inputs)
        check_syntax(text)
        await import_caches(self.job, cache_sources(options))
        platforms = platforms_of(options) or [""]
        contexts = ContextResolver(self.job, main)
        contexts.ignored = self._ignored
        found = {}
        for platform in platforms:
            request = request_of(options, text, inputs, self.entitlements)
            request.platform = platform
            conversion = Conversion(self.job, request, contexts)
            try:
                built = await conversion.run()
            finally:
                if platform == platforms[0]:  # the others' are the same
                    self.violations += conversion.violations
                    if options.get("requestid") != LINT:  # (which is the answer)
                        self._tell(conversion.violations)
            found[platform or built.platform] = built
        return found

    def _tell(self, violations: Sequence[Violation]) -> None:
        """Hand on what the build checks have found."""
        for one in violations:
            short = f"{one.rule}: {one.message} (line {one.line})"
            self.progress.add(
                Finding(self.digest, short, one.description, one.url, one.line, one.end, self.file_name, self.text)
            )

    def remember(self, built: Built) -> wire.Ref:
        """What was made, under a name by which the client may refer to it: in this build, or as an input of another."""
        name = secrets.token_hex(12)
        self.built[name] = built
        return wire.Ref(id=name, definition=definition_of(name))

    # -- the Dockerfile and the context

    async def _definition(
        self, options: Mapping[str, str], inputs: Mapping[str, Built]
    ) -> tuple[str, Callable[[], Vertex]]:
        if DOCKERFILE_INPUT in inputs:
            self.file_name = options.get("filename", "Dockerfile")
            text = await self._file_of_result(inputs[DOCKERFILE_INPUT], self.file_name)
            main: Callable[[], Vertex] = lambda: inputs.get("context", inputs[DOCKERFILE_INPUT]).vertex  # noqa: E731
        else:
            text, main = await self._given_definition(options, inputs)
        if includes(text):
            folder = posixpath.dirname(self.file_name)
            text = await whole(text, lambda path: self._fragment(posixpath.join(folder, path), options))
            self.text = text.encode(errors="surrogateescape")
        return text, main

    async def _file_of_result(self, built: Built, path: str) -> str:
        """The Dockerfile in what another build has made."""
        async with self.job.solver.tree(await self.job.rootfs(built.vertex)) as tree:
            found = tree.find(path.strip("/")) if tree is not None else None
            if found is None or found.directory or found.entry.size > LARGEST_DOCKERFILE:
                raise InvalidParameter(f"failed to read dockerfile: open {path}: no such file or directory")
            self.text = b"".join(found.read())
        return self.text.decode(errors="replace")

    async def _fragment(self, path: str, options: Mapping[str, str]) -> str:
        """A file that the Dockerfile includes."""
        if self.remote is not None and "dockerfilekey" not in options:
            return await self._file_of(self.remote, path)
        found = await self.client.files(options.get("dockerfilekey", "dockerfile"), [path])
        if path not in found:
            raise InvalidParameter(f"failed to read dockerfile: open {path}: no such file or directory")
        return found[path].decode(errors="replace")

    async def _given_definition(
        self, options: Mapping[str, str], inputs: Mapping[str, Built]
    ) -> tuple[str, Callable[[], Vertex]]:
        context_name = options.get("contextkey", "context")
        address = options.get(context_name, "")
        file_name = options.get("filename", "Dockerfile")
        self.file_name = file_name
        remote = self._remote(address, options)
        if remote is not None and "dockerfilekey" not in options:
            self.remote = remote
            text = await self._file_of(remote, file_name)
            return text, _below(remote, options)
        directory = options.get("dockerfilekey", "dockerfile")
        ignored: bytes | None = None
        async with self.job.shown(f"[internal] load build definition from {file_name}", self.digest) as part:
            own_ignore = f"{file_name}.dockerignore"
            found = await self.client.files(directory, [file_name, own_ignore, file_name.lower()])
            content = found.get(file_name, found.get(file_name.lower()))
            if content is None:
                raise InvalidParameter(f"failed to read dockerfile: open {file_name}: no such file or directory")
            ignored = found.get(own_ignore)
            part("transferring dockerfile:", len(content), len(content), True)
        self.text = content
        if context_name in inputs:
            return content.decode(errors="replace"), lambda: inputs[context_name].vertex
        if remote is not None:
            return content.decode(errors="replace"), _below(remote, options)
        async with self.job.shown("[internal] load .dockerignore") as part:
            try:
                if ignored is None:
                    ignored = (await self.client.files(context_name, [".dockerignore"])).get(".dockerignore", b"")
            except Unavailable as error:  # there is no context, which not every Dockerfile needs
                return content.decode(errors="replace"), _missing(error)
            part("transferring context:", len(ignored), len(ignored), True)
        excludes = ignore_patterns(ignored)
        self._ignored = IgnoreRules(excludes) if excludes else None
        return content.decode(errors="replace"), lambda: LocalDirectory(
            "[internal] load build context", self.client, context_name, excludes=excludes
        )

    def _remote(self, address: str, options: Mapping[str, str]) -> Vertex | None:
        """The context at an address; None for a directory of the client's."""
        if git_source.is_git(address):
            keep = options.get(KEEP_GIT, "") in ("1", "t", "T", "true", "TRUE", "True")
            return Repository(f"[internal] load git source {address}", address, keep_git=keep)
        if address.startswith(UPLOAD):
            return RemoteContext(
                "[internal] load remote build context", self.client, address, address.removeprefix(UPLOAD)
            )
        if address.startswith(("http://", "https://")):
            return RemoteContext("[internal] load remote build context", self.client, address)
        return None

    async def _file_of(self, context: Vertex, path: str) -> str:
        """The Dockerfile in a context."""
        files = await self.job.result(context)
        assert isinstance(files, Files)
        found = files.tree.find(path)
        if found is None and isinstance(context, RemoteContext) and context.alone:
            found = files.tree.find("Dockerfile")  # it is all that is there, whatever it is called
        if found is None or found.directory:
            raise InvalidParameter(f"failed to read dockerfile: open {path}: no such file or directory")
        if found.entry.size > LARGEST_DOCKERFILE:
            raise InvalidParameter(f"the Dockerfile ({path}) is too large")
        self.text = b"".join(found.read())
        return self.text.decode(errors="replace")

    async def close(self) -> None:
        """The build has ended, however."""
        self.ended = time.time()
        await self.job.close()
        self.progress.end()
        if not self.returned.done():
            self.returned.cancel()


def _missing(error: Unavailable) -> Callable[[], Vertex]:
    """A context that can't be had."""

    def fail() -> Vertex:
        raise error

    return fail


def _below(remote: Vertex, options: Mapping[str, str]) -> Callable[[], Vertex]:
    """The context in one from elsewhere: all of it, or a directory."""
    directory = options.get("contextsubdir", "")
    context = Inside(remote, directory) if directory else remote
    return lambda: context
