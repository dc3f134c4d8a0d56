"""What a build says, as the classic builder words it."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

from dockyard.builder.graph import progress

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
