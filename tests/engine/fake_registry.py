"""A registry in memory that stumbles when it is told to: every fault of the network and of servers, one at a time."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.engine.test_image_transfer import free_port

Fault = Callable[[web.Request], web.StreamResponse | None]


class Cut(Exception):
    """Raised by a fault: the connection breaks here."""


@dataclass
class FakeRegistry:
    """Takes pushes and gives pulls; `faults` are asked before each request, and answer instead of it."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    serve_blob: Callable[[web.Request, bytes], Awaitable[web.StreamResponse]] | None = None
    host: str = ""

    def once(self, method: str, part: str, answer: Callable[[], web.StreamResponse], times: int = 1) -> None:
        """Answer the next `times` requests of `method` whose path has `part` in it with `answer`."""
        left = times

        def fault(request: web.Request) -> web.StreamResponse | None:
            nonlocal left
            if left and request.method == method and part in request.path:
                left -= 1
                return answer()
            return None

        self.faults.append(fault)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Listen on loopback; host:port."""
        application = web.Application(middlewares=[self._stumble], client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        port = port or free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.host = f"localhost:{port}"
        try:
            yield self.host
        finally:
            await runner.cleanup()

    @web.middleware
    async def _stumble(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        try:
            for fault in self.faults:
                answer = fault(request)
                if answer is not None:
                    return answer
            return await handler(request)
        except Cut:
            if request.method in ("PATCH", "PUT"):
                await request.content.read(1)
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(60)
            raise AssertionError("the connection was cut") from None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if found := re.search(r"/manifests/(.+)$", path):
            return await self._manifest(request, found[1])
        if "/blobs/uploads/" in path:
            return await self._upload(request, path.rpartition("/")[2])
        if found := re.search(r"/blobs/(.+)$", path):
            return await self._blob(request, found[1])
        return web.json_response({}, headers=self.headers)

    async def _manifest(self, request: web.Request, reference: str) -> web.Response:
        if request.method == "PUT":
            body = await request.read()
            for name in (reference, "sha256:" + hashlib.sha256(body).hexdigest()):
                self.manifests[name] = (request.content_type, body)
            return web.Response(status=201)
        if reference not in self.manifests:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": None}]}, status=404)
        kind, body = self.manifests[reference]
        return web.Response(body=body, content_type=kind, headers=self.headers)

    async def _blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        if digest not in self.blobs:
            return web.json_response({"errors": None}, status=404)
        content = self.blobs[digest]
        if self.serve_blob is not None and request.method == "GET":
            return await self.serve_blob(request, content)
        return web.Response(body=content)

    async def _upload(self, request: web.Request, name: str) -> web.Response:
        if request.method == "POST":
            name = str(len(self.asked))
            self.uploads[name] = b""
            return web.Response(status=202, headers={"Location": request.path + name})
        if name not in self.uploads:
            return web.json_response({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}, status=404)
        self.uploads[name] += await request.read()
        if request.method == "PATCH":
            return web.Response(status=202, headers={"Location": request.path})
        content = self.uploads.pop(name)
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if digest != request.query["digest"]:
            return web.json_response({"errors": [{"code": "DIGEST_INVALID"}]}, status=400)
        self.blobs[digest] = content
        return web.Response(status=201)
