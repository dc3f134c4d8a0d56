"""The layers that COPY and ADD make: what is in them, and that the cache's key tells any two apart.

The expected layers are those that Docker 28.5 makes of the same base, context and Dockerfile.
"""

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockyard.builder.copying import find_sources, source_checksum
from dockyard.builder.layer_plan import LayerPlan, Owner
from dockyard.builder.trees import ArchiveFile, ArchiveTree, DirectoryTree, members
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.errors import InvalidParameter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")

THEN = 1_300_000_000
Member = tuple[str, str, Any]


def tar(*entries: Member, mode: str = "w") -> bytes:
    """An archive: (name, "f" "d" "l" or "h", content, mode or target); all is dated THEN."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]  # a mode in a variable
        for name, kind, value in entries:
            info = tarfile.TarInfo(name)
            info.mtime = THEN
            if kind == "d":
                info.type, info.mode = tarfile.DIRTYPE, value
            elif kind in "lh":
                info.type, info.linkname = (tarfile.SYMTYPE if kind == "l" else tarfile.LNKTYPE), value
            else:
                info.size, info.mode = len(value), 0o640
            archive.addfile(info, io.BytesIO(value) if kind == "f" else None)
    return buffer.getvalue()


@pytest.fixture
def root() -> Iterator[Path]:
    """A merged-/usr image's root with a sticky /tmp and a private /home."""
    with tempfile.TemporaryDirectory(prefix="dockyard-build-") as name:
        root = Path(name)
        for place, mode in (("usr", 0o755), ("usr/bin", 0o755), ("tmp", 0o1777), ("home", 0o700)):
            (root / place).mkdir()
            (root / place).chmod(mode)
        (root / "bin").symlink_to("usr/bin")
        (root / "abs").symlink_to("/usr/bin")
        (root / "up").symlink_to("../../../../usr/bin")
        (root / "usr/bin/t").write_bytes(b"T")
        (root / "file").write_bytes(b"1")
        yield root


@pytest.fixture
def base(root: Path) -> Iterator[DirectoryTree]:
    tree = DirectoryTree(root)
    yield tree
    tree.close()


def context(*entries: Member) -> ArchiveTree:
    file = tempfile.TemporaryFile()  # noqa: SIM115  (the tree's)
    file.write(tar(*entries))
    return ArchiveTree(file)


def planned(plan: LayerPlan) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(plan.pieces()))) as archive:
        return {member.name: member for member in archive.getmembers()}


def added(base: DirectoryTree | None, content: bytes, place: str = "/", name: str = "a.tar") -> LayerPlan:
    """ADD of one file to `place`."""
    tree = context((name, "f", content))
    plan = LayerPlan(base)
    for source in find_sources(tree, [name], context=True, unpack=True):
        plan.add(source, place, Owner(0, 0), None)
    return plan


def test_add_makes_only_the_directories_an_archive_lists(base: DirectoryTree) -> None:
    content = tar(("bin/foo", "f", b"foo"), ("tmp/z", "f", b"z"), ("home/y", "f", b"y"), ("new/deep/q", "f", b"q"))
    found = planned(added(base, content))
    assert sorted(found) == sorted(
        ["home", "home/y", "new", "new/deep", "new/deep/q", "tmp", "tmp/z", "usr", "usr/bin", "usr/bin/foo"]
    )
    assert {name: found[name].mode for name in ("tmp", "home", "new/deep")} == {
        "tmp": 0o1777, "home": 0o700, "new/deep": 0o755,
    }  # fmt: skip


def test_links_of_the_image_are_followed_inside_the_root(base: DirectoryTree) -> None:
    for link in ("bin", "abs", "up"):
        assert "usr/bin/foo" in planned(added(base, tar((f"{link}/foo", "f", b"foo"))))


