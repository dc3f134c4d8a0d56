"""Getting along with firewalld, which rejects what is forwarded between links of no zone, and forgets such links.

As Docker: the bridges are in a zone "docker" that accepts, so that our own rules decide about them, and a policy lets
other zones' packets get there. Both are made for good where they are missing; the links are told anew after each
reload and start of firewalld. Without firewalld nothing of this happens. firewalld.dbus(5); moby
daemon/libnetwork/iptables/firewalld.go.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence

from dockyard.errors import words
from dockyard.linux.dbus import Connection, DBusError

log = logging.getLogger("dockyard.networks")

BUS = "/run/dbus/system_bus_socket"
NAME, PATH, CONFIG = (
    "org.fedoraproject.FirewallD1",
    "/org/fedoraproject/FirewallD1",
    "/org/fedoraproject/FirewallD1/config",
)
ZONE, POLICY = "docker", "docker-forwarding"
# as firewalld's addZone takes a zone: its target is ACCEPT, and all else empty
ZONE_TYPE = "(sssbsasa(ss)asba(ssss)asasasasa(ss)b)"
ZONE_SETTINGS: tuple[object, ...] = (
    "1.0",
    ZONE,
    "bridges of containers",
    False,
    "ACCEPT",
    [],
    [],
    [],
    False,
    [],
    [],
    [],
    [],
    [],
    [],
    False,
)
PATIENCE = 60.0  # s; a reload of many rules takes long
AGAIN = 30.0  # s from a bus that has hung up to the next try


class Firewalld:
    """Listens to firewalld in a thread of its own, and tells it of our bridges."""

    def __init__(self, bridges: Callable[[], Sequence[str]], reloaded: Callable[[], None]) -> None:
        """`bridges`: which there are at any time; `reloaded` is called, in that thread, when rules may have gone."""
        self._bridges = bridges
        self._reloaded = reloaded
        self._bus = bus_socket()
        self._lock = threading.Lock()
        self._ours: set[str] = set()
        self._connection: Connection | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.runs = False

    def open(self) -> None:
        """Tell firewalld of our bridges, if it runs, and listen from now on; nothing without a bus."""
        if not os.path.exists(self._bus):
            return
        try:
            self._connect()
        except (OSError, DBusError) as error:
            log.debug("there is no firewalld: %s", error)
        self._thread = threading.Thread(target=self._listen, name="firewalld", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more; the bridges stay in their zone."""
        self._over.set()
        connection = self._connection
        if connection is not None:
            connection.hang_up()
        if self._thread is not None:
            self._thread.join()

    def tell(self) -> None:
        """Let firewalld know the bridges that there are now. Blocks; does nothing where firewalld does not run."""
        if not self.runs:
            return
        try:
            connection = Connection(self._bus, bus=True, timeout=PATIENCE)
            try:
                self._tell(connection)
            finally:
                connection.close()
        except (OSError, DBusError) as error:
            log.warning("firewalld does not take our bridges: %s", words(error))

    def _connect(self) -> None:
        # a bus that is there and silent is not to hold up the daemon's start for long
        connection = Connection(self._bus, bus=True, timeout=5)
        try:
            for rule in (
                f"type='signal',path='{PATH}',interface='{NAME}',member='Reloaded'",
                f"type='signal',interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{NAME}'",
            ):
                connection.call(*_OF_BUS, "AddMatch", "s", rule)
            self.runs = bool(connection.call(*_OF_BUS, "NameHasOwner", "s", NAME)[0])
            connection.wait(PATIENCE)
            if self.runs:
                self._prepare(connection)
            connection.wait(None)
        except (OSError, DBusError):
            connection.close()
            raise
        self._connection = connection

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                if self._connection is None:
                    self._connect()
                    self._reloaded()
                assert self._connection is not None
                for signal in self._connection.signals("Reloaded", "NameOwnerChanged"):
                    self._heard(signal.body)
            except (OSError, DBusError) as error:
                if not self._over.is_set():
                    log.debug("the bus of firewalld: %s", error)
            finally:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            self._over.wait(AGAIN)

    def _heard(self, body: Sequence[object]) -> None:
        """It has been reloaded (an empty message), or has come or gone (name, who had it, who has it)."""
        self.runs = len(body) < 3 or bool(body[2])
        if not self.runs:
            log.info("firewalld has ended")
            self._reloaded()
            return
        log.info("firewalld has been %s", "reloaded" if len(body) < 3 else "started")
        try:
            connection = Connection(self._bus, bus=True, timeout=PATIENCE)
            try:
                if len(body) >= 3:
                    self._prepare(connection)
                else:
                    self._tell(connection)
            finally:
                connection.close()
        except (OSError, DBusError) as error:
            log.warning("firewalld does not take our bridges: %s", words(error))
        self._reloaded()

    def _prepare(self, connection: Connection) -> None:
        """Have zone and policy, and our bridges in the zone."""
        try:
            new = ZONE not in connection.call(NAME, PATH, f"{NAME}.zone", "getZones")[0]
            if new:
                new = _make(connection, "addZone", "s" + ZONE_TYPE, ZONE, ZONE_SETTINGS)
            new = _make(connection, "addPolicy", "sa{sv}", POLICY, POLICY_SETTINGS) or new
            if new:
                connection.call(NAME, PATH, NAME, "reload")
            self._tell(connection)
        except DBusError as error:
            log.warning("firewalld may reject what containers send: %s", error)

    def _tell(self, connection: Connection) -> None:
        with self._lock:
            wanted = set(self._bridges())
            present = set(connection.call(NAME, PATH, f"{NAME}.zone", "getInterfaces", "s", ZONE)[0])
            _each(connection, "addInterface", wanted - present)
            _each(connection, "removeInterface", (self._ours - wanted) & present)
            self._ours = wanted


_OF_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
POLICY_SETTINGS = [
    ("version", ("s", "1.0")),
    ("description", ("s", "what is forwarded to bridges of containers")),
    ("ingress_zones", ("as", ["ANY"])),
    ("egress_zones", ("as", [ZONE])),
    ("target", ("s", "ACCEPT")),
]


def bus_socket() -> str:
    """Where the system's bus listens."""
    for address in os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "").split(";"):
        if address.startswith("unix:path="):
            return address.removeprefix("unix:path=").partition(",")[0]
    return BUS


def _make(connection: Connection, method: str, signature: str, *arguments: object) -> bool:
    """Add something to firewalld's permanent configuration; False when it is there, or firewalld too old for it."""
    try:
        connection.call(NAME, CONFIG, f"{NAME}.config", method, signature, *arguments)
    except DBusError as error:
        if error.message.startswith("NAME_CONFLICT") or error.name.endswith(".UnknownMethod"):
            return False
        raise
    return True


def _each(connection: Connection, method: str, links: Iterable[str]) -> None:
    for link in sorted(links):
        try:
            connection.call(NAME, PATH, f"{NAME}.zone", method, "ss", ZONE, link)
        except DBusError as error:
            log.warning("firewalld, %s of bridge %s: %s", method, link, error)
