"""`create` and `run`."""

from __future__ import annotations

import os
import sys

from dockyard.cli import terminal
from dockyard.cli.create_options import HIDDEN, OPTIONS
from dockyard.cli.create_request import create_request, refused
from dockyard.cli.errors import EXIT_NOT_STARTED, Failure, UsageError, status_of
from dockyard.cli.session import Session, path
from dockyard.cli.usage import PROGRAM, Flags, usage
from dockyard.client.errors import APIError, ImageNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, TextIO

    from dockyard.client.http import Response


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
    streams = attached_streams(flags)
    body |= {f"Attach{name.title()}": True for name in streams}
    body["StdinOnce"] = "STDIN" in streams and flags.on("interactive")
    try:
        print(_create(session, flags, body))
    except APIError as error:
        raise Failure(words_of(error)) from error
    return 0


def attached_streams(flags: Flags) -> set[str]:
    """The streams that a client of the container holds. Raises UsageError."""
    chosen = {name.upper() for name in flags.all("attach")}
    for name in chosen - {"STDIN", "STDOUT", "STDERR"}:
        raise flags.invalid("attach", name.lower(), "valid streams are STDIN, STDOUT and STDERR")
    if flags.on("interactive"):
        return (chosen or {"STDOUT", "STDERR"}) | {"STDIN"}
    return chosen or {"STDOUT", "STDERR"}


def words_of(error: APIError) -> str:
    """What an error of the engine is shown as: what is wrong with a name is wrong before the engine is asked."""
    if error.message.startswith("invalid reference format"):
        return error.message
    return f"Error response from daemon: {error}"