def test_a_link_of_the_archive_is_followed_by_what_comes_after_it(base: DirectoryTree) -> None:
    content = tar(("lnk", "l", "usr"), ("lnk/bin/v", "f", b"v"), ("out", "l", "/"), ("out/o", "f", b"o"))
    found = planned(added(base, content))
    assert found["lnk"].issym()
    assert "usr/bin/v" in found
    assert "o" in found
    assert "lnk/bin/v" not in found


def test_a_listed_directory_takes_the_place_of_a_link(base: DirectoryTree) -> None:
    found = planned(added(base, tar(("bin/", "d", 0o750), ("bin/foo", "f", b"foo"))))
    assert list(found) == ["bin", "bin/foo"]
    assert found["bin"].mode == 0o750


def test_hard_links_lead_to_files_of_the_image_and_through_links(base: DirectoryTree) -> None:
    content = tar(("hl", "h", "usr/bin/t"), ("lnk", "l", "usr"), ("lnk/bin/v", "f", b"v"), ("hl2", "h", "lnk/bin/v"))
    found = planned(added(base, content))
    assert (found["hl"].islnk(), found["hl"].linkname) == (True, "usr/bin/t")
    assert (found["hl2"].islnk(), found["hl2"].linkname) == (True, "usr/bin/v")
    assert found["usr/bin/t"].size == 1


def test_a_hard_link_keeps_what_it_was_made_to_when_the_name_is_used_again() -> None:
    plan = added(None, tar(("a", "f", b"1"), ("b", "h", "a"), ("a", "f", b"22")))
    found = planned(plan)
    assert (found["a"].size, found["b"].size, found["b"].isreg()) == (2, 1, True)


