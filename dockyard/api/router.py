"""From an HTTP request to the handler of its operation, and from its result or error back to HTTP.

The API's paths may start with a version (`/v1.44/containers/json`) and image names may hold slashes, which no
generic router is made for; this one knows both. A handler has the bare connection at hand when it must take it over
(api/streams.py).
"""

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from dockyard import errors, web
from dockyard.api import json_body
from dockyard.version import VERSION
from dockyard.web.head import parse_query, unescape

log = logging.getLogger("dockyard.api")

T = TypeVar("T")

NEWEST_VERSION = (1, 51)
OLDEST_VERSION = (1, 24)
# What a JSON body may hold at most; archives are streamed and have no such bound.
LARGEST_BODY = 8 << 20


def version_text(version: tuple[int, int]) -> str:
    """(1, 51) as "1.51"."""
    return f"{version[0]}.{version[1]}"


COMMON_HEADERS = {
    "Api-Version": version_text(NEWEST_VERSION),
    "Ostype": "linux",
    "Server": f"Dockyard/{VERSION} (linux)",
}

STATUS: dict[type[errors.DockyardError], int] = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.InvalidParameter: 400,
    errors.Forbidden: 403,
    errors.Unauthorized: 401,
    errors.Unavailable: 503,
    errors.SystemFailure: 500,
    errors.NotModified: 304,
    errors.NotImplementedHere: 501,
    errors.Gone: 410,
}

# What asks only changes nothing.
UNCHANGING = ("GET", "HEAD", "OPTIONS")

_encode = msgspec.json.Encoder().encode


def status_of(error: Exception) -> int:
    """The HTTP status that tells `error`; 500 for what no one foresaw."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


class Call:
    """One request: its path parameters, query, API version and body, parsed into types on demand."""

    __slots__ = ("_query", "http", "params", "version")

    def __init__(self, http: web.Request, params: dict[str, str], version: tuple[int, int]) -> None:
        self.http = http
        self.params = params
        self.version = version
        self._query: dict[str, list[str]] | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        """{key: [values]}. Raises InvalidParameter when it is malformed, which only who asks for it cares about."""
        if self._query is None:
            try:
                self._query = parse_query(self.http.query)
            except ValueError as error:
                raise errors.InvalidParameter(str(error)) from None
        return self._query

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query, as Docker reads it: absent, empty, 0, no, false and none are false."""
        values = self.query.get(name)
        if values is None:
            return default
        return values[0].strip().lower() not in ("", "0", "no", "false", "none")

    def text(self, name: str, default: str = "") -> str:
        """A string of the query."""
        values = self.query.get(name)
        return default if values is None else values[0]

    def texts(self, name: str) -> list[str]:
        """Every value of a repeated key of the query."""
        return self.query.get(name, [])

    def integer(self, name: str, default: int = 0) -> int:
        """An integer of the query. Raises InvalidParameter when it is no integer."""
        value = self.text(name)
        if not value:
            return default
        try:
            number = int(value)
        except ValueError:
            raise errors.InvalidParameter(
                f'invalid value for {name}: strconv.Atoi: parsing "{value}": invalid syntax'
            ) from None
        if not -(1 << 63) <= number < 1 << 63:
            raise errors.InvalidParameter(
                f'invalid value for {name}: strconv.Atoi: parsing "{value}": value out of range'
            )
        return number

    def filters(self) -> dict[str, list[str]]:
        """The `filters` of the query: {name: [values]}; both of Docker's JSON forms are taken.

        Raises InvalidParameter when it is not JSON of that shape.
        """
        value = self.text("filters")
        if not value:
            return {}
        try:
            given = msgspec.json.decode(value, type=dict[str, list[str] | dict[str, bool] | None] | None) or {}
        except msgspec.DecodeError:
            raise errors.InvalidParameter("invalid filter") from None
        return {
            name: [key for key, on in values.items() if on] if isinstance(values, dict) else values or []
            for name, values in given.items()
        }

    async def read(self) -> bytes:
        """The whole body. Raises InvalidParameter when it is larger than a JSON body may be."""
        parts = []
        size = 0
        async for part in self.chunks():
            size += len(part)
            if size > LARGEST_BODY:
                raise errors.InvalidParameter("http: request body too large")
            parts.append(part)
        return b"".join(parts)

    async def body(self, kind: type[T]) -> T:
        """The JSON body as a `kind`; without a body, one in which nothing is set.

        Raises InvalidParameter when it is malformed, of another shape, or not declared as JSON.
        """
        declared = self.http.headers.get("Content-Type")
        if not self.http.has_body and not declared:
            return json_body.decode(b"{}", kind)
        content_type = declared.partition(";")[0].strip().lower()
        if not content_type:
            raise errors.InvalidParameter("malformed Content-Type header (): mime: no media type")
        if content_type != "application/json":
            raise errors.InvalidParameter(f"unsupported Content-Type header ({declared}): must be 'application/json'")
        if not self.http.has_body:
            return json_body.decode(b"{}", kind)
        try:
            data = await self.read()
        except errors.InvalidParameter as error:
            raise errors.InvalidParameter(f"invalid JSON: {error}") from None
        return json_body.decode(data, kind)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; for archives."""
        while part := await self.http.body.readany():
            yield part

    async def open_stream(
        self, content_type: str = "application/json", status: int = 200, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """Send the head of a response whose body follows piece by piece, at once."""
        response = web.StreamResponse(status, {**COMMON_HEADERS, **(headers or {})}, content_type)
        await response.prepare(self.http)
        return response


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """An operation: method, path pattern without version, and who does it.

    `{name}` stands for one path segment, `{name:path}` for one or more of them. With `without_disk` it is acknowledged
    also when what it has changed cannot be written to the disk: the processes that it has ended or frozen are.
    """

    method: str
    pattern: str
    handler: Handler
    without_disk: bool = False


# Fields that hold maps: Go writes those in the order of their keys, and programs compare.
MAPS = frozenset(
    """
    Annotations Attributes Config Containers DriverOpts ExposedPorts Labels Networks Options PortBindings Ports Runtimes
    StorageOpt Sysctls Tmpfs Volumes
    """.split()
)


def in_order(value: Any, field: str = "") -> Any:
    """`value` with its maps (dicts in fields of MAPS) in the order of their keys."""
    if isinstance(value, dict):
        plain = field in MAPS and "Image" not in value and "Subnet" not in value and "Type" not in value
        names = sorted(value) if plain else value
        return {name: in_order(value[name], str(name)) for name in names}
    if isinstance(value, list | tuple):
        return [in_order(item) for item in value]
    return value


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`value` (msgspec structs, dicts, lists …) as the JSON body of a response."""
    return web.Response(status, headers, "application/json", _encode(in_order(value)) + b"\n")


