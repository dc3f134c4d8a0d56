"""Events of a build as BuildKit's clients are told them."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from dockyard.builder.doors.buildkit import wire_pb2 as wire
from dockyard.builder.graph.progress import Event, Finding, Output, Part, Step


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
        place = wire.Position(line=event.line)
        ranges = [wire.Range(start=place, end=place)]
    return wire.VertexWarning(
        vertex=event.digest,
        level=1,
        short=event.short.encode(),
        detail=[event.detail.encode()] if event.detail else [],
        url=event.url,
        info=wire.SourceInfo(filename=event.file, data=event.source, language="Dockerfile"),
        ranges=ranges,
    )


def moment(time_ns: int) -> Timestamp | None:
    """A time of an event; None for one that is still to come."""
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9) if time_ns else None
