"""Where a registry is reached, from `certs.d/<host>/hosts.toml` (containerd's docs/hosts.md).

    server = "https://registry.example"            # asked last; by default the registry itself

    [host."https://mirror.example"]                # asked first, in the order of the file
      capabilities = ["pull", "resolve"]
      ca = "mirror.crt"                            # paths from the folder of the file
      client = [["client.cert", "client.key"]]
      skip_verify = false
      override_path = false                        # the URL's path is the API's root: no /v2 is added
      [host."https://mirror.example".header]
        x-team = "one"

`_default/hosts.toml` is for registries that have no folder of their own.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dockyard.errors import InvalidParameter

FOLDERS = ("/etc/dockyard/certs.d", "/etc/docker/certs.d")
DEFAULT = "_default"
_CAPABILITIES = frozenset(("pull", "resolve", "push"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to ask: base URL, and whether certificates count there.

    A mirror that fails leaves the next to be asked. `anonymous`: a host that the user has not logged in to.
    """

    url: str
    verify: bool = True
    mirror: bool = False
    anonymous: bool = False
    bare: bool = False  # `url` is the API's root itself
    namespace: str = ""  # the registry that it stands for, which it is told
    authorities: tuple[str, ...] = ()
    certificates: tuple[tuple[str, str], ...] = ()  # (certificate, key) to show
    headers: tuple[tuple[str, str], ...] = ()

    def address(self, path: str) -> str:
        """The URL of `path`, which begins with /v2/, or is one itself."""
        if path.startswith("http"):
            return path
        found = self.url + (path.removeprefix("/v2") if self.bare else path)
        if self.namespace:
            found += f"{'&' if '?' in found else '?'}ns={self.namespace}"
        return found


def endpoints(domain: str, own: Sequence[Endpoint], *, push: bool) -> list[Endpoint] | None:
    """Where `domain` is reached, by its file; None when there is none. `own`: where it would be without.

    Raises InvalidParameter for a file that cannot be used: to pass it over might send a login elsewhere.
    """
    for folder in FOLDERS:
        for name in (domain, DEFAULT):
            path = os.path.join(folder, name, "hosts.toml")
            try:
                with open(path, "rb") as file:
                    settings = tomllib.load(file)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise InvalidParameter(f"{path}: {error}") from None
            return _read(path, settings, domain, own, push)
    return None


def _read(path: str, settings: Mapping[str, Any], domain: str, own: Sequence[Endpoint], push: bool) -> list[Endpoint]:
    wanted = {"push"} if push else {"pull"}
    found = []
    hosts = settings.get("host", {})
    if not isinstance(hosts, dict):
        raise InvalidParameter(f'{path}: host is not a table: write [host."https://…"]')
    registry_hosts = {urlsplit(one.url).netloc for one in own}
    for url, host in hosts.items():
        if wanted <= _capabilities(path, url, host):
            found.append(_endpoint(path, url, host, domain, urlsplit(url).netloc not in registry_hosts))
    server = settings.get("server", "")
    if not server:
        return [*found, *own]
    if wanted <= _capabilities(path, server, settings):
        found.append(_endpoint(path, server, settings, domain, anonymous=False, mirror=False))
    return found


def _endpoint(
    path: str, url: str, host: Mapping[str, Any], domain: str, anonymous: bool, mirror: bool = True
) -> Endpoint:
    if "://" not in url:
        url = f"https://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise InvalidParameter(f"{path}: {url!r} is not the http(s) URL of a host")
    return Endpoint(
        url.rstrip("/"),
        verify=not _bool(path, host, "skip_verify"),
        mirror=mirror,
        anonymous=anonymous,
        bare=_bool(path, host, "override_path"),
        namespace=domain if anonymous else "",
        authorities=tuple(_beside(path, one) for one in _texts(path, host, "ca")),
        certificates=tuple(_clients(path, host)),
        headers=tuple(_headers(path, host.get("header", {}))),
    )


def _capabilities(path: str, url: str, host: Any) -> frozenset[str]:
    if not isinstance(host, dict):
        raise InvalidParameter(f"{path}: {url}: it is not a table")
    found = frozenset(_texts(path, host, "capabilities")) or _CAPABILITIES
    if not found <= _CAPABILITIES:
        raise InvalidParameter(f"{path}: {url}: unknown capability {', '.join(sorted(found - _CAPABILITIES))}")
    return found


def _bool(path: str, host: Mapping[str, Any], name: str) -> bool:
    value = host.get(name, False)
    if not isinstance(value, bool):
        raise InvalidParameter(f"{path}: {name} is neither true nor false")
    return value


def _texts(path: str, host: Mapping[str, Any], name: str) -> list[str]:
    """A setting that is one text or a list of them."""
    value = host.get(name, [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidParameter(f"{path}: {name} is neither a text nor a list of texts")
    return found


def _clients(path: str, host: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`client`: a file with certificate and key, a list of such, or a list of pairs."""
    value = host.get("client", [])
    found = []
    for one in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        pair = [one, one] if isinstance(one, str) else one
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise InvalidParameter(f"{path}: client is neither a path nor a list of paths or of pairs of them")
        found.append((_beside(path, pair[0]), _beside(path, pair[1] or pair[0])))
    return found


def _headers(path: str, headers: Any) -> list[tuple[str, str]]:
    if not isinstance(headers, dict):
        raise InvalidParameter(f"{path}: header is not a table")
    found = []
    for name, value in headers.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise InvalidParameter(f"{path}: header {name} is neither a text nor a list of texts")
        found.append((name, ", ".join(values)))
    return found


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)
