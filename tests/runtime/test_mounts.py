"""Mounts of config.json, their options and mappings; devices; the root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import (
    Device,
    IDMapping,
    Linux,
    Mount,
    Namespace,
)
from dockyard.runtime.lifecycle.container import RuntimeFailure
from dockyard.runtime.rootfs.tree import Rootfs
from tests.runtime.bundle import Bundle, bind, with_user_namespace

LINUX = tuple(int(number) for number in os.uname().release.split(".")[:2])
maps_tmpfs = pytest.mark.skipif(LINUX < (6, 3), reason="tmpfs has id-mapped mounts from Linux 6.3 on")


def mount_options(bundle: Bundle, mounts: list[Mount], place: str, *, userns: bool = False) -> list[set[str]]:
    """The options of every mount at or below `place`, seen from inside."""
    spec = bundle.spec("cat", "/proc/self/mountinfo")
    spec.mounts += mounts
    if userns:
        with_user_namespace(spec)
    rows = [line.split() for line in bundle.run(spec).lines]
    return [set(row[5].split(",")) for row in rows if row[4] == place or row[4].startswith(place + "/")]


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it."""
    outer = tmp_path / "outer"
    outer.mkdir()
    syscalls.mount("tmpfs", str(outer), "tmpfs", syscalls.MS_NODEV)
    (outer / "inner").mkdir()
    syscalls.mount("tmpfs", str(outer / "inner"), "tmpfs")
    (outer / "inner/file").write_text("x")
    try:
        yield outer
    finally:
        syscalls.umount2(str(outer / "inner"), syscalls.MNT_DETACH)
        syscalls.umount2(str(outer), syscalls.MNT_DETACH)


@pytest.mark.parametrize("userns", [False, True])
def test_an_option_with_an_r_holds_for_mounts_below_too(bundle: Bundle, nested: Path, userns: bool) -> None:
    wanted = Mount(destination="/x", source=str(nested), options=["rbind", "rro", "rnosuid", "rnoexec", "rnoatime"])
    found = mount_options(bundle, [wanted], "/x", userns=userns)
    assert len(found) == 2
    assert all({"ro", "nosuid", "noexec", "noatime"} <= options for options in found)
    wanted = Mount(destination="/x", source=str(nested), options=["rbind", "ro", "nosuid"])
    top, below = mount_options(bundle, [wanted], "/x", userns=userns)
    assert {"ro", "nosuid"} <= top
    assert not {"ro", "nosuid"} & below


@pytest.mark.parametrize("option", ["noatime", "nodev", "noexec", "nosuid", "nodiratime", "ro", "nosymfollow"])
def test_options_of_a_new_file_system_and_of_a_bind(bundle: Bundle, tmp_path: Path, option: str) -> None:
    (tmp_path / "source").mkdir()
    made = Mount(destination="/made", type="tmpfs", source="tmpfs", options=[option])
    mounts = [made, bind(tmp_path / "source", "/bound", option)]
    assert option in mount_options(bundle, mounts, "/made")[0]
    assert option in mount_options(bundle, mounts, "/bound")[0]


@pytest.mark.parametrize(
    ("option", "seen"), [("private", ""), ("shared", "shared:"), ("slave", "master:"), ("unbindable", "unbindable")]
)
def test_propagation_of_a_mount(bundle: Bundle, tmp_path: Path, option: str, seen: str) -> None:
    (tmp_path / "source").mkdir()
    syscalls.mount("tmpfs", str(tmp_path / "source"), "tmpfs")
    syscalls.mount(None, str(tmp_path / "source"), None, syscalls.MS_SHARED)
    try:
        spec = bundle.spec("grep", " /x ", "/proc/self/mountinfo")
        spec.mounts.append(bind(tmp_path / "source", "/x", option))
        optional = bundle.run(spec).output.split(" - ")[0].split()[6:]
    finally:
        syscalls.umount2(str(tmp_path / "source"), syscalls.MNT_DETACH)
    assert any(field.startswith(seen) for field in optional) if seen else optional == []


def test_rootfs_propagation_shared_tells_nobody_outside(bundle: Bundle) -> None:
    for propagation, seen in (("shared", "shared:"), ("unbindable", "unbindable"), ("slave", ""), ("private", "")):
        spec = bundle.spec("grep", " / / \\| /.*rootfs / ", "/proc/self/mountinfo")
        spec.linux.rootfs_propagation = propagation
        assert seen in bundle.run(spec).output.split(" - ")[0]
    with open("/proc/self/mountinfo") as own:
        assert str(bundle.root) not in own.read()


