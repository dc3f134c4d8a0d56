"""firewalld on a bus of the test's own: a stand-in that keeps zones and forgets links when it is reloaded."""

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import dbus
from dockyard.networks.firewalld import NAME, POLICY, ZONE
from tests.networks.conftest import Host
from tests.processes import eventually

BUS = """<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true"/><allow receive_sender="*"/></policy></busconfig>"""


class Firewalld(dbus.Connection):
    """Answers what the daemon asks firewalld, in a thread."""

    def __init__(self, path: str) -> None:
        self.zones: dict[str, Any] = {}
        self.policies: dict[str, Any] = {}
        self.links: set[str] = set()
        self.reloads = 0
        super().__init__(path, bus=True)
        self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", "su", NAME, 4)
        self.wait(None)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def end(self) -> None:
        self.hang_up()
        self._thread.join()
        self.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                message = self._receive()
                if message.kind != dbus.METHOD_CALL:
                    continue
                method, body = message.fields[dbus.MEMBER], message.body
                if method == "addPolicy" and body[0] in self.policies:
                    self._reply(message, dbus.ERROR, "s", (f"NAME_CONFLICT: new_policy_object(): '{body[0]}'",))
                else:
                    self._reply(message, dbus.METHOD_RETURN, *self._answer(method, body))

    def _answer(self, method: str, body: list[Any]) -> tuple[str, tuple[Any, ...]]:
        if method == "getZones":
            return "as", (["public", *self.zones],)
        if method == "getInterfaces":
            return "as", (sorted(self.links),)
        if method == "addZone":
            self.zones[body[0]] = body[1]
        if method == "addPolicy":
            self.policies[body[0]] = dict(body[1])
        if method == "addInterface":
            self.links.add(body[1])
        if method == "removeInterface":
            self.links.remove(body[1])
        if method == "reload":
            self.reload()
        return "", ()

    def reload(self) -> None:
        """What `firewall-cmd --reload` does, as far as others see it."""
        self.reloads += 1
        self.links.clear()
        path = "/" + NAME.replace(".", "/")
        self._send(
            dbus.SIGNAL, [(dbus.PATH, ("o", path)), (dbus.INTERFACE, ("s", NAME)), (dbus.MEMBER, ("s", "Reloaded"))]
        )

    def _reply(self, message: dbus.Message, kind: int, signature: str, body: tuple[Any, ...]) -> None:
        to: list[tuple[int, tuple[str, Any]]] = [
            (dbus.REPLY_SERIAL, ("u", message.serial)),
            (dbus.DESTINATION, ("s", message.fields[7])),
        ]
        if signature:
            to.append((dbus.SIGNATURE, ("g", signature)))
        if kind == dbus.ERROR:
            to.append((dbus.ERROR_NAME, ("s", f"{NAME}.Exception")))
        self._send(kind, to, dbus.pack(signature, *body))

    def _send(self, kind: int, fields: list[tuple[int, tuple[str, Any]]], body: bytes = b"") -> None:
        self._serial += 1
        head = dbus.pack("yyyyuua(yv)", ord("l"), kind, 1, 1, len(body), self._serial, fields)
        self._socket.sendall(head.ljust(-(-len(head) // 8) * 8, b"\0") + body)


async def soon(look: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, look)


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a bus listens that the daemon takes for the system's."""
    path = f"/tmp/dockyard-bus-{os.getpid()}"
    (tmp_path / "bus.conf").write_text(BUS.format(path=path))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    process = subprocess.Popen(["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork"])
    try:
        eventually(lambda: os.path.exists(path))
        yield path
    finally:
        process.terminate()
        process.wait()
        Path(path).unlink(missing_ok=True)


@pytest.fixture
async def firewalld(bus: str) -> AsyncIterator[Callable[[], Firewalld]]:
    """Start one, any time."""
    made: list[Firewalld] = []

    def start() -> Firewalld:
        made.append(Firewalld(bus))
        return made[-1]

    yield start
    for one in made:
        one.end()


async def test_bridges_are_in_a_zone_that_accepts_and_return_to_it_after_a_reload(
    firewalld: Callable[[], Firewalld], make_host: Callable[..., Any]
) -> None:
    wall = firewalld()
    host: Host = await make_host()
    assert wall.zones[ZONE][4] == "ACCEPT"
    assert wall.policies[POLICY]["egress_zones"] == ("as", [ZONE])
    assert wall.reloads == 1
    await soon(lambda: wall.links == {host.bridge})
    network = await host.create("lan")
    await soon(lambda: wall.links == {host.bridge, network.bridge})
    wall.reload()
    await soon(lambda: wall.links == {host.bridge, network.bridge})
    wall.links.add("eth7")  # somebody else's
    await host.service.remove("lan")
    await soon(lambda: wall.links == {host.bridge, "eth7"})
    await host.kill()
    await host.open()
    assert wall.reloads == 2, "nothing new was to be made"


async def test_a_firewalld_that_starts_later_is_told_too(
    firewalld: Callable[[], Firewalld], make_host: Callable[..., Any]
) -> None:
    host: Host = await make_host()
    wall = firewalld()
    await soon(lambda: wall.links == {host.bridge})
    wall.end()
    wall = firewalld()
    await soon(lambda: wall.links == {host.bridge})
    await host.create("lan")
    assert len(wall.links) == 2


async def test_without_a_packet_filter_firewalld_is_left_alone(
    firewalld: Callable[[], Firewalld], make_host: Callable[..., Any]
) -> None:
    wall = firewalld()
    await make_host(iptables=False)
    assert (wall.zones, wall.policies, wall.links) == ({}, {}, set())
