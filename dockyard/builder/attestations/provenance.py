"""Provenance: from what, by what and how a result was made (SLSA v0.2 and v1, as BuildKit writes them)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockyard.builder.attestations.statements import digest_set, purl_of
from dockyard.builder.attestations.steps import definition, operation, steps_of
from dockyard.builder.attestations.wanted import ProvenanceOptions
from dockyard.builder.exec.step import Run
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.vertex import Vertex
from dockyard.builder.sources.addresses import redacted
from dockyard.builder.sources.image import ImageFiles
from dockyard.builder.sources.layout import LayoutImage
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, RemoteContext, Repository
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.manifest import host
from dockyard.timestamps import timestamp

BUILD_TYPES = {
    "v0.2": "https://mobyproject.org/buildkit@v1",
    "v1": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
}
# Options that say how this host builds, or are told elsewhere (provenance, FilterArgs).
_OF_THE_HOST = ("cgroup-parent", "image-resolve-mode", "platform", "cache-imports", "filename", "contextkey")
_OUTSIDE = ("attest:", "local-sessionid:", "sharedkey:", "vcs:")
_METADATA = "https://mobyproject.org/buildkit@v1#metadata"
_HERMETIC = "https://mobyproject.org/buildkit@v1#hermetic"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: the options, the Dockerfile, when it began (UNIX ns); `id` tells builds apart."""

    id: str
    options: Mapping[str, str]
    file_name: str
    text: bytes
    began: int
    remote: Vertex | None = None