def no_content(status: int = 204) -> web.Response:
    """A response without a body."""
    return web.Response(status)


def error_response(error: Exception) -> web.Response:
    """What the API says of `error`: {"message": …} and the status of its type."""
    status = status_of(error)
    if status == 304:
        return web.Response(304)
    return json_response({"message": errors.words(error)}, status)


class Router:
    """Finds the handler of a request and turns what it raises into the API's error responses."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        on_disk: Callable[[], Awaitable[None]],
        experimental: bool = False,
    ) -> None:
        """`on_disk` returns when all that has been changed so far survives a power cut."""
        self._on_disk = on_disk
        self._headers = {**COMMON_HEADERS, "Docker-Experimental": str(experimental).lower()}
        # first segment -> [(segments, route)]; a pattern with more fixed words stands before one with fewer
        self._routes: dict[str, list[tuple[tuple[str, ...], Route]]] = {}
        for route in routes:
            segments = tuple(route.pattern.strip("/").split("/"))
            self._routes.setdefault(segments[0], []).append((segments, route))
        for entries in self._routes.values():
            entries.sort(key=lambda entry: (-sum(not segment.startswith("{") for segment in entry[0]), len(entry[0])))

    def find(self, method: str, segments: list[str]) -> tuple[Route, dict[str, str]] | None:
        """The route and path parameters for `segments`, or None: as in Docker also when only the method is wrong."""
        for pattern, route in self._routes.get(segments[0], ()):
            if route.method == method:
                params = _match(pattern, segments)
                if params is not None:
                    return route, params
        return None

    def refusal(self, status: int, why: str) -> web.Response:
        """The answer to what is no request."""
        response = json_response({"message": why}, status)
        response.headers.update(self._headers)
        return response

    async def __call__(self, http: web.Request) -> web.StreamResponse:
        response = await self._respond(http)
        if not response.prepared:
            response.headers.update(self._headers)
        return response

    async def _reach_disk(self, route: Route) -> None:
        try:
            await self._on_disk()
        except errors.SystemFailure as error:
            if not route.without_disk:
                raise
            log.error("%s is done, but may be forgotten: %s", route.pattern, error)

    async def _respond(self, http: web.Request) -> web.StreamResponse:
        path = unescape(http.path)
        if "//" in path or "/." in path:
            clean = _clean(path)
            if clean != path:
                query = f"?{http.query}" if http.query else ""
                return web.Response(301, {"Location": quote(clean, safe="/:@!$&'()*+,;=~") + query})
        segments = path[1:].split("/")
        version = NEWEST_VERSION
        if len(segments) > 1 and segments[0][:1] == "v" and not segments[0][1:].strip("0123456789."):
            try:
                version = _supported(segments.pop(0)[1:])
            except errors.InvalidParameter as error:
                return error_response(error)
        found = self.find(http.method, segments)
        if found is None and http.method == "OPTIONS":
            return web.Response()
        if found is None:
            return json_response({"message": "page not found"}, 404)
        route, params = found
        try:
            response = await route.handler(Call(http, params, version))
            if http.method not in UNCHANGING and not response.prepared:  # a stream has had its end
                await self._reach_disk(route)
            return response
        except errors.DockyardError as error:
            log.debug("%s %s: %s", http.method, http.path, error)
            return error_response(error)
        except ConnectionError as error:
            if not http.gone:
                raise
            log.debug("%s %s: the client has gone", http.method, http.path)
            return error_response(error)
        except Exception as error:
            if _is_odd_name(error):
                log.debug("%s %s: %s", http.method, http.path, error)
                return json_response({"message": errors.words(error)}, 400)
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                log.error("%s %s: %s", http.method, http.path, errors.words(error))
            else:
                log.exception("%s %s failed", http.method, http.path)
            return error_response(error)


# What a disk says that is full, read-only or broken: the host's fault, which needs no traceback.
_OF_THE_DISK = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _is_odd_name(error: Exception) -> bool:
    """Whether a name that a client has given was more than the kernel takes: it has a NUL, or is too long."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
    return isinstance(error, ValueError) and "embedded null" in str(error)


