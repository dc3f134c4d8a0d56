"""The steps of a build as provenance tells of them: in the form of BuildKit's LLB (solver/pb/ops.proto) as JSON."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from dockyard.builder.exec.step import Run
from dockyard.builder.file_actions import Act, CopyFiles, FileActions, MakeFile, MakeFolder, MakeLink, Remove
from dockyard.builder.files import Copy, MakeDirectory
from dockyard.builder.graph.vertex import Vertex
from dockyard.builder.merging import Difference, Merge
from dockyard.builder.sources.addresses import redacted
from dockyard.builder.sources.image import ImageFiles
from dockyard.builder.sources.layout import LayoutImage
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, RemoteContext, Repository

_MOUNTS = {"secret": 2, "ssh": 3, "cache": 4, "tmpfs": 5}
_NETWORKS = {"host": 1, "none": 2}


def steps_of(target: Vertex) -> list[Vertex]:
    """Every step that a result stands on, what a step needs before it; hidden ones, which nobody has asked for, not."""
    return [vertex for vertex in _walk(target, set()) if not vertex.hidden]


def _walk(vertex: Vertex, seen: set[Vertex]) -> Iterator[Vertex]:
    if vertex not in seen:
        seen.add(vertex)
        for other in vertex.inputs:
            yield from _walk(other, seen)
        yield vertex


def shown_inputs(vertex: Vertex) -> list[Vertex]:
    """What a step is made of, hidden steps replaced by what they are made of."""
    found: list[Vertex] = []
    for other in vertex.inputs:
        found += shown_inputs(other) if other.hidden else [other]
    return found


def definition(target: Vertex, platform: dict[str, str]) -> tuple[list[dict[str, Any]], dict[Vertex, str]]:
    """The steps in order, and what each is called there."""
    names: dict[Vertex, str] = {}
    known: dict[tuple[type[Vertex], str], str] = {}  # two stages may begin with the same image
    steps: list[dict[str, Any]] = []
    for vertex in steps_of(target):
        source = (type(vertex), vertex.definition())
        if not vertex.inputs and source in known:
            names[vertex] = known[source]
            continue
        name = names[vertex] = known[source] = f"step{len(steps)}"
        inputs = [f"{names[other]}:0" for other in shown_inputs(vertex)]
        step: dict[str, Any] = {"id": name, "op": {"Op": operation(vertex), "constraints": {}}}
        if isinstance(vertex, ImageFiles | Run):
            step["op"]["platform"] = platform
        if inputs:
            step["inputs"] = inputs
        steps.append(step)
    top = [target] if not target.hidden else shown_inputs(target)
    steps.append({"id": f"step{len(steps)}", "op": {"Op": {}}, "inputs": [f"{names[one]}:0" for one in top]})
    return steps, names


@singledispatch
def operation(vertex: Vertex) -> dict[str, Any]:
    """What a step does."""
    return {"name": vertex.name}


def _source(identifier: str, **attributes: str) -> dict[str, Any]:
    return {"source": {"identifier": identifier, **({"attrs": attributes} if attributes else {})}}


@operation.register
def _(vertex: ImageFiles) -> dict[str, Any]:
    name = vertex.reference.full() if vertex.reference is not None else ""
    return _source(f"docker-image://{name}@{vertex.target}")


@operation.register
def _(vertex: LayoutImage) -> dict[str, Any]:
    return _source(f"oci-layout://{vertex.reference.full()}")


@operation.register
def _(vertex: LocalDirectory) -> dict[str, Any]:
    return _source(f"local://{vertex.directory}")


@operation.register
def _(vertex: Repository) -> dict[str, Any]:
    url = redacted(vertex.url)
    return _source(f"git://{url.partition('://')[2] or url}", **{"git.fullurl": url})


@operation.register(Download)
@operation.register(RemoteContext)
def _(vertex: Download | RemoteContext) -> dict[str, Any]:
    return _source(redacted(vertex.url))


@operation.register
def _(vertex: Run) -> dict[str, Any]:
    command = vertex.command
    meta: dict[str, Any] = {"args": list(command.words), "env": list(command.env), "cwd": command.folder}
    if command.user:
        meta["user"] = command.user
    mounts: list[dict[str, Any]] = [{"dest": "/"}]
    for mount in command.mounts:
        about: dict[str, Any] = {"dest": mount.target}
        if mount.input is not None:
            about["input"] = mount.input
        if mount.kind == "bind" and mount.source not in ("", "/"):
            about["selector"] = mount.source
        if not mount.writable:
            about["readonly"] = True
        if mount.kind in _MOUNTS:
            about["mountType"] = _MOUNTS[mount.kind]
        if mount.kind == "cache":
            about["cacheOpt"] = {"ID": mount.id}
        if mount.kind in ("secret", "ssh"):
            about[f"{'SSH' if mount.kind == 'ssh' else 'secret'}Opt"] = {"ID": mount.id}
        mounts.append(about)
    found: dict[str, Any] = {"meta": meta, "mounts": mounts}
    if command.network in _NETWORKS:
        found["network"] = _NETWORKS[command.network]
    return {"exec": found}


@operation.register
def _(vertex: FileActions) -> dict[str, Any]:
    return {"file": {"actions": [{"Action": act_of(act)} for act in vertex.acts]}}


def act_of(act: Act) -> dict[str, Any]:
    """One thing done to files."""
    match act:
        case CopyFiles():
            return {"copy": {"src": act.source, "dest": act.destination, **({"modeStr": act.mode} if act.mode else {})}}
        case MakeFile():
            return {"mkfile": {"path": act.path, "mode": act.mode, "data": base64.b64encode(act.content).decode()}}
        case MakeFolder():
            return {"mkdir": {"path": act.path, "mode": act.mode, **({"makeParents": True} if act.ways else {})}}
        case MakeLink():
            return {"symlink": {"oldpath": act.target, "newpath": act.path}}
        case Remove():
            return {"rm": {"path": act.path}}
    return {}


@operation.register
def _(vertex: Merge) -> dict[str, Any]:
    return {"merge": {"inputs": [{"input": number} for number in range(len(vertex.inputs))]}}


@operation.register
def _(vertex: Difference) -> dict[str, Any]:
    return {"diff": {"lower": {"input": 0}, "upper": {"input": 1}}}


@operation.register
def _(vertex: Copy) -> dict[str, Any]:
    order = vertex.order
    actions: list[dict[str, Any]] = []
    for name, content in order.documents:
        data = base64.b64encode(content.encode(errors="surrogateescape")).decode()
        actions.append({"Action": {"mkfile": {"path": posixpath.join("/", name), "data": data}}})
    for source in order.sources:
        for pattern in source.patterns:
            copy: dict[str, Any] = {"src": posixpath.join("/", pattern), "dest": order.destination}
            for field, value in (("modeStr", order.mode), ("owner", order.owner)):
                if value:
                    copy[field] = value
            if source.unpack:
                copy["attemptUnpackDockerCompatibility"] = True
            actions.append({"input": 0, "secondaryInput": source.input, "output": 0, "Action": {"copy": copy}})
    return {"file": {"actions": actions}}


@operation.register
def _(vertex: MakeDirectory) -> dict[str, Any]:
    return {"file": {"actions": [{"Action": {"mkdir": {"path": vertex.path, "mode": 493, "makeParents": True}}}]}}
