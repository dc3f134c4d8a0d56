"""Contexts, .dockerignore and what COPY makes of them."""

import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.builder import context as contexts
from dockyard.builder.copying import find_sources, source_checksum
from dockyard.builder.layer_plan import LayerPlan, Owner
from dockyard.builder.owners import find_owner
from dockyard.builder.trees import ArchiveTree, DirectoryTree
from dockyard.dockerfile.dockerignore import BadPattern, IgnoreRules, match
from dockyard.errors import InvalidParameter


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dockyard-build-") as name:
        yield Path(name)


def archive(*members: tuple[str, bytes | str | None]) -> io.BufferedRandom:
    """A tar with files (bytes), symlinks (str) and directories (None)."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (returned open)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if content is None else 0o644
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("*/tmp*", "a/tmpfile", True),
        ("*/tmp*", "a/b/tmpfile", False),
        ("*/*/tmp*", "a/b/tmp", True),
        ("tem?", "temp", True),
        ("tem?", "temps", False),
        ("*.md\n!README.md", "a.md", True),
        ("*.md\n!README.md", "README.md", False),
        ("!README.md\n*.md", "README.md", True),
        ("**/*.go", "a/b/c.go", True),
        ("**/*.go", "c.go", True),
        ("node_modules", "node_modules/x/y", True),
        ("/a/", "a/b", True),
        ("# *.md\n", "a.md", False),
        ("a/**/z", "a/z", True),
        ("[ab].c", "b.c", True),
        ("[^ab].c", "b.c", False),
        ("[[].c", "[.c", True),
        ("[[:x]", ":", True),
        (r"[\]x]", "]", True),
        ("[z-a]", "b", False),
        ("[&&~~||]", "&", True),
        ("a[^b]c", "a/c", False),
        ("*\n!a/b", "a/b", False),
    ],
)
def test_ignore_rules(patterns: str, path: str, excluded: bool) -> None:
    assert IgnoreRules.parse(patterns).excludes(path) == excluded


@pytest.mark.parametrize("pattern", ["[", "[]", "[]a]", "[a", "[a-", "[a-]", "[-x]", "[^]", "a/[\\"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern, match="syntax error in pattern"):
        IgnoreRules.parse(pattern)


def test_wildcards_do_not_cross_slashes() -> None:
    assert match("*.txt", "a.txt")
    assert not match("*.txt", "a/b.txt")


def test_paths_in_a_context_never_leave_it() -> None:
    tree = ArchiveTree(archive(("a/../../etc/x", b"1"), ("out", "../../../etc/passwd"), ("loop", "loop")))
    assert tree.find("etc/x") is not None
    assert tree.find("../../etc/x") is not None  # the root's parent is the root
    assert tree.find("out") is None
    assert tree.find("loop") is None


def test_a_source_outside_the_context_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"forbidden path outside the build context: \.\./x \(\)"):
        find_sources(ArchiveTree(), ["../x"], context=True, unpack=False)
    with pytest.raises(
        InvalidParameter,
        match=r"file not found in build context or excluded by .dockerignore: stat x: file does not exist",
    ):
        find_sources(ArchiveTree(), ["x"], context=True, unpack=False)


def test_wildcards_find_files_at_their_depth() -> None:
    tree = ArchiveTree(archive(("a.txt", b""), ("d/b.txt", b""), ("d/c.md", b"")))
    assert [source.name for source in find_sources(tree, ["*.txt"], context=True, unpack=False)] == ["a.txt"]
    assert [source.name for source in find_sources(tree, ["*/b*"], context=True, unpack=False)] == ["d/b.txt"]


def layer(plan: LayerPlan) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(plan.pieces()))) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_a_directory_is_copied_by_its_content() -> None:
    tree = ArchiveTree(archive(("src", None), ("src/a", b"x"), ("src/d/b", b"y"), ("src/l", "a")))
    plan = LayerPlan(None, Owner(5, 6))
    for source in find_sources(tree, ["src"], context=True, unpack=False):
        plan.add(source, "/app", Owner(5, 6), None)
    found = layer(plan)
    assert list(found) == ["app", "app/a", "app/d", "app/d/b", "app/l"]
    assert {(member.uid, member.gid) for member in found.values()} == {(5, 6)}
    assert found["app/l"].issym()


def test_a_file_goes_into_an_existing_directory_or_takes_the_name(folder: Path) -> None:
    (folder / "srv").mkdir()
    os.chmod(folder / "srv", 0o1777)
    os.symlink("/srv", folder / "link")
    base = DirectoryTree(folder)
    [source] = find_sources(ArchiveTree(archive(("f", b"x"))), ["f"], context=True, unpack=False)
    for destination, place in (("/srv", "srv/f"), ("/link", "srv/f"), ("/new", "new"), ("/new/", "new/f")):
        plan = LayerPlan(base)
        plan.add(source, destination, Owner(0, 0), None)
        assert place in layer(plan)
    plan = LayerPlan(base)
    plan.add(source, "/srv", Owner(0, 0), None)
    # the directory above must not change its mode by being mentioned
    assert layer(plan)["srv"].mode == 0o1777
    base.close()


def test_links_of_the_image_lead_nowhere_outside(folder: Path) -> None:
    (folder / "root").mkdir()
    os.symlink("../../..", folder / "root/up")
    base = DirectoryTree(folder / "root")
    assert LayerPlan(base).resolve("/up/etc") == "/etc"
    assert base.find("/up/etc/passwd") is None
    base.close()


def test_add_unpacks_archives_and_copy_does_not() -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        info = tarfile.TarInfo("in/side")
        info.size, info.uid = 3, 7
        tar.addfile(info, io.BytesIO(b"abc"))
    tree = ArchiveTree(archive(("x.tgz", inner.getvalue())))
    for unpack, expected in ((True, ["d", "d/in", "d/in/side"]), (False, ["d", "d/x.tgz"])):
        plan = LayerPlan(None)
        [source] = find_sources(tree, ["x.tgz"], context=True, unpack=unpack)
        plan.add(source, "/d/", Owner(0, 0), None)
        assert list(layer(plan)) == expected
        if unpack:
            assert layer(plan)["d/in/side"].uid == 7


def test_checksums_see_content_and_mode_but_not_times() -> None:
    def digest(content: bytes, *, mode: int = 0o644, mtime: int = 0) -> str:
        tree = ArchiveTree()
        tree.add("d/f", content, mode)
        found = tree.find("d/f")
        assert found is not None
        found.entry.mtime_ns = mtime
        return source_checksum(find_sources(tree, ["d"], context=True, unpack=False), owners=False)

    assert digest(b"x") == digest(b"x", mtime=5)
    assert len({digest(b"x"), digest(b"y"), digest(b"x", mode=0o755)}) == 3


def test_owners_are_looked_up_in_the_image(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("bob:x:5:6::/:/bin/sh\n")
    (folder / "etc/group").write_text("bob:x:7:\nstaff:x:8:\n")
    base = DirectoryTree(folder)
    assert find_owner("bob", base) == Owner(5, 7)
    assert find_owner("bob:staff", base) == Owner(5, 8)
    assert find_owner("55:66", None) == Owner(55, 66)
    assert find_owner("55", None) == Owner(55, 55)
    with pytest.raises(InvalidParameter, match="can't find uid for user x: no such user: x"):
        find_owner("x", base)
    base.close()


async def test_the_dockerfile_may_be_hidden_from_copies() -> None:
    file = archive(("Dockerfile", b"FROM scratch\n"), (".dockerignore", b"Dockerfile\n"), ("a", b""))
    context = await contexts.from_archive(file, "")
    assert context.dockerfile == "FROM scratch\n"
    assert context.tree.find("Dockerfile") is None
    assert context.tree.find(".dockerignore") is not None
    with pytest.raises(InvalidParameter, match="Cannot locate specified Dockerfile: other"):
        await contexts.from_archive(archive(("Dockerfile", b"x")), "other")


def test_special_files_and_modes_survive(folder: Path) -> None:
    os.mknod(folder / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(folder / "null", 0o666)
    (folder / "tool").write_bytes(b"x")
    os.chmod(folder / "tool", 0o4755)
    tree = DirectoryTree(folder)
    plan = LayerPlan(None)
    for source in find_sources(tree, ["/"], context=False, unpack=False):
        plan.add(source, "/d", None, None)
    found = layer(plan)
    assert (found["d/null"].ischr(), found["d/null"].devminor) == (True, 3)
    assert found["d/tool"].mode == 0o4755
    tree.close()