@usage(
    f"""
dockyard run [OPTIONS] IMAGE [COMMAND] [ARG...]

Create and run a new container from an image

Options:
{OPTIONS}
  -d, --detach                          Run in the background and print the ID
      --detach-keys string              Keys that detach
      --lease                           Remove it when this command ends, however it ends
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
        message = f"{PROGRAM}: {words_of(error)}\n\nRun '{PROGRAM} run --help' for more information"
        raise Failure(message, status_of(error)) from error
    except Failure as failure:
        failure.code = EXIT_NOT_STARTED if failure.code == 1 else failure.code
        raise


def _create(session: Session, flags: Flags, body: dict[str, Any]) -> str:
    """Create the container, pulling the image when it is not there; its ID."""
    cidfile = flags.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise refused(
            flags, f"container ID file found, make sure the other container isn't running or delete {cidfile}"
        )
    pull = flags.text("pull", "missing")
    if pull not in ("always", "missing", "never"):
        raise refused(flags, f'invalid pull option: \'{pull}\': must be one of "always", "missing" or "never"')
    _add_proxies(session, body)
    logins = _share_socket(session, body) if flags.on("use-api-socket") else b""
    file = _open_cidfile(flags, cidfile) if cidfile else None
    try:
        made = _ask(session, flags, body, pull)
        for warning in made.get("Warnings") or []:
            print(f"WARNING: {warning}", file=sys.stderr)
        if file is not None:
            file.write(made["Id"])
    finally:
        if file is not None:
            file.close()
            if not os.path.getsize(cidfile):
                os.unlink(cidfile)
    if logins:
        place = path("/containers", made["Id"], "/archive", path="/")
        session.api.request("PUT", place, logins, headers={"Content-Type": "application/x-tar"}).read()
    container_id: str = made["Id"]
    return container_id


def _open_cidfile(flags: Flags, path: str) -> TextIO:
    try:
        return open(path, "w", encoding="ascii")
    except OSError as error:
        why = f"failed to create the container ID file: open {path}: {(error.strerror or '').lower()}"
        failure = refused(flags, why)
        failure.code = 127 if isinstance(error, FileNotFoundError) else EXIT_NOT_STARTED
        raise failure from None


def _ask(session: Session, flags: Flags, body: dict[str, Any], pull: str) -> Any:
    """Have the container made, after pulling its image if need be."""
    image, platform = body["Image"], flags.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    place = path("/containers/create", name=flags.text("name"), platform=platform)
    if pull == "always":
        _pull(session, image, platform, quiet=flags.on("quiet"))
    try:
        return session.api.request("POST", place, body).json()
    except ImageNotFound:
        if pull != "missing":
            raise
    if not flags.on("quiet"):
        print(f"Unable to find image '{_with_tag(image)}' locally", file=sys.stderr)
    _pull(session, image, platform, quiet=flags.on("quiet"))
    return session.api.request("POST", place, body).json()


def _add_proxies(session: Session, body: dict[str, Any]) -> None:
    """The proxies that config.json has for this engine, where the command line says nothing else."""
    if not session.config.get("proxies"):
        return
    from dockyard.client.config_file import proxies

    given = {text.partition("=")[0] for text in body["Env"]}
    found = proxies(session.config, session.api.host)
    body["Env"] += [f"{name}={value}" for name, value in found.items() if name not in given]


def _share_socket(session: Session, body: dict[str, Any]) -> bytes:
    """Give the container the engine's socket; an archive with our logins, to be unpacked in it."""
    scheme, _, place = session.api.host.partition("://")
    if scheme != "unix":
        raise Failure(
            f"flag --use-api-socket can only be used with unix sockets: docker endpoint {session.api.host} incompatible"
        )
    mount = {"Type": "bind", "Source": place, "Target": "/var/run/docker.sock", "BindOptions": {}}
    body["HostConfig"].setdefault("Mounts", []).append(mount)
    if any(text.startswith("DOCKER_CONFIG=") for text in body["Env"]):
        return b""
    from dockyard.client import credentials

    found = credentials.every_login(session.config_folder).items()
    logins = {name: credentials.entry_of(login) for name, login in found if login}
    if not logins:
        return b""
    import io
    import json
    import tarfile

    body["Env"].append("DOCKER_CONFIG=/run/secrets/docker")
    data = json.dumps({"auths": logins}).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("run/secrets/docker/config.json")
        member.size, member.mode = len(data), 0o600
        tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def _pull(session: Session, image: str, platform: str, *, quiet: bool) -> None:
    from dockyard.cli.commands.transfer import pull_image

    pull_image(session, image, platform=platform, quiet=quiet, to=sys.stderr)


def _with_tag(image: str) -> str:
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _run_detached(session: Session, flags: Flags) -> int:
    if flags.on("lease"):
        raise UsageError("conflicting options: cannot specify both --lease and --detach: who holds it would be gone")
    if flags.given("attach"):
        raise UsageError("conflicting options: cannot specify both --attach and --detach")
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
        self._streams = attached_streams(flags)
        self._stdin = "STDIN" in self._streams
        self._container = ""

    def run(self) -> int:
        """Create, attach, start, move bytes, wait; the exit status."""
        if self._tty and self._stdin and not os.isatty(0):
            raise UsageError("the input device is not a TTY")
        body = create_request(self._flags)
        body |= {f"Attach{name.title()}": True for name in self._streams}
        body["StdinOnce"] = self._stdin and self._flags.on("interactive")
        if self._flags.on("lease"):
            from dockyard.cli import lease

            self._lease = lease.Lease(self._session.api)  # held by this process, whatever becomes of it
            body.setdefault("Labels", {})[lease.LABEL] = self._lease.id
        self._container = _create(self._session, self._flags, body)
        if self._flags.on("sig-proxy", default=True):
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
            if self._tty:
                terminal.on_resize(self._resize)
            terminal.move(stream, early, stdin=0 if self._stdin else None, framed=not self._tty)
        return self._status(ended)

    def _place(self, what: str, **values: object) -> str:
        return path("/containers", self._container, what, **values)

    def _attach(self) -> tuple[socket, bytes]:
        wanted = {name.lower(): True for name in self._streams}
        keys = self._flags.text("detach-keys") or self._session.setting("detachKeys")
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
        if self._tty and self._stdin and terminal.detached(self._session, self._container, ended):
            return 0
        result = ended.json()
        if result is None:
            raise Failure("the engine went away while the container ran", EXIT_NOT_STARTED)
        if (result.get("Error") or {}).get("Message"):
            raise Failure(f"Error waiting for container: {result['Error']['Message']}", EXIT_NOT_STARTED)
        status: int = result["StatusCode"]
        return status
