"""`login` and `logout`: who we are to registries."""

from __future__ import annotations

import sys

from dockyard.cli.errors import Failure
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage
from dockyard.client import credentials
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@usage(
    """
dockyard login [OPTIONS] [SERVER]

Authenticate to a registry.
Docker Hub it is when no server is named.

Options:
  -p, --password string   Password or access token
      --password-stdin    Read the password from stdin
  -u, --username string   User name
"""
)
def login(session: Session, flags: Flags) -> int:
    """Keeps the login in the client's configuration once the registry has accepted it."""
    if flags.given("password-stdin"):
        if flags.given("password"):
            raise Failure("conflicting options: cannot specify both --password and --password-stdin")
        if not flags.given("username"):
            raise Failure("the --password-stdin option requires --username to be set")
    for name in ("username", "password"):
        if flags.given(name) and not flags.text(name):
            raise Failure(f"{name} is empty")
    if flags.given("password"):
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    server = flags.arguments[0] if flags.arguments else ""
    server = credentials.DOCKER_HUB if server in ("", "docker.io") else credentials.hostname(server)
    name, password = flags.text("username"), flags.text("password")
    if flags.on("password-stdin"):
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not name and not password:
        stored = credentials.find(session.config_folder, server)
        if stored and stored.get("password") and _with_stored(session, server, stored):
            return 0
        name = "" if stored is None else stored.get("username", "")
    if (not flags.given("username") or not password) and not sys.stdin.isatty():
        raise Failure("Error: Cannot perform an interactive login from a non TTY device")
    if not flags.given("username"):
        shown = f"Username ({name}): " if name else "Username: "
        name = _ask(shown) or name
        if not name:
            raise Failure("Error: Non-null Username Required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
        if not password:
            raise Failure("Error: Password Required")
    _log_in(session, server, name, password)
    return 0


def _ask(question: str) -> str:
    print(question, end="", flush=True)
    return sys.stdin.readline().strip()


def _log_in(session: Session, server: str, name: str, password: str) -> None:
    body = {"username": name, "password": password, "serveraddress": server}
    answer: dict[str, Any] = session.api.request("POST", "/auth", body).json() or {}
    credentials.store(session.config_folder, server, name, password, answer.get("IdentityToken", ""))
    if answer.get("Status"):
        print(answer["Status"])


def _with_stored(session: Session, server: str, stored: dict[str, str]) -> bool:
    name = stored["username"]
    print(f"Authenticating with existing credentials... [Username: {name}]", file=sys.stderr)
    print("To log in as someone else, log out first.\n", file=sys.stderr)
    try:
        _log_in(session, server, name, stored["password"])
    except APIError as error:
        if error.status == 401:
            print("Stored credentials invalid or expired", file=sys.stderr)
        else:
            print(f"Login did not succeed, error: Error response from daemon: {error}", file=sys.stderr)
        return False
    return True


@usage(
    """
dockyard logout [SERVER]

Log out from a registry.
Docker Hub it is when no server is named.
"""
)
def logout(session: Session, flags: Flags) -> int:
    """Forgets a login."""
    server = flags.arguments[0] if flags.arguments else credentials.DOCKER_HUB
    names = [server]
    if flags.arguments:
        host = credentials.hostname(server)
        names += [host, f"http://{host}", f"https://{host}"]
        server = host
    print(f"Removing login credentials for {server}")
    for name in dict.fromkeys(names):
        credentials.forget(session.config_folder, name)
    return 0
