"""Encrypts what the tunnels of encrypted overlay networks send between hosts: ESP in transport mode, by the kernel.

All that goes to the UDP port of these tunnels is encrypted, or else dropped, by policies of the kernel: there are no
rules that somebody's packet filter could lose. Keys follow from the cluster's secret and from a random number for each
pair of hosts, which the sender chooses anew with each association: a key must not be used by two (RFC 4106, section 3).
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable
from ipaddress import ip_address

from dockyard.errors import SystemFailure
from dockyard.linux import xfrm
from dockyard.linux.xfrm import IN, KEY_SIZE, OUT, Association, Policy, XfrmSocket
from dockyard.networks.cluster.store import ClusterStore

log = logging.getLogger("dockyard.networks")

# of the tunnels of encrypted networks; others use VXLAN's own
PORT = 4788
# the number, in the kernel's tables, of what is ours
OWNER = 0xD0C4E3
# bytes of a packet: SPI, sequence number, IV, padding, its length, protocol, tag
OVERHEAD = 4 + 4 + 8 + 3 + 1 + 1 + 16


class Esp:
    """The associations and policies of this host. Blocking; one thread at a time."""

    def __init__(self, store: ClusterStore) -> None:
        self._store = store

    def secure(self, hosts: Iterable[str]) -> None:
        """Have traffic with these hosts encrypted, with others dropped. Raises SystemFailure when that cannot be."""
        others = sorted(set(hosts) - {self._store.host})
        try:
            with XfrmSocket() as kernel:
                # first the policies: nothing is to go in the clear meanwhile
                self._set_policies(kernel, self._policies(others))
                self._set_associations(kernel, others)
        except OSError as error:
            raise SystemFailure(f"overlay networks cannot be encrypted: {error.strerror}") from error

    def release(self) -> None:
        """Undo `secure`: there are no such tunnels here any more."""
        with XfrmSocket() as kernel:
            self._set_policies(kernel, set())
            for association in kernel.associations(OWNER):
                kernel.do(xfrm.delete_association(association))
        self._store.tell_nonces({})

    def _policies(self, others: Iterable[str]) -> set[Policy]:
        own = ip_address(self._store.host)
        found = {Policy(direction, PORT, own.version) for direction in (IN, OUT)}
        for text in others:
            other = ip_address(text)
            found |= {Policy(OUT, PORT, own.version, own, other), Policy(IN, PORT, own.version, other, own)}
        return found

    def _set_policies(self, kernel: XfrmSocket, wanted: set[Policy]) -> None:
        present = kernel.policies(PORT)
        acts = [xfrm.new_policy(policy, OWNER) for policy in wanted - present]
        acts += [xfrm.delete_policy(policy) for policy in present - wanted]
        if acts:
            kernel.do(*acts)

    def _set_associations(self, kernel: XfrmSocket, others: Iterable[str]) -> None:
        own, secret = self._store.host, self._store.secret()
        present = kernel.associations(OWNER)
        told = self._store.nonces()
        before = told.get(own, {})
        mine: dict[str, str] = {}
        wanted: dict[Association, bytes] = {}
        for other in others:
            nonce = before.get(other, "")
            if not nonce or _association(secret, own, other, nonce)[0] not in present:
                nonce = secrets.token_hex(16)
            mine[other] = nonce
            wanted |= [_association(secret, own, other, nonce)]
            theirs = told.get(other, {}).get(own)
            if theirs:
                wanted |= [_association(secret, other, own, theirs)]
        if mine != before:
            self._store.tell_nonces(mine)
        for association in wanted.keys() - present:
            kernel.do(xfrm.new_association(association, wanted[association], OWNER))
        for association in present - wanted.keys():
            kernel.do(xfrm.delete_association(association))


def _association(secret: bytes, source: str, target: str, nonce: str) -> tuple[Association, bytes]:
    """The association from one host to another, and its key."""
    about = f"{source} {target} {nonce}".encode()
    number = int.from_bytes(_derived(secret, b"number", about)[:4], "big")
    # the first 256 numbers are reserved (RFC 4303, section 2.1)
    spi = 256 + number % (2**32 - 256)
    key = (_derived(secret, b"key", about) + _derived(secret, b"salt", about))[:KEY_SIZE]
    return Association(ip_address(source), ip_address(target), spi), key


def _derived(secret: bytes, purpose: bytes, about: bytes) -> bytes:
    return hmac.digest(secret, purpose + b" " + about, hashlib.sha256)
