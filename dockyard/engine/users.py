"""Who `--user` means: names looked up in the container's own /etc/passwd and /etc/group, never followed out of it."""

import os
import stat

from dockyard.errors import InvalidParameter
from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import User

LARGEST_FILE = 4 << 20
LARGEST_ID = (1 << 31) - 1


def find_user(rootfs: str, wanted: str, further_groups: list[str]) -> tuple[User, str]:
    """The user `wanted` ("", name, uid, user:group) with its groups and those of `--group-add`; and its home.

    Raises InvalidParameter in Docker's words for a name that is not there.
    """
    name, _, group = wanted.partition(":")
    passwd = groups = None
    user = User()
    home, login = "/", ""
    if not name or name in ("0", "root"):
        login, name = "root", name or "0"
    passwd = _rows(rootfs, "/etc/passwd", 7)
    for row in passwd:
        if row[0] == name or (name.isdigit() and row[2] == name):
            user.uid, user.gid, login, home = _id(row[2]), _id(row[3]), row[0], row[5] or "/"
            break
    else:
        if name == "root":
            home = "/root"
        elif not name.isdigit():
            raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
        else:
            user.uid = _id(name)
            login = ""
    if group or further_groups or login:
        groups = _rows(rootfs, "/etc/group", 4)
    if group:
        user.gid = _group(groups or [], group)
    elif login and groups is not None:
        # a user's further groups count only when no group was chosen
        user.additional_gids = sorted({_id(row[2]) for row in groups if login in row[3].split(",")} - {user.gid})
    for further in further_groups:
        gid = _group(groups or [], further)
        if gid not in user.additional_gids:
            user.additional_gids.append(gid)
    if user.gid not in user.additional_gids:
        user.additional_gids.insert(0, user.gid)
    return user, home


def _group(groups: list[list[str]], wanted: str) -> int:
    for row in groups:
        if row[0] == wanted or (wanted.isdigit() and row[2] == wanted):
            return _id(row[2])
    if wanted.isdigit():
        return _id(wanted)
    raise InvalidParameter(f"unable to find group {wanted}: no matching entries in group file")


def _id(text: str) -> int:
    if not text.isdigit() or int(text) > LARGEST_ID:
        raise InvalidParameter(f"uids and gids must be in range 0-{LARGEST_ID}")
    return int(text)


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
    return [row for row in rows if len(row) >= fields - 1 and len(row) > 3 and row[2].isdigit()]
