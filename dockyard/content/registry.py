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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
import msgspec

from dockyard.errors import DockyardError, InvalidParameter, NotFound, SystemFailure, Unauthorized, Unavailable
from dockyard.generators import closing
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import check_digest, digest_of
from dockyard.oci.manifest import INDEXES, MANIFESTS
from dockyard.oci.reference import DEFAULT_DOMAIN, Reference
from dockyard.version import VERSION

HUB = "https://registry-1.docker.io"
CERTIFICATES = ("/etc/dockyard/certs.d", "/etc/docker/certs.d")
# A manifest is small; a registry that sends more is broken or hostile (moby's limit is the same).
LARGEST_MANIFEST = 4 << 20
CHUNK = 1 << 20
MOST_PAGES = 10_000  # of a list of tags
ATTEMPTS = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a registry."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to ask: base URL, and whether certificates count there."""

    url: str
    verify: bool = True
    mirror: bool = False


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""


class RegistryClient:
    """Knows which registries there are and how to reach them."""

    def __init__(self, mirrors: Sequence[str] = (), insecure: Sequence[str] = ()) -> None:
        self.configure(mirrors, insecure)
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
                trust_env=True,
            )
        return self._session

    def repository(
        self, name: Reference, credentials: Credentials | None = None, *, push: bool = False
    ) -> "Repository":
        """A repository to pull from or push to."""
        return Repository(self, name, credentials or Credentials(), self.endpoints(name.domain, push=push), push)

    def endpoints(self, domain: str, *, push: bool = False) -> list[Endpoint]:
        """Where to look for a registry, in the order to try: mirrors, HTTPS, and plain HTTP where that is allowed."""
        if domain == DEFAULT_DOMAIN:
            mirrors = [] if push else [Endpoint(mirror, mirror=True) for mirror in self._mirrors]
            return [*mirrors, Endpoint(HUB)]
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
        return await Repository(self, Reference(domain, "library/login"), credentials, endpoints, False).check()


