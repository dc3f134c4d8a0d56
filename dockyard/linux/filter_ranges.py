"""A seccomp filter rewritten to decide by ranges of call numbers: the same answers from far fewer instructions.

libseccomp compares with the number of each call that a rule names, though neighbours mostly share their fate; and the
longer a filter, the longer it takes to load: the kernel checks, converts and compiles it anew for each process.

This is no second compiler: it follows the given program for each architecture and all call numbers until it returns or
looks at an argument. What looks at arguments is copied as it is.
"""

import struct
from itertools import pairwise

from dockyard.linux.bpf import (
    ARCHITECTURE,
    AT_LEAST,
    EQUAL,
    GREATER,
    HAS_BIT,
    JUMP,
    LOAD,
    MASK,
    NUMBER,
    RETURN,
    Instruction,
)

BRANCHES = frozenset((EQUAL, GREATER, AT_LEAST, HAS_BIT))
LAST_NUMBER = (1 << 32) - 1
FARTHEST = 255  # that a branch can jump
MOST_LEAVES = 128  # of which, with the branches between them, the last is not farther
TO_COPY = -1  # a jump to the copy of what is at this place in the given program
LEAST_BIT = 1 << 28  # of those that split the numbers into few ranges

Range = tuple[int, int]  # first and last
Decision = tuple[int, int, int]  # the first and last number, and the place in the program that their ways lead to


class _Unsuited(Exception):
    """The program does what is not foreseen here."""


def by_ranges(program: bytes) -> bytes:
    """`program` (an array of struct sock_filter), or a shorter one that answers every call alike."""
    code: list[Instruction] = list(struct.iter_unpack("=HBBI", program))
    try:
        shorter = _rewrite(code)
    except _Unsuited:
        return program
    if len(shorter) >= len(code):
        return program
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in shorter)


def _rewrite(code: list[Instruction]) -> list[Instruction]:
    made = [(LOAD, 0, 0, ARCHITECTURE)]
    for architecture in _architectures(code):
        block = _block(code, _decisions(code, architecture))
        made += [(EQUAL, 1, 0, architecture), (JUMP, 0, 0, len(block)), *block]
    return made + _block(code, _decisions(code, None))


def _architectures(code: list[Instruction]) -> list[int]:
    """Those that the program tells from others."""
    found: dict[int, None] = {}
    seen: set[tuple[int, int]] = set()
    ways = [(0, -1)]  # where, and what is loaded there
    while ways:
        way = ways.pop()
        if way in seen:
            continue
        seen.add(way)
        at, loaded = way
        kind, _, _, operand = code[at]
        if kind == EQUAL and loaded == ARCHITECTURE:
            found[operand] = None
        elif kind in BRANCHES and loaded == ARCHITECTURE:
            raise _Unsuited
        ways += [(place, operand if kind == LOAD else loaded) for place in reversed(_next(code, at))]
    return list(found)


def _next(code: list[Instruction], at: int) -> list[int]:
    """Where the program goes on after the instruction `at`."""
    kind, yes, no, operand = code[at]
    if kind in BRANCHES:
        return [at + 1 + yes, at + 1 + no]
    if kind == JUMP:
        return [at + 1 + operand]
    if kind in (LOAD, MASK):
        return [at + 1]
    if kind == RETURN:
        return []
    raise _Unsuited


def _decisions(code: list[Instruction], architecture: int | None) -> list[Decision]:
    """What becomes of each call of an architecture (None: of any that is not told apart), by ascending number."""
    found: list[Decision] = []
    ways = [(0, -1, [(0, LAST_NUMBER)])]  # where, what is loaded, and for which numbers
    while ways:
        at, loaded, numbers = ways.pop()
        kind, yes, no, operand = code[at]
        if kind == RETURN or (kind == LOAD and operand not in (NUMBER, ARCHITECTURE)):
            found += [(first, last, at) for first, last in numbers]
        elif kind == LOAD:
            ways.append((at + 1, operand, numbers))
        elif kind == JUMP:
            ways.append((at + 1 + operand, loaded, numbers))
        elif kind == EQUAL and loaded == ARCHITECTURE:
            ways.append((at + 1 + (yes if operand == architecture else no), loaded, numbers))
        elif kind in BRANCHES and loaded == NUMBER:
            true = _common(numbers, _true_for(kind, operand))
            false = _common(numbers, _others(_true_for(kind, operand)))
            ways += [(at + 1 + step, loaded, rest) for step, rest in ((yes, true), (no, false)) if rest]
        else:
            raise _Unsuited
    return _joined(code, sorted(found))


