"""What a registry wants to see before it answers: challenges, logins and tokens.

RFC 7235 (challenges), RFC 7617 (Basic), and the distribution project's "Token Authentication" and "OAuth2" pages. A
registry may ask for it at any time, not only at first: tokens of Docker Hub are good for five minutes.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard.errors import InvalidParameter, Unavailable

# A token that says nothing of its end is good for this long (distribution's token specification), in seconds.
SHORTEST_LIFE = 60.0
# It is renewed this much before its end, for a request takes its time.
MARGIN = 5.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a registry."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove who one is; names are in small letters."""

    scheme: str
    parameters: Mapping[str, str]


class Token(msgspec.Struct):
    """What a token server answers; any field may be missing or null."""

    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: Any = None

    def value(self) -> str:
        """The token itself. Raises Unavailable when there is none."""
        found = self.token or self.access_token
        if not found:
            raise Unavailable("authorization server did not include a token in the response")
        return found

    def life(self) -> float:
        """For how many seconds it is good, at least SHORTEST_LIFE."""
        try:
            return max(float(self.expires_in or 0), SHORTEST_LIFE)
        except (TypeError, ValueError):
            return SHORTEST_LIFE


_PARAMETER = re.compile(r'\s*([\w!#$%&\'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))\s*')
_SCHEME = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)(?=[\s,]|$)\s*")


def challenges(headers: Sequence[str]) -> list[Challenge]:
    """What WWW-Authenticate headers ask for, each perhaps several times, in their order."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while position < len(header):
            parameter = _PARAMETER.match(header, position)
            if parameter is not None and found:
                name, quoted, plain = parameter.groups()
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                found[-1] = Challenge(found[-1].scheme, {**found[-1].parameters, name.lower(): value})
                position = parameter.end()
            elif (scheme := _SCHEME.match(header, position)) is not None:
                found.append(Challenge(scheme[1].lower(), {}))
                position = scheme.end()
            else:
                break
            while position < len(header) and header[position] in ", \t":
                position += 1
    return found


Fetch = Callable[[str, str, Sequence[str]], Awaitable[Token]]


class Authorization:
    """What is sent to one endpoint. Requests side by side share it, and one alone asks for a new one."""

    def __init__(self, credentials: Credentials, fetch: Fetch) -> None:
        """`fetch(realm, service, scopes)` gets a token."""
        self._credentials = credentials
        self._fetch = fetch
        self._basic = False
        self._bearer: Challenge | None = None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._lock = asyncio.Lock()

    async def value(self, scopes: Sequence[str]) -> str | None:
        """What to send for a request that needs `scopes`; None while the endpoint has asked for nothing.

        Raises Unauthorized, Unavailable when a token can't be had.
        """
        if self._basic:
            return self._credentials.basic()
        if self._bearer is None:
            return None
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        async with self._lock:
            token, end = self._tokens.get(tuple(scopes), ("", 0.0))
            if time.monotonic() >= end:
                realm, service = self._bearer.parameters["realm"], self._bearer.parameters.get("service", "")
                found = await self._fetch(realm, service, scopes)
                token, end = found.value(), time.monotonic() + found.life() - MARGIN
                self._tokens[tuple(scopes)] = (token, end)
            return f"Bearer {token}"

    async def answer(self, asked: Sequence[Challenge], sent: str | None, scopes: Sequence[str]) -> bool:
        """Take up a refusal of a request that had `sent`; whether there is something else to send now."""
        bearer = next((one for one in asked if one.scheme == "bearer" and one.parameters.get("realm")), None)
        if bearer is not None:
            self._basic, self._bearer = False, bearer
            token = self._tokens.get(tuple(scopes))
            if token is not None and sent == f"Bearer {token[0]}":
                del self._tokens[tuple(scopes)]  # it has ended before its time
                return True
            return sent is None or await self.value(scopes) != sent
        if any(one.scheme == "basic" for one in asked) and self._credentials.username:
            self._basic, self._bearer = True, None
            return sent != self._credentials.basic()
        return False


def decode_token(content: bytes) -> Token:
    """A token server's answer. Raises InvalidParameter when it is none."""
    try:
        return msgspec.json.decode(content, type=Token)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"unable to decode token response: {error}") from None
