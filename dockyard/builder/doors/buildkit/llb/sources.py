"""Sources of LLB: images, git repositories, addresses, directories of the client, results of builds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from dockyard.builder.doors.buildkit.definitions import SCHEME
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.vertex import Vertex
from dockyard.builder.source_policy import SourcePolicy
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.sources.layout import layout_image
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, Repository
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter

HEADER = "http.header."


class Sources:
    """The sources of one definition."""

    def __init__(self, job: Job, result: Callable[[str], Built | None], policy: SourcePolicy | None = None) -> None:
        """`result`: what a client means by the name of a result that it was given. `policy`: besides the job's."""
        self._job = job
        self._policy = job.policy if policy is None else policy.together(job.policy)
        self._result = result
        self._images = {pull: ImageResolver(job, pull=pull) for pull in (False, True)}

    async def vertex(self, op: wire.Op, name: str) -> Vertex:
        """The vertex of a source. Raises InvalidParameter, and what resolving an image raises."""
        return await self.open(op.source.identifier, dict(op.source.attrs), _platform(op), name)

    async def open(self, identifier: str, attributes: Mapping[str, str], platform: str = "", name: str = "") -> Vertex:
        """The same of an identifier with attributes, as far as the client's policies allow it."""
        if not identifier.startswith(SCHEME):
            identifier, attributes = self._policy.applied(identifier, attributes)
        kind, _, rest = identifier.partition("://")
        if f"{kind}://" == SCHEME:
            found = self._result(rest)
            if found is None:
                raise InvalidParameter("invalid LLB definition: it is of a build that is gone")
            return found.vertex
        match kind:
            case "git":
                return _repository(rest, attributes, name)
            case "http" | "https":
                return _download(identifier, attributes, name)
            case "docker-image":
                images = self._images[attributes.get("image.resolvemode") == "pull"]
                return images.files(rest, await images.resolve(rest, platform), shown=name)
            case "oci-layout":
                store = attributes.get("oci.store", "")
                layout, _, digest = rest.rpartition("@")
                return await layout_image(self._job, layout, f"//{store or layout}@{digest}", platform)
            case "local":
                return self._local(rest, attributes, name)
        raise InvalidParameter(f"unknown source {identifier}")

    def _local(self, directory: str, attributes: Mapping[str, str], name: str) -> Vertex:
        local = LocalDirectory(
            name or f"[internal] load {directory}",
            self._job.client,
            directory,
            excludes=_texts(attributes, "local.excludepatterns"),
            includes=_texts(attributes, "local.includepattern"),
        )
        for path in _texts(attributes, "local.followpaths"):
            local.want(path)
        if "local.followpaths" not in attributes:
            local.want("/")
        return local


def _platform(op: wire.Op) -> str:
    one = op.platform
    return "/".join(part for part in (one.os, one.architecture, one.variant) if part) if one.architecture else ""


def _texts(attributes: Mapping[str, str], name: str) -> list[str]:
    try:
        found = json.loads(attributes.get(name) or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidParameter(f"invalid LLB definition: {name} is no list")
    return found


def _repository(rest: str, attributes: Mapping[str, str], name: str) -> Vertex:
    """A git source: the address in full is an attribute, what is to be checked out is in the identifier."""
    place, _, fragment = rest.partition("#")
    url = attributes.get("git.fullurl") or f"https://{place}"
    keep = attributes.get("git.keepgitdir") == "true"
    shown = f"{url}#{fragment}" if fragment else url
    return Repository(name or shown, shown, keep_git=keep, commit=attributes.get("git.checksum", ""))


def _download(identifier: str, attributes: Mapping[str, str], name: str) -> Vertex:
    try:
        mode = int(attributes.get("http.perm") or "600", 8)
        owner = (int(attributes.get("http.uid") or 0), int(attributes.get("http.gid") or 0))
    except ValueError:
        raise InvalidParameter("invalid LLB definition: http.perm, http.uid or http.gid is no number") from None
    checksum, file_name = attributes.get("http.checksum", ""), attributes.get("http.filename", "")
    given = {one.removeprefix(HEADER).title(): value for one, value in attributes.items() if one.startswith(HEADER)}
    return Download(
        name or identifier,
        identifier,
        checksum,
        file_name=file_name,
        mode=mode,
        owner=owner,
        headers={one: given[one] for one in ("Accept", "User-Agent") if one in given},  # others are not sent
        secret=attributes.get("http.authheadersecret", ""),
    )
