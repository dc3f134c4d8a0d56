"""Several builds side by side, some of which build with what others have built (docker/buildx, build/build.go)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import Mapping, Sequence

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.request import BuildRequest
from dockyard.buildx.solve import BuildFailed, Show, Solved, solve
from dockyard.client.http import Connection as Engine
from dockyard.grpc.calls import Method

IMAGE_CONFIG = "containerimage.config"


class TargetFailed(BuildFailed):
    """One of the builds did not succeed."""

    def __init__(self, target: str, cause: BuildFailed) -> None:
        super().__init__(str(cause), cause.sources)
        self.target = target


async def solve_several(
    engine: Engine,
    requests: Mapping[str, BuildRequest],
    links: Mapping[str, Mapping[str, str]],
    *,
    config_folder: str,
    show: Show,
    more: Mapping[str, Method] | None = None,
    after: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Solved]:
    """Build all; `links`: {build: {context: the build whose result that is}}. The first failure ends all others.

    `more`: what the sessions serve besides. `after`: {build: those that have to have ended before it begins}.

    Raises BuildFailed, InvalidRequest, APIError, Unreachable.
    """
    loop = asyncio.get_running_loop()
    results: dict[str, asyncio.Future[wire.Result]] = {name: loop.create_future() for name in requests}

    async def one(name: str, request: BuildRequest) -> Solved:
        before = [tasks[other] for other in (after or {}).get(name, ()) if other in tasks]
        if before:
            await asyncio.wait(before)
        for context, other in links.get(name, {}).items():
            hand_over(request, context, await asyncio.shield(results[other]))
        key = f"{socket.gethostname()}:{os.path.realpath(request.directories.get('context', ''))}"

        def told(response: wire.StatusResponse) -> None:
            show(_named(response, name) if len(requests) > 1 else response)

        def handed_on(result: wire.Result) -> None:
            if not results[name].done():
                results[name].set_result(result)

        try:
            return await solve(
                engine,
                request,
                config_folder=config_folder,
                shared_key=key,
                show=told,
                handed_on=handed_on,
                more=more,
            )
        except BuildFailed as failure:
            if len(requests) > 1:
                raise TargetFailed(name, failure) from None
            raise

    tasks = {name: asyncio.ensure_future(one(name, request)) for name, request in requests.items()}
    try:
        await asyncio.gather(*tasks.values())
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for result in results.values():
            result.cancel()
    return {name: task.result() for name, task in tasks.items()}


def hand_over(request: BuildRequest, context: str, result: wire.Result) -> None:
    """Have a build's context be the result of another one, with the configuration that its image has."""
    inputs = dict(request.inputs)
    found = dict(result.refs.refs) if result.WhichOneof("result") == "refs" else {"": result.ref}
    for platform, ref in found.items():
        name = f"{context}::{platform}" if platform else context
        inputs[name] = ref.definition
        request.options[f"context:{name}"] = f"input:{name}"
        config = result.metadata.get(f"{IMAGE_CONFIG}/{platform}" if platform else IMAGE_CONFIG)
        if config:
            encoded = {IMAGE_CONFIG: base64.b64encode(config).decode()}
            request.options[f"input-metadata:{name}"] = json.dumps(encoded)
    request.inputs = inputs


def _named(response: wire.StatusResponse, target: str) -> wire.StatusResponse:
    """Steps with the name of what they are for."""
    for step in response.vertexes:
        step.name = f"[{target} {step.name[1:]}" if step.name.startswith("[") else f"[{target}] {step.name}"
    return response
