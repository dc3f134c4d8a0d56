"""One container: its life, what is known about it, its output, commands in it, and what to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from dockyard.client.calls import finish
from dockyard.client.container_options import ContainerOptions, create_body, port_key, words
from dockyard.client.errors import APIError, Conflict, ContainerError, NotFound, TimedOut
from dockyard.client.files import Files
from dockyard.client.framing import Decoder, JsonLines, MultiplexedOutput, Output, OutputLines, Pieces, RawOutput
from dockyard.client.images import Image
from dockyard.client.modes import Async, M, Resource, Sync, operation
from dockyard.client.results import Change, LogLine, Processes, Result
from dockyard.client.session import PATIENT
from dockyard.client.stats import Stats, parse_stats
from dockyard.client.streams import Process, Stream, collect, output_decoder
from dockyard.client.urls import path

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from typing import Unpack

    from dockyard.client.session import Exchange, Session

POLL = 0.05  # seconds between two looks at what cannot be waited for


class Container(Resource[M]):
    """A container. Leaving its `with` block (or `async with`) removes it, running or not.

    `attrs` is what the engine said about it last, as `docker inspect` shows it; `reload` asks again. A blocking client
    asks by itself when nothing is known yet.
    """

    def __init__(
        self, session: Session, id: str, attrs: dict[str, Any] | None = None, *, tty: bool | None = None
    ) -> None:
        super().__init__(session)
        self.id = id
        self._attrs = attrs
        self._stale = False  # since it was started, stopped or the like by us
        self._tty = tty

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.short_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # -- what is known

    @property
    def attrs(self) -> dict[str, Any]:
        """What the engine said about it last, in the API's words (ContainerInspect)."""
        if self._session.blocking:
            if self._attrs is None or self._stale:
                finish(self._inspect())
        elif self._attrs is None:
            raise AttributeError("nothing is known about this container yet: await container.reload()")
        assert self._attrs is not None
        return self._attrs

    @property
    def short_id(self) -> str:
        """The first 12 characters of its ID."""
        return self.id[:12]

    @property
    def name(self) -> str:
        """Its name, without the API's slash."""
        if "Names" in self.attrs:
            return str((self.attrs["Names"] or ["/"])[0]).removeprefix("/")
        return str(self.attrs["Name"]).removeprefix("/")

    @property
    def status(self) -> str:
        """created, running, paused, restarting, removing, exited or dead, as of the last `reload` or own call."""
        state = self._current["State"]
        return str(state if isinstance(state, str) else state["Status"])

    @property
    def exit_code(self) -> int | None:
        """Its exit status when it has ended, as of the last `reload`."""
        state = self._state
        return int(state["ExitCode"]) if state.get("Status") in ("exited", "dead") else None

    @property
    def health(self) -> str:
        """starting, healthy or unhealthy; "" without a health check. As of the last `reload`."""
        return str((self._state.get("Health") or {}).get("Status", ""))

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        found = self.attrs["Labels"] if "Labels" in self.attrs else self.attrs["Config"].get("Labels")
        return dict(found or {})

    @property
    def image(self) -> str:
        """The image it was made from, as it was named."""
        found = self.attrs["Image"] if "Names" in self.attrs else self.attrs["Config"]["Image"]
        return str(found)

    @property
    def ports(self) -> dict[str, list[tuple[str, int]]]:
        """Its published ports, {"80/tcp": [("0.0.0.0", 49153)]}, as of the last `reload`."""
        found = self._network_settings.get("Ports") or {}
        return {
            port: [(binding["HostIp"], int(binding["HostPort"])) for binding in bindings or () if binding["HostPort"]]
            for port, bindings in found.items()
        }

    @property
    def ip_addresses(self) -> dict[str, str]:
        """Its IPv4 address in each network, as of the last `reload`."""
        found = self._network_settings.get("Networks") or {}
        return {name: settings["IPAddress"] for name, settings in found.items() if settings.get("IPAddress")}

    @property
    def _state(self) -> dict[str, Any]:
        return self._whole["State"]  # type: ignore[no-any-return]  # the API's ContainerState

    @property
    def _network_settings(self) -> dict[str, Any]:
        return self._whole.get("NetworkSettings") or {}

    @property
    def _current(self) -> dict[str, Any]:
        """`attrs`, unless something was done to it since."""
        if self._stale and not self._session.blocking:
            raise AttributeError("its state has changed since: await container.reload()")
        return self.attrs

    @property
    def _whole(self) -> dict[str, Any]:
        """`_current`, not the shorter form that a list gives."""
        if "Names" in self._current:
            if not self._session.blocking:
                raise AttributeError("a list tells less about a container: await container.reload()")
            finish(self._inspect())
        return self.attrs

    @property
    def files(self) -> Files[M]:
        """Files in and out of it."""
        return Files(self._session, self.id)

    @operation
    async def reload(self) -> None:
        """Ask the engine again what it knows. Raises NotFound when the container is gone."""
        await self._inspect()

    async def _inspect(self) -> dict[str, Any]:
        found = (await self._get("/json")).json()
        self.id, self._attrs, self._stale = found["Id"], found, False
        self._tty = bool(found["Config"]["Tty"])
        return found  # type: ignore[no-any-return]

    async def _get(self, what: str, **query: Any) -> Any:
        return await self._session.request("GET", path("/containers", self.id, what, **query))

    async def _post(self, what: str, body: Any = None, *, timeout: float | None = None, **query: Any) -> Any:
        return await self._session.request("POST", path("/containers", self.id, what, **query), body, timeout=timeout)

    # -- life

    def _changed(self) -> None:
        """What is known of its state is so no more."""
        self._stale = True

    @operation
    async def start(self, *, checkpoint: str = "", checkpoint_dir: str = "") -> None:
        """Start it; nothing happens when it runs. Raises NotFound, APIError when it cannot start.

        With `checkpoint` its processes go on where they were when that was made.
        """
        query: dict[str, Any] = {"checkpoint": checkpoint or None, "checkpoint-dir": checkpoint_dir or None}
        await self._post("/start", **query)
        self._changed()

    @operation
    async def stop(self, timeout: float | None = None, signal: str | int | None = None) -> None:
        """Ask it to stop (SIGTERM, or what it was made with), and kill it after `timeout` seconds (10 by default)."""
        await self._post("/stop", t=_seconds(timeout), signal=signal, timeout=PATIENT)
        self._changed()

    @operation
    async def restart(self, timeout: float | None = None, signal: str | int | None = None) -> None:
        """Stop it as `stop` does, and start it."""
        await self._post("/restart", t=_seconds(timeout), signal=signal, timeout=PATIENT)
        self._changed()

    @operation
    async def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal, by name or number. Raises Conflict when it does not run."""
        await self._post("/kill", signal=signal)
        self._changed()

    @operation
    async def pause(self) -> None:
        """Freeze all its processes."""
        await self._post("/pause")
        self._changed()

    @operation
    async def unpause(self) -> None:
        """Let its processes go on."""
        await self._post("/unpause")
        self._changed()

    @operation
    async def rename(self, name: str) -> None:
        """Give it another name. Raises Conflict when that is taken."""
        await self._post("/rename", name=name)
        if self._attrs is not None:
            listed = {"Names": [f"/{name}"]} if "Names" in self._attrs else {}
            self._attrs = {**self._attrs, "Name": f"/{name}", **listed}

    @operation
    async def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; `volumes`: its anonymous ones too; `force`: kill it first. Raises Conflict when it runs."""
        await self._session.request(
            "DELETE", path("/containers", self.id, force=force, v=volumes), timeout=PATIENT if force else None
        )

    @operation
    async def update(self, **options: Unpack[ContainerOptions]) -> list[str]:
        """Change its limits or restart policy: cpus, cpu_shares, cpu_period, cpu_quota, cpuset_cpus, cpuset_mems,
        mem_limit, mem_reservation, memswap_limit, blkio_weight, pids_limit, restart. Gives the engine's warnings."""
        body = create_body("", None, options).get("HostConfig", {})
        found = (await self._post("/update", body)).json()
        return list(found.get("Warnings") or ())

    @operation
    async def wait(
        self,
        condition: Literal["not-running", "next-exit", "removed"] = "not-running",
        timeout: float | None = None,
    ) -> int:
        """Wait until it does not run (any more), and give its exit status. Raises TimedOut after `timeout` seconds."""
        return await self._wait(condition, timeout)

    async def _wait(self, condition: str = "not-running", timeout: float | None = None) -> int:
        patience = PATIENT if timeout is None else timeout
        place = path("/containers", self.id, "/wait", condition=condition)
        try:
            found = (await self._session.request("POST", place, timeout=patience)).json()
        except TimedOut:
            raise TimedOut(f"container {self.short_id} has not ended within {timeout} s") from None
        self._changed()
        error = (found.get("Error") or {}).get("Message")
        if error:
            raise APIError(500, error)
        return int(found["StatusCode"])

    @operation
    async def wait_until_healthy(self, timeout: float | None = 60) -> None:
        """Wait for its health check to say "healthy".

        Raises TimedOut after `timeout` seconds; ContainerError when it ends instead, or is found unhealthy: the result
        is the last probe's then.
        """
        clock = Deadline(timeout)
        # what has been subscribed to before looking cannot be missed
        events = await self._session.open(
            "GET",
            path("/events", filters={"container": [self.id], "event": ["health_status", "die"]}),
            timeout=PATIENT,
        )
        try:
            while True:
                state = (await self._inspect())["State"]
                health = (state.get("Health") or {}).get("Status")
                if health == "healthy":
                    return
                if not state["Running"]:
                    raise ContainerError("health check", self.image, Result(int(state["ExitCode"]), b"", b""))
                if health == "unhealthy":
                    raise ContainerError("health check", self.image, _probe(state["Health"]))
                if health is None:
                    raise ValueError(f"container {self.short_id} has no health check")
                await events.read(clock.left())
        except TimedOut:
            raise TimedOut(f"container {self.short_id} is not healthy after {timeout} s") from None
        finally:
            events.close()

    @operation
    async def wait_for_log(self, pattern: str, timeout: float | None = 60) -> LogLine:
        """The first line of its log, old or new, in which the regular expression `pattern` is found.

        Raises TimedOut after `timeout` seconds; ContainerError when its log ends without such a line.
        """
        import re

        wanted = re.compile(pattern)
        clock = Deadline(timeout)
        lines: Stream[LogLine, Any] = self._log_stream(True, True, True, None, None, "all", False)
        try:
            while isinstance(line := await lines._next(clock.left()), LogLine):
                if wanted.search(line.text):
                    return line
        except TimedOut:
            raise TimedOut(f"no line like {pattern!r} from container {self.short_id} within {timeout} s") from None
        finally:
            lines._close()
        raise ContainerError(f"a line like {pattern!r}", self.short_id, Result(await self._wait(), b"", b""))

    @operation
    async def wait_for_port(self, port: int | str, timeout: float | None = 60) -> tuple[str, int]:
        """The address (host, port) at which its TCP `port` answers from here, once it does.

        Tried are where the port is published and the container's own addresses. Raises TimedOut after `timeout`
        seconds; ContainerError when it ends instead.
        """
        from dockyard.client.address import Address

        clock = Deadline(timeout)
        while True:
            state = (await self._inspect())["State"]
            if not state["Running"]:
                raise ContainerError(f"port {port}", self.image, Result(int(state["ExitCode"]), b"", b""))
            number = int(port_key(port).partition("/")[0])
            host = self._session.address.host or "127.0.0.1"
            published = [
                (host if ip in ("", "0.0.0.0", "::") else ip, at) for ip, at in self.ports.get(port_key(port), ())
            ]
            for place in [*published, *((ip, number) for ip in self.ip_addresses.values())]:
                if await self._session.answers(Address("", *place)):
                    return place
            if clock.left() == 0:
                raise TimedOut(f"port {port} of container {self.short_id} does not answer after {timeout} s")
            await self._session.dialer.sleep(POLL)

    # -- output

    @operation
    async def logs(
        self,
        *,
        stdout: bool = True,
        stderr: bool = True,
        since: float | str | None = None,
        until: float | str | None = None,
        tail: int | Literal["all"] = "all",
        timestamps: bool = False,
    ) -> bytes:
        """What it has written so far, both streams in order. `since`, `until`: UNIX seconds or RFC 3339."""
        stream: Stream[bytes, Any] = self._log_pieces(stdout, stderr, False, since, until, tail, timestamps)
        pieces = []
        while isinstance(piece := await stream._next(), bytes):
            pieces.append(piece)
        return b"".join(pieces)

    def stream_logs(
        self,
        *,
        follow: bool = True,
        stdout: bool = True,
        stderr: bool = True,
        since: float | str | None = None,
        until: float | str | None = None,
        tail: int | Literal["all"] = "all",
        timestamps: bool = False,
    ) -> Stream[LogLine, M]:
        """Its log line by line; with `follow` as it is written, until the container ends."""
        return self._log_stream(stdout, stderr, follow, since, until, tail, timestamps)

    def _log_request(
        self,
        stdout: bool,
        stderr: bool,
        follow: bool,
        since: float | str | None,
        until: float | str | None,
        tail: int | str,
        timestamps: bool,
    ) -> Callable[[], Coroutine[Any, Any, Exchange]]:
        query = {"stdout": stdout, "stderr": stderr, "follow": follow, "since": since, "until": until}

        async def begin() -> Exchange:
            await self._know_terminal()
            place = path("/containers", self.id, "/logs", tail=str(tail), timestamps=timestamps, **query)
            return await self._session.open("GET", place, timeout=PATIENT if follow else None)

        return begin

    def _log_stream(self, stdout: bool, stderr: bool, follow: bool, *rest: Any) -> Stream[LogLine, Any]:
        timestamps = rest[-1]

        def line(output: Output) -> LogLine:
            text = output.data.decode(errors="replace").removesuffix("\r")
            time, _, text = text.partition(" ") if timestamps else ("", "", text)
            return LogLine(output.stream, text, time)

        return Stream(
            self._session,
            self._log_request(stdout, stderr, follow, *rest),
            lambda exchange: OutputLines(self._decoder(exchange)),
            line,
        )

    def _log_pieces(self, *request: Any) -> Stream[bytes, Any]:
        return Stream(self._session, self._log_request(*request), self._decoder, lambda output: output.data)

    def _decoder(self, exchange: Exchange) -> Decoder[Output]:
        """By what the engine says it sends; older ones do not say."""
        return output_decoder(None if self._session.version >= (1, 42) else self._tty)(exchange)

    async def _know_terminal(self) -> None:
        if self._tty is None and self._session.version < (1, 42):
            await self._inspect()

    @operation
    async def attach(
        self,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        logs: bool = False,
        detach_keys: str = "",
    ) -> Process[M]:
        """Join its streams: with `logs` first what it has written so far, then what it writes, until it ends.

        For `stdin` it must have been made with `stdin_open=True`.
        """
        return await self._attach(stdin=stdin, stdout=stdout, stderr=stderr, logs=logs, detach_keys=detach_keys)

    async def _attach(self, *, detach_keys: str = "", **streams: bool) -> Process[Any]:
        await self._know_terminal()
        place = path("/containers", self.id, "/attach", stream=True, detachKeys=detach_keys, **streams)
        exchange = await self._session.hijack(place)
        return Process(self._session, exchange, self._decoder(exchange), wait=self._wait, resize=self._resize)

    @operation
    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal its size."""
        await self._resize(rows, columns)

    async def _resize(self, rows: int, columns: int) -> None:
        await self._post("/resize", h=rows, w=columns)

    # -- commands in it

    @operation
    async def exec(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | str | Iterable[bytes | str] | None = None,
        environment: Mapping[str, str | None] | Sequence[str] | None = None,
        user: str | int = "",
        working_dir: str = "",
        privileged: bool = False,
        tty: bool = False,
        check: bool = False,
        timeout: float | None = None,
    ) -> Result:
        """Run a command in it and give its exit status, stdout and stderr; `input` is what it reads from stdin.

        Raises Conflict when the container does not run; with `check` ContainerError when the exit status is not 0;
        TimedOut after `timeout` seconds: the command's process is killed then (other engines than Dockyard leave it
        alone, for their API has no way to end it).
        """
        exec_id = await self._make_exec(
            command, input is not None, tty, environment, user, working_dir, privileged=privileged
        )
        exchange = await self._session.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty})
        decoder = RawOutput() if tty else MultiplexedOutput()
        try:
            stdout, stderr = await collect(exchange, decoder, input, timeout)
        except TimedOut:
            await self._end_exec(exec_id)
            raise TimedOut(f"{command!r} in container {self.short_id} has not ended after {timeout:g} s") from None
        result = Result(await self._exec_status(exec_id), stdout, stderr)
        if check and not result.ok:
            raise ContainerError(command, self.short_id, result)
        return result

    @operation
    async def start_exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bool = False,
        environment: Mapping[str, str | None] | Sequence[str] | None = None,
        user: str | int = "",
        working_dir: str = "",
        privileged: bool = False,
        tty: bool = False,
    ) -> Process[M]:
        """Start a command in it, to iterate over what it writes, write to its stdin and wait for it."""
        exec_id = await self._make_exec(command, stdin, tty, environment, user, working_dir, privileged=privileged)
        exchange = await self._session.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty})

        async def resize(rows: int, columns: int) -> None:
            await self._session.request("POST", path("/exec", exec_id, "/resize", h=rows, w=columns))

        async def wait() -> int:
            return await self._exec_status(exec_id)

        decoder = RawOutput() if tty else MultiplexedOutput()
        return Process(self._session, exchange, decoder, wait=wait, resize=resize)

    @operation
    async def exec_detached(
        self,
        command: str | Sequence[str],
        *,
        environment: Mapping[str, str | None] | Sequence[str] | None = None,
        user: str | int = "",
        working_dir: str = "",
        privileged: bool = False,
    ) -> str:
        """Start a command in it and leave it alone. Gives the ID of the exec."""
        exec_id = await self._make_exec(
            command, False, False, environment, user, working_dir, privileged=privileged, attach=False
        )
        await self._session.request("POST", f"/exec/{exec_id}/start", {"Detach": True})
        return exec_id

    async def _make_exec(
        self,
        command: str | Sequence[str],
        stdin: bool,
        tty: bool,
        environment: Any,
        user: str | int,
        working_dir: str,
        *,
        privileged: bool,
        attach: bool = True,
    ) -> str:
        from dockyard.client.container_options import environment as variables

        body: dict[str, Any] = {"Cmd": words(command), "AttachStdout": attach, "AttachStderr": attach}
        if stdin:
            body["AttachStdin"] = True
        if tty:
            body["Tty"] = True
        if environment:
            body["Env"] = variables(environment)
        if user != "":
            body["User"] = str(user)
        if working_dir:
            body["WorkingDir"] = working_dir
        if privileged:
            body["Privileged"] = True
        return str((await self._post("/exec", body)).json()["Id"])

    async def _end_exec(self, exec_id: str) -> None:
        try:
            await self._session.request("POST", path("/dockyard/exec", exec_id, "/kill"))
        except (NotFound, Conflict):
            pass  # it has just ended, or the engine is another

    async def _exec_status(self, exec_id: str) -> int:
        found = (await self._session.request("GET", f"/exec/{exec_id}/json")).json()
        while found["Running"]:  # the streams' end may be seen before the process's
            await self._session.dialer.sleep(POLL / 10)
            found = (await self._session.request("GET", f"/exec/{exec_id}/json")).json()
        return int(found["ExitCode"] or 0)

    # -- looking inside

    @operation
    async def top(self, ps_args: str = "") -> Processes:
        """Its processes, as `ps` with these arguments shows them on the host."""
        found = (await self._get("/top", ps_args=ps_args)).json()
        return Processes(found["Titles"], found["Processes"] or [])

    @operation
    async def changes(self) -> list[Change]:
        """Paths that differ from its image."""
        kinds = ("modified", "added", "deleted")
        return [Change(kinds[row["Kind"]], row["Path"]) for row in (await self._get("/changes")).json() or ()]

    @operation
    async def stats(self) -> Stats:
        """What it uses now. `cpu_percent` needs two looks, which take the engine a second or two."""
        found = (await self._get("/stats", stream="0")).json()
        return parse_stats(found)

    def stream_stats(self) -> Stream[Stats, M]:
        """What it uses, about every second, until it is removed."""

        async def begin() -> Exchange:
            return await self._session.open("GET", path("/containers", self.id, "/stats", stream="1"), timeout=PATIENT)

        return Stream(self._session, begin, lambda _: JsonLines(), parse_stats)

    def export(self) -> Stream[bytes, M]:
        """Its whole file system as pieces of a tar archive."""

        async def begin() -> Exchange:
            return await self._session.open("GET", path("/containers", self.id, "/export"), timeout=PATIENT)

        return Stream(self._session, begin, lambda _: Pieces())

    @operation
    async def commit(
        self,
        repository: str = "",
        tag: str = "",
        *,
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> Image[M]:
        """Make an image of it. `changes` are Dockerfile instructions ("CMD sh"); it is paused meanwhile unless told."""
        place = path(
            "/commit",
            container=self.id,
            repo=repository,
            tag=tag,
            comment=message,
            author=author,
            changes="\n".join(changes),
            pause=None if pause else "0",
        )
        made = (await self._session.request("POST", place, {}, timeout=PATIENT)).json()["Id"]
        return await Image(self._session, made)._loaded()

    # -- what only Dockyard's engine can do; others answer NotFound

    @operation
    async def fork(self, name: str = "", *, start: bool | None = None, memory: bool | None = None) -> Container[M]:
        """A second container that goes on from this one's files; with `memory` from its processes, too.

        `start`: whether it runs at once, by default if this one does.
        """
        place = path("/dockyard/containers", self.id, "/fork", name=name or None, start=start, memory=memory)
        made = (await self._session.request("POST", place, timeout=PATIENT)).json()
        return Container(self._session, made["Id"])

    @operation
    async def reconfigure(
        self,
        *,
        publish: Mapping[int | str, Any] | None = None,
        unpublish: Sequence[int | str] = (),
        volumes: Mapping[str, str | Mapping[str, str]] | Sequence[str] = (),
        unmount: Sequence[str] = (),
        environment: Mapping[str, str | None] | Sequence[str] = (),
        unset: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        unlabel: Sequence[str] = (),
    ) -> bool:
        """Change what Docker says can't be changed: ports, mounts, environment, labels. True if it was restarted.

        `publish` as the option `ports` of `run`, `volumes` as that of the same name; `unmount` are destinations.
        """
        from dockyard.client.container_options import environment as variables
        from dockyard.client.container_options import port_bindings, volume_binds

        body = {
            "PublishAdd": port_bindings(publish) if publish else None,
            "PublishRemove": [port_key(port) for port in unpublish] or None,
            "BindsAdd": volume_binds(volumes) if volumes else None,
            "MountsRemove": list(unmount) or None,
            "EnvAdd": variables(environment) if environment else None,
            "EnvRemove": list(unset) or None,
            "LabelsAdd": dict(labels) if labels else None,
            "LabelsRemove": list(unlabel) or None,
        }
        place = path("/dockyard/containers", self.id, "/reconfigure")
        found = (await self._session.request("POST", place, body, timeout=PATIENT)).json()
        self._changed()
        return bool(found["Restarted"])

    # -- checkpoints, where the engine's host has CRIU

    @operation
    async def checkpoint(self, name: str, *, directory: str = "", leave_running: bool = False) -> None:
        """Write its processes to a checkpoint of that name; it ends, unless `leave_running`."""
        body = {"CheckpointID": name, "CheckpointDir": directory, "Exit": not leave_running}
        await self._session.request("POST", path("/containers", self.id, "/checkpoints"), body, timeout=PATIENT)
        self._changed()

    @operation
    async def checkpoints(self, *, directory: str = "") -> list[str]:
        """The names of its checkpoints."""
        found = (await self._get("/checkpoints", dir=directory or None)).json()
        return [row["Name"] for row in found or ()]

    @operation
    async def remove_checkpoint(self, name: str, *, directory: str = "") -> None:
        """Remove a checkpoint. Raises NotFound."""
        await self._session.request("DELETE", path("/containers", self.id, "/checkpoints", name, dir=directory or None))

    # -- as a context

    async def _leave(self) -> None:
        try:
            place = path("/containers", self.id, force=True, v=True)
            await self._session.request("DELETE", place, timeout=PATIENT)
        except NotFound:
            pass  # it was removed already
        except APIError as error:
            if "already in progress" not in error.message:
                raise

    def __enter__(self: Container[Sync]) -> Container[Sync]:
        return self

    def __exit__(self: Container[Sync], *_: object) -> None:
        finish(self._leave())

    async def __aenter__(self: Container[Async]) -> Container[Async]:
        return self

    async def __aexit__(self: Container[Async], *_: object) -> None:
        await self._leave()


def _probe(health: dict[str, Any]) -> Result:
    """The last probe of a health check."""
    last = (health.get("Log") or [{}])[-1]
    return Result(int(last.get("ExitCode") or 1), str(last.get("Output") or "").encode(), b"")


class Deadline:
    """A time that something may take."""

    def __init__(self, timeout: float | None) -> None:
        import time

        self._clock = time.monotonic
        self._end = None if timeout is None else self._clock() + timeout

    def left(self) -> float | None:
        """Seconds that are left, at least 0; None when there is no limit."""
        return None if self._end is None else max(0.0, self._end - self._clock())


def _seconds(timeout: float | None) -> int | None:
    """Whole seconds, for the API has no others; not none of them for less than one."""
    return None if timeout is None else int(timeout) + (timeout > int(timeout))
