"""One build, driven from our side as buildx does: the engine solves a Dockerfile, and is told to go on with that."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.directories import Directory
from dockyard.buildx.filesync import FileSync
from dockyard.buildx.outputs import Outputs
from dockyard.buildx.request import BuildRequest, InvalidRequest
from dockyard.buildx.secrets import InvalidSecret, Logins, Secrets, Upload, parse
from dockyard.buildx.session import Session
from dockyard.buildx.ssh import Agents, InvalidAgent
from dockyard.buildx.stores import served
from dockyard.buildx.transport import connect
from dockyard.client.http import Connection as Engine
from dockyard.grpc.calls import Call, Method, call
from dockyard.grpc.connection import Connection, StreamReset
from dockyard.grpc.status import CallFailed

CONTROL = "/moby.buildkit.v1.Control/"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
BUILD_ID = "buildkit-controlapi-buildid"
FRONTEND = "dockerfile.v0"
UPLOADED = "http://buildkit-session/"

Ask = Callable[[str, bytes], Awaitable[bytes]]  # a method of the gateway, and its message
Show = Callable[[wire.StatusResponse], None]


class BuildFailed(Exception):
    """A build did not succeed. `sources`: places in files that the error is about, as `{info, ranges}`."""

    def __init__(self, message: str, sources: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.sources = sources or []


@dataclass
class Solved:
    """What came of a build: what exporters say, answers of the frontend (`requestid`), and results for other builds."""

    told: dict[str, str] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    ref: str = ""

    @property
    def image(self) -> str:
        """The ID of the image, "" when none was made."""
        return self.told.get("containerimage.config.digest") or self.told.get("containerimage.digest", "")


async def solve(
    engine: Engine,
    request: BuildRequest,
    *,
    config_folder: str,
    shared_key: str,
    show: Show,
    handed_on: Callable[[wire.Result], None] | None = None,
    more: Mapping[str, Method] | None = None,
    look: Callable[[Ask], Awaitable[object]] | None = None,
) -> Solved:
    """Build; progress goes to `show`. `handed_on` gets the result as soon as others can build with it.

    `more`: what the session serves besides. `look`: what is done with the gateway instead of building a Dockerfile.

    Raises BuildFailed, InvalidRequest, APIError, Unreachable.
    """
    session, control = Session(shared_key), Connection()
    with ExitStack() as ending:
        _serve(session, request, config_folder, ending)
        stores = served(request)
        session.serve(stores.methods)
        session.serve(more or {})
        await connect(engine, "/grpc", control)
        try:
            async with session.open(engine):
                solved = await _Drive(control, session, request, show, handed_on, look).run()
            stores.finish(solved.told)
            return solved
        except CallFailed as failure:
            raise _failure(failure) from None
        except (StreamReset, OSError) as error:
            raise BuildFailed(str(error)) from None
        finally:
            control.close()
            await control.closed


def _serve(session: Session, request: BuildRequest, config_folder: str, ending: ExitStack) -> None:
    """Offer on the session what the build may ask for. Raises InvalidRequest."""
    try:
        agents = ending.enter_context(Agents(request.ssh))
        given = {name: lambda value=value: value for name, value in request.secret_values.items()}
        secret = Secrets({**parse(request.secrets), **given})
    except (InvalidAgent, InvalidSecret) as error:
        raise InvalidRequest(str(error)) from None
    places = {
        number: (output.destination, output.directory)
        for number, output in enumerate(request.outputs)
        if output.destination
    }
    session.serve(FileSync({name: Directory(path) for name, path in request.directories.items()}).methods)
    session.serve(Outputs(places).methods)
    session.serve(secret.methods)
    session.serve(agents.methods)
    session.serve(Logins(config_folder).methods)
    if request.upload is not None:
        name = secrets.token_hex(12)
        session.serve(Upload(name, cast("Iterator[bytes]", request.upload)).methods)
        request.options["context"] = UPLOADED + name


class _Drive:
    """The calls of one build."""

    def __init__(
        self,
        control: Connection,
        session: Session,
        request: BuildRequest,
        show: Show,
        handed_on: Callable[[wire.Result], None] | None,
        look: Callable[[Ask], Awaitable[object]] | None,
    ) -> None:
        self._only = look
        self._control = control
        self._session = session
        self._request = request
        self._show = show
        self._handed_on = handed_on
        self._solved = Solved(ref=secrets.token_hex(12))

    async def run(self) -> Solved:
        """To the end. Raises CallFailed, StreamReset."""
        solving = asyncio.ensure_future(self._solve())
        looking = asyncio.ensure_future(self._look())
        driving = asyncio.ensure_future(self._convert())
        try:
            await asyncio.wait({solving, driving}, return_when=asyncio.FIRST_COMPLETED)
            if driving.done():
                driving.result()  # (an error of the frontend is told by Solve, too)
            self._solved.told = await solving
            await driving
            await looking
        finally:
            if solving.done() and not looking.done():
                await asyncio.wait({looking}, timeout=10)  # what it says last is worth seeing
            for task in (solving, looking, driving):
                task.cancel()
            await asyncio.gather(solving, looking, driving, return_exceptions=True)
        return self._solved

    async def _solve(self) -> dict[str, str]:
        request = self._request
        message = wire.ControlSolveRequest(
            ref=self._solved.ref,
            session=self._session.id,
            exporters=[
                wire.Exporter(type=output.kind, attrs=output.attributes)
                for output in request.outputs
                if output.kind != "cacheonly"
            ],
            frontend_attrs=request.options,
            entitlements=request.entitlements,
            cache=wire.CacheOptions(
                exports=[wire.CacheEntry(type=kind, attrs=attributes) for kind, attributes in request.cache_exports],
                imports=[wire.CacheEntry(type=kind, attrs=attributes) for kind, attributes in request.cache_imports],
            ),
        )
        answer = await call(self._control, f"{CONTROL}Solve", message.SerializeToString())
        return dict(wire.ControlSolveResponse.FromString(answer).exporter_response)

    async def _convert(self) -> None:
        """Have the Dockerfile solved, and hand the result back, to be exported."""
        about = {BUILD_ID: self._solved.ref}

        async def ask(method: str, message: bytes) -> bytes:
            return await call(self._control, f"{BRIDGE}{method}", message, about)

        returned = wire.ReturnRequest()
        try:
            if self._only is not None:
                await self._only(ask)
            else:
                returned.result.CopyFrom(await self._dockerfile(ask))
        except CallFailed as failure:
            # Solve fails with it, and so the build has one end
            returned.error.CopyFrom(_status(failure))
        await ask("Return", returned.SerializeToString())

    async def _dockerfile(self, ask: Ask) -> wire.Result:
        """What the Dockerfile leads to. Raises CallFailed."""
        options = dict(self._request.options)
        if self._request.cache_imports:
            imports = [{"Type": kind, "Attrs": attributes} for kind, attributes in self._request.cache_imports]
            options["cache-imports"] = json.dumps(imports)
        message = wire.SolveRequest(
            frontend=FRONTEND,
            frontend_opt=options,
            frontend_inputs=self._request.inputs,
            allow_result_return=True,
            allow_result_array_ref=True,
        )
        result = wire.SolveResponse.FromString(await ask("Solve", message.SerializeToString())).result
        if "requestid" in options:
            self._solved.answers = dict(result.metadata)
        elif self._handed_on is not None:
            self._handed_on(result)
        return result

    async def _look(self) -> None:
        watching = Call(self._control, f"{CONTROL}Status", {})
        try:
            await watching.send(wire.StatusRequest(ref=self._solved.ref).SerializeToString())
            watching.half_close()
            while messages := await watching.receive_many():
                for message in messages:
                    self._show(wire.StatusResponse.FromString(message))
        except (CallFailed, StreamReset):
            pass  # the build's own end says why
        finally:
            watching.close()


def _status(failure: CallFailed) -> wire.RpcStatus:
    if failure.details:
        return wire.RpcStatus.FromString(failure.details)
    return wire.RpcStatus(code=failure.code, message=failure.message)


def _failure(failure: CallFailed) -> BuildFailed:
    """The failure with the places in the Dockerfile that the engine has told of."""
    sources = []
    for detail in _status(failure).details:
        if detail.type_url.endswith("/errdefs.Source+json"):
            try:
                sources.append(json.loads(detail.value))
            except ValueError:
                continue
    return BuildFailed(failure.message, sources)
