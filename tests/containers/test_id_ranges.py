"""Ranges of ids: chosen, found in subuid(5), and as the rows of id maps."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dockyard.engine.system.id_ranges import IdRange, Span, allocate, mount_rows, remap_range, subordinate, wanted_size
from dockyard.errors import InvalidParameter, SystemFailure, Unavailable


def test_every_container_gets_a_range_that_no_other_has() -> None:
    spans = [Span(1000, 100), Span(5000, 300)]
    taken: list[IdRange] = []
    for _ in range(4):
        taken.append(allocate(100, taken, spans, spans))
    assert [one.uid for one in taken] == [1000, 5000, 5100, 5200]
    with pytest.raises(Unavailable, match="no range of 100 ids is free"):
        allocate(100, taken, spans, spans)
    del taken[2]
    assert allocate(100, taken, spans, spans).uid == 5100


def test_the_mode_says_how_many() -> None:
    assert wanted_size("auto") == 65536
    assert wanted_size("auto:size=1000") == 1000
    assert wanted_size("host") is None
    for malformed in ("auto:size=x", "auto:size=0", "auto:colour=1", "own", "container:x"):
        with pytest.raises(InvalidParameter, match="invalid user namespace mode"):
            wanted_size(malformed)


def inside(rows: list[tuple[int, int, int]], disk: int) -> int | None:
    for start, host, size in rows:
        if start <= disk < start + size:
            return host + disk - start
    return None


@pytest.mark.parametrize(("owner", "user"), [(0, 0), (1000, 0), (0, 999), (3, 7), (65535, 1), (100000, 5)])
def test_a_mapped_mount_swaps_owner_and_user_and_keeps_all_others(owner: int, user: int) -> None:
    rows = [(row.container_id, row.host_id, row.size) for row in mount_rows(200000, 65536, owner, user)]
    assert inside(rows, owner) == 200000 + user
    assert inside(rows, 500) == 200500
    if owner < 65536:
        assert inside(rows, user) == 200000 + owner
    else:
        assert inside(rows, user) is None
    hosts = [host + offset for _, host, size in rows for offset in (0, size - 1)]
    assert all(200000 <= host < 265536 for host in hosts)


def test_subordinate_ids_are_found_by_name_and_number(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("# comment\nother:1:2\nme:100000:65536\n1000:300000:10\nme:broken\n")
    assert subordinate("me", "", str(file)) == [Span(100000, 65536)]
    assert subordinate("me", "1000", str(file)) == [Span(100000, 65536), Span(300000, 10)]
    assert subordinate("me", "", str(tmp_path / "none")) == []


def test_remapping_to_nobody_known_says_so() -> None:
    with pytest.raises(SystemFailure, match='user "no-such-user" does not exist'):
        remap_range("no-such-user")


def test_the_default_of_remapping_is_a_user_made_for_it(tmp_path: Path) -> None:
    etc = tmp_path / "etc"  # in place of the host's, in a mount namespace
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    for name in ("subuid", "subgid"):
        (etc / name).write_text("someone:100000:65536\nother:200000:1000\n")
    script = f"""
import subprocess
from dockyard.engine.system.id_ranges import remap_range
subprocess.run(["mount", "--bind", {str(etc)!r}, "/etc"], check=True)
for again in range(2):
    found = remap_range("default")
    print(found.uid, found.gid, found.size)
"""
    done = subprocess.run(["unshare", "-m", sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "201000 201000 65536\n" * 2, done.stderr
    (account,) = [row for row in (etc / "passwd").read_text().splitlines() if row.startswith("dockremap:")]
    assert account.endswith(":/bin/false")
    assert "\ndockremap:" in (etc / "group").read_text()