@dataclass
class Repository:
    """One repository of one registry. The first endpoint that answers is kept."""

    client: RegistryClient
    name: Reference
    credentials: Credentials
    endpoints: list[Endpoint]
    push: bool
    _authorization: dict[str, str] = field(default_factory=dict)
    _endpoint: Endpoint | None = None

    @property
    def _path(self) -> str:
        return f"/v2/{self.name.path}"

    # -- pulling

    async def manifest(self, reference: str) -> Document:
        """The manifest or index of a tag or digest. Raises NotFound, Unauthorized, Unavailable."""
        headers = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        failure: DockyardError | None = None
        for endpoint in list(self._candidates()):
            try:
                async with self._request("GET", f"{self._path}/manifests/{reference}", headers, endpoint) as response:
                    await self._check(response, missing=f"manifest for {self._shown(reference)} not found")
                    content = await _read(response, f"manifest of {self._shown(reference)}")
            except (NotFound, Unauthorized, Unavailable) as error:
                failure = error
                if endpoint.mirror or isinstance(error, Unavailable):
                    continue
                raise
            digest = digest_of(content)
            if reference.startswith("sha256:") and digest != reference:
                raise SystemFailure(f"manifest verification failed for digest {reference}")
            self._endpoint = endpoint
            return Document(content, response.content_type, digest)
        raise failure or Unavailable(f"no registry answers for {self.name.domain}")

    async def blob_bytes(self, blob: Descriptor) -> bytes:
        """A small blob (an image's configuration), verified."""
        found = b""
        async with closing(self.blob(blob)) as pieces:
            async for piece in pieces:
                found += piece
                if max(len(found), blob.size) > LARGEST_MANIFEST:
                    raise InvalidParameter(f"blob {blob.digest} is too large")
        return found

    async def blob(self, blob: Descriptor) -> AsyncIterator[bytes]:
        """A blob's bytes as they arrive, verified at the end; a broken connection is taken up where it broke.

        Raises NotFound, Unavailable, SystemFailure when the content is not what its digest says.
        """
        check_digest(blob.digest)
        hasher = hashlib.new(blob.digest.partition(":")[0])
        received, attempt = 0, 0
        while True:
            headers = {"Range": f"bytes={received}-"} if received else {}
            try:
                async with self._request("GET", f"{self._path}/blobs/{blob.digest}", headers) as response:
                    if received and response.status == 200:
                        # this registry can't resume: start over, passing by what is known
                        skip = received
                    else:
                        await self._check(response, missing=f"blob {blob.digest} unknown to registry")
                        skip = 0
                    async for piece in response.content.iter_any():
                        if skip:
                            passed = min(skip, len(piece))
                            skip, piece = skip - passed, piece[passed:]
                        if piece:
                            received += len(piece)
                            if blob.size and received > blob.size:
                                raise SystemFailure(f"blob {blob.digest} is larger than its manifest says")
                            hasher.update(piece)
                            yield piece
                if blob.size and received < blob.size:
                    raise aiohttp.ClientPayloadError("connection closed early")
                break
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise Unavailable(f"cannot download blob {blob.digest}: {error}") from error
                await asyncio.sleep(0.2 * 2**attempt)
        if hasher.hexdigest() != blob.digest.partition(":")[2]:
            raise SystemFailure(f"filesystem layer verification failed for digest {blob.digest}")

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
        async with self._request("POST", f"{self._path}/blobs/uploads/?{query}", {"Content-Length": "0"}) as response:
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

        return (await self.upload_stream(pieces()))[0]

    async def upload_stream(self, pieces: AsyncIterator[bytes]) -> tuple[str, int]:
        """Send a blob whose digest is not known before: (digest, size)."""
        async with self._request("POST", f"{self._path}/blobs/uploads/", {"Content-Length": "0"}) as response:
            await self._check(response)
            location = urljoin(str(response.url), response.headers.get("Location", ""))
        hasher, size = hashlib.sha256(), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for piece in pieces:
                hasher.update(piece)
                size += len(piece)
                yield piece

        headers = {"Content-Type": "application/octet-stream"}
        async with self._request("PATCH", location, headers, body=counted()) as response:
            await self._check(response)
            location = urljoin(str(response.url), response.headers.get("Location", ""))
        digest = "sha256:" + hasher.hexdigest()
        location += ("&" if "?" in location else "?") + urlencode({"digest": digest})
        async with self._request("PUT", location, {"Content-Length": "0"}) as response:
            await self._check(response)
        return digest, size

    async def put_manifest(self, reference: str, media_type: str, document: bytes) -> str:
        """Store a manifest under a tag or digest; its digest."""
        headers = {"Content-Type": media_type}
        async with self._request("PUT", f"{self._path}/manifests/{reference}", headers, body=document) as response:
            await self._check(response)
        return digest_of(document)

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
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, with a token when one is asked for. Raises Unavailable when nothing answers."""
        failure: Exception | None = None
        for candidate in [endpoint] if endpoint is not None else list(self._candidates()):
            url = path if path.startswith("http") else candidate.url + path
            try:
                response = await self._send(method, url, headers, candidate, body)
                # no other host may ask for the login: not one that an answer has led to, by a link or a redirection
                own = _origin(str(response.url)) == _origin(candidate.url)
                if response.status == 401 and own and not isinstance(body, AsyncIterator):
                    challenge = response.headers.get("WWW-Authenticate", "")
                    if await self._authorize(candidate, challenge):
                        response.release()
                        response = await self._send(method, url, headers, candidate, body)
            except (aiohttp.ClientConnectionError, TimeoutError, ssl.SSLError) as error:
                failure = error
                continue
            self._endpoint = candidate if not candidate.mirror else self._endpoint
            try:
                yield response
            finally:
                response.release()
            return
        raise Unavailable(f'{method.capitalize()} "{self.endpoints[-1].url}/v2/": {_reason(failure)}') from failure

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        endpoint: Endpoint,
        body: AsyncIterator[bytes] | bytes | None,
    ) -> aiohttp.ClientResponse:
        sent = dict(headers)
        if endpoint.url in self._authorization and url.startswith(endpoint.url + "/"):
            sent["Authorization"] = self._authorization[endpoint.url]
        return await self.client.session.request(
            method, url, headers=sent, data=body, ssl=_tls(endpoint), allow_redirects=True
        )

    async def _authorize(self, endpoint: Endpoint, challenge: str) -> bool:
        """Find out what to send as Authorization. False when there is nothing to send or it has been refused."""
        if endpoint.url in self._authorization:
            return False
        known = self.credentials
        scheme = challenge.partition(" ")[0].lower()
        if scheme == "basic":
            if not known.username:
                return False
            self._authorization[endpoint.url] = aiohttp.BasicAuth(known.username, known.password).encode()
            return True
        if scheme != "bearer":
            return False
        if known.registry_token:
            self._authorization[endpoint.url] = f"Bearer {known.registry_token}"
            return True
        given = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if "realm" not in given:
            return False
        scope = f"repository:{self.name.path}:{'pull,push' if self.push else 'pull'}"
        token = await self._fetch_token(endpoint, given["realm"], given.get("service", ""), scope)
        self._authorization[endpoint.url] = f"Bearer {token}"
        return True

    async def _fetch_token(self, endpoint: Endpoint, realm: str, service: str, scope: str) -> str:
        known = self.credentials
        session = self.client.session
        if known.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": known.identity_token,
                "service": service,
                "scope": scope,
                "client_id": "dockyard",
            }
            request = session.post(realm, data=form, ssl=_tls(endpoint))
        else:
            auth = aiohttp.BasicAuth(known.username, known.password) if known.username else None
            query = {"service": service, "scope": scope, **({"account": known.username} if known.username else {})}
            request = session.get(realm, params=query, auth=auth, ssl=_tls(endpoint))
        async with request as response:
            if response.status in (401, 403):
                raise Unauthorized("unauthorized: incorrect username or password")
            if response.status != 200:
                raise Unavailable(f"token server {realm} answers {response.status}")
            found = await _decoded(response, "token", _Token)
        return found.token or found.access_token

    async def _check(self, response: aiohttp.ClientResponse, missing: str = "") -> None:
        """Raise what an error status means."""
        status = response.status
        if status < 400:
            return
        try:
            errors = (await _decoded(response, "error", _Errors)).errors
        except (DockyardError, aiohttp.ClientError):
            errors = []
        first = errors[0] if errors else _Error()
        said = f"{first.code.lower().replace('_', ' ')}: {first.message}" if first.code else f"status {status}"
        if status in (401, 403):
            if self.push:
                raise Unauthorized(f"{said}" if first.code else "unauthorized: authentication required")
            raise NotFound(
                f"pull access denied for {self.name.familiar_name()}, "
                f"repository does not exist or may require 'docker login': {said}"
            )
        if status == 404:
            if first.code == "NAME_UNKNOWN":
                raise NotFound(said)
            raise NotFound(f"{missing}: {said}" if missing else said)
        if status == 429 or status >= 500:
            raise Unavailable(f"received unexpected HTTP status: {status} from {response.url.host}: {said}")
        raise InvalidParameter(said)


async def _read(response: aiohttp.ClientResponse, what: str) -> bytes:
    """A body that is kept in memory. Raises InvalidParameter when it is too large for that."""
    content = b""
    while piece := await response.content.read(CHUNK):
        content += piece
        if len(content) > LARGEST_MANIFEST:
            raise InvalidParameter(f"{what} is too large")
    return content


async def _decoded(response: aiohttp.ClientResponse, what: str, kind: type[T]) -> T:
    """A body that is JSON. Raises InvalidParameter when it is too large, Unavailable when it is something else."""
    try:
        return msgspec.json.decode(await _read(response, what), type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(f"{response.url.host} answers with a {what} that is none: {error}") from None


def _reason(failure: Exception | None) -> str:
    if isinstance(failure, TimeoutError):
        return "net/http: request canceled while waiting for connection (timeout)"
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
    host = endpoint.url.removeprefix("https://").partition("/")[0]
    for root in CERTIFICATES:
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
