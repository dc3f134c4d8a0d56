"""A client of OCI distribution registries: manifests and blobs, both ways (opencontainers/distribution-spec).

client = RegistryClient(mirrors=["https://mirror.example"], insecure=["registry.lan:5000"])
repository = client.repository(Reference.parse("busybox"), credentials=None)
document = await repository.manifest("latest")
"""

import asyncio
import hashlib
import ipaddress
import os
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import EllipsisType
from typing import TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
import msgspec

from dockyard.content import registry_hosts
from dockyard.content.download import LEADS_NOWHERE
from dockyard.content.patience import PASSING, Patience, Tell, Tries
from dockyard.content.registry_auth import Authorization, Credentials, Token, challenges, decode_token
from dockyard.content.registry_hosts import Endpoint
from dockyard.errors import DockyardError, InvalidParameter, NotFound, SystemFailure, Unauthorized, Unavailable
from dockyard.generators import closing
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import check_digest, digest_of, is_digest
from dockyard.oci.manifest import INDEXES, MANIFESTS, OCI_INDEX, Index
from dockyard.oci.reference import DEFAULT_DOMAIN, Reference
from dockyard.version import VERSION

HUB = "https://registry-1.docker.io"
# A manifest is small, and what else is kept in memory smaller; a registry that sends more is broken or hostile.
LARGEST_MANIFEST = 8 << 20
LARGEST_ANSWER = 4 << 20
LARGEST_HEADER = 1 << 16  # bytes; cookies and policies of what stands before a registry come to more than 8 KiB
MOST_HEADERS = 1000
CHUNK = 1 << 20
# How many seconds the head of an answer may take, with all redirections before it, and a body that is kept in memory: a
# byte now and then is not enough.
PATIENCE_WITH_ANSWER = 120.0
PATIENCE_WITH_LOGIN = 60.0
MOST_PAGES = 10_000  # of a list of tags
MOST_REFERRER_PAGES = 10
EMPTY = {"Content-Length": "0"}

# no answer, or none that HTTP knows
_FAULTS = (aiohttp.ClientConnectionError, aiohttp.ClientResponseError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as the registry gave it."""

    content: bytes
    media_type: str
    digest: str

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests instead of being one."""
        return self.media_type in INDEXES


class _Error(msgspec.Struct):
    code: str | None = ""
    message: str | None = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] | None = None