class Provenance:
    """What is to be said of one platform's result."""

    def __init__(
        self,
        request: Request,
        built: Built,
        options: ProvenanceOptions,
        layers: Callable[[Vertex], Sequence[Descriptor]],
    ) -> None:
        """`layers`: the blobs that a step's result is in an image, as far as they are known."""
        self._request = request
        self._built = built
        self._options = options
        self._layers = layers
        self._steps = steps_of(built.vertex)
        if request.remote is not None and request.remote not in self._steps:
            self._steps.append(request.remote)

    def predicate(self, ended: int) -> dict[str, Any]:
        """The predicate; `ended`: UNIX ns."""
        return self._older(ended) if self._options.version == "v0.2" else self._newer(ended)

    def _older(self, ended: int) -> dict[str, Any]:
        place, path, parameters = self._config_source(), self._request.file_name, self._parameters()
        found: dict[str, Any] = {"builder": {"id": self._options.builder}, "buildType": BUILD_TYPES["v0.2"]}
        if materials := self._materials():
            found["materials"] = materials
        found["invocation"] = {
            "configSource": {**place, **({"entryPoint": path} if path else {})},
            "parameters": parameters,
            "environment": {"platform": self._here()},
        }
        buildkit: dict[str, Any] = {}
        self._add_vcs(buildkit)
        if self._options.full:
            found["buildConfig"] = self._build_config(buildkit)
        found["metadata"] = {
            "buildInvocationID": self._request.id,
            "buildStartedOn": timestamp(self._request.began),
            "buildFinishedOn": timestamp(ended),
            "completeness": {
                "parameters": not self._left_out(),
                "environment": True,
                "materials": not self._local_names(),
            },
            "reproducible": self._options.reproducible,
            _METADATA: buildkit,
        }
        if self._hermetic():
            found["metadata"][_HERMETIC] = True
        return found

    def _newer(self, ended: int) -> dict[str, Any]:
        path = self._request.file_name
        inner: dict[str, Any] = {"builderPlatform": self._here()}
        buildkit: dict[str, Any] = {}
        self._add_vcs(buildkit)
        if self._options.full:
            inner["buildConfig"] = self._build_config(buildkit)
        about: dict[str, Any] = {
            "buildType": BUILD_TYPES["v1"],
            "externalParameters": {
                "configSource": {**self._config_source(), **({"path": path} if path else {})},
                "request": self._parameters(),
            },
            "internalParameters": inner,
        }
        if materials := self._materials():
            about["resolvedDependencies"] = materials
        metadata: dict[str, Any] = {
            "invocationId": self._request.id,
            "startedOn": timestamp(self._request.began),
            "finishedOn": timestamp(ended),
            "buildkit_metadata": buildkit,
            "buildkit_completeness": {
                "request": not self._left_out(),
                "resolvedDependencies": not self._local_names(),
            },
        }
        if self._hermetic():
            metadata["buildkit_hermetic"] = True
        if self._options.reproducible:
            metadata["buildkit_reproducible"] = True
        return {
            "buildDefinition": about,
            "runDetails": {"builder": {"id": self._options.builder}, "metadata": metadata},
        }

    # -- parts that both have

    @staticmethod
    def _here() -> str:
        return str(host())

    def _materials(self) -> list[dict[str, Any]]:
        """Everything that was fetched, by its digest."""
        images: dict[str, dict[str, Any]] = {}
        others: dict[str, dict[str, Any]] = {}
        for vertex in self._steps:
            if isinstance(vertex, ImageFiles) and vertex.reference:
                uri = purl_of(vertex.reference, vertex.image.platform)
                images[uri] = {"uri": uri, "digest": digest_set(vertex.target)}
            elif isinstance(vertex, LayoutImage):
                config = vertex.config
                where = Platform(config.architecture, config.os, config.variant)
                uri = purl_of(vertex.reference, where, kind="oci")
                images[uri] = {"uri": uri, "digest": digest_set(vertex.reference.digest or "")}
            elif isinstance(vertex, Repository) and vertex.found:
                others[vertex.url] = {"uri": redacted(_material(vertex.url)), "digest": _commit(vertex.found)}
            elif isinstance(vertex, Download | RemoteContext) and vertex.found:
                others[vertex.url] = {"uri": redacted(vertex.url), "digest": {"sha256": vertex.found}}
        return [*(images[uri] for uri in sorted(images)), *(others[uri] for uri in sorted(others))]

    def _config_source(self) -> dict[str, Any]:
        """Where the Dockerfile is from; nothing of a client's directory."""
        remote = self._request.remote
        if isinstance(remote, Repository):
            return {"uri": redacted(remote.url), **({"digest": _commit(remote.found)} if remote.found else {})}
        if isinstance(remote, RemoteContext) and remote.found:
            return {"uri": redacted(remote.url), "digest": {"sha256": remote.found}}
        return {}

    def _parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {"frontend": "dockerfile.v0"}
        args = {
            name: redacted(value) if name.startswith("context:") else value
            for name, value in sorted(self._arguments().items())
            if not self._hidden(name)
        }
        if args:
            found["args"] = args
        if self._options.full:
            found |= self._secrets()
        if names := self._local_names():
            found["locals"] = [{"name": name} for name in names]
        return found

    def _arguments(self) -> dict[str, str]:
        context = self._request.options.get("contextkey", "context")
        return {
            name: value
            for name, value in self._request.options.items()
            if name not in (*_OF_THE_HOST, context) and not name.startswith(_OUTSIDE)
        }

    def _hidden(self, name: str) -> bool:
        """Whether an option is not told: mode=min says nothing that might be secret."""
        return not self._options.full and name.startswith(("build-arg:", "label:"))

    def _left_out(self) -> bool:
        return any(self._hidden(name) for name in self._arguments())

    def _secrets(self) -> dict[str, Any]:
        found: dict[str, dict[str, dict[str, Any]]] = {"secrets": {}, "ssh": {}}
        for vertex in self._steps:
            for mount in vertex.command.mounts if isinstance(vertex, Run) else ():
                if mount.kind in ("secret", "ssh"):
                    kind, name = ("ssh", mount.id or "default") if mount.kind == "ssh" else ("secrets", mount.id)
                    before = found[kind].get(name, {}).get("optional", True)
                    optional = before and not mount.required
                    found[kind][name] = {"id": name, **({"optional": True} if optional else {})}
        return {kind: [all_[name] for name in sorted(all_)] for kind, all_ in found.items() if all_}

    def _local_names(self) -> list[str]:
        names = {vertex.directory for vertex in self._steps if isinstance(vertex, LocalDirectory)}
        if self._request.remote is None:
            names |= {"context", "dockerfile"}
        return sorted(names)

    def _hermetic(self) -> bool:
        networked = any(isinstance(vertex, Run) and vertex.command.network != "none" for vertex in self._steps)
        return not self._local_names() and not networked

    def _add_vcs(self, buildkit: dict[str, Any]) -> None:
        found = {
            name.removeprefix("vcs:"): redacted(value) if name == "vcs:source" else value
            for name, value in sorted(self._request.options.items())
            if name.startswith("vcs:") and value
        }
        if found:
            buildkit["vcs"] = found

    def _build_config(self, buildkit: dict[str, Any]) -> dict[str, Any]:
        """The steps; where they are in the Dockerfile, and their layers, go into `buildkit`."""
        where = host()
        steps, names = definition(self._built.vertex, {"Architecture": where.architecture, "OS": where.os})
        locations: dict[str, Any] = {}
        for vertex, name in names.items():
            place = {"line": vertex.line}
            locations[name] = {"locations": [{"ranges": [{"start": place, "end": place}]}]} if vertex.line else {}
        text = base64.b64encode(self._request.text).decode()
        buildkit["source"] = {
            "locations": locations,
            "infos": [
                {
                    "filename": self._request.file_name,
                    "language": "Dockerfile",
                    "data": text,
                    "llbDefinition": self._of_dockerfile(),
                }
            ],
        }
        if not self._request.text:  # the client has made the steps itself
            del buildkit["source"]
        layers = {f"{name}:0": [list(found)] for vertex, name in names.items() if (found := self._layers(vertex))}
        if layers:
            buildkit["layers"] = layers
        digests = {vertex.digest: name for vertex, name in names.items()}
        return {"llbDefinition": steps, "digestMapping": dict(sorted(digests.items()))}

    def _of_dockerfile(self) -> list[dict[str, Any]]:
        """The steps by which the Dockerfile itself was had."""
        remote, name = self._request.remote, self._request.options.get("dockerfilekey", "dockerfile")
        source = operation(remote) if remote is not None else {"source": {"identifier": f"local://{name}"}}
        first = {"id": "step0", "op": {"Op": source, "constraints": {}}}
        return [first, {"id": "step1", "op": {"Op": {}}, "inputs": ["step0:0"]}]


def _commit(commit: str) -> dict[str, str]:
    return {"sha256" if len(commit) == 64 else "sha1": commit}


def _material(url: str) -> str:
    """A git repository's URL as a material has it: with the reference, without the directory."""
    before, hash_, fragment = url.partition("#")
    return before + (f"#{fragment.partition(':')[0]}" if hash_ and fragment.partition(":")[0] else "")
