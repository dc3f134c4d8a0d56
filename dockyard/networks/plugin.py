"""Programs of others that are spoken to by Docker's plugin protocol: JSON over HTTP, mostly on a UNIX socket.

A plugin is found by its socket NAME.sock in Docker's folder, or by a file NAME.spec or NAME.json in others of Docker's
that says where it listens (docs.docker.com, "Docker plugin API").
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from dockyard.errors import NotFound, SystemFailure

SOCKETS = ("/run/docker/plugins",)
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
PATIENCE = 30.0  # s for one answer
LONGEST = 1 << 20  # bytes of one


class Plugin:
    """The plugin called `name`. Keeps nothing: it is looked for at each call, which blocks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find(self) -> tuple[int, str | tuple[str, int]]:
        """The family and address of the plugin's socket. Raises NotFound."""
        plain = (
            self.name.isascii() and all(one.isalnum() or one in "-_.:" for one in self.name) and self.name[:1] != "."
        )
        for folder in SOCKETS if plain else ():
            for path in (Path(folder, f"{self.name}.sock"), Path(folder, self.name, f"{self.name}.sock")):
                if path.is_socket():
                    return socket.AF_UNIX, str(path)
        for folder in SPECS if plain else ():
            for suffix in ("spec", "json"):
                for path in (Path(folder, f"{self.name}.{suffix}"), Path(folder, self.name, f"{self.name}.{suffix}")):
                    if path.is_file():
                        return _address(path)
        raise NotFound(f'plugin "{self.name}" not found')

    def activate(self, kind: str) -> None:
        """Greet the plugin. Raises SystemFailure when it is none of that `kind`."""
        if kind not in (self.call("Plugin.Activate").get("Implements") or []):
            raise SystemFailure(f'plugin "{self.name}" is no {kind}')

    def call(self, method: str, **body: Any) -> dict[str, Any]:
        """What the plugin answers. Raises SystemFailure with its own words, NotFound without a plugin."""
        family, address = self.find()
        connection = http.client.HTTPConnection("plugin", timeout=PATIENCE)
        try:
            connection.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect(address)
            kind = {"Accept": "application/vnd.docker.plugins.v1.2+json", "Content-Type": "application/json"}
            connection.request("POST", f"/{method}", json.dumps(body), kind)
            answer = connection.getresponse()
            text = answer.read(LONGEST)
            said = json.loads(text) if text.strip() else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SystemFailure(f'plugin "{self.name}" does not answer {method}: {error}') from error
        finally:
            connection.close()
        if not isinstance(said, dict):
            raise SystemFailure(f'plugin "{self.name}" answers {method} with nonsense')
        # network drivers say Err, address managers Error
        failure = said.get("Err") or said.get("Error")
        if answer.status != 200 or failure:
            raise SystemFailure(f"{method}: {failure or answer.reason}")
        return said


def _address(path: Path) -> tuple[int, str | tuple[str, int]]:
    text = path.read_text(encoding="utf-8").strip()
    url = str(json.loads(text).get("Addr", "")) if path.suffix == ".json" else text
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return socket.AF_UNIX, rest
    host, _, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("tcp", "http") or not port.isdigit():
        raise NotFound(f"plugin file {path} names no address: {url!r}")
    return socket.AF_INET6 if ":" in host else socket.AF_INET, (host.strip("[]"), int(port))