def _clean(path: str) -> str:
    """`path` without empty segments, `.` and `..`, as mux.cleanPath makes it; a slash at its end stays."""
    clean: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del clean[-1:]
        elif segment not in ("", "."):
            clean.append(segment)
    return "/" + "/".join(clean) + ("/" if clean and path.endswith("/") else "")


def _supported(version: str) -> tuple[int, int]:
    """`version`, of which only the first two numbers count. Raises InvalidParameter."""
    numbers = [int(part.lstrip("0")[:9] or 0) for part in version.split(".")[:2]]  # (longer ones are too new anyhow)
    asked = (numbers[0], numbers[1] if len(numbers) > 1 else 0)
    if asked < OLDEST_VERSION:
        raise errors.InvalidParameter(
            f"client version {version} is too old. Minimum supported API version is {version_text(OLDEST_VERSION)}, "
            "please upgrade your client to a newer version"
        )
    if asked > NEWEST_VERSION:
        raise errors.InvalidParameter(
            f"client version {version} is too new. Maximum supported API version is {version_text(NEWEST_VERSION)}"
        )
    return asked


def _match(pattern: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    """The parameters that make `pattern` equal `segments`, or None."""
    extra = len(segments) - len(pattern)
    if extra < 0:
        return None
    params: dict[str, str] = {}
    position = 0
    for part in pattern:
        if part.endswith(":path}"):
            end = position + 1 + extra
            params[part[1:-6]] = "/".join(segments[position:end])
            position, extra = end, 0
        elif part.startswith("{"):
            params[part[1:-1]] = segments[position]
            position += 1
        else:
            if segments[position] != part:
                return None
            position += 1
    if position != len(segments) or "" in params.values():
        return None
    return params
