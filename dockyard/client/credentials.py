"""Registry logins in ~/.docker/config.json, shared with Docker's client; credential helpers too."""

from __future__ import annotations

import json

from dockyard.client.config_file import load, write
from dockyard.client.errors import CredentialsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_HUB = "https://index.docker.io/v1/"


def registry_of(image: str) -> str:
    """The key under which the login for an image is kept."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB if first in ("docker.io", "index.docker.io") else first
    return DOCKER_HUB


def hostname(server: str) -> str:
    """A registry's host and port, without scheme and path."""
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _helper(config: dict[str, Any], registry: str) -> str:
    name: str = (config.get("credHelpers") or {}).get(registry) or config.get("credsStore") or ""
    return name


def _ask(helper: str, action: str, text: str) -> dict[str, str] | None:
    import subprocess

    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", action], input=text, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise CredentialsError(f"error getting credentials: docker-credential-{helper} not found in $PATH") from None
    if done.returncode:
        if "credentials not found" in done.stdout:
            return None
        raise CredentialsError(
            f"error getting credentials - err: exit status {done.returncode}, out: `{done.stdout.strip()}`"
        )
    return dict(json.loads(done.stdout)) if done.stdout.strip() else None


def find(folder: str, registry: str) -> dict[str, str] | None:
    """The login for a registry as the API's AuthConfig, if there is one."""
    import base64

    config = load(folder)
    helper = _helper(config, registry)
    if helper:
        found = _ask(helper, "get", registry)
        if found is None:
            return None
        if found.get("Username") == "<token>":
            return {"identitytoken": found["Secret"], "serveraddress": registry}
        return {"username": found["Username"], "password": found["Secret"], "serveraddress": registry}
    entry = (config.get("auths") or {}).get(registry)
    if not entry:
        return None
    if entry.get("identitytoken"):
        return {"identitytoken": entry["identitytoken"], "serveraddress": registry}
    name, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    return {"username": name, "password": password.rstrip("\0"), "serveraddress": registry}


def every_login(folder: str) -> dict[str, dict[str, str] | None]:
    """All the logins there are, by registry: a build may need any of them."""
    return {name: find(folder, name) for name in load(folder).get("auths") or {}}


def header(folder: str, image: str) -> dict[str, str]:
    """The X-Registry-Auth header for an image."""
    import base64

    auth = find(folder, registry_of(image)) or {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}


def entry_of(login: dict[str, str]) -> dict[str, str]:
    """A login (the API's AuthConfig) as config.json keeps it."""
    import base64

    token, name = login.get("identitytoken", ""), login.get("username", "")
    secret = f"{name}:" + ("" if token else login.get("password", ""))
    entry = {"auth": base64.b64encode(secret.encode()).decode()}
    return entry | ({"identitytoken": token} if token else {})


def store(folder: str, registry: str, name: str, password: str, token: str) -> None:
    """Keep a login."""
    config = load(folder)
    helper = _helper(config, registry)
    entry: dict[str, str] = {}
    if helper:
        secret = {"ServerURL": registry, "Username": "<token>" if token else name, "Secret": token or password}
        _ask(helper, "store", json.dumps(secret))
    else:
        entry = entry_of({"username": name, "password": password, "identitytoken": token})
    config.setdefault("auths", {})[registry] = entry
    write(folder, config)


def forget(folder: str, registry: str) -> bool:
    """Drop a login; whether there was one."""
    config = load(folder)
    helper = _helper(config, registry)
    if helper:
        _ask(helper, "erase", registry)
    if (config.get("auths") or {}).pop(registry, None) is None:
        return False
    write(folder, config)
    return True
