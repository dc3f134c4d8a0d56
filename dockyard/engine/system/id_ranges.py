"""Which ids of the host stand for a container's: `--userns auto` gives every container a range of its own.

A container's ids begin at 0 and are `size` many; on the host they are those from `uid` and `gid` on. Its files lie on
the disk with its own ids, and idmapped mounts put the two together, so no layer is ever changed for it. Ranges are
recorded with the containers that have them, and free again when these are removed.
"""

import itertools
import pwd
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.errors import InvalidParameter, SystemFailure, Unavailable
from dockyard.oci.runtime_spec import IDMapping

DEFAULT_SIZE = 65536
LARGEST_SIZE = 1 << 24
# Neither users, system services nor other container managers take ids from here
# (systemd's "UIDs and GIDs"; beyond it numbers are negative to some programs).
FREE_RANGE = (1879048192, 2147483647 - 1879048192)
# The user of `--userns-remap default` has this name in Docker, and his ids begin here, as those of users who log in.
REMAP_USER = "dockremap"
FIRST_SUBORDINATE = 100_000
SUBORDINATE_USERS = ("dockyard", "containers")


class IdRange(msgspec.Struct, frozen=True, kw_only=True):
    """The container's ids 0 to `size` - 1 are the host's `uid`…, `gid`…"""

    uid: int
    gid: int
    size: int = DEFAULT_SIZE

    @property
    def uids(self) -> list[IDMapping]:
        """As the rows of uid_map."""
        return [IDMapping(container_id=0, host_id=self.uid, size=self.size)]

    @property
    def gids(self) -> list[IDMapping]:
        """As the rows of gid_map."""
        return [IDMapping(container_id=0, host_id=self.gid, size=self.size)]


@dataclass(frozen=True, slots=True)
class Span:
    """`size` ids from `first` on."""

    first: int
    size: int


# -- what `--userns` asks for


def wanted_size(mode: str) -> int | None:
    """The size of `auto[:size=N]`; None for another mode. Raises InvalidParameter for a malformed one."""
    kind, _, options = mode.partition(":")
    if kind != "auto":
        if mode not in ("", "host"):
            raise InvalidParameter(f"invalid user namespace mode: {mode}: use host, auto or auto:size=N")
        return None
    size = DEFAULT_SIZE
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name != "size" or not value.isdecimal() or not 0 < int(value) <= LARGEST_SIZE:
            raise InvalidParameter(f"invalid user namespace mode: {mode}: use auto or auto:size=N")
        size = int(value)
    return size


# -- ranges for it


def allocate(size: int, taken: Iterable[IdRange], uids: Sequence[Span], gids: Sequence[Span]) -> IdRange:
    """A range of `size` from the spans that overlaps none of `taken`. Raises Unavailable when there is none."""
    used = list(taken)
    uid = _first_free(size, [Span(one.uid, one.size) for one in used], uids)
    gid = _first_free(size, [Span(one.gid, one.size) for one in used], gids)
    if uid is None or gid is None:
        raise Unavailable(f"no range of {size} ids is free for one more container: remove some, or widen /etc/subuid")
    return IdRange(uid=uid, gid=gid, size=size)


def _first_free(size: int, used: list[Span], spans: Sequence[Span]) -> int | None:
    for span in spans:
        first = span.first
        for other in sorted(used, key=lambda other: other.first):
            if other.first < first + size and first < other.first + other.size:
                first = other.first + other.size
        if first + size <= span.first + span.size:
            return first
    return None


def spans_for_containers(subuid: str = "/etc/subuid", subgid: str = "/etc/subgid") -> tuple[list[Span], list[Span]]:
    """Where ranges come from: what /etc/subuid gives the user dockyard or containers, else FREE_RANGE."""
    for name in SUBORDINATE_USERS:
        uids, gids = subordinate(name, "", subuid), subordinate(name, "", subgid)
        if uids and gids:
            return uids, gids
    return [Span(*FREE_RANGE)], [Span(*FREE_RANGE)]


