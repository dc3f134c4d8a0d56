"""The client's `config.json`, shared with Docker's: logins, formats, proxies, headers, the current context."""

from __future__ import annotations

import os

from dockyard.client.errors import CredentialsError
from dockyard.oci.quick_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


def load(folder: str) -> Config:
    """The configuration; empty when there is none. Raises CredentialsError when it cannot be read."""
    path = f"{folder}/config.json"
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _broken(path, f"open {path}: {(error.strerror or '').lower()}") from None
    try:
        data = b""
        while piece := os.read(descriptor, 1 << 16):
            data += piece
        found = loads(data) if data.strip() else {}
        if not isinstance(found, dict):
            raise ValueError(f"cannot unmarshal {type(found).__name__} into a configuration")
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from None
    finally:
        os.close(descriptor)
    return found


def _broken(path: str, why: str) -> CredentialsError:
    return CredentialsError(f"Error loading config file: {path}: {why}")


def write(folder: str, config: Config) -> None:
    """Replace the configuration, in one step and for our eyes only; a symbolic link stays one."""
    import json

    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.realpath(f"{folder}/config.json")
    temporary = f"{path}{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(config, file, indent="\t", ensure_ascii=False)
        if os.path.exists(path):
            os.chmod(temporary, os.stat(path).st_mode & 0o7777)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "noProxy": "NO_PROXY",
    "ftpProxy": "FTP_PROXY",
    "allProxy": "ALL_PROXY",
}


def proxies(config: Config, host: str) -> dict[str, str]:
    """The proxy variables, in both cases, that containers and builds of the engine at `host` get."""
    known = config.get("proxies") or {}
    chosen = known.get(host) or known.get("default") or {}
    found = {}
    for key, name in _PROXIES.items():
        if chosen.get(key):
            found[name] = found[name.lower()] = str(chosen[key])
    return found
