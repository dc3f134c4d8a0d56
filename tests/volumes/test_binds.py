"""Binds of the host's directories: there at each start, propagated as asked, read-only as deep as asked."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.containers.container import MountPoint
from dockyard.engine.containers.mounts import bind_sources
from dockyard.errors import InvalidParameter
from tests.engine_process import EngineProcess


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a shared mount, with a tmpfs below it."""
    folder = tmp_path / "shared"
    (folder / "below").mkdir(parents=True)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", folder / "below"], check=True)
    (folder / "below/file").write_text("x")
    yield folder
    subprocess.run(["umount", "-R", folder], check=True)


def test_a_source_that_is_gone_is_made_again_for_v_and_missed_for_mount(engine: EngineProcess, tmp_path: Path) -> None:
    source = tmp_path / "run/data"
    engine.docker("create", "--name", "makes", "-v", f"{source}:/d", "busybox", "ls", "-ld", "/d")
    assert not source.parent.exists()  # not before it is needed
    source.mkdir(parents=True)
    mount = f"type=bind,src={source},dst=/d"
    engine.docker("create", "--name", "misses", "--mount", mount, "busybox", "true")
    create = f"{mount},bind-create-src"
    engine.docker("create", "--name", "makes-too", "--mount", create, "busybox", "true", check=False)
    try:
        for _ in range(2):
            os.rmdir(source)
            os.rmdir(source.parent)
            missed = engine.run_docker("start", "misses")
            assert f"bind source path does not exist: {source}".encode() in missed.stderr
            engine.docker("start", "-a", "makes")
            assert source.stat().st_mode & 0o7777 == 0o755
        os.rmdir(source)
        engine.docker("cp", "makes:/d", str(tmp_path / "copied"))
        engine.docker("start", "misses")
    finally:
        engine.docker("rm", "-f", "makes", "misses", "makes-too", check=False)


def test_a_source_that_cannot_be_made_is_told(engine: EngineProcess, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    refused = engine.run_docker("run", "--rm", "-v", f"{file}/below:/d", "busybox", "true")
    assert b"error while creating mount source path" in refused.stderr
    assert b"not a directory" in refused.stderr


@pytest.mark.parametrize("asked", ["private", "rprivate", "shared", "slave"])
def test_who_could_hold_the_engines_mounts_is_refused(engine: EngineProcess, asked: str, tmp_path: Path) -> None:
    root, before = engine.data_root, engine.docker("ps", "-aq")
    link = tmp_path / "link"
    link.symlink_to(root)
    for source in (root, root / "volumes", "/", root.parent, link):
        for given in (
            ("-v", f"{source}:/d:{asked}"),
            ("--mount", f"type=bind,src={source},dst=/d,bind-propagation={asked}"),
        ):
            refused = engine.run_docker("create", *given, "busybox", "true")
            assert b'must use either propagation mode "rslave" or "rshared"' in refused.stderr, given
    assert engine.docker("ps", "-aq") == before


def test_the_data_root_is_seen_as_a_slave(engine: EngineProcess) -> None:
    root = engine.data_root
    for source, propagation in ((root, "rslave"), ("/", "rslave"), (f"{root}-other", "rprivate"), ("/usr", "rprivate")):
        engine.docker("create", "--name", "sees", "-v", f"{source}:/d", "busybox", "true")
        assert [mount["Propagation"] for mount in engine.inspect("sees")["Mounts"]] == [propagation]
        engine.docker("start", "-a", "sees")
        engine.docker("rm", "sees")
    os.rmdir(f"{root}-other")


def test_a_propagation_that_the_source_does_not_have_is_refused_in_dockers_words(tmp_path: Path, shared: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    subprocess.run(["mount", "--bind", private, private], check=True)
    subprocess.run(["mount", "--make-private", private], check=True)

    def prepared(source: Path, propagation: str, data_root: str = "/nowhere", **more: Any) -> list[str]:
        point = MountPoint(type="bind", source=str(source), destination="/d", propagation=propagation, **more)
        return [found.propagation for found in bind_sources.prepare([point], Path(data_root), None)]

    try:
        for kind in ("shared", "rshared"):
            with pytest.raises(
                InvalidParameter, match=f"path {private} is mounted on {private} but it is not a shared mount"
            ):
                prepared(private, kind)
        for kind in ("slave", "rslave"):
            with pytest.raises(InvalidParameter, match="but it is not a shared or slave mount"):
                prepared(private, kind)
        # because of the data root alone it is not asked for: then there is nothing to be had
        assert prepared(private, "rslave", str(private)) == ["rprivate"]
        with pytest.raises(InvalidParameter):
            prepared(private, "rslave", str(private), given_propagation=True)
    finally:
        subprocess.run(["umount", private], check=True)
    for kind in ("shared", "rshared", "slave", "rslave"):
        assert prepared(shared, kind) == [kind]


def test_mounts_propagate_as_asked(engine: EngineProcess, shared: Path) -> None:
    engine.docker("run", "-d", "--name", "slave", "-v", f"{shared}:/d:rslave", "busybox", "sleep", "100")
    engine.docker("run", "-d", "--name", "own", "-v", f"{shared}:/d", "busybox", "sleep", "100")
    (shared / "later").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", shared / "later"], check=True)
    (shared / "later/seen").write_text("")
    assert engine.docker("exec", "slave", "ls", "/d/later") == "seen\n"
    assert engine.docker("exec", "own", "ls", "/d/later") == ""
    engine.docker("rm", "-f", "slave", "own")


TRY = """
touch /d/top 2>/dev/null && echo top
touch /d/below/sub 2>/dev/null && echo below
ls /d/below | grep -c file
true
"""


@pytest.mark.parametrize(
    ("version", "given", "writable"),
    [
        ("1.51", "-v", ""),
        ("1.44", "-v", ""),
        ("1.43", "-v", "below"),
        ("1.24", "-v", "below"),
        ("1.51", "readonly", ""),
        ("1.43", "readonly", "below"),
        ("1.51", "readonly,bind-recursive=enabled", ""),
        ("1.51", "readonly,bind-recursive=writable", "below"),
        ("1.51", "readonly,bind-recursive=readonly,bind-propagation=rprivate", ""),
        ("1.51", "bind-recursive=enabled", "top below"),
    ],
)
def test_read_only_goes_as_deep_as_the_api_version_says(
    engine: EngineProcess, shared: Path, version: str, given: str, writable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["-v", f"{shared}:/d:ro"] if given == "-v" else ["--mount", f"type=bind,src={shared},dst=/d,{given}"]
    said = subprocess.run(
        ["docker", "run", "--rm", *options, "busybox", "sh", "-c", TRY],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": engine.host, "DOCKER_API_VERSION": version},
    ).stdout.split()
    assert said == [*writable.split(), "1"]


def test_what_is_mounted_below_is_left_out_where_asked(engine: EngineProcess, shared: Path) -> None:
    mount = f"type=bind,src={shared},dst=/d,readonly,bind-recursive=disabled"
    assert engine.docker("run", "--rm", "--mount", mount, "busybox", "sh", "-c", TRY) == "0\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ReadOnlyNonRecursive": True}, "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive"),
        ({"ReadOnlyForceRecursive": True}, "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    engine: EngineProcess, options: dict[str, bool], message: str
) -> None:
    mount = {"Type": "bind", "Source": "/usr", "Target": "/d", "BindOptions": options}
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [mount]}})
    assert (status, answer["message"]) == (400, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tmpfs", "/"), "invalid specification: destination can't be '/'"),
        (("--tmpfs", "/.."), "invalid specification: destination can't be '/'"),
        (("-v", "over:/etc/passwd"), "cannot mount volume over existing file, file exists /etc/passwd"),
        (("-v", "/etc/passwd"), "cannot mount volume over existing file, file exists /etc/passwd"),
        (("--mount", "type=volume,dst=/d,volume-subpath=x"), "must not set Subpath when using anonymous volumes"),
        (
            ("--mount", "type=volume,src=x,dst=/d,volume-subpath=../x"),
            "subpath must be a relative path within the volume",
        ),
        (("--mount", "type=volume,src=x,dst=/d,volume-subpath=a/../.."), "subpath must be a relative path within the"),
        (
            ("--mount", "type=volume,src=x,dst=/d,volume-subpath=/x"),
            "subpath must be a relative path within the volume",
        ),
        (("--mount", "type=volume,dst=/d,readonly"), "must not set ReadOnly mode when using anonymous volumes"),
    ],
)
def test_what_cannot_be_mounted_is_refused_at_create(
    engine: EngineProcess, arguments: tuple[str, ...], message: str
) -> None:
    before = engine.docker("ps", "-aq")
    refused = engine.run_docker("create", *arguments, "busybox", "true")
    assert message.encode() in refused.stderr
    assert engine.docker("ps", "-aq") == before
    engine.docker("volume", "prune", "-af")


