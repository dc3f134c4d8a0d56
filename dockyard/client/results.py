"""What operations give that is no resource: it is read, and can be asked for nothing more."""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """What a command gave: its exit status and everything it wrote. With a terminal all of it is in `stdout`."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether the exit status is 0."""
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """What it wrote to stdout, as text."""
        return self.stdout.decode(errors="replace")


class LogLine(NamedTuple):
    """A line of a container's log, without its end. `time` (RFC 3339) is there if it was asked for."""

    stream: str
    text: str
    time: str = ""


class Processes(NamedTuple):
    """What `ps` says about the processes of a container: a row of fields for each, in the order of `titles`."""

    titles: list[str]
    rows: list[list[str]]


class Change(NamedTuple):
    """A path that differs from the image. `kind` is "modified", "added" or "deleted"."""

    kind: str
    path: str


class Pruned(NamedTuple):
    """What was removed, and how many bytes that gave back."""

    removed: list[str]
    space: int
