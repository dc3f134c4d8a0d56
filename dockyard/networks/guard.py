"""Notices when others change the host's packet filter in a way that concerns us.

Another engine or a firewall that starts after us may begin to drop what is forwarded, and `nft flush ruleset` takes our
table with everybody's. The kernel tells of every such change (nfnetlink multicast); we wait for quiet and then look.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable

from dockyard.errors import words

log = logging.getLogger("dockyard.networks")

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELRULE = (10 << 8 | kind for kind in (2, 3, 6, 8))
# Tools change many rules in a row; look when they are done, and not more often than that.
QUIET = 1.0
AGAIN = 5.0  # s from a look that failed to the next


class Guard:
    """Calls `look` some time after table `ours` was removed, or iptables' forwarding or our `chain` there changed.

    With `all_chains` also after rules were taken from any of the chains that our iptables back end uses.
    """

    def __init__(self, ours: str, chain: str, look: Callable[[], Awaitable[None]], *, all_chains: bool = False) -> None:
        self._ours = ours.encode() + b"\0"
        self._chain = chain.encode() + b"\0"
        self._look = look
        self._all_chains = all_chains
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
        )
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._told)

    def look(self) -> None:
        """Look soon: something has changed of which the kernel may not have told."""
        self._later()

    async def close(self) -> None:
        """Notice no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._looking is not None:
            await asyncio.wait({self._looking})
        if self._timer is not None:
            self._timer.cancel()

    def _told(self) -> None:
        try:
            data = self._socket.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: more happened than we were told of
            self._later()
            return
        if self._concerns(data):
            self._later()

    def _concerns(self, data: bytes) -> bool:
        position = 0
        while position + 20 <= len(data):
            size, kind = struct.unpack_from("=IH", data, position)
            if size < 16:
                return False
            if kind == NFT_MSG_DELTABLE and _names(data, position + 20)[1] == self._ours:
                return True
            # Where iptables keep their chains: one is made or gets another policy, or what is forwarded is ruled anew
            # (in Docker's own chain, for a network of Docker's).
            if kind in (NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELRULE):
                names = _names(data, position + 20)
                forwarding = names[2] in (b"FORWARD\0", b"DOCKER-FORWARD\0", self._chain)
                if names[1] == b"filter\0" and (kind == NFT_MSG_NEWCHAIN or forwarding):
                    return True
                taken = self._all_chains and kind == NFT_MSG_DELRULE and names[1] in (b"filter\0", b"nat\0")
                if taken and names[2].startswith((b"DOCKER", b"PREROUTING", b"POSTROUTING", b"OUTPUT")):
                    return True
            position += (size + 3) & ~3
        return False

    def _later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(QUIET, self._start)

    def _start(self) -> None:
        self._timer = None
        if self._looking is not None:
            self._later()
            return
        self._looking = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._look()
        except OSError as error:
            log.error("cannot look at the packet filter, and do so again in %.0f s: %s", AGAIN, words(error))
            if self._timer is None:
                self._timer = self._loop.call_later(AGAIN, self._start)
        except Exception:
            log.exception("cannot repair the packet filter")
        finally:
            self._looking = None


def _names(data: bytes, position: int) -> dict[int, bytes]:
    """The first two attributes of a message, which name its table (1) and, of a rule, its chain (2)."""
    found = {1: b"", 2: b""}
    for _ in range(2):
        if position + 4 > len(data):
            break
        size, kind = struct.unpack_from("=HH", data, position)
        found[kind] = data[position + 4 : position + size]
        position += (max(size, 4) + 3) & ~3
    return found
