"""Holding a lease: as long as this process lives, so does what carries it, and no longer."""

from __future__ import annotations

import threading
import time

from dockyard.client.errors import APIError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from dockyard.client.http import Connection

LABEL = "dockyard.lease"
# How long an engine that was restarted is looked for.
PATIENCE = 10.0


class Lease:
    """A lease and the connection that holds it; a thread takes it up again when the engine was away."""

    def __init__(self, api: Connection) -> None:
        """Take a new one. Raises APIError, Unreachable."""
        self._api = api
        self._connection, self.id = self._take("")
        threading.Thread(target=self._stay, name="lease", daemon=True).start()

    def _take(self, lease_id: str) -> tuple[socket, str]:
        from dockyard.oci.quick_json import loads

        place = "/dockyard/leases" + (f"?id={lease_id}" if lease_id else "")
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        connection, data = self._api.request("POST", place, headers=headers).hijack()
        while b"\n" not in data:
            more = connection.recv(4096)
            if not more:
                raise Unreachable("the engine went away")
            data += more
        return connection, loads(data.partition(b"\n")[0])["Id"]

    def _stay(self) -> None:
        while True:
            try:
                while self._connection.recv(4096):
                    pass
            except OSError:
                pass
            if not self._again():
                return

    def _again(self) -> bool:
        """The engine has gone: it may be back in a moment."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                self._connection, _ = self._take(self.id)
                return True
            except APIError:
                return False  # it has ended
            except (Unreachable, OSError):
                time.sleep(0.1)
        return False
