"""Users and bcrypt hashes of passwords in a file, as Apache's `htpasswd -B` writes it. Who is in it may do all."""

import asyncio
import base64
import hmac
import logging
import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from dockyard.errors import InvalidParameter
from dockyard.registry import settings
from dockyard.registry.auth.model import Actor
from dockyard.registry.errors import Refused
from dockyard.registry.routes import Access
from dockyard.web import Request

log = logging.getLogger("dockyard.registry")

_BCRYPT = (b"$2a$", b"$2b$", b"$2y$")
LONGEST_PASSWORD = 72  # bytes, of which bcrypt knows no more
MOST_KNOWN = 10_000
CHECKED_AT_ONCE = 2


class Htpasswd:
    """Checks passwords. The file is read again when it has changed."""

    open = False

    def __init__(self, options: settings.Htpasswd) -> None:
        """Raises InvalidParameter when there is no such file, or nobody in it."""
        self._path = options.path
        self._challenge = {"WWW-Authenticate": f'Basic realm="{options.realm}"'}
        self._version: tuple[int, int] = (0, 0)
        self._users: dict[str, bytes] = {}
        # A hash takes 60 ms by design, and a pull is ten requests: what was right is remembered, keyed.
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}
        # who is not in the file has to wait as long as who is, or it would be known who is
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(10))
        self._threads = ThreadPoolExecutor(CHECKED_AT_ONCE, "htpasswd")  # who guesses holds up nobody's disk
        try:
            self._read()
        except OSError as error:
            raise InvalidParameter(f"auth.htpasswd.path: {self._path!r}: {error.strerror}") from None
        if not self._users:
            log.warning("auth.htpasswd: nobody is in %s, or nobody with a bcrypt hash (htpasswd -B)", self._path)

    async def authorize(self, request: Request, wanted: list[Access]) -> Actor:
        """Who asks. Raises Refused."""
        try:
            self._read()
        except OSError as error:
            log.error("auth.htpasswd: %s: %s", self._path, error.strerror)
            self._users, self._version = {}, (0, 0)
        user, password = _credentials(request.headers.get("Authorization"))
        if user:
            sent = hmac.digest(self._key, f"{user}\0".encode() + password, "sha256")
            if self._known.get(sent) == user:
                return Actor(user)
            right = await asyncio.get_running_loop().run_in_executor(self._threads, self._check, user, password)
            if right:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[sent] = user
                return Actor(user)
            log.warning("wrong password for %r from %s", user, request.connection.peer)
        raise Refused("UNAUTHORIZED", _detail(wanted), headers=self._challenge)

    def _check(self, user: str, password: bytes) -> bool:
        found = self._users.get(user)
        hashed = found if found is not None else self._nobody
        try:
            right = bcrypt.checkpw(password[:LONGEST_PASSWORD], hashed)
        except ValueError:
            return False
        return right and found is not None

    def _read(self) -> None:
        """Read the file if it is another than last time. Raises OSError."""
        status = os.stat(self._path)
        version = (status.st_mtime_ns, status.st_ino)
        if version == self._version:
            return
        users = {}
        with open(self._path, "rb") as file:
            for line in file.read().splitlines():
                name, colon, hashed = line.strip().partition(b":")
                if not colon or name.startswith(b"#"):
                    continue
                if hashed.startswith(_BCRYPT):
                    users[name.decode("utf-8", "replace")] = hashed
                else:
                    log.warning("auth.htpasswd: %r has no bcrypt hash (htpasswd -B) and is nobody", name.decode())
        self._users, self._version = users, version
        self._known.clear()


def digest_of_password(password: str) -> str:
    """A line's second half for a file of passwords."""
    return bcrypt.hashpw(password.encode()[:LONGEST_PASSWORD], bcrypt.gensalt(10)).decode()


def _credentials(header: str) -> tuple[str, bytes]:
    """(User, password) of an Authorization header; ("", b"") when there is none."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else ("", b"")
    except ValueError:
        return "", b""


def _detail(wanted: list[Access]) -> list[dict[str, str]] | None:
    """What would have had to be allowed, as distribution says it."""
    return [{"Type": one.type, "Class": "", "Name": one.name, "Action": one.action} for one in wanted] or None
