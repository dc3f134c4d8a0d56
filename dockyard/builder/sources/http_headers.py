"""What servers of addresses are told of who asks: a login of the client's for that host, and headers of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dockyard.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from dockyard.builder.graph.client import ClientSide

HEADER, TOKEN = "HTTP_AUTH_HEADER_", "HTTP_AUTH_TOKEN_"  # secrets, with a host behind (BuildKit, source/http)


async def login_headers(client: ClientSide, url: str, secret: str = "") -> dict[str, str]:
    """The client's login for the server of `url`: the secret called so, or the ones that are named after the host.

    Raises NotFound for a secret that is named and not there, InvalidParameter for one that is no header.
    """
    host = urlsplit(url).hostname or ""
    for name in (secret,) if secret else (f"{HEADER}{host}", f"{TOKEN}{host}"):
        try:
            value = await client.secret(name)
        except NotFound:  # there is no client any more who could have one
            value = None
        if value is not None:
            text = value.decode(errors="replace").strip()
            if any(character < " " or character == "\x7f" for character in text):
                raise InvalidParameter(f"secret {name} is no header of HTTP")
            return {"Authorization": f"Bearer {text}" if name.startswith(TOKEN) else text}
    if secret:
        raise NotFound(f"failed to retrieve HTTP auth secret {secret}: not found")
    return {}