def _true_for(kind: int, operand: int) -> list[Range]:
    """The numbers for which a branch is taken."""
    if kind == EQUAL:
        return [(operand, operand)]
    if kind == AT_LEAST:
        return [(operand, LAST_NUMBER)]
    if kind == GREATER:
        return [(operand + 1, LAST_NUMBER)] if operand < LAST_NUMBER else []
    if operand == 0:
        return []
    if operand < LEAST_BIT or operand.bit_count() > 1:
        raise _Unsuited
    return [(first, first + operand - 1) for first in range(operand, LAST_NUMBER, 2 * operand)]


def _others(ranges: list[Range]) -> list[Range]:
    """All numbers but those of `ranges`, which ascend."""
    edges = [(-1, -1), *ranges, (LAST_NUMBER + 1, LAST_NUMBER + 1)]
    return [(before[1] + 1, after[0] - 1) for before, after in pairwise(edges) if before[1] + 1 < after[0]]


def _common(one: list[Range], other: list[Range]) -> list[Range]:
    pairs = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return [(first, last) for first, last in pairs if first <= last]


def _joined(code: list[Instruction], decisions: list[Decision]) -> list[Decision]:
    """Neighbours with one fate as one."""
    made: list[Decision] = []
    for first, last, at in decisions:
        if made and (made[-1][2] == at or (code[at][0] == RETURN and code[at] == code[made[-1][2]])):
            made[-1] = (made[-1][0], last, made[-1][2])
        else:
            made.append((first, last, at))
    return made


def _block(code: list[Instruction], decisions: list[Decision]) -> list[Instruction]:
    """Instructions that find a number's range by halving and return, or go to a copy of what looks at arguments."""
    made = [(LOAD, 0, 0, NUMBER), *_tree(code, decisions)]
    searches = len(made)
    starts: dict[int, int] = {}
    for _, _, at in decisions:
        if code[at][0] != RETURN and at not in starts:
            starts[at] = len(made)
            made += _copy(code, at)
    for place, (kind, _, _, operand) in enumerate(made[:searches]):
        if kind == TO_COPY:
            made[place] = (JUMP, 0, 0, starts[operand] - place - 1)
    return made


def _tree(code: list[Instruction], decisions: list[Decision]) -> list[Instruction]:
    if len(decisions) <= MOST_LEAVES:
        return _small_tree(code, decisions)
    middle = len(decisions) // 2
    below, above = _tree(code, decisions[:middle]), _tree(code, decisions[middle:])
    return [(AT_LEAST, 0, 1, decisions[middle][0]), (JUMP, 0, 0, len(below)), *below, *above]


def _small_tree(code: list[Instruction], decisions: list[Decision]) -> list[Instruction]:
    """One whose branches reach every leaf, so that each kind of leaf is there once, after all branches."""
    leaves = [code[at] if code[at][0] == RETURN else (TO_COPY, 0, 0, at) for _, _, at in decisions]
    kinds = list(dict.fromkeys(leaves))
    branches: list[Instruction] = []

    def add(first: int, end: int) -> int:
        """Of the decisions from `first` until before `end`; where that begins."""
        if end - first == 1:
            return len(decisions) - 1 + kinds.index(leaves[first])
        here, middle = len(branches), (first + end) // 2
        branches.append((0, 0, 0, 0))
        below, above = add(first, middle), add(middle, end)
        branches[here] = (AT_LEAST, above - here - 1, below - here - 1, decisions[middle][0])
        return here

    add(0, len(decisions))
    return branches + kinds


def _copy(code: list[Instruction], start: int) -> list[Instruction]:
    """All that the program can come to from `start` on."""
    places = sorted(_reachable(code, start))
    new = {at: number for number, at in enumerate(places)}
    made: list[Instruction] = []
    for at in places:
        kind, yes, no, operand = code[at]
        here = new[at] + 1
        if kind in BRANCHES:
            yes, no = new[at + 1 + yes] - here, new[at + 1 + no] - here
            if max(yes, no) > FARTHEST:
                raise _Unsuited
        elif kind == JUMP:
            operand = new[at + 1 + operand] - here
        made.append((kind, yes, no, operand))
    return made


def _reachable(code: list[Instruction], start: int) -> set[int]:
    seen: set[int] = set()
    ways = [start]
    while ways:
        at = ways.pop()
        if at not in seen:
            seen.add(at)
            ways += _next(code, at)
    return seen
