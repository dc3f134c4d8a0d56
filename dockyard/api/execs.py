"""Operations on execs."""

import base64
import os
import socket
from typing import Any

import msgspec

from dockyard import web
from dockyard.api.attach import detach_keys
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.api.streams import MULTIPLEXED_STREAM, RAW_STREAM, hijack
from dockyard.api.terminal_size import terminal_size
from dockyard.errors import DockyardError
from dockyard.shim.orders import DEFAULT_DETACH_KEYS, Attachment


class ExecCreate(msgspec.Struct, rename="pascal"):
    """The body of POST /containers/{id:path}/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    tty: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    console_size: list[int] | None = None


class ExecStart(msgspec.Struct, rename="pascal"):
    """The body of POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


def routes(services: Services) -> list[Route]:
    """Operations on execs."""
    api = Execs(services)
    return [
        Route("POST", "/containers/{id:path}/exec", api.create, without_disk=True),
        Route("POST", "/exec/{id}/start", api.start, without_disk=True),
        Route("POST", "/exec/{id}/resize", api.resize, without_disk=True),
        Route("GET", "/exec/{id}/json", api.inspect),
    ]


class Execs:
    """Handlers of the operations on execs."""

    def __init__(self, services: Services) -> None:
        self._execs = services.execs

    async def create(self, call: Call) -> web.StreamResponse:
        request = await call.body(ExecCreate)
        execution = await self._execs.create(
            call.params["id"],
            request.cmd or [],
            tty=request.tty,
            stdin=request.attach_stdin,
            stdout=request.attach_stdout,
            stderr=request.attach_stderr,
            env=request.env or [],
            user=request.user,
            working_dir=request.working_dir,
            privileged=request.privileged,
            detach_keys=detach_keys(request.detach_keys),
            console_size=_size(request.console_size) if call.version >= (1, 42) else None,
        )
        return json_response({"Id": execution.id}, 201)

    async def start(self, call: Call) -> web.StreamResponse:
        request = await call.body(ExecStart)
        execution = self._execs.check_startable(call.params["id"])
        size = _size(request.console_size) if request.tty and call.version >= (1, 42) else None
        if request.detach:
            await self._execs.start(execution, None, size)
            return no_content(200)
        # How the stream is framed is up to this request, not to the exec's terminal (moby's exec router).
        kind = MULTIPLEXED_STREAM if not request.tty and call.version >= (1, 42) else RAW_STREAM
        fd, response = await hijack(call, kind)
        with socket.socket(fileno=os.dup(fd)) as client:
            attachment = Attachment(
                fd,
                stdin=execution.stdin,
                stdout=execution.stdout,
                stderr=execution.stderr,
                detach_keys=execution.detach_keys,
                raw=request.tty,
                blocking=True,
            )
            try:
                await self._execs.start(execution, attachment, size)
            except DockyardError as failure:
                # the head is out: what is wrong goes to the client's terminal, the exit code tells the rest
                text = f"{failure}\r\n".encode()
                head = b"" if request.tty else b"\1\0\0\0" + len(text).to_bytes(4, "big")
                client.setblocking(True)
                try:
                    client.sendall(head + text)
                except OSError:
                    pass
        return response

    async def resize(self, call: Call) -> web.StreamResponse:
        await self._execs.resize(call.params["id"], *terminal_size(call))
        return no_content(200)

    async def inspect(self, call: Call) -> web.StreamResponse:
        execution = await self._execs.seen(call.params["id"])
        given_keys = b"" if execution.detach_keys == DEFAULT_DETACH_KEYS else execution.detach_keys
        shown: dict[str, Any] = {
            "ID": execution.id,
            "Running": execution.running,
            "ExitCode": execution.exit_code,
            "ProcessConfig": {
                "tty": execution.tty,
                "entrypoint": execution.command[0],
                "arguments": execution.command[1:],
                "privileged": execution.privileged,
                **({"user": execution.user} if execution.user else {}),
            },
            "OpenStdin": execution.stdin,
            "OpenStderr": execution.stderr,
            "OpenStdout": execution.stdout,
            "CanRemove": False,
            "ContainerID": execution.container.id,
            "DetachKeys": base64.b64encode(given_keys).decode(),
            "Pid": execution.live.pid if execution.live else 0,
        }
        return json_response(shown)


def _size(given: list[int] | None) -> tuple[int, int] | None:
    return (given[0] & 0xFFFF, given[1] & 0xFFFF) if given and len(given) == 2 and all(given) else None