class UploadBroken(Exception):
    """An upload did not come to its end but may, begun anew; `retry_after`: what the registry said of when."""

    def __init__(self, message: str, retry_after: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Feed:
    """The pieces of an upload on their way to the HTTP client, which may still wait for one when it has given up."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._hasher = hashlib.sha256()
        self._lock = asyncio.Lock()
        self.size = 0
        self.digest = ""  # as soon as all is read

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> bytes:
        async with self._lock:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                self.digest = "sha256:" + self._hasher.hexdigest()
                raise
            self._hasher.update(piece)
            self.size += len(piece)
            return piece

    async def close(self) -> None:
        """End the pieces, once nobody waits for one."""
        async with self._lock, closing(self._pieces):
            pass


class RegistryClient:
    """Knows which registries there are and how to reach them."""

    def __init__(
        self, mirrors: Sequence[str] = (), insecure: Sequence[str] = (), patience: Patience | None = None
    ) -> None:
        self.configure(mirrors, insecure)
        self.patience = patience or Patience()
        self._session: aiohttp.ClientSession | None = None

    def configure(self, mirrors: Sequence[str], insecure: Sequence[str]) -> None:
        """Take up new settings: mirrors of Docker Hub, and names or networks whose certificates don't count."""
        self._mirrors = [mirror.rstrip("/") for mirror in mirrors]
        self._insecure_names = {name for name in insecure if "/" not in name}
        self._insecure_networks = [ipaddress.ip_network(name, strict=False) for name in insecure if "/" in name]

    async def close(self) -> None:
        """Close the connections that are kept."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client, made when first needed."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=120),
                headers={"User-Agent": f"dockyard/{VERSION}"},
                auto_decompress=False,
                read_bufsize=1 << 18,  # what comes is passed on in larger pieces: a sixth less work for each
                trust_env=True,
                max_line_size=LARGEST_HEADER,
                max_field_size=LARGEST_HEADER,
                max_headers=MOST_HEADERS,
            )
        return self._session

    def repository(
        self, name: Reference, credentials: Credentials | None = None, *, push: bool = False
    ) -> "Repository":
        """A repository to pull from or push to."""
        return Repository(self, name, credentials or Credentials(), self.endpoints(name.domain, push=push), push)

    def endpoints(self, domain: str, *, push: bool = False) -> list[Endpoint]:
        """Where to look for a registry, in the order to try: mirrors, HTTPS, and plain HTTP where that is allowed.

        Raises InvalidParameter for a hosts.toml that cannot be used.
        """
        own = self._own_endpoints(domain)
        found = registry_hosts.endpoints(domain, own, push=push) or own
        if domain == DEFAULT_DOMAIN and not push:
            return [*[Endpoint(mirror, mirror=True) for mirror in self._mirrors], *found]
        return found

    def _own_endpoints(self, domain: str) -> list[Endpoint]:
        """Where the registry itself is."""
        if domain == DEFAULT_DOMAIN:
            return [Endpoint(HUB)]
        if self._is_insecure(domain):
            return [Endpoint(f"https://{domain}", verify=False), Endpoint(f"http://{domain}")]
        return [Endpoint(f"https://{domain}")]

    def _is_insecure(self, domain: str) -> bool:
        host = domain.rpartition(":")[0] if re.search(r":\d+$", domain) else domain
        if domain in self._insecure_names or host in self._insecure_names or host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or any(address in network for network in self._insecure_networks)

    async def login(self, domain: str, credentials: Credentials) -> str:
        """Check credentials; an identity token if the registry gave one, else "". Raises Unauthorized, Unavailable."""
        # not with a mirror, which may be content with any
        endpoints = self.endpoints(domain, push=True)
        try:
            async with asyncio.timeout(PATIENCE_WITH_LOGIN):
                return await Repository(self, Reference(domain, "library/login"), credentials, endpoints, False).check()
        except TimeoutError:
            raise Unavailable(f"login to {domain} has not ended for {PATIENCE_WITH_LOGIN:.0f} s") from None


@dataclass
class Repository:
    """One repository of one registry. The first endpoint that answers is kept."""

    client: RegistryClient
    name: Reference
    credentials: Credentials
    endpoints: list[Endpoint]
    push: bool
    _authorizations: dict[str, Authorization] = field(default_factory=dict)
    _endpoint: Endpoint | None = None

    @property
    def _path(self) -> str:
        return f"/v2/{self.name.path}"

    # -- pulling

    async def manifest(self, reference: str) -> Document:
        """The manifest or index of a tag or digest. Raises NotFound, Unauthorized, Unavailable."""
        headers = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        failure: DockyardError | None = None
        path = f"{self._path}/manifests/{reference}"
        for endpoint in list(self._candidates()):
            try:
                content, media_type = await self._fetch_manifest(path, headers, endpoint, reference)
            except (NotFound, Unauthorized, Unavailable) as error:
                failure = error
                if endpoint.mirror or isinstance(error, Unavailable):
                    continue
                raise
            digest = digest_of(content)
            if reference.startswith("sha256:") and digest != reference:
                raise SystemFailure(f"manifest verification failed for digest {reference}")
            self._endpoint = endpoint
            return Document(content, media_type, digest)
        raise failure or Unavailable(f"no registry answers for {self.name.domain}")

    async def _fetch_manifest(
        self, path: str, headers: dict[str, str], endpoint: Endpoint, reference: str
    ) -> tuple[bytes, str]:
        """(Content, media type) from one place; once more when it breaks off, if there is no other to ask."""
        tries = None if endpoint.mirror else self.client.patience.begin()
        while True:
            try:
                async with self._request("GET", path, headers, endpoint, tries=tries) as response:
                    await self._check(response, missing=f"manifest for {self._shown(reference)} not found")
                    content = await _read(response, f"manifest of {self._shown(reference)}", LARGEST_MANIFEST)
                    told = response.headers.get("Docker-Content-Digest", "")
                    if told.startswith("sha256:") and told != digest_of(content):
                        raise SystemFailure(f"manifest verification failed for digest {told}")
                    return content, response.content_type
            except (aiohttp.ClientError, ConnectionError) as error:
                if tries is None or not await tries.again():
                    raise Unavailable(f"cannot fetch the manifest of {self._shown(reference)}: {error}") from error

    async def manifest_digest(self, reference: str) -> str:
        """What a tag means now, without fetching it. Raises NotFound, Unauthorized, Unavailable, the latter at once.

        "" when the registry does not say.
        """
        headers = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        async with self._request("HEAD", f"{self._path}/manifests/{reference}", headers, tries=None) as response:
            await self._check(response, missing=f"manifest for {self._shown(reference)} not found")
            digest = response.headers.get("Docker-Content-Digest", "")
        return digest if is_digest(digest) else ""

    async def has_manifest(self, digest: str) -> bool:
        """Whether the repository has a manifest of that digest."""
        try:
            return await self.manifest_digest(digest) in ("", digest)
        except NotFound:
            return False

    async def blob_bytes(self, blob: Descriptor) -> bytes:
        """A small blob (an image's configuration), verified."""
        found = b""
        async with closing(self.blob(blob)) as pieces:
            async for piece in pieces:
                found += piece
                if max(len(found), blob.size) > LARGEST_MANIFEST:
                    raise InvalidParameter(f"blob {blob.digest} is too large")
        return found

    async def blob(
        self,
        blob: Descriptor,
        waiting: Tell = lambda seconds: None,
        kept: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[bytes]:
        """A blob's bytes as they arrive, verified at the end; a broken connection is taken up where it broke.

        `waiting` hears of each wait before another try, in seconds. `kept`: how it begins, which has come earlier and
        is given first. Raises NotFound, Unavailable, SystemFailure when
        the content is not what its digest says.
        """
        check_digest(blob.digest)
        hasher = hashlib.new(blob.digest.partition(":")[0])
        received, resume = 0, True
        if kept is not None:
            async with closing(kept) as pieces:
                async for piece in pieces:
                    received += len(piece)
                    hasher.update(piece)
                    yield piece
        tries = self.client.patience.begin(waiting)
        while not blob.size or received < blob.size:
            headers = {"Accept-Encoding": "identity"}
            if received and resume:
                headers["Range"] = f"bytes={received}-"
            try:
                async with self._request("GET", f"{self._path}/blobs/{blob.digest}", headers, tries=tries) as response:
                    begin = _begin(response) if response.status in (206, 416) else 0
                    if begin is None or begin > received:
                        # it does not give what was asked for: from the start then, passing by what is known
                        if not resume:
                            raise aiohttp.ClientPayloadError("the registry answers with another part of the blob")
                        resume = False
                        continue
                    if response.status >= 400 and self._leave_mirror():
                        continue
                    await self._check(response, missing=f"blob {blob.digest} unknown to registry")
                    skip = received - begin
                    async for piece in response.content.iter_any():
                        if skip:
                            passed = min(skip, len(piece))
                            skip, piece = skip - passed, piece[passed:]
                        if piece:
                            received += len(piece)
                            if blob.size and received > blob.size:
                                raise SystemFailure(f"blob {blob.digest} is larger than its manifest says")
                            hasher.update(piece)
                            tries.progress()
                            yield piece
                if blob.size and received < blob.size:
                    raise aiohttp.ClientPayloadError("connection closed early")
                break
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if self._leave_mirror():
                    continue
                if not await tries.again():
                    raise Unavailable(f"cannot download blob {blob.digest}: {_reason(error)}") from error
        if hasher.hexdigest() != blob.digest.partition(":")[2]:
            raise SystemFailure(f"filesystem layer verification failed for digest {blob.digest}")

    def _leave_mirror(self) -> bool:
        """Ask the next place from here on: a mirror lacks what it should have. False when it was none."""
        if self._endpoint is None or not self._endpoint.mirror:
            return False
        self.endpoints = self.endpoints[self.endpoints.index(self._endpoint) + 1 :]
        self._endpoint = None
        return bool(self.endpoints)

    # -- pushing

    async def blob_size(self, digest: str) -> int | None:
        """The size of a blob the repository has, or None."""
        async with self._request("HEAD", f"{self._path}/blobs/{digest}", {}) as response:
            if response.status == 404:
                return None
            await self._check(response)
            return int(response.headers.get("Content-Length", "0"))

    async def mount_blob(self, digest: str, source: str) -> bool:
        """Have a blob of the repository `source` here too, without sending it; False when the registry won't."""
        query = urlencode({"mount": digest, "from": source})
        path = f"{self._path}/blobs/uploads/?{query}"
        async with self._request("POST", path, EMPTY, scopes=(f"repository:{source}:pull",)) as response:
            if response.status == 202:
                await self._cancel(response)
                return False
            return response.status == 201

    async def _cancel(self, response: aiohttp.ClientResponse) -> None:
        location = response.headers.get("Location")
        if location:
            async with self._request("DELETE", urljoin(str(response.url), location), {}):
                pass

    async def upload_bytes(self, data: bytes) -> str:
        """Send a small blob; its digest."""

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        return (await self.upload_stream(pieces))[0]

    async def upload_stream(
        self, make: Callable[[], AsyncIterator[bytes]], waiting: Tell = lambda seconds: None
    ) -> tuple[str, int]:
        """Send a blob whose digest is not known before: (digest, size).

        `make` gives its pieces, from the beginning each time it is called: an upload that breaks begins anew.
        `waiting` hears of each wait before that, in seconds.
        """
        tries = self.client.patience.begin(waiting)
        while True:
            feed = Feed(make())
            try:
                digest = await self._upload(feed, tries)
                return digest, feed.size
            except UploadBroken as broken:
                if feed.digest and await self.blob_size(feed.digest) is not None:
                    return feed.digest, feed.size  # only the answer was lost
                if not await tries.again(broken.retry_after):
                    raise Unavailable(f"cannot upload a blob of {self.name.familiar_name()}: {broken}") from broken
            finally:
                await feed.close()

    async def _upload(self, feed: "Feed", tries: Tries) -> str:
        """One try at an upload; its digest. Raises UploadBroken when another may go better."""
        async with self._request("POST", f"{self._path}/blobs/uploads/", EMPTY, tries=tries) as response:
            await self._check(response)
            location = urljoin(str(response.url), response.headers.get("Location", ""))
        headers = {"Content-Type": "application/octet-stream"}
        async with self._sending("PATCH", location, headers, feed) as response:
            location = urljoin(str(response.url), response.headers.get("Location", ""))
        location += ("&" if "?" in location else "?") + urlencode({"digest": feed.digest})
        async with self._sending("PUT", location, EMPTY):
            return feed.digest

    @asynccontextmanager
    async def _sending(
        self, method: str, url: str, headers: dict[str, str], body: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A step of an upload, which can't be repeated by itself. Raises UploadBroken when the upload can be."""
        try:
            async with self._request(method, url, headers, body=body, tries=None) as response:
                if response.status in (401, 404) or response.status in PASSING:
                    # the token has ended, or the registry forgot the upload (it has restarted), or is busy
                    reason = f"the registry answers {response.status} {response.reason or ''}".rstrip()
                    raise UploadBroken(reason, response.headers.get("Retry-After", ""))
                await self._check(response)
                yield response
        except (aiohttp.ClientError, ConnectionError, TimeoutError, Unavailable) as error:
            raise UploadBroken(_reason(error)) from error

    async def put_manifest(self, reference: str, media_type: str, document: bytes) -> str:
        """Store a manifest under a tag or digest; its digest."""
        headers = {"Content-Type": media_type}
        async with self._request("PUT", f"{self._path}/manifests/{reference}", headers, body=document) as response:
            await self._check(response)
        return digest_of(document)

    async def referrers(self, digest: str) -> list[Descriptor]:
        """What in the repository refers to the manifest `digest` (distribution-spec 1.1, "Listing Referrers")."""
        found: list[Descriptor] = []
        path = f"{self._path}/referrers/{digest}"
        for _ in range(MOST_REFERRER_PAGES):
            async with self._request("GET", path, {"Accept": OCI_INDEX}) as response:
                if 400 <= response.status < 500 and not found:
                    break  # a registry of before: there is a tag for them
                await self._check(response)
                found += Index.decode(await _read(response, "list of referrers")).manifests
                following = response.links.get("next")
                if following is None:
                    return found
                path = str(following["url"])
        else:
            return found
        try:
            listed = await self.manifest(digest.replace(":", "-"))
        except NotFound:
            return []
        return Index.decode(listed.content).manifests if listed.is_index else []

    async def tags(self) -> list[str]:
        """Every tag."""
        found: list[str] = []
        path: str | None = f"{self._path}/tags/list"
        seen: set[str] = set()
        while path and path not in seen and len(seen) < MOST_PAGES:
            seen.add(path)
            async with self._request("GET", path, {}) as response:
                await self._check(response, missing=f"repository {self.name.familiar_name()} not found")
                document = await _decoded(response, "list of tags", dict[str, str | list[str] | None])
                listed = document.get("tags") or []
                found += listed if isinstance(listed, list) else []
                following = response.links.get("next")
                path = str(following["url"]) if following else None
        return found

    async def check(self) -> str:
        """Ask the registry whether the credentials are good; an identity token if it gave one."""
        async with self._request("GET", "/v2/", {}) as response:
            if response.status == 401:
                raise Unauthorized(f'Get "{response.url}": unauthorized: incorrect username or password')
            await self._check(response)
        return ""

    # -- requests

    def _candidates(self) -> Sequence[Endpoint]:
        return [self._endpoint] if self._endpoint is not None else self.endpoints

    def _shown(self, reference: str) -> str:
        separator = "@" if ":" in reference else ":"
        return f"{self.name.familiar_name()}{separator}{reference}"

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        endpoint: Endpoint | None = None,
        body: AsyncIterator[bytes] | bytes | None = None,
        scopes: Sequence[str] = (),
        tries: Tries | EllipsisType | None = ...,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, with a token when one is asked for. Raises Unavailable when nothing answers.

        `scopes`: what it needs besides this repository's. `tries`: how to count its faults, by itself unless given;
        None: it must not be repeated.
        """
        counted = self.client.patience.begin() if tries is ... else tries
        response = await self._respond(method, path, headers, endpoint, body, scopes, counted)
        try:
            yield response
        finally:
            response.release()

    async def _respond(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        endpoint: Endpoint | None,
        body: AsyncIterator[bytes] | bytes | None,
        scopes: Sequence[str],
        tries: Tries | None,
    ) -> aiohttp.ClientResponse:
        """The first answer of an endpoint that is no passing fault, or the last one."""
        while True:
            failure: Exception | None = None
            response: aiohttp.ClientResponse | None = None
            reached = self._endpoint is not None
            for candidate in [endpoint] if endpoint is not None else list(self._candidates()):
                url = candidate.address(path)
                try:
                    response = await self._authorized(method, url, headers, candidate, body, scopes)
                except LEADS_NOWHERE as error:
                    raise InvalidParameter(f'"{url}" is not a valid address: {error}') from None
                except (*_FAULTS, TimeoutError, ssl.SSLError) as error:
                    failure = error
                    reached = reached or not isinstance(error, aiohttp.ClientConnectorError | ssl.SSLError)
                    continue
                self._endpoint = candidate if not candidate.mirror else self._endpoint
                break
            if response is not None and response.status not in PASSING:
                return response
            # A registry that never answered is not waited for: the user has misspelt it, or is not on line.
            if tries is not None and (response is not None or reached):
                retry_after = response.headers.get("Retry-After", "") if response is not None else ""
                if await tries.again(retry_after):
                    if response is not None:
                        response.release()
                    continue
            if response is not None:
                return response
            reason = _reason(failure)
            raise Unavailable(f'{method.capitalize()} "{self.endpoints[-1].url}/v2/": {reason}') from failure

    async def _authorized(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        endpoint: Endpoint,
        body: AsyncIterator[bytes] | bytes | None,
        scopes: Sequence[str],
    ) -> aiohttp.ClientResponse:
        """Send a request; once more when it is refused and there is something else to say of who we are."""
        authorization = self._authorizations.get(endpoint.url)
        if authorization is None:
            fetch = partial(self._fetch_token, endpoint)
            known = Credentials() if endpoint.anonymous else self.credentials
            authorization = self._authorizations.setdefault(endpoint.url, Authorization(known, fetch))
        own = f"repository:{self.name.path}:{'pull,push' if self.push else 'pull'}"
        # no other host may see or ask for the login: not one that an answer has led to, by a link or a redirection
        ours = _origin(url) == _origin(endpoint.url)
        if ours:
            headers = {**dict(endpoint.headers), **headers}
        repeated = False
        while True:
            sent = await authorization.value((own, *scopes)) if ours else None
            # what we send may take as long as it takes
            async with asyncio.timeout(None if isinstance(body, AsyncIterator) else PATIENCE_WITH_ANSWER):
                response = await self.client.session.request(
                    method,
                    url,
                    headers={**headers, "Authorization": sent} if sent else headers,
                    data=body,
                    ssl=_tls(endpoint),
                    allow_redirects=True,
                )
            if response.status != 401 or _origin(str(response.url)) != _origin(endpoint.url):
                return response
            asked = challenges(response.headers.getall("WWW-Authenticate", []))
            other = await authorization.answer(asked, sent, (own, *scopes))
            if repeated or not other or isinstance(body, AsyncIterator):
                return response
            response.release()
            repeated = True

    async def _fetch_token(self, endpoint: Endpoint, realm: str, service: str, scopes: Sequence[str]) -> Token:
        known = Credentials() if endpoint.anonymous else self.credentials
        session = self.client.session
        if known.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": known.identity_token,
                "service": service,
                "scope": " ".join(scopes),
                "client_id": "dockyard",
            }
            request = session.post(realm, data=form, ssl=_tls(endpoint))
        else:
            headers = {"Authorization": known.basic()} if known.username else {}
            query = [("service", service), *(("scope", scope) for scope in scopes)]
            if known.username:
                query.append(("account", known.username))
            request = session.get(realm, params=query, headers=headers, ssl=_tls(endpoint))
        async with asyncio.timeout(PATIENCE_WITH_ANSWER), request as response:
            if response.status in (401, 403):
                raise Unauthorized("unauthorized: incorrect username or password")
            if response.status != 200:
                raise Unavailable(f"token server {realm} answers {response.status}")
            return decode_token(await _read(response, "token"))

    async def _check(self, response: aiohttp.ClientResponse, missing: str = "") -> None:
        """Raise what an error status means."""
        status = response.status
        if status < 400:
            return
        try:
            errors = (await _decoded(response, "error", _Errors)).errors or []
        except (DockyardError, aiohttp.ClientError):
            errors = []
        first = errors[0] if errors else _Error()
        said = f"{first.code.lower().replace('_', ' ')}: {first.message or ''}" if first.code else f"status {status}"
        if status in (401, 403):
            if self.push:
                raise Unauthorized(f"{said}" if first.code else "unauthorized: authentication required")
            raise NotFound(
                f"pull access denied for {self.name.familiar_name()}, "
                f"repository does not exist or may require 'docker login': {said}"
            )
        if status == 404:
            if first.code == "NAME_UNKNOWN":
                raise NotFound(f"repository {self.name.familiar_name()} not found: {said}")
            raise NotFound(f"{missing}: {said}" if missing else said)
        if status == 429 or status >= 500:
            raise Unavailable(f"received unexpected HTTP status: {status} from {response.url.host}: {said}")
        raise InvalidParameter(said)


async def _read(response: aiohttp.ClientResponse, what: str, limit: int = LARGEST_ANSWER) -> bytes:
    """A body that is kept in memory, compressed for the way or not.

    Raises InvalidParameter when it is too large, Unavailable when it takes too long.
    """
    content = b""
    inflate = zlib.decompressobj(wbits=31) if response.headers.get("Content-Encoding", "").lower() == "gzip" else None
    try:
        async with asyncio.timeout(PATIENCE_WITH_ANSWER):
            while piece := await response.content.read(CHUNK):
                content += inflate.decompress(piece, limit + 1) if inflate is not None else piece
                if len(content) > limit:
                    raise InvalidParameter(f"{what} is too large")
    except zlib.error as error:
        raise InvalidParameter(f"{what} is not the gzip stream that it is said to be: {error}") from None
    except TimeoutError:
        raise Unavailable(f"{response.url.host} takes too long to send a {what}") from None
    return content


def _begin(response: aiohttp.ClientResponse) -> int | None:
    """At which byte a part of a blob begins; None when the answer is none, or does not say."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", response.headers.get("Content-Range", ""))
    return int(found[1]) if found is not None and response.status == 206 else None


async def _decoded(response: aiohttp.ClientResponse, what: str, kind: type[T]) -> T:
    """A body that is JSON. Raises InvalidParameter when it is too large, Unavailable when it is something else."""
    try:
        return msgspec.json.decode(await _read(response, what), type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(f"{response.url.host} answers with a {what} that is none: {error}") from None


def _reason(failure: Exception | None) -> str:
    """What went wrong on the way, in the words of Go's net package."""
    if isinstance(failure, TimeoutError):
        return "net/http: request canceled while waiting for connection (timeout)"
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {failure.host}: {failure.os_error.strerror or failure.os_error}"
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {failure.certificate_error}"
    if isinstance(failure, aiohttp.ClientConnectorError):
        said = os.strerror(failure.os_error.errno) if failure.os_error.errno else str(failure.os_error)
        return f"dial tcp {failure.host}:{failure.port}: connect: {said[:1].lower() + said[1:]}"
    return str(failure)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url.lower())
    return parts.scheme, parts.netloc


def _tls(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """How to check the endpoint's certificate; `certs.d/<host>/` may hold its own CA and our certificate."""
    if not endpoint.url.startswith("https"):
        return True
    if not endpoint.verify:
        return False
    if endpoint.authorities or endpoint.certificates:
        context = ssl.create_default_context()
        try:
            for path in endpoint.authorities:
                context.load_verify_locations(path)
            for certificate, key in endpoint.certificates:
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"cannot use the certificates for {endpoint.url}: {error}") from None
        return context
    host = endpoint.url.removeprefix("https://").partition("/")[0]
    for root in registry_hosts.FOLDERS:
        folder = os.path.join(root, host)
        if os.path.isdir(folder):
            context = ssl.create_default_context()
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, path.removesuffix(".cert") + ".key")
            return context
    return True
