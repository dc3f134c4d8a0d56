"""Who a client says it is at registries: the headers X-Registry-Auth and X-Registry-Config."""

import base64
import binascii

import msgspec

from dockyard.api.router import Call
from dockyard.content.registry_auth import Credentials


class Login(msgspec.Struct, rename="lower"):
    """One login. null is as good as absent, as in Go: docker-py sends an email of null."""

    username: str | None = None
    password: str | None = None
    auth: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def credentials(self) -> Credentials | None:
        """What it says; None when that is nothing, or not legible."""
        name, password = self.username or "", self.password or ""
        if self.auth and not name:
            try:
                name, _, password = base64.b64decode(self.auth).decode().partition(":")
            except (binascii.Error, ValueError):
                return None
        if not (name or self.identitytoken or self.registrytoken):
            return None
        return Credentials(
            username=name,
            password=password,
            identity_token=self.identitytoken or "",
            registry_token=self.registrytoken or "",
        )


def for_image(call: Call) -> Credentials | None:
    """X-Registry-Auth: the login for one image; None when there is none, or not legibly (as Docker forgives)."""
    try:
        return msgspec.json.decode(_document(call, "X-Registry-Auth"), type=Login).credentials()
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None


def for_build(call: Call) -> dict[str, Credentials]:
    """X-Registry-Config: logins by registry; nothing when it can't be read, as Docker forgives."""
    try:
        given = msgspec.json.decode(_document(call, "X-Registry-Config"), type=dict[str, Login | None])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return {}
    found = {name: login.credentials() for name, login in given.items() if login is not None}
    return {name: login for name, login in found.items() if login is not None}


def _document(call: Call, name: str) -> bytes:
    header = call.http.headers.get(name, "")
    return base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
