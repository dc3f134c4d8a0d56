"""`create` and `run`."""

from __future__ import annotations

import os
import sys

from dockyard.cli import terminal
from dockyard.cli.create_request import HIDDEN, OPTIONS, create_request
from dockyard.cli.session import Failure, Session, path
from dockyard.cli.usage import PROGRAM, Flags, usage
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from dockyard.client.http import Response

EXIT_NOT_STARTED = 125  # of `run`, when the engine and not the container has failed


@usage(
    f"""
dockyard create [OPTIONS] IMAGE [COMMAND] [ARG...]

Create a new container

Options:
{OPTIONS}

Hidden:
{HIDDEN}
"""
)
def create(session: Session, flags: Flags) -> int:
    """Prints the ID."""
    body = create_request(flags)
    if flags.on("interactive"):
        body["StdinOnce"] = True
    body["AttachStdout"] = body["AttachStderr"] = True
    print(_create(session, flags, body))
    return 0


@usage(
    f"""
dockyard run [OPTIONS] IMAGE [COMMAND] [ARG...]

Create and run a new container from an image

Options:
{OPTIONS}
  -d, --detach                          Run in the background and print the ID
      --detach-keys string              Keys that detach
      --sig-proxy                       Pass signals on to the process (default true)

Hidden:
{HIDDEN}
"""
)
def run(session: Session, flags: Flags) -> int:
    """The container's exit status is ours."""
    try:
        if flags.on("detach"):
            return _run_detached(session, flags)
        return _Foreground(session, flags).run()
    except APIError as error:
        raise Failure(
            f"{PROGRAM}: Error response from daemon: {error}\n\nRun '{PROGRAM} run --help' for more information",
            status_of(error),
        ) from error
    except Failure as failure:
        failure.code = EXIT_NOT_STARTED if failure.code == 1 else failure.code
        raise


def status_of(error: APIError) -> int:
    """The exit status that a failed start stands for: 127 command not found, 126 not executable, 125 else."""
    text = error.message
    if "executable file not found" in text or "no such file or directory" in text or "system cannot find" in text:
        return 127
    if "permission denied" in text or "not a directory" in text or "is a directory" in text:
        return 126
    return EXIT_NOT_STARTED


def _create(session: Session, flags: Flags, body: dict[str, Any]) -> str:
    """Create the container, pulling the image when it is not there; its ID."""
    cidfile = flags.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise Failure(
            f"container ID file found, make sure the other container isn't running or delete {cidfile}",
            EXIT_NOT_STARTED,
        )
    pull = flags.text("pull", "missing")
    if pull not in ("always", "missing", "never"):
        raise Failure(f'invalid pull option: \'{pull}\': must be one of "always", "missing" or "never"', 125)
    image, platform = body["Image"], flags.text("platform")
    place = path("/containers/create", name=flags.text("name"), platform=platform)
    if pull == "always":
        _pull(session, image, platform, quiet=flags.on("quiet"))
    try:
        made = session.api.request("POST", place, body).json()
    except APIError as error:
        if error.status != 404 or pull != "missing" or "No such image" not in error.message:
            raise
        if not flags.on("quiet"):
            print(f"Unable to find image '{_with_tag(image)}' locally", file=sys.stderr)
        _pull(session, image, platform, quiet=flags.on("quiet"))
        made = session.api.request("POST", place, body).json()
    for warning in made.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    if cidfile:
        with open(cidfile, "w", encoding="ascii") as file:
            file.write(made["Id"])
    container_id: str = made["Id"]
    return container_id


def _pull(session: Session, image: str, platform: str, *, quiet: bool) -> None:
    from dockyard.cli.commands.transfer import pull_image

    pull_image(session, image, platform=platform, quiet=quiet, to=sys.stderr)


def _with_tag(image: str) -> str:
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _run_detached(session: Session, flags: Flags) -> int:
    if flags.given("attach"):
        raise Failure("Conflicting options: -a and -d", EXIT_NOT_STARTED)
    container = _create(session, flags, create_request(flags))
    session.api.request("POST", path("/containers", container, "/start")).read()
    print(container)
    return 0


class _Foreground:
    """A `run` that stays with its container."""

    def __init__(self, session: Session, flags: Flags) -> None:
        self._session = session
        self._flags = flags
        self._tty = flags.on("tty")
        chosen = {name.upper() for name in flags.all("attach")}
        for name in chosen - {"STDIN", "STDOUT", "STDERR"}:
            raise flags.invalid("attach", name.lower(), "valid streams are STDIN, STDOUT and STDERR")
        self._streams = chosen or {"STDOUT", "STDERR"} | ({"STDIN"} if flags.on("interactive") else set())
        self._stdin = "STDIN" in self._streams
        self._container = ""

    def run(self) -> int:
        """Create, attach, start, move bytes, wait; the exit status."""
        if self._tty and self._stdin and not os.isatty(0):
            raise Failure("the input device is not a TTY", 1 if self._flags.on("interactive") else EXIT_NOT_STARTED)
        body = create_request(self._flags)
        body |= {f"Attach{name.title()}": True for name in self._streams}
        body["StdinOnce"] = self._stdin
        self._container = _create(self._session, self._flags, body)
        if self._flags.on("sig-proxy", default=True) and not self._tty:
            terminal.proxy_signals(self._send_signal)
        stream, early = self._attach()
        ended = self._watch()
        try:
            self._session.api.request("POST", self._place("/start")).read()
        except APIError:
            if self._flags.on("rm"):
                ended.read()
            raise
        with terminal.RawTerminal(0, wanted=self._tty and self._stdin):
            if self._tty and self._stdin:
                terminal.on_resize(self._resize)
            terminal.move(stream, early, stdin=0 if self._stdin else None, framed=not self._tty)
        return self._status(ended)

    def _place(self, what: str, **values: object) -> str:
        return path("/containers", self._container, what, **values)

    def _attach(self) -> tuple[socket, bytes]:
        wanted = {name.lower(): True for name in self._streams}
        keys = self._flags.text("detach-keys")
        response = self._session.api.request(
            "POST",
            self._place("/attach", stream=True, detachKeys=keys, **wanted),
            headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        )
        return response.hijack()

    def _watch(self) -> Response:
        condition = "removed" if self._flags.on("rm") else "next-exit"
        return self._session.api.request("POST", self._place("/wait", condition=condition))

    def _send_signal(self, name: str) -> None:
        try:
            self._session.api.request("POST", self._place("/kill", signal=name)).read()
        except APIError:
            pass  # it has ended already, or not begun

    def _resize(self, rows: int, columns: int) -> None:
        self._session.api.request("POST", self._place("/resize", h=rows, w=columns), check=False).read()

    def _status(self, ended: Response) -> int:
        if self._tty and self._detached(ended):
            print("read escape sequence", file=sys.stderr)
            return 0
        result = ended.json()
        if result is None:
            raise Failure("the engine went away while the container ran", EXIT_NOT_STARTED)
        if (result.get("Error") or {}).get("Message"):
            raise Failure(f"Error waiting for container: {result['Error']['Message']}", EXIT_NOT_STARTED)
        status: int = result["StatusCode"]
        return status

    def _detached(self, ended: Response) -> bool:
        """Whether the stream ended but the container goes on: it answers the wait in a moment otherwise."""
        if ended.arrived(0.2):
            return False
        state = self._session.api.request("GET", self._place("/json"), check=False)
        return state.status == 200 and bool(state.json()["State"]["Running"])
