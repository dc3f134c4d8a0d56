"""SSH agents for `RUN --mount=type=ssh`: what the engine's side may ask of them is to list keys and to sign.

moby/buildkit session/sshforward: keys are neither added nor removed, nor the agent locked, from a build.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from dockyard.buildkit import wire_pb2 as wire
from dockyard.grpc import status
from dockyard.grpc.calls import Method, request_of
from dockyard.grpc.connection import Stream
from dockyard.grpc.status import CallFailed

CHECK = "/moby.sshforward.v1.SSH/CheckAgent"
FORWARD = "/moby.sshforward.v1.SSH/ForwardAgent"
REQUEST_IDENTITIES, SIGN_REQUEST = 11, 13  # draft-ietf-sshm-ssh-agent, 5.1
FAILURE = b"\0\0\0\1\5"
LARGEST = 256 << 10
DEFAULT = "default"


class InvalidAgent(ValueError):
    """What `--ssh` says is neither an agent nor a key."""


class Agents:
    """Serves agents by their names; use it as a context: agents that hold keys of files end with it."""

    def __init__(self, texts: Sequence[str]) -> None:
        """`texts`: `default`, `NAME=SOCKET` or `NAME=KEY[,KEY]`, as of --ssh. Raises InvalidAgent."""
        self._sockets: dict[str, str] = {}
        self._ending = ExitStack()
        try:
            for text in texts:
                name, _, value = text.partition("=")
                paths = [path for path in value.split(",") if path]
                self._sockets[name or DEFAULT] = self._socket(paths)
        except BaseException:
            self._ending.close()
            raise

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {CHECK: self._check, FORWARD: self._forward} if self._sockets else {}

    def _socket(self, paths: list[str]) -> str:
        if not paths:
            agent = os.environ.get("SSH_AUTH_SOCK", "")
            if not agent:
                raise InvalidAgent("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
            return agent
        import stat

        kinds = []
        for path in paths:
            try:
                kinds.append(stat.S_ISSOCK(os.stat(path).st_mode))
            except OSError as error:
                raise InvalidAgent(f"failed to open {path}: {(error.strerror or '').lower()}") from None
        if len(paths) == 1 and kinds[0]:
            return paths[0]
        if any(kinds):
            raise InvalidAgent("only single socket allowed")
        return self._of_keys(paths)

    def _of_keys(self, paths: list[str]) -> str:
        """An agent of our own with the keys in files."""
        folder = self._ending.enter_context(tempfile.TemporaryDirectory(prefix="dockyard-ssh"))
        socket = os.path.join(folder, "agent")
        try:
            # it lives as long as what it has started, and that as long as we hold its standard input, however we end
            keeper = subprocess.Popen(
                ["ssh-agent", "-a", socket, "sh", "-c", "echo $SSH_AGENT_PID; exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise InvalidAgent("keys in files need ssh-agent, which is not here") from None
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        self._ending.callback(keeper.wait)
        self._ending.callback(keeper.stdin.close)
        agent = keeper.stdout.readline().strip()
        if not agent.isdigit():
            raise InvalidAgent("ssh-agent does not start")
        self._ending.callback(_end, int(agent))
        environment = {**os.environ, "SSH_AUTH_SOCK": socket, "SSH_ASKPASS_REQUIRE": "never"}
        for path in paths:
            with open(path, "rb") as key:
                # from its standard input: ssh-add refuses files that others may read, docker does not
                done = subprocess.run(
                    ["ssh-add", "-q", "-"], stdin=key, env=environment, capture_output=True, text=True, check=False
                )
            if done.returncode:
                raise InvalidAgent(f"failed to parse {path}: {done.stderr.strip()}")
        return socket

    async def _check(self, stream: Stream) -> None:
        name = wire.CheckAgentRequest.FromString(await request_of(stream)).id or DEFAULT
        if name not in self._sockets:
            raise CallFailed(status.NOT_FOUND, f"unset ssh forward key {name}")
        await stream.send(b"")

    async def _forward(self, stream: Stream) -> None:
        name = stream.headers.get("buildkit.ssh.id", "") or DEFAULT
        if name not in self._sockets:
            raise CallFailed(status.NOT_FOUND, f"unset ssh forward key {name}")
        reader, writer = await asyncio.open_unix_connection(self._sockets[name])
        try:
            buffer = b""
            while (message := await stream.receive()) is not None:
                buffer += wire.Bytes.FromString(message).data
                while len(buffer) >= 4:
                    size = int.from_bytes(buffer[:4], "big")
                    if not 0 < size <= LARGEST:
                        raise CallFailed(status.INVALID_ARGUMENT, "no message of an SSH agent")
                    if len(buffer) < 4 + size:
                        break
                    answer = await _ask(reader, writer, buffer[: 4 + size])
                    buffer = buffer[4 + size :]
                    await stream.send(wire.Bytes(data=answer).SerializeToString())
        except asyncio.IncompleteReadError:
            pass  # the agent has gone
        finally:
            writer.close()


def _end(pid: int) -> None:
    """End an agent at once: it looks for what it was started for only now and then."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> bytes:
    """The agent's answer to one message; a refusal of what a build has no business with."""
    if message[4] not in (REQUEST_IDENTITIES, SIGN_REQUEST):
        return FAILURE
    writer.write(message)
    head = await reader.readexactly(4)
    return head + await reader.readexactly(min(int.from_bytes(head, "big"), LARGEST))
