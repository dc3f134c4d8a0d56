"""A registry spoken to by a client itself, without an engine: blobs and manifests (OCI distribution 1.1)."""

from __future__ import annotations

import base64
import json
import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urljoin, urlsplit

from dockyard.client import credentials
from dockyard.client.errors import ClientError
from dockyard.oci.reference import DEFAULT_DOMAIN, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 16 << 20  # bytes of a manifest or a blob that is held in memory
REDIRECTS = 5
TIMEOUT = 60
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
INDEXES = (MANIFESTS[1], MANIFESTS[3])
INSECURE = "__TEST__INSECURE__REGISTRY__"  # by which Docker Compose's own tests have plain HTTP


class RegistryError(ClientError):
    """A registry has refused something; `status` is 0 when it could not be reached or gave what it may not."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Manifest(NamedTuple):
    """A manifest or an index as it is stored."""

    media_type: str
    digest: str
    data: bytes

    def json(self) -> Any:
        """Parsed. Raises RegistryError."""
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise RegistryError(f"invalid manifest: {error}") from None


class _Answer(NamedTuple):
    status: int
    headers: Any
    data: bytes


def digest_of(data: bytes) -> str:
    """The digest by which content is known."""
    return f"sha256:{sha256(data).hexdigest()}"


class Registry:
    """One repository in one registry."""

    def __init__(self, reference: Reference, config_folder: str) -> None:
        """`config_folder`: where the logins are. Registries of this host are spoken to without TLS, as Docker does."""
        self.reference = reference
        self._login = credentials.DOCKER_HUB if reference.domain == DEFAULT_DOMAIN else reference.domain
        self._config_folder = config_folder
        host = "registry-1.docker.io" if reference.domain == DEFAULT_DOMAIN else reference.domain
        plain = INSECURE in os.environ or re.match(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$", host) is not None
        self._base = f"{'http' if plain else 'https'}://{host}/v2/{reference.path}"
        self._authorization = ""

    # -- reading

    def manifest(self, reference: str) -> Manifest:
        """The manifest of a tag or a digest. Raises RegistryError."""
        answer = self._ask("GET", f"{self._base}/manifests/{reference}", {"Accept": ", ".join(MANIFESTS)})
        if answer.status != 200:
            raise self._error(answer, f"{self.reference.familiar_name()}:{reference}: not found")
        digest = digest_of(answer.data)
        if reference.startswith("sha256:") and reference != digest:
            raise RegistryError(f"manifest {reference} has another content than its digest says")
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        return Manifest(kind or str(json.loads(answer.data or b"{}").get("mediaType", "")), digest, answer.data)

    def blob(self, digest: str) -> bytes:
        """A blob. Raises RegistryError."""
        answer = self._ask("GET", f"{self._base}/blobs/{digest}", {})
        if answer.status != 200:
            raise self._error(answer, f"blob {digest} not found")
        if digest_of(answer.data) != digest:
            raise RegistryError(f"blob {digest} has another content than its digest says")
        return answer.data

    # -- writing

    def put_blob(self, data: bytes) -> str:
        """Store a blob that may be there; its digest. Raises RegistryError."""
        digest = digest_of(data)
        if self._ask("HEAD", f"{self._base}/blobs/{digest}", {}).status == 200:
            return digest
        begun = self._ask("POST", f"{self._base}/blobs/uploads/", {}, b"")
        if begun.status != 202:
            raise self._error(begun, "failed to start an upload")
        place = urljoin(self._base, begun.headers.get("Location", ""))
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        done = self._ask("PUT", place, {"Content-Type": "application/octet-stream"}, data)
        if done.status != 201:
            raise self._error(done, f"failed to store blob {digest}")
        return digest

    def mount_blob(self, digest: str, source: Reference) -> bool:
        """Take a blob over from another repository of the same registry; whether that could be done."""
        query = urlencode({"mount": digest, "from": source.path})
        return self._ask("POST", f"{self._base}/blobs/uploads/?{query}", {}, b"").status == 201

    def put_manifest(self, reference: str, media_type: str, data: bytes) -> str:
        """Store a manifest under a tag or its digest; its digest. Raises RegistryError."""
        done = self._ask("PUT", f"{self._base}/manifests/{quote(reference)}", {"Content-Type": media_type}, data)
        if done.status != 201:
            raise self._error(done, f"failed to store manifest {reference}")
        return digest_of(data)

    # -- requests

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> _Answer:
        for _ in range(2):
            given = {**headers, **({"Authorization": self._authorization} if self._authorization else {})}
            answer = _request(method, url, given, body)
            if answer.status != 401 or not self._log_in(answer.headers.get("WWW-Authenticate", "")):
                break
        return answer

    def _log_in(self, challenge: str) -> bool:
        """Get what a challenge asks for; whether it is something new."""
        kind, _, rest = challenge.partition(" ")
        login = credentials.find(self._config_folder, self._login) or {}
        basic = base64.b64encode(f"{login.get('username', '')}:{login.get('password', '')}".encode()).decode()
        before = self._authorization
        if kind.lower() == "basic" and login.get("username"):
            self._authorization = f"Basic {basic}"
        elif kind.lower() == "bearer":
            asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            self._authorization = f"Bearer {self._token(asked, login, basic)}"
        return self._authorization != before

    def _token(self, asked: Mapping[str, str], login: Mapping[str, str], basic: str) -> str:
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise RegistryError(f"{self.reference.domain} names no server of tokens")
        scope = asked.get("scope") or f"repository:{self.reference.path}:pull,push"
        query = {"service": asked.get("service", ""), "scope": scope}
        if login.get("identitytoken"):
            form = {**query, "grant_type": "refresh_token", "refresh_token": login["identitytoken"]}
            form["client_id"] = "dockyard"
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = _request("POST", realm, kind, urlencode(form).encode())
        else:
            headers = {"Authorization": f"Basic {basic}"} if login.get("username") else {}
            answer = _request("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", headers)
        if answer.status != 200:
            raise self._error(answer, "no token was given")
        found = json.loads(answer.data)
        return str(found.get("token") or found.get("access_token") or "")

    def _error(self, answer: _Answer, what: str) -> RegistryError:
        try:
            said = "; ".join(str(one.get("message") or one.get("code")) for one in json.loads(answer.data)["errors"])
        except (ValueError, KeyError, TypeError, AttributeError):
            said = ""
        return RegistryError(f"{what}: {said or f'status {answer.status}'}", answer.status)


def _request(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> _Answer:
    """One request; redirects of reads are followed, without the login. Raises RegistryError."""
    import http.client

    for _ in range(REDIRECTS):
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=TIMEOUT)
        try:
            place = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, place, body, {"User-Agent": "dockyard", **headers})
            response = connection.getresponse()
            data = response.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise RegistryError(f"{parts.netloc} sends more than {LARGEST} bytes")
            status, told = response.status, response.headers
        except (OSError, http.client.HTTPException) as error:
            raise RegistryError(f"failed to do request: {method} {url}: {error}") from None
        finally:
            connection.close()
        if status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
            return _Answer(status, told, data)
        url = urljoin(url, told.get("Location", ""))
        headers = {name: value for name, value in headers.items() if name != "Authorization"}
    raise RegistryError(f"{url}: too many redirects")
