"""Events of a build as BuildKit's clients are told them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from dockyard.builder.cache.usage import CacheEntry
from dockyard.builder.doors.buildkit.traces import KIND
from dockyard.builder.graph.progress import Event, Finding, Output, Part, Step
from dockyard.buildkit import wire_pb2 as wire
from dockyard.oci.digest import digest_of

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build, Predicate


def response_of(events: Iterable[Event]) -> wire.StatusResponse:
    """A batch of events as one message."""
    response = wire.StatusResponse()
    for event in events:
        match event:
            case Step():
                response.vertexes.append(
                    wire.Vertex(
                        digest=event.digest,
                        inputs=event.inputs,
                        name=event.name,
                        cached=event.cached,
                        started=moment(event.started),
                        completed=moment(event.completed),
                        error=event.error,
                    )
                )
            case Output():
                response.logs.append(
                    wire.VertexLog(
                        vertex=event.digest, stream=event.stream, msg=event.data, timestamp=moment(event.time)
                    )
                )
            case Part():
                response.statuses.append(
                    wire.VertexStatus(
                        id=event.id,
                        vertex=event.digest,
                        current=event.current,
                        total=event.total,
                        timestamp=moment(event.completed or event.started),
                        started=moment(event.started),
                        completed=moment(event.completed),
                    )
                )
            case Finding():
                response.warnings.append(_warning(event))
    return response


def _warning(event: Finding) -> wire.VertexWarning:
    ranges = []
    if event.line:
        places = [wire.Position(line=number) for number in range(event.line, max(event.line, event.end) + 1)]
        ranges = [wire.Range(start=place, end=place) for place in places]
    return wire.VertexWarning(
        vertex=event.digest,
        level=1,
        short=event.short.encode(),
        detail=[event.detail.encode()] if event.detail else [],
        url=event.url,
        info=wire.SourceInfo(filename=event.file, data=event.source, language="Dockerfile"),
        ranges=ranges,
    )


def usage_of(entry: CacheEntry) -> wire.UsageRecord:
    """A thing in the cache."""
    return wire.UsageRecord(
        id=entry.id,
        mutable=entry.mutable,
        in_use=entry.in_use,
        size=entry.size,
        created_at=moment(int(entry.created * 1e9)),
        last_used_at=moment(int(entry.used * 1e9)) if entry.uses else None,
        usage_count=entry.uses,
        description=entry.description,
        record_type=entry.kind,
        shared=entry.shared,
        parents=entry.parents,
    )


def history_of(build: Build) -> wire.HistoryRecord:
    """A build that is under way or was."""
    steps = {event.digest: event for event in build.progress.events if isinstance(event, Step)}
    failure = build.failure
    results = {platform: _result(predicate) for platform, predicate in build.predicates.items()}
    return wire.HistoryRecord(
        result=results.pop("", None),
        results=results,
        ref=build.ref,
        frontend="dockerfile.v0",
        frontend_attrs=build.options,
        exporters=build.exporters,
        trace=_of_trace(build.trace) if build.trace else None,
        external_error=_external(failure.details) if failure is not None and failure.details else None,
        error=wire.RpcStatus(code=failure.code, message=failure.message) if failure is not None else None,
        created_at=moment(int(build.began * 1e9)),
        completed_at=moment(int(build.ended * 1e9)),
        exporter_response=build.told,
        generation=1,
        pinned=build.pinned,
        cached_steps=sum(step.cached for step in steps.values()),
        total_steps=len(steps),
        completed_steps=sum(bool(step.completed) for step in steps.values()),
    )


def _of_trace(trace: bytes) -> wire.Descriptor:
    return wire.Descriptor(media_type=KIND, digest=digest_of(trace), size=len(trace))


def _external(details: bytes) -> wire.Descriptor:
    """An error with all that is known of it: it, too, can be read from the content service."""
    kind = "application/vnd.googeapis.google.rpc.status+proto"  # so BuildKit spells it
    return wire.Descriptor(media_type=kind, digest=digest_of(details), size=len(details))


def _result(predicate: Predicate) -> wire.ResultInfo:
    """What has come of a build, by what is said about it: its content can be read from the content service."""
    about = wire.Descriptor(
        media_type="application/vnd.in-toto+json",
        digest=predicate.digest,
        size=len(predicate.content),
        annotations={"in-toto.io/predicate-type": predicate.kind},
    )
    return wire.ResultInfo(attestations=[about])


def moment(time_ns: int) -> Timestamp | None:
    """A time of an event; None for one that is still to come."""
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9) if time_ns else None
