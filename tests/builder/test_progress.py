"""How builds are shown as lines of text."""

import io

from google.protobuf.timestamp_pb2 import Timestamp

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.progress import Plain


def test_a_steps_name_is_there_once_however_builds_go_side_by_side() -> None:
    shown = io.StringIO()
    display = Plain(shown)

    def step(digest: str, name: str, *, ended: bool = False) -> wire.Vertex:
        return wire.Vertex(
            digest=digest, name=name, started=Timestamp(seconds=1), completed=Timestamp(seconds=2) if ended else None
        )

    def said(digest: str, text: bytes) -> wire.VertexLog:
        return wire.VertexLog(vertex=digest, stream=1, msg=text, timestamp=Timestamp(seconds=1))

    display.show(wire.StatusResponse(vertexes=[step("a", "[one 1/1] RUN one"), step("b", "[two 1/1] RUN two")]))
    display.show(wire.StatusResponse(logs=[said("a", b"of one\n")]))
    display.show(wire.StatusResponse(vertexes=[step("b", "[two 1/1] RUN two", ended=True)]))
    display.show(
        wire.StatusResponse(logs=[said("a", b"more\n")], vertexes=[step("a", "[one 1/1] RUN one", ended=True)])
    )
    display.end()
    assert shown.getvalue() == (
        "#1 [one 1/1] RUN one\n#1 0.000 of one\n#1 ...\n\n#2 [two 1/1] RUN two\n#2 DONE 1.0s\n\n#1 0.000 more\n"
        "#1 DONE 1.0s\n"
    )
