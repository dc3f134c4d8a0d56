"""Packets encrypted by the kernel (IPsec): security associations and policies, through NETLINK_XFRM.

An association says how packets from one host to another are encrypted, a policy which packets must be. Structures as
in linux/xfrm.h; ip-xfrm(8) shows them.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from dockyard.linux.netlink import Address, Message, NetlinkError, NetlinkSocket, attribute

NETLINK_XFRM = 6
XFRM_MSG_NEWSA, XFRM_MSG_DELSA, XFRM_MSG_GETSA = 0x10, 0x11, 0x12
XFRM_MSG_DELPOLICY, XFRM_MSG_GETPOLICY, XFRM_MSG_UPDPOLICY = 0x14, 0x15, 0x19
XFRMA_TMPL, XFRMA_ALG_AEAD, XFRMA_REPLAY_ESN_VAL = 5, 18, 23
IN, OUT = 0, 1
ALLOW, BLOCK = 0, 1
TRANSPORT = 0
XFRM_STATE_ESN = 128
# AES-GCM as in RFC 4106: a key of 256 bits with a salt of 32, and the whole tag
CIPHER, KEY_SIZE, TAG_BITS = b"rfc4106(gcm(aes))", 36, 128
REPLAY_WINDOW = 1024  # packets; many travel out of order where several processors send

_id = struct.Struct("=16s4sB3x")
_selector = struct.Struct("=16s16s2s2sHHHBBB3xiI")
_limits = struct.Struct("=8Q")
_state = struct.Struct("=IIHBBB7x")
_state_id = struct.Struct("=16s4sHBx")
_policy = struct.Struct("=IIBBBB4x")
_policy_id = struct.Struct("=IB3x")
_template = struct.Struct("=16s4sB3xHxx16sIBBBxIII")
_algorithm = struct.Struct("=64sII")
_replay = struct.Struct("=IIIIII")
_NO_LIMITS = _limits.pack(*[0xFFFFFFFFFFFFFFFF] * 4, 0, 0, 0, 0)
_STATISTICS = bytes(32 + 12)


@dataclass(frozen=True, slots=True)
class Association:
    """What goes from `source` to `target` under the number `spi` is encrypted by one key."""

    source: Address
    target: Address
    spi: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Datagrams to `port` in that `direction` must be encrypted between these hosts; without hosts they are dropped."""

    direction: int
    port: int
    version: int
    source: Address | None = None
    target: Address | None = None


class XfrmSocket(NetlinkSocket):
    """A conversation about the associations and policies of the namespace in which it was opened."""

    recorded = False

    def __init__(self) -> None:
        super().__init__(NETLINK_XFRM)

    def associations(self, owner: int) -> set[Association]:
        """Those that `owner` (the kernel's reqid) has made."""
        found = set()
        for _, body in self._dump(XFRM_MSG_GETSA, b""):
            target, spi = body[56:72], int.from_bytes(body[72:76], "big")
            _, reqid, family, *_ = _state.unpack_from(body, 56 + 24 + 16 + 64 + 44)
            if reqid == owner:
                found.add(Association(_address(body[80:96], family), _address(target, family), spi))
        return found

    def policies(self, port: int) -> set[Policy]:
        """Those about datagrams to `port`."""
        found = set()
        for _, body in self._dump(XFRM_MSG_GETPOLICY, b""):
            target, source, dport, _, _, _, family, length, _, protocol, _, _ = _selector.unpack_from(body)
            direction = body[56 + 64 + 32 + 8]
            if protocol == socket.IPPROTO_UDP and int.from_bytes(dport, "big") == port:
                version = 4 if family == socket.AF_INET else 6
                hosts = (_address(source, family), _address(target, family)) if length else (None, None)
                found.add(Policy(direction, port, version, *hosts))
        return found


def new_association(association: Association, key: bytes, owner: int) -> Message:
    """Encrypt and decrypt with `key`, which must never before have been used by the same sender."""
    family = _family(association.target)
    body = bytes(56)  # whatever a policy sends here
    body += _id.pack(_padded(association.target), association.spi.to_bytes(4, "big"), socket.IPPROTO_ESP)
    body += _padded(association.source) + _NO_LIMITS + _STATISTICS
    # sequence numbers of 64 bits: with 32 the key would be used up after 2³² packets
    body += _state.pack(0, owner, family, TRANSPORT, 0, XFRM_STATE_ESN)
    body += attribute(XFRMA_ALG_AEAD, _algorithm.pack(CIPHER, 8 * len(key), TAG_BITS) + key)
    words = REPLAY_WINDOW // 32
    body += attribute(XFRMA_REPLAY_ESN_VAL, _replay.pack(words, 0, 0, 0, 0, REPLAY_WINDOW) + bytes(4 * words))
    return XFRM_MSG_NEWSA, 0, body


def delete_association(association: Association) -> Message:
    """Undo `new_association`."""
    target, spi = _padded(association.target), association.spi.to_bytes(4, "big")
    return XFRM_MSG_DELSA, 0, _state_id.pack(target, spi, _family(association.target), socket.IPPROTO_ESP)


def new_policy(policy: Policy, owner: int) -> Message:
    """Have the policy kept, in place of the same one if there is one; that for two hosts goes before that for all."""
    action = ALLOW if policy.target is not None else BLOCK
    priority = 1000 if action == BLOCK else 100
    body = _selected(policy) + _NO_LIMITS + bytes(32) + _policy.pack(priority, 0, policy.direction, action, 0, 0)
    if policy.source is not None and policy.target is not None:
        family = _family(policy.target)
        every = 0xFFFFFFFF  # algorithm
        template = _template.pack(
            _padded(policy.target),
            bytes(4),
            socket.IPPROTO_ESP,
            family,
            _padded(policy.source),
            owner,
            TRANSPORT,
            0,
            0,
            every,
            every,
            every,
        )
        body += attribute(XFRMA_TMPL, template)
    return XFRM_MSG_UPDPOLICY, 0, body


def delete_policy(policy: Policy) -> Message:
    """Undo `new_policy`."""
    return XFRM_MSG_DELPOLICY, 0, _selected(policy) + _policy_id.pack(0, policy.direction)


def can_encrypt() -> bool:
    """Whether the kernel has ESP and the cipher; its modules are loaded by that."""
    probe = Association(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 0x44594B44)
    try:
        with XfrmSocket() as kernel:
            kernel.do(new_association(probe, bytes(KEY_SIZE), 1))
            kernel.do(delete_association(probe))
    except (NetlinkError, OSError):
        return False
    return True


def _selected(policy: Policy) -> bytes:
    family = socket.AF_INET if policy.version == 4 else socket.AF_INET6
    length = 0 if policy.target is None else 8 * len(policy.target.packed)
    hosts = (_padded(policy.target), _padded(policy.source))
    port = policy.port.to_bytes(2, "big")
    return _selector.pack(*hosts, port, b"\xff\xff", 0, 0, family, length, length, socket.IPPROTO_UDP, 0, 0)


def _padded(address: Address | None) -> bytes:
    return (address.packed if address is not None else b"").ljust(16, b"\0")


def _address(packed: bytes, family: int) -> Address:
    return ip_address(packed[:4] if family == socket.AF_INET else packed)


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
