"""What a client is told of an error: a code, a text, and what lets it show the lines of the Dockerfile."""

from __future__ import annotations

import base64
import json
import logging
import posixpath
import traceback
from typing import TYPE_CHECKING, Any

from dockyard import errors
from dockyard.builder.graph.job import StepFailed
from dockyard.buildkit import wire_pb2 as wire
from dockyard.dockerfile import parser
from dockyard.grpc import status
from dockyard.grpc.status import CallFailed
from dockyard.version import VERSION

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build, Place

log = logging.getLogger("dockyard.builder")

_CODES: dict[type[Exception], int] = {
    errors.NotFound: status.NOT_FOUND,
    errors.InvalidParameter: status.UNKNOWN,
    errors.Unauthorized: status.UNAUTHENTICATED,
    errors.Forbidden: status.PERMISSION_DENIED,
    errors.Unavailable: status.UNAVAILABLE,
}
PREFIX = "github.com/moby/buildkit/"


def explain(error: Exception) -> CallFailed:
    """Any error as the end of a call."""
    if isinstance(error, CallFailed):
        return error
    cause = error.__cause__ if isinstance(error, StepFailed) else error
    code = next((_CODES[kind] for kind in type(cause).__mro__ if kind in _CODES), status.UNKNOWN)
    if not isinstance(error, errors.DockyardError | OSError):
        log.error("a call failed", exc_info=error)
    return CallFailed(code, errors.words(error))


def of_build(error: Exception, build: Build) -> CallFailed:
    """The same, with what is known of the place in the Dockerfile."""
    failure = explain(error)
    line, end = parser.lines_of(error)
    details = []
    if isinstance(error, StepFailed):
        line = error.vertex.line
        details.append(_detail("errdefs.Vertex+json", {"digest": error.vertex.digest}))
        details += [_of_client(place) for place in build.places.get(error.vertex.digest, ())]
    if line and build.text:
        end = end or _last_line(build.text, line)
        info = {
            "filename": build.file_name,
            "data": base64.b64encode(build.text).decode(),
            "language": "Dockerfile",
            "definition": {},  # clients look for one
        }
        ranges = [{"start": {"line": number}, "end": {"line": number}} for number in range(line, end + 1)]
        details.append(_detail("errdefs.Source+json", {"info": info, "ranges": ranges}))
    if not details:
        return failure
    details.append(_stack(error))
    whole = wire.RpcStatus(code=failure.code, message=failure.message, details=details)
    return CallFailed(failure.code, failure.message, whole.SerializeToString())


def _stack(error: BaseException) -> Any:
    """Where in the builder it went wrong, for who reports it (shown by clients with --debug)."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [
        {"Name": frame.name, "File": _inside(frame.filename), "Line": frame.lineno}
        for frame in reversed(traceback.extract_tb(error.__traceback__))
    ]
    return _detail("stack.Stack+json", {"frames": frames, "version": f"dockyard {VERSION}"})


def _inside(path: str) -> str:
    """A source file's place in the project, if it is of it, wherever that lies."""
    _, found, rest = path.rpartition("/dockyard/")
    return f"dockyard/{rest}" if found else posixpath.basename(path)


def _of_client(place: Place) -> Any:
    """A place in a client's own source."""
    source = place.source
    info = {"filename": source.filename, "data": base64.b64encode(source.data).decode(), "language": source.language}
    ranges = [
        {
            "start": {"line": one.start.line, "character": one.start.character},
            "end": {"line": one.end.line, "character": one.end.character},
        }
        for one in place.ranges
    ]
    return _detail("errdefs.Source+json", {"info": {**info, "definition": {}}, "ranges": ranges})


def _detail(name: str, value: dict[str, Any]) -> Any:
    from google.protobuf.any_pb2 import Any as AnyMessage

    return AnyMessage(type_url=PREFIX + name, value=json.dumps(value).encode())


def _last_line(text: bytes, line: int) -> int:
    """The last line of the instruction that begins at `line`."""
    nodes = parser.parse(text.decode(errors="replace")).nodes
    return next((node.end for node in nodes if node.line == line), line)