def test_a_directory_in_the_place_of_a_file_that_hid_another_shows_nothing_of_it(base: DirectoryTree) -> None:
    found = planned(added(base, tar(("tmp", "f", b"1"), ("tmp/", "d", 0o755), ("tmp/x", "f", b"x"))))
    assert sorted(found) == ["tmp", "tmp/.wh..wh..opq", "tmp/x"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a", "h", "nothing")], "link /nothing /a: no such file or directory"),
        ([("d/", "d", 0o755), ("a", "h", "d")], "link /d /a: operation not permitted"),
        ([("a", "h", "a")], "link /a /a: no such file or directory"),
        ([("l", "l", "l"), ("l/x", "f", b"")], "too many levels of symbolic links"),
        ([("f", "f", b""), ("f/x", "f", b"")], "mkdir /f: not a directory"),
    ],
)
def test_archives_that_cannot_be_unpacked_fail(entries: list[Member], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        added(None, tar(*entries))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_what_begins_as_an_archive_is_one_and_a_cut_one_fails(mode: str) -> None:
    noise = os.urandom(3 << 20)
    whole = tar(("a", "f", noise), ("b", "f", b"b"), mode=mode)
    assert sorted(planned(added(None, whole))) == ["a", "b"]
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        added(None, whole[: len(whole) // 2])


def test_a_compressed_file_that_is_no_archive_is_a_file() -> None:
    for content in (b"\x1f\x8bnothing of gzip", b"BZhalf", bytes(10240), b"text"):
        assert list(planned(added(None, content, "/", "a.tgz"))) == ["a.tgz"]


def test_hard_links_of_a_context_stay_links_within_one_source() -> None:
    tree = context(("d/", "d", 0o755), ("d/a", "f", b"12345"), ("d/b", "h", "d/a"), ("e", "l", "d/a"))
    plan = LayerPlan(None)
    for source in find_sources(tree, ["d", "e"], context=True, unpack=False):
        plan.add(source, "/x/", Owner(0, 0), None)
    found = planned(plan)
    assert (found["x/b"].islnk(), found["x/b"].linkname) == (True, "x/a")
    assert found["x/e"].size == 5


def test_hard_links_of_an_image_stay_links(root: Path, base: DirectoryTree) -> None:
    os.link(root / "usr/bin/t", root / "usr/bin/u")
    plan = LayerPlan(None)
    for source in find_sources(base, ["usr"], context=False, unpack=False):
        plan.add(source, "/", None, None)
    assert planned(plan)["bin/u"].linkname == "bin/t"


def test_directories_are_dated_by_their_source_or_by_now(base: DirectoryTree) -> None:
    tree = context(("d/sub/", "d", 0o750), ("d/sub/f", "f", b""))
    plan = LayerPlan(base)
    begun = int(time.time())
    for source in find_sources(tree, ["d"], context=True, unpack=False):
        plan.add(source, "/new/tmp", Owner(0, 0), None)
        plan.add(source, "/tmp", Owner(0, 0), None)
    found = planned(plan)
    assert found["new"].mtime >= begun
    assert found["new/tmp"].mtime >= begun
    assert found["tmp"].mtime >= begun
    assert found["tmp/sub"].mtime == THEN


def test_a_directorys_own_attributes_stay(root: Path, base: DirectoryTree) -> None:
    os.setxattr(root / "tmp", "user.mark", b"1")
    found = planned(added(base, b"text", "/tmp/x"))
    assert found["tmp"].pax_headers["SCHILY.xattr.user.mark"] == "1"


NAMES = st.sampled_from(["a", "b", "c.x"])
MODES = st.sampled_from([0o644, 0o755])
FILES = st.one_of(
    st.tuples(st.just("f"), st.sampled_from([b"1", b"2", b"22"]), MODES),
    st.tuples(st.just("l"), st.sampled_from(["a", "/a", "d/a"]), MODES),
    st.tuples(st.just("h"), NAMES, MODES),
    st.tuples(st.just("d"), st.just(""), MODES),
)
CONTEXTS = st.dictionaries(st.tuples(st.sampled_from(["", "d/"]), NAMES), FILES, max_size=5)


def made(entries: dict[tuple[str, str], tuple[str, Any, int]]) -> ArchiveTree:
    """A context of these files; a hard link to what is no file yet is a file of its own."""
    buffer = io.BytesIO()
    files: set[str] = set()
    for (folder, name), (kind, value, mode) in entries.items():
        place = folder + name
        if kind == "h" and folder + value in files:
            buffer.write(tar_format.header(Entry(place, tar_format.HARD_LINK, mode, link=folder + value)))
        elif kind == "l":
            buffer.write(tar_format.header(Entry(place, tar_format.SYMLINK, 0o777, link=value)))
        elif kind == "d":
            buffer.write(tar_format.header(Entry(place + "/", tar_format.DIRECTORY, mode)))
        else:
            content = value if kind == "f" else b"h"
            buffer.write(tar_format.header(Entry(place, mode=mode, size=len(content))))
            buffer.write(content + bytes(tar_format.padding(len(content))))
            files.add(place)
    file = tempfile.TemporaryFile()  # noqa: SIM115  (the tree's)
    file.write(buffer.getvalue() + tar_format.END)
    return ArchiveTree(file)


def described(plan: LayerPlan) -> list[tuple[Entry, bytes]]:
    """A layer without its times."""
    data = b"".join(plan.pieces())

    def content(member: ArchiveFile) -> bytes:
        return data[member.offset : member.offset + member.entry.size]

    return [(replace(member.entry, mtime_ns=0), content(member)) for member in members(io.BytesIO(data))]


@settings(max_examples=300, deadline=None)
@given(CONTEXTS, CONTEXTS, st.sampled_from(["*", "d", "a", "*.x", "d/*"]), st.sampled_from(["/x/", "/x"]))
def test_contexts_that_give_different_layers_never_share_a_key(one: Any, other: Any, pattern: str, place: str) -> None:
    results = []
    for entries in (one, other):
        try:
            sources = find_sources(made(entries), [pattern], context=True, unpack=True)
        except InvalidParameter:
            return
        if len(sources) > 1 and not place.endswith("/"):
            return
        plan = LayerPlan(None)
        for source in sources:
            plan.add(source, place, Owner(0, 0), None)
        results.append((source_checksum(sources, owners=False), described(plan)))
    (key, layer), (other_key, other_layer) = results
    assert layer == other_layer or key != other_key
