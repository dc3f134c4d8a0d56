"""What other resolvers have answered one container, for as long as they said it is good for (RFC 2308, RFC 2181)."""

import time
from collections import OrderedDict

from dockyard.networks import dns_messages
from dockyard.networks.dns_messages import NOERROR, NXDOMAIN, Question

# However long an answer is good for: a name that moves is seen to have moved after so many seconds.
LONGEST = 300
LONGEST_NEGATIVE = 60
# A container that asks for everything keeps no more than this; what was asked for least recently goes first.
ENTRIES = 512
BYTES = 64 << 10
LARGEST = 4096


class AnswerCache:
    """Answers by the whole of their query but its identity: what a server says may depend on each of its bits."""

    def __init__(self) -> None:
        # with the moments (monotonic seconds) they were kept at, and until when they are good
        self._answers: OrderedDict[bytes, tuple[bytes, float, float]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def size(self) -> int:
        """The bytes of all answers and their keys."""
        return self._size

    def clear(self) -> None:
        """Know nothing any more."""
        self._answers.clear()
        self._size = 0

    def find(self, query: bytes, question: Question) -> bytes | None:
        """The answer to the same query, its times to live shortened by its age; None when no good one is known."""
        key = _key(query, question)
        found = self._answers.get(key)
        if found is None:
            return None
        reply, kept, until = found
        now = time.monotonic()
        if now >= until:
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return dns_messages.aged(reply, question, int(now - kept))

    def keep(self, query: bytes, question: Question, reply: bytes) -> None:
        """Keep an answer if it says for how long; not what is cut off, fails or makes no sense."""
        lifetime = _lifetime(reply, question)
        if lifetime <= 0 or len(reply) > LARGEST:
            return
        key = _key(query, question)
        if key in self._answers:
            self._drop(key)
        now = time.monotonic()
        self._answers[key] = (reply, now, now + lifetime)
        self._size += len(key) + len(reply)
        while len(self._answers) > ENTRIES or self._size > BYTES:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        self._size -= len(key) + len(self._answers.pop(key)[0])


def _key(query: bytes, question: Question) -> bytes:
    return query[2:12] + query[12 : question.end].lower() + query[question.end :]


def _lifetime(reply: bytes, question: Question) -> int:
    """How many seconds an answer may be kept, 0: not at all."""
    if dns_messages.truncated(reply) or dns_messages.code(reply) not in (NOERROR, NXDOMAIN):
        return 0
    try:
        if dns_messages.positive(reply):
            return min(LONGEST, dns_messages.shortest_life(reply, question))
        return min(LONGEST_NEGATIVE, dns_messages.negative_life(reply, question))
    except ValueError:
        return 0
