"""Who `--user` means: names looked up in the container's own /etc/passwd and /etc/group, never followed out of it."""

import os
import re
import stat

from dockyard.errors import InvalidParameter
from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import User

LARGEST_FILE = 4 << 20
LARGEST_ID = (1 << 31) - 1
_NUMBER = re.compile(r"([+-]?)0*([0-9]+)", re.ASCII)  # as Go's strconv.Atoi has it


def number(text: str) -> int | None:
    """The number that `text` is, or None when it is a name. What is a number is never looked for among the names.

    CVE-2016-3697: an image whose /etc/passwd calls root "1000" would make root of `--user 1000`.
    """
    found = _NUMBER.fullmatch(text)
    return int(found[1] + found[2][:20]) if found else None  # what is longer is out of any range all the same


def find_user(rootfs: str, wanted: str, further_groups: list[str]) -> tuple[User, str]:
    """The user `wanted` ("", name, uid, user:group) with its groups and those of `--group-add`; and its home.

    Raises InvalidParameter in Docker's words for a name that is not there and a number out of range.
    """
    name, _, group = wanted.partition(":")
    group = group.partition(":")[0]
    user = User()
    home, login = "/", ""
    uid = number(name) if name else 0
    if name == "root":
        login = name
    for row in _rows(rootfs, "/etc/passwd", 7):
        if number(row[2]) == uid if uid is not None else row[0] == name:
            user.uid, user.gid, login, home = _id(row[2]), _id(row[3]), row[0], row[5] or "/"
            break
    else:
        if name == "root":
            home = "/root"
        elif uid is None:
            raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
        else:
            user.uid = in_range(uid)
    groups = _rows(rootfs, "/etc/group", 4) if group or further_groups or login else []
    if group:
        user.gid = _group(groups, group)
    elif login:
        # a user's further groups count only when no group was chosen
        user.additional_gids = sorted({_id(row[2]) for row in groups if login in row[3].split(",")} - {user.gid})
    for further in further_groups:
        gid = _group(groups, further)
        if gid not in user.additional_gids:
            user.additional_gids.append(gid)
    if user.gid not in user.additional_gids:
        user.additional_gids.insert(0, user.gid)
    return user, home


def _group(groups: list[list[str]], wanted: str) -> int:
    gid = number(wanted)
    if gid is not None:
        return in_range(gid)
    for row in groups:
        if row[0] == wanted:
            return _id(row[2])
    raise InvalidParameter(f"unable to find group {wanted}: no matching entries in group file")


def _id(text: str) -> int:
    found = number(text)
    return in_range(-1 if found is None else found)


def in_range(found: int) -> int:
    """`found`, a user's or group's number. Raises InvalidParameter for one that none can have."""
    if not 0 <= found <= LARGEST_ID:
        raise InvalidParameter(f"uids and gids must be in range 0-{LARGEST_ID}")
    return found


def _rows(rootfs: str, path: str, fields: int) -> list[list[str]]:
    """The colon separated rows of a file of the container with at least `fields` fields; [] when it can't be read."""
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = syscalls.openat2(root, path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK, resolve=syscalls.RESOLVE_IN_ROOT)
        finally:
            os.close(root)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        data = os.read(fd, LARGEST_FILE)
    finally:
        os.close(fd)
    rows = (line.split(":") for line in data.decode(errors="replace").splitlines() if not line.startswith("#"))
    return [row for row in rows if len(row) >= fields - 1 and len(row) > 3 and number(row[2]) is not None]
