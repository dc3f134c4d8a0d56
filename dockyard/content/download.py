"""What lies behind a URL that a client names: fetched by HTTP and HTTPS alone, within bounds of time and size.

async with download.opened("https://example.org/rootfs.tar") as found:
    async for piece in found.pieces():
        ...
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from dockyard.errors import (
    DockyardError,
    Forbidden,
    InvalidParameter,
    NotFound,
    SystemFailure,
    Unauthorized,
    Unavailable,
)
from dockyard.version import VERSION

SCHEMES = ("http://", "https://")
# What aiohttp raises for a name that no host can have, and for redirections without end or to a file, a socket, …
LEADS_NOWHERE = (
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.RedirectClientError,
    aiohttp.TooManyRedirects,
    UnicodeError,
)
MOST_REDIRECTS = 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long (in seconds) and how much (in bytes) a server may take us up."""

    answer: float = 120.0  # from the first redirection to the last one's head
    silence: float = 60.0
    whole: float = 6 * 3600.0
    size: int = 64 << 30


BOUNDS = Bounds()


class Found:
    """A server's answer, of which the head is known."""

    def __init__(self, url: str, response: aiohttp.ClientResponse, bounds: Bounds) -> None:
        self._url = url
        self._response = response
        self._bounds = bounds
        self.size = response.content_length or 0
        self.content_type = response.content_type
        self.last_modified = response.headers.get("Last-Modified", "")
        disposition = response.content_disposition
        self.file_name = disposition.filename or "" if disposition is not None else ""

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content as it arrives. Raises InvalidParameter when it is too large, Unavailable when it does not end."""
        bounds, clock = self._bounds, asyncio.get_running_loop().time
        received, end = 0, clock() + bounds.whole
        if self.size > bounds.size:
            raise self._too_large()
        while True:
            try:
                async with asyncio.timeout(min(bounds.silence, max(0.0, end - clock()))):
                    piece = await self._response.content.readany()
            except TimeoutError:
                slow = "has not ended" if clock() >= end else "is silent"
                seconds = bounds.whole if clock() >= end else bounds.silence
                raise Unavailable(f"cannot download {self._url}: the server {slow} for {seconds:.0f} s") from None
            except aiohttp.ClientError as error:
                raise Unavailable(f"cannot download {self._url}: {error}") from error
            if not piece:
                return
            received += len(piece)
            if received > bounds.size:
                raise self._too_large()
            yield piece

    def _too_large(self) -> InvalidParameter:
        return InvalidParameter(f"cannot download {self._url}: it is larger than {self._bounds.size} bytes")


@asynccontextmanager
async def opened(
    url: str, bounds: Bounds | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Found]:
    """Ask for `url` with further `headers` and follow redirections; to another server no login goes along.

    Raises InvalidParameter for what is no HTTP(S) address, also further on, and for errors of the client's; NotFound,
    Forbidden and Unauthorized as the server says; Unavailable when nothing answers in time.
    """
    bounds = bounds or BOUNDS
    if not url.startswith(SCHEMES):
        raise InvalidParameter(f"cannot download {url}: only http and https are known")
    if "%" in url.split("/")[2]:
        raise InvalidParameter(f"cannot download {url}: invalid URL escape in its host")
    patience = aiohttp.ClientTimeout(total=None, connect=30)
    identity = {"User-Agent": f"dockyard/{VERSION}"}
    async with aiohttp.ClientSession(timeout=patience, headers=identity, trust_env=True) as session:
        try:
            async with asyncio.timeout(bounds.answer):
                response = await session.get(url, max_redirects=MOST_REDIRECTS, headers=headers)
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects, UnicodeError) as error:
            # a name that no host can have, or a redirection to another scheme: file, unix
            raise InvalidParameter(
                f"cannot download {url}: it leads to no address that can be asked: {error}"
            ) from None
        except TimeoutError:
            raise Unavailable(f"cannot download {url}: no answer in time") from None
        except aiohttp.ClientError as error:
            raise Unavailable(f"cannot download {url}: {error}") from error
        async with response:
            if response.status >= 400:
                raise _status_error(url, response.status, response.reason or "")
            yield Found(url, response, bounds)


def _status_error(url: str, status: int, reason: str) -> DockyardError:
    message = f"failed to GET {url} with status {status} {reason}"
    kinds: dict[int, type[DockyardError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound}
    if status in kinds:
        return kinds[status](message)
    return InvalidParameter(message) if status < 500 else SystemFailure(message)