def test_a_tmpfs_takes_over_what_it_covers(bundle: Bundle) -> None:
    data = bundle.root / "data"
    (data / "folder").mkdir(parents=True)
    (data / "folder/file").write_text("content")
    (data / "folder/file").chmod(0o640)
    os.chown(data / "folder/file", 12, 34)
    (data / "link").symlink_to("folder/file")
    os.link(data / "folder/file", data / "again")
    data.chmod(0o1750)
    look = "cat /data/link; stat -c ' %a %u %g %h' /data/folder/file; stat -c %a /data; echo y >/data/new"
    spec = bundle.spec("sh", "-c", look)
    spec.mounts.append(Mount(destination="/data", type="tmpfs", source="tmpfs", options=["tmpcopyup", "nosuid"]))
    assert bundle.run(spec).lines == ["content 640 12 34 2", "1750"]
    assert not (data / "new").exists()


def test_mounts_go_below_a_read_only_tmpfs(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    spec = bundle.spec("sh", "-c", "echo x >/t/below/file; touch /t/y || echo read-only")
    spec.mounts += [
        Mount(destination="/t", type="tmpfs", source="tmpfs", options=["ro"]),
        bind(tmp_path / "source", "/t/below"),
    ]
    assert bundle.run(spec).lines[-1] == "read-only"
    assert (tmp_path / "source/file").read_text() == "x\n"


def test_the_kernel_s_reason_is_in_the_error(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.mounts.append(Mount(destination="/x", type="tmpfs", source="tmpfs", options=["rprivate", "size=nonsense"]))
    with pytest.raises(RuntimeFailure, match="ad value for 'size'"):
        bundle.run(spec)


@maps_tmpfs
@pytest.mark.parametrize("userns", [False, True])
def test_a_mount_with_an_id_mapping(bundle: Bundle, nested: Path, userns: bool) -> None:
    os.chown(nested, 0, 0)
    os.chown(nested / "inner", 3, 4)
    mapping = [IDMapping(container_id=0, host_id=100000 if userns else 5000, size=100)]
    spec = bundle.spec("stat", "-c", "%u %g", "/x", "/x/inner")
    for option, below in (("ridmap", "3 4" if userns else "5003 5004"), ("idmap", "65534 65534" if userns else "3 4")):
        spec = bundle.spec("stat", "-c", "%u %g", "/x", "/x/inner")
        wanted = Mount(
            destination="/x", source=str(nested), options=["rbind", option], uid_mappings=mapping, gid_mappings=mapping
        )
        spec.mounts.append(wanted)
        if userns:
            with_user_namespace(spec)
        assert bundle.run(spec).lines == ["0 0" if userns else "5000 5000", below]


@maps_tmpfs
def test_a_mount_can_have_the_container_s_own_mapping(bundle: Bundle, nested: Path) -> None:
    spec = with_user_namespace(bundle.spec("sh", "-c", "stat -c %u /x; echo new >/x/new"))
    spec.mounts.append(Mount(destination="/x", source=str(nested), options=["bind", "idmap"]))
    nested.chmod(0o700)
    assert bundle.run(spec).lines == ["0"]
    assert (nested / "new").stat().st_uid == 0


@maps_tmpfs
def test_a_mapped_mount_of_an_earlier_mount(bundle: Bundle) -> None:
    """Done by the container's first process, which calls the mapping's process by another number than the host does."""
    mapping = [IDMapping(container_id=0, host_id=5000, size=100)]
    spec = bundle.spec("stat", "-c", "%u", "/b")
    for name in ("a", "b"):
        (bundle.root / name).mkdir()
    spec.mounts.append(Mount(destination="/a", type="tmpfs", source="tmpfs"))
    wanted = bind(bundle.root / "a", "/b", "idmap")
    wanted.uid_mappings = wanted.gid_mappings = mapping
    spec.mounts.append(wanted)
    assert bundle.run(spec).lines == ["5000"]


@maps_tmpfs
def test_a_mapped_mount_of_an_earlier_mount_in_a_user_namespace(bundle: Bundle, nested: Path) -> None:
    """Its clone can be made by the container alone, and mapped by the runtime alone."""
    spec = with_user_namespace(bundle.spec("stat", "-c", "%u %g", "/b"))
    for name in ("a", "b"):
        (bundle.root / name).mkdir()
    os.chown(nested, 3, 4)
    spec.mounts += [bind(nested, "/a"), bind(bundle.root / "a", "/b", "idmap")]
    assert bundle.run(spec).lines == ["3 4"]


def test_a_mapped_mount_without_mappings_is_refused(bundle: Bundle, nested: Path) -> None:
    spec = bundle.spec("true")
    spec.mounts.append(Mount(destination="/x", source=str(nested), options=["bind", "idmap"]))
    with pytest.raises(RuntimeFailure, match="must have both uid and gid mappings"):
        bundle.run(spec)


def test_binds_of_what_the_container_s_root_may_not_see(bundle: Bundle, tmp_path: Path) -> None:
    secret = tmp_path / "closed/secret"
    secret.mkdir(parents=True)
    (secret / "file").write_text("seen")
    secret.parent.chmod(0o700)
    spec = with_user_namespace(bundle.spec("cat", "/x/file"))
    spec.mounts.append(bind(secret, "/x"))
    assert bundle.run(spec).output == "seen"


def test_a_relative_source_is_of_the_bundle(bundle: Bundle) -> None:
    (bundle.path / "beside").write_text("beside")
    spec = bundle.spec("cat", "/y")
    spec.mounts.append(bind("beside", "/y"))
    assert bundle.run(spec).output == "beside"


@pytest.mark.parametrize("userns", [False, True])
def test_devices_are_made(bundle: Bundle, userns: bool) -> None:
    spec = bundle.spec("stat", "-c", "%F %t:%T", "/dev/null", "/dev/fifo", "/dev/sub/zero")
    spec.linux.devices = [
        Device(type="p", path="/dev/fifo", file_mode=0o600),
        Device(type="c", path="/dev/zero", major=1, minor=5, uid=0, gid=0),
    ]
    lines = ["character special file 1:3", "fifo 0:0"]
    if userns:
        with_user_namespace(spec)
        spec.process.args.pop()  # type: ignore[union-attr]
    else:
        spec.linux.devices.append(Device(type="b", path="/dev/sub/zero", major=7, minor=99, file_mode=0o640))
        lines.append("block special file 7:63")
    assert bundle.run(spec).lines == lines


def test_a_device_where_another_file_is_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.root / "node").write_text("a file")
    spec = bundle.spec("true")
    spec.linux.devices = [Device(type="c", path="/node", major=1, minor=3)]
    with pytest.raises(RuntimeFailure, match="is there and is another file"):
        bundle.run(spec)
    assert (bundle.root / "node").read_text() == "a file"


@pytest.mark.parametrize("userns", [False, True])
def test_what_is_mounted_at_a_default_device_stays(bundle: Bundle, userns: bool) -> None:
    spec = bundle.spec("stat", "-c", "%t:%T", "/dev/random")
    spec.mounts.append(bind("/dev/urandom", "/dev/random"))
    assert bundle.run(with_user_namespace(spec) if userns else spec).lines == ["1:9"]


def test_destinations_are_cleaned_before_links_are_followed(bundle: Bundle) -> None:
    (bundle.root / "link").symlink_to("/usr")
    spec = bundle.spec("sh", "-c", "grep -o '^here[0-9] [^ ]*' /proc/mounts")
    for number, destination in enumerate(("/no/../../one", "../two", "/link/../three", "/x/./four//")):
        spec.mounts.append(Mount(destination=destination, type="tmpfs", source=f"here{number}"))
    assert bundle.run(spec).lines == ["here0 /one", "here1 /two", "here2 /three", "here3 /x/four"]
    assert not (bundle.root / "no").exists()


@pytest.mark.parametrize("options", [[], ["tmpcopyup"], ["ro", "size=1m"]])
def test_a_tmpfs_where_nothing_was_is_for_all(bundle: Bundle, options: list[str]) -> None:
    spec = bundle.spec("stat", "-c", "%a", "/new", "/below/new", "/root")
    (bundle.root / "root").chmod(0o700)
    for destination in ("/new", "/below/new", "/root"):
        spec.mounts.append(Mount(destination=destination, type="tmpfs", source="tmpfs", options=options))
    assert bundle.run(spec).lines == ["1777", "1777", "700"]


def test_a_container_without_a_mount_namespace_leaves_no_mounts(bundle: Bundle) -> None:
    spec = bundle.spec("sh", "-c", "cat /proc/self/comm; ls /")
    spec.linux = Linux(
        namespaces=[Namespace(type=kind) for kind in ("pid", "network", "ipc", "uts")],
        cgroups_path=spec.linux.cgroups_path,
    )
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    result = bundle.run(spec)
    assert result.lines[0] == "cat"
    assert "bin" in result.lines
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before


def test_a_read_only_root(bundle: Bundle) -> None:
    spec = bundle.spec("sh", "-c", "touch /x || echo no; touch /dev/x && echo yes")
    spec.root.readonly = True
    assert bundle.run(spec).lines[-2:] == ["no", "yes"]


def test_the_way_in_without_pivot_root(bundle: Bundle) -> None:
    capable = bundle.spec("sh", "-c", "ls /; mount -t proc x /tmp && ls /tmp/sys/kernel/core_pattern; echo end")
    capabilities = capable.process.capabilities  # type: ignore[union-attr]
    assert capabilities is not None
    for names in (capabilities.bounding, capabilities.effective, capabilities.permitted):
        names.append("CAP_SYS_ADMIN")
    result = bundle.run(capable, pivot=False)
    assert "bin" in result.lines
    assert result.lines[-1] == "end"
    assert stat.S_ISDIR((bundle.root / "tmp").stat().st_mode)


def test_a_directory_that_another_container_makes_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that begin at one time may have the same new root."""
    make = os.mkdir

    def made_already(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        make(path, mode, dir_fd=dir_fd)
        make(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", made_already)
    root = Rootfs.__new__(Rootfs)
    root.fd = os.open(tmp_path, os.O_PATH)
    made = root.make_directory("/dev/pts")
    assert os.path.samestat(os.fstat(made), os.stat(tmp_path / "dev/pts"))
    os.close(made)
    os.close(root.fd)
