"""Claims about the headers that carry logins."""

import base64

import msgspec
import pytest

from dockyard.api.logins import Login
from dockyard.content.registry import Credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"username": "me", "password": "secret"}', Credentials("me", "secret")),
        # docker-py after a login without an email
        ('{"username": "me", "password": "secret", "email": null, "auth": null}', Credentials("me", "secret")),
        ('{"auth": "%s"}' % base64.b64encode(b"me:sec:ret").decode(), Credentials("me", "sec:ret")),  # noqa: UP031
        ('{"identitytoken": "token", "serveraddress": "x"}', Credentials(identity_token="token")),
        ("{}", None),
        ('{"auth": "=="}', None),
    ],
)
def test_what_clients_send(text: str, expected: Credentials | None) -> None:
    assert msgspec.json.decode(text, type=Login).credentials() == expected
