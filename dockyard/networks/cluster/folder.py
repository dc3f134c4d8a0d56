"""A cluster store in a folder that all hosts share, on NFS for instance, or that one writes by hand and copies.

    networks/ID/network.json            the network
    networks/ID/endpoints/ADDRESS.json  who has the address; "announced" once frames may be sent there
    hosts/ADDRESS.json                  the random numbers that a host has chosen for the keys of encrypted networks
    secret                              from which, with those, the keys follow: nobody else may read it
    lock                                held while a network is added

A claim is a file that could be made (O_EXCL, atomic on NFS too), an announcement a file that is replaced (rename).
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from dockyard.folders import own_folder
from dockyard.linux import inotify
from dockyard.networks.cluster.store import Peer
from dockyard.networks.ipam import Address
from dockyard.networks.model import Network

T = TypeVar("T")

log = logging.getLogger("dockyard.networks")

# s; another host's changes of a folder on NFS are told by nobody
LOOK_AGAIN = 2.0
LONGEST = 1 << 20  # bytes of one file
SECRET = 32  # bytes


class Claim(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The content of an address's file."""

    host: str
    announced: Peer | None = None


class FolderStore:
    """A cluster store in files."""

    def __init__(self, folder: Path, host: str) -> None:
        self.host = host
        self._folder = folder
        self._networks = own_folder(own_folder(folder) / "networks")
        self._hosts = own_folder(folder / "hosts")

    def networks(self) -> list[Network]:
        found = []
        for path in sorted(self._networks.glob("*/network.json")):
            network = _read(path, Network)
            if network is not None and network.id == path.parent.name:
                found.append(network)
        return found

    def add_network(self, settle: Callable[[list[Network]], Network]) -> Network:
        with self._locked():
            network = settle(self.networks())
            # complete before it has its name
            unfinished = self._networks / f".{network.id}"
            (unfinished / "endpoints").mkdir(parents=True)
            (unfinished / "network.json").write_bytes(msgspec.json.encode(network))
            unfinished.rename(self._networks / network.id)
        return network

    def remove_network(self, network_id: str) -> None:
        shutil.rmtree(self._networks / network_id, ignore_errors=True)

    def reserve(self, network_id: str, wanted: Iterable[Address]) -> Address | None:
        endpoints = self._endpoints(network_id)
        taken = set(os.listdir(endpoints))
        content = msgspec.json.encode(Claim(host=self.host))
        for address in wanted:
            name = f"{address}.json"
            if name in taken:
                continue
            try:
                descriptor = os.open(endpoints / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            with open(descriptor, "wb") as file:
                file.write(content)
            return address
        return None

    def release(self, network_id: str, addresses: Iterable[str]) -> None:
        for address in addresses:
            (self._endpoints(network_id) / f"{address}.json").unlink(missing_ok=True)

    def announce(self, peer: Peer) -> None:
        endpoints = self._endpoints(peer.network_id)
        unfinished = endpoints / f".{secrets.token_hex(8)}"
        try:
            unfinished.write_bytes(msgspec.json.encode(Claim(host=self.host, announced=peer)))
            unfinished.rename(endpoints / f"{peer.ip or peer.ipv6}.json")
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def peers(self, network_id: str) -> list[Peer]:
        return [
            claim.announced
            for _, claim in self._claims(network_id)
            if claim.announced is not None and claim.announced.network_id == network_id
        ]

    def own_claims(self, network_id: str) -> set[str]:
        return {address for address, claim in self._claims(network_id) if claim.host == self.host}

    def _claims(self, network_id: str) -> Iterator[tuple[str, Claim]]:
        for path in self._endpoints(network_id).glob("[!.]*.json"):
            claim = _read(path, Claim)
            if claim is not None:
                yield path.stem, claim

    def secret(self) -> bytes:
        path = self._folder / "secret"
        if not path.exists():
            unfinished = self._folder / f".{secrets.token_hex(8)}"
            unfinished.touch(0o600)
            try:
                unfinished.write_bytes(secrets.token_bytes(SECRET))
                # whole or not at all, and never in place of another
                with contextlib.suppress(FileExistsError):
                    os.link(unfinished, path)
            finally:
                unfinished.unlink()
        found = path.read_bytes()
        if len(found) != SECRET:
            raise OSError(errno.EINVAL, f"{path} does not hold {SECRET} bytes")
        return found

    def nonces(self) -> dict[str, dict[str, str]]:
        found = {path.stem: _read(path, dict[str, str]) for path in self._hosts.glob("[!.]*.json")}
        return {host: nonces for host, nonces in found.items() if nonces is not None}

    def tell_nonces(self, nonces: dict[str, str]) -> None:
        path = self._hosts / f"{self.host}.json"
        if not nonces:
            path.unlink(missing_ok=True)
            return
        unfinished = self._hosts / f".{secrets.token_hex(8)}"
        unfinished.write_bytes(msgspec.json.encode(nonces))
        unfinished.rename(path)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return _Watch(self._networks, self._hosts, changed).close

    def _endpoints(self, network_id: str) -> Path:
        return self._networks / network_id / "endpoints"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class _Watch:
    """Looks at the folders when the kernel tells of a change in them, and now and then."""

    def __init__(self, folder: Path, hosts: Path, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._hosts = hosts
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._inotify = inotify.new_inotify()
        self._loop.add_reader(self._inotify, self._told)
        self._state = self._look()
        self._timer = self._loop.call_later(LOOK_AGAIN, self._again)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._inotify)
        os.close(self._inotify)

    def _told(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify, 1 << 16)
        self._compare()

    def _again(self) -> None:
        self._timer = self._loop.call_later(LOOK_AGAIN, self._again)
        self._compare()

    def _compare(self) -> None:
        state = self._look()
        if state != self._state:
            self._state = state
            self._changed()

    def _look(self) -> dict[str, int]:
        """When each folder was changed last; whatever changes in one is made, renamed or removed there."""
        found = {}
        for path in (self._folder, self._hosts, *self._folder.glob("*/endpoints")):
            with contextlib.suppress(OSError):
                inotify.watch(self._inotify, str(path))
                found[str(path)] = path.stat().st_mtime_ns
        return found


def _read(path: Path, kind: type[T]) -> T | None:
    """What the file says; None when it has gone meanwhile or makes no sense."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        return msgspec.json.decode(content, type=kind) if content else None
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is passed over: %s", path, error)
        return None