def test_a_part_of_a_volume_is_filled_from_the_image(engine: EngineProcess) -> None:
    engine.docker("run", "--rm", "-v", "parts:/v", "busybox", "mkdir", "-p", "/v/empty", "/v/full/file")
    mount = "type=volume,src=parts,dst=/etc,volume-subpath="
    try:
        assert "passwd" in engine.docker("run", "--rm", "--mount", mount + "empty", "busybox", "ls", "/etc")
        assert engine.docker("run", "--rm", "-v", "parts:/v", "busybox", "ls", "/v") == "empty\nfull\n"
        listed = engine.docker("run", "--rm", "--mount", mount + "full", "busybox", "ls", "/etc")
        assert "passwd" not in listed
        assert "file" in listed
    finally:
        engine.docker("volume", "rm", "parts")


@pytest.mark.parametrize(
    ("options", "programs"), [([["exec"]], True), ([["noexec"]], False), ([], False), (None, False)]
)
def test_a_tmpfs_may_hold_programs_where_asked(engine: EngineProcess, options: Any, programs: bool) -> None:
    mount = {"Type": "tmpfs", "Target": "/d", "TmpfsOptions": {"SizeBytes": 4096, "Options": options}}
    body = {"Image": "busybox", "Cmd": ["grep", " /d ", "/proc/mounts"], "HostConfig": {"Mounts": [mount]}}
    _, made = engine.api("POST", "/v1.51/containers/create", body)
    shown = engine.docker("start", "-a", made["Id"]).split()[3].split(",")
    engine.docker("rm", made["Id"])
    assert ("noexec" not in shown) is programs
    assert {"nosuid", "nodev", "size=4k"} <= set(shown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([["nodev"]], "invalid option: nodev"),
        ([[]], "invalid option array length"),
        ([["exec", "x"]], 'tmpfs option "exec"'),
    ],
)
def test_other_options_of_a_tmpfs_are_refused(engine: EngineProcess, options: Any, message: str) -> None:
    mount = {"Type": "tmpfs", "Target": "/d", "TmpfsOptions": {"Options": options}}
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [mount]}})
    assert status == 400
    assert message in answer["message"]
