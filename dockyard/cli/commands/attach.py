"""`attach`, `exec` and `start`: what joins a container's streams."""

from __future__ import annotations

import os
import sys

from dockyard.cli import terminal, values
from dockyard.cli.errors import Failure, status_of
from dockyard.cli.session import Session, path
from dockyard.cli.usage import PROGRAM, Flags, usage
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


@usage(
    """
dockyard attach [OPTIONS] CONTAINER

Attach local standard streams to a running container

Options:
      --detach-keys string   Keys that detach
      --no-stdin             Do not attach STDIN
      --sig-proxy            Pass signals on to the process (default true)
"""
)
def attach(session: Session, flags: Flags) -> int:
    """The container's exit status is ours when it ends."""
    name = flags.arguments[0]
    found = session.api.request("GET", path("/containers", name, "/json")).json()
    state = found["State"]
    if not state["Running"]:
        raise Failure("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise Failure("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise Failure("You cannot attach to a restarting container, wait until it is running")
    stdin = found["Config"]["OpenStdin"] and not flags.on("no-stdin")
    proxy = flags.on("sig-proxy", default=True)
    return _follow(session, found, stdin=stdin, keys=_keys(session, flags), proxy=proxy)


def _keys(session: Session, flags: Flags) -> str:
    return flags.text("detach-keys") or session.setting("detachKeys")


def _follow(
    session: Session, found: dict[str, Any], *, stdin: bool, keys: str, proxy: bool, begin: bool = False
) -> int:
    container, tty = found["Id"], found["Config"]["Tty"]
    if tty and stdin and not os.isatty(0):
        raise Failure("the input device is not a TTY")
    if proxy:
        terminal.proxy_signals(lambda name: _send_signal(session, container, name))
    response = session.api.request(
        "POST",
        path("/containers", container, "/attach", stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=keys),
        headers=UPGRADE,
    )
    stream, early = response.hijack()
    condition = "removed" if begin and found["HostConfig"].get("AutoRemove") else ""
    condition = condition or ("next-exit" if begin else "not-running")
    ended = session.api.request("POST", path("/containers", container, "/wait", condition=condition))
    if begin:
        session.api.request("POST", path("/containers", container, "/start")).read()

    def resize(rows: int, columns: int) -> None:
        session.api.request("POST", path("/containers", container, "/resize", h=rows, w=columns), check=False).read()

    with terminal.RawTerminal(0, wanted=tty and stdin):
        if tty and os.isatty(1):
            rows, columns = terminal.window_size()
            resize(rows + 1, columns + 1)  # a size that is new has the program draw its screen again
            resize(rows, columns)
            terminal.on_resize(resize)
        terminal.move(stream, early, stdin=0 if stdin else None, framed=not tty)
    if tty and stdin and terminal.detached(session, container, ended):
        return 0 if begin else _detached()
    status: int = ended.json()["StatusCode"]
    return status


def _detached() -> int:
    """What `attach` and `exec` end with when the keys were pressed that detach."""
    print("read escape sequence", file=sys.stderr)
    return 1


def _send_signal(session: Session, container: str, name: str) -> None:
    session.api.request("POST", path("/containers", container, "/kill", signal=name), check=False).read()


@usage(
    """
dockyard start [OPTIONS] CONTAINER [CONTAINER...]

Start one or more stopped containers

Options:
  -a, --attach               Attach STDOUT and STDERR and pass signals on
      --checkpoint string    Restore from this checkpoint
      --checkpoint-dir string   Folder of the checkpoint
      --detach-keys string   Keys that detach
  -i, --interactive          Attach STDIN
"""
)
def start(session: Session, flags: Flags) -> int:
    """Prints the names as given."""
    if flags.on("attach") or flags.on("interactive"):
        if len(flags.arguments) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        found = session.api.request("GET", path("/containers", flags.arguments[0], "/json")).json()
        stdin = flags.on("interactive") and found["Config"]["OpenStdin"]
        return _follow(session, found, stdin=stdin, keys=_keys(session, flags), proxy=True, begin=True)

    def one(name: str) -> None:
        place = path(
            "/containers", name, "/start", checkpoint=flags.text("checkpoint"),
            **{"checkpoint-dir": flags.text("checkpoint-dir")},
        )  # fmt: skip
        session.api.request("POST", place).read()
        print(name)

    status = session.each(flags.arguments, one)
    if status:
        raise Failure("Error: failed to start containers: " + ", ".join(flags.arguments))
    return status


@usage(
    """
dockyard exec [OPTIONS] CONTAINER COMMAND [ARG...]

Execute a command in a running container

Options:
  -d, --detach               Run in the background
      --detach-keys string   Keys that detach
  -e, --env list             Environment variables
      --env-file list        Files of environment variables
  -i, --interactive          Keep STDIN open even if not attached
      --privileged           All rights of the host
  -t, --tty                  Give it a terminal
  -u, --user string          User name or ID (<name|uid>[:<group|gid>])
  -w, --workdir string       Working directory
"""
)
def exec_(session: Session, flags: Flags) -> int:
    """The command's exit status is ours."""
    container, *command = flags.arguments
    stdin, tty, detach = flags.on("interactive"), flags.on("tty"), flags.on("detach")
    if tty and stdin and not detach and not os.isatty(0):
        raise Failure("the input device is not a TTY")
    size = list(terminal.window_size())
    for text in flags.all("env"):
        try:
            values.variable(text)
        except ValueError as error:
            raise flags.invalid("env", text, str(error)) from None
    try:
        variables = values.environment(flags.all("env"), flags.all("env-file"))
    except ValueError as error:
        raise Failure(str(error)) from None
    keys = _keys(session, flags)
    body = {
        "User": flags.text("user"),
        "Privileged": flags.on("privileged"),
        "Tty": tty,
        "AttachStdin": stdin and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": keys,
        "Env": variables,
        "WorkingDir": flags.text("workdir"),
        "Cmd": command,
    }
    if tty:
        body["ConsoleSize"] = size
    made = session.api.request("POST", path("/containers", container, "/exec"), body).json()["Id"]
    begin: dict[str, object] = {"Detach": detach, "Tty": tty}
    if tty:
        begin["ConsoleSize"] = size
    try:
        response = session.api.request("POST", f"/exec/{made}/start", begin, headers={} if detach else UPGRADE)
    except APIError as error:
        raise Failure(f"{PROGRAM}: Error response from daemon: {error}", status_of(error)) from error
    if detach:
        response.read()
        return 0
    _run_exec(session, made, response.hijack(), stdin=stdin, tty=tty)
    state = session.api.request("GET", f"/exec/{made}/json").json()
    if state["Running"] and stdin:
        return _detached()
    status: int = state["ExitCode"] or 0
    return status


def _run_exec(session: Session, made: str, hijacked: tuple[Any, bytes], *, stdin: bool, tty: bool) -> None:
    def resize(rows: int, columns: int) -> None:
        session.api.request("POST", path("/exec", made, "/resize", h=rows, w=columns), check=False).read()

    stream, early = hijacked
    with terminal.RawTerminal(0, wanted=tty and stdin):
        if tty and os.isatty(1):
            terminal.on_resize(resize)
        terminal.move(stream, early, stdin=0 if stdin else None, framed=not tty)
