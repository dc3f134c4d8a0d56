"""What a build says, as the classic builder words it."""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from dockyard.builder.graph import progress

IN_MEMORY = 1 << 20  # bytes of what a stage has said before its turn
MOST_KEPT = 16 << 20
CLIPPED = "\n[output clipped: this stage had to wait for its turn, and 16 MiB are kept until then]\n"
RED, PLAIN = "\x1b[91m", "\x1b[0m"


class Output:
    """Where a build tells how it goes. `send` takes one message of the API's stream; `ids`: images are told, too."""

    def __init__(self, send: Callable[[dict[str, Any]], None], *, quiet: bool = False, ids: bool = True) -> None:
        self._send = send
        self._quiet = quiet
        self._ids = ids
        self.unsaid: list[str] = []

    def text(self, text: str) -> None:
        """A piece of the log."""
        if self._quiet:
            self.unsaid.append(text)
        else:
            self._send({"stream": text})

    def message(self, message: dict[str, Any]) -> None:
        """Any other message: a pull's progress, an image's ID."""
        if not self._quiet:
            self._send(message)

    def image(self, image_id: str) -> None:
        """What has been built."""
        if self._ids:
            self.message({"aux": {"ID": image_id}})


class LaterOutput(Output):
    """What a stage says: kept until its turn comes, which is when those before it have said all."""

    def __init__(self, output: Output, folder: Path) -> None:
        """`folder` is for a nameless file: a stage may say much before anyone hears it."""
        self._output = output
        self._folder = folder
        self._waiting = True
        self._kept: IO[str] | None = None

    def text(self, text: str) -> None:
        self._say("text", text)

    def message(self, message: dict[str, Any]) -> None:
        self._say("message", message)

    def image(self, image_id: str) -> None:
        self._say("image", image_id)

    def _say(self, kind: str, said: Any) -> None:
        if not self._waiting:
            getattr(self._output, kind)(said)
            return
        if self._kept is None:
            self._kept = tempfile.SpooledTemporaryFile(IN_MEMORY, "w+", dir=os.fspath(self._folder))  # noqa: SIM115
        if self._kept.tell() < MOST_KEPT:
            self._kept.write(f"{json.dumps((kind, said))}\n")
            if self._kept.tell() >= MOST_KEPT:
                self._kept.write(f"{json.dumps(('text', CLIPPED))}\n")

    def release(self) -> None:
        """Its turn has come."""
        self._waiting = False
        if self._kept is not None:
            self._kept.seek(0)
            for line in self._kept:
                kind, said = json.loads(line)
                getattr(self._output, kind)(said)
            self.close()

    def close(self) -> None:
        """Nobody is going to hear it any more."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class CommandOutput(progress.Progress):
    """Of all that the solver tells, what commands say; where steps begin and end the build says itself."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self.begin()

    def begin(self) -> None:
        """Another command begins: what its predecessor has left of a character is none of it."""
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}

    def add(self, event: progress.Event) -> None:
        """Add a command's output to the log: Docker paints what comes on its standard error."""
        if not isinstance(event, progress.Output):
            return
        text = self._decoders[event.stream].decode(event.data)
        if text:
            self._output.text(f"{RED}{text}{PLAIN}" if event.stream == 2 else text)