def subordinate(name: str, number: str, path: str) -> list[Span]:
    """What subuid(5) gives the user of that name or number."""
    return [span for owner, span in _subordinates(path) if owner in (name, number or name)]


def _subordinates(path: str) -> list[tuple[str, Span]]:
    """All that is given to anybody."""
    try:
        rows = Path(path).read_text().splitlines()
    except OSError:
        return []
    found = []
    for row in rows:
        fields = row.strip().split(":")
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            found.append((fields[0], Span(int(fields[1]), int(fields[2]))))
    return found


# -- mounts

EVERY_ID = (1 << 32) - 1


def mount_rows(first: int, size: int, owner: int, user: int) -> list[IDMapping]:
    """A mount's mapping by which `owner` on the disk is `user` in the container, and the other way round.

    All other ids are the same in both; the container's id 0 is the host's `first`. A mount is mapped from the ids on
    the disk to the host's.
    """
    swapped = {owner: user, user: owner}
    edges = sorted({0, size, *(edge for one in swapped if one < size for edge in (one, one + 1))})
    rows = []
    for start, end in itertools.pairwise(edges):
        inside = swapped.get(start, start)
        if inside < size:
            rows.append(IDMapping(container_id=start, host_id=first + inside, size=end - start))
    if owner >= size:
        rows.append(IDMapping(container_id=owner, host_id=first + user, size=1))
    return rows


# -- the whole daemon's


def remap_range(setting: str) -> IdRange:
    """What `--userns-remap USER[:GROUP]` means, by name or number; "default" is the user dockremap, made when missing.

    Raises SystemFailure when the user, the group or its subordinate ids are missing, or can't be made.
    """
    user, _, group = setting.partition(":")
    if user == "default":
        user = group = REMAP_USER
        make_user(REMAP_USER)
    group = group or user
    uids = _subordinate_of(user, "/etc/passwd", "/etc/subuid", "user")
    gids = _subordinate_of(group, "/etc/group", "/etc/subgid", "group")
    size = min(uids.size, gids.size)
    if size < DEFAULT_SIZE:
        raise SystemFailure(f"userns-remap {setting}: {size} subordinate ids are too few, {DEFAULT_SIZE} are needed")
    return IdRange(uid=uids.first, gid=gids.first, size=size)


def make_user(name: str) -> None:
    """Make a system user and group `name` that nobody can log in as, and give them subordinate ids: what is missing.

    Like Docker from id 100000 on, where nobody has any yet. Raises SystemFailure.
    """
    try:
        pwd.getpwnam(name)
    except KeyError:
        _administer("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name)
    for path, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        if subordinate(name, "", path):
            continue
        used = [span for _, span in _subordinates(path)]
        first = _first_free(DEFAULT_SIZE, used, [Span(FIRST_SUBORDINATE, FREE_RANGE[0] - FIRST_SUBORDINATE)])
        if first is None:
            raise SystemFailure(f"no {DEFAULT_SIZE} ids are free for {name} in {path}")
        _administer("usermod", option, f"{first}-{first + DEFAULT_SIZE - 1}", name)


def _administer(*command: str) -> None:
    """One of the programs that change the accounts' files under their locks."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise SystemFailure(f"{' '.join(command)}: {error.strerror}; install shadow's tools (passwd)") from error
    if done.returncode:
        raise SystemFailure(f"{' '.join(command)}: {done.stderr.strip()}")


def _subordinate_of(name: str, accounts: str, ranges: str, kind: str) -> Span:
    number, column = name, 2 if name.isdecimal() else 0  # a number is the number, also where a name looks like it
    for row in Path(accounts).read_text().splitlines():
        fields = row.split(":")
        if len(fields) > 2 and fields[column] == name:
            name, number = fields[0], fields[2]
            break
    else:
        if not re.fullmatch(r"\d+", name):
            raise SystemFailure(f'userns-remap: {kind} "{name}" does not exist: create it and give it ids in {ranges}')
    spans = subordinate(name, number, ranges)
    if not spans:
        raise SystemFailure(f'userns-remap: no subordinate ids for {kind} "{name}" in {ranges}')
    return max(spans, key=lambda span: span.size)
