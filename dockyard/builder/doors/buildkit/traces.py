"""What took how long in a build, as OpenTelemetry's spans: what `buildx history trace` shows.

One span after the other as JSON, in the form of Go's stdouttrace, as BuildKit keeps them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from dockyard.buildkit import wire_pb2 as wire
from dockyard.timestamps import timestamp
from dockyard.version import VERSION

KIND = "application/vnd.buildkit.otlp.json.v0"
INTERNAL = 1  # trace.SpanKind
ERROR, OK = 1, 2  # codes.Code


def trace_of(record: wire.HistoryRecord, told: wire.StatusResponse) -> bytes:
    """The spans of a build that has ended, of which onlookers were told so."""
    steps: dict[str, wire.Vertex] = {}
    for step in told.vertexes:
        if step.completed.seconds:
            steps[step.digest] = step
    whole = _span(record.ref, "", "build", record.created_at, record.completed_at, record.error.message, {})
    whole["ChildSpanCount"] = len(steps)
    spans = [whole]
    for digest, step in steps.items():
        about = {"vertex": digest, **({"cached": "true"} if step.cached else {})}
        spans.append(_span(record.ref, digest, step.name, step.started, step.completed, step.error, about))
    return b"".join(json.dumps(span).encode() + b"\n" for span in spans)


def _span(
    ref: str, digest: str, name: str, began: Timestamp, ended: Timestamp, error: str, about: dict[str, str]
) -> dict[str, Any]:
    """A span; `digest`: of the step, "" for the whole build, which has no parent."""
    return {
        "Name": name,
        "SpanContext": _context(ref, digest),
        "Parent": _context(ref, "") if digest else _context("", ""),
        "SpanKind": INTERNAL,
        "StartTime": _time(began),
        "EndTime": _time(ended),
        "Attributes": [_text(key, value) for key, value in about.items()],
        "Events": None,
        "Links": None,
        "Status": {"Code": ERROR if error else OK, "Description": error},
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": [_text("service.name", "dockyardd"), _text("service.version", VERSION)],
        "InstrumentationLibrary": {"Name": "", "Version": "", "SchemaURL": ""},
    }


def _context(ref: str, digest: str) -> dict[str, Any]:
    trace = hashlib.sha256(ref.encode(errors="surrogateescape")).hexdigest()[:32] if ref else "0" * 32
    span = hashlib.sha256(f"{ref} {digest}".encode(errors="surrogateescape")).hexdigest()[:16] if ref else "0" * 16
    return {"TraceID": trace, "SpanID": span, "TraceFlags": "01", "TraceState": "", "Remote": False}


def _text(key: str, value: str) -> dict[str, Any]:
    return {"Key": key, "Value": {"Type": "STRING", "Value": value}}


def _time(moment: Timestamp) -> str:
    return timestamp(moment.seconds * 10**9 + moment.nanos)
