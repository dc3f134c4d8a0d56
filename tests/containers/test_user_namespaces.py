"""Containers with ids of their own: `--userns auto`, mapped mounts, and a whole daemon's `--userns-remap`."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


def auto(engine: EngineProcess, *arguments: str) -> str:
    """`run --rm --userns auto`, by our client: the stock one knows no such mode."""
    done = engine.dockyard("run", "--rm", "--userns=auto", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def start(engine: EngineProcess, name: str, *arguments: str) -> None:
    done = engine.dockyard("run", "-d", "--name", name, "--userns=auto", *arguments, "busybox", "sleep", "1000")
    assert done.returncode == 0, done.stderr.decode()


def host_root(engine: EngineProcess, name: str) -> int:
    """The host's id for a container's root."""
    return int(Path(f"/proc/{engine.inspect(name)['State']['Pid']}/uid_map").read_text().split()[1])


def test_root_inside_is_nobody_outside_and_master_of_its_own(engine: EngineProcess) -> None:
    said = auto(
        engine, "busybox", "sh", "-c",
        "id -u; echo hi > /dev/stdout; touch /file; stat -c %u /file /etc/hosts; echo x >> /etc/hosts;"
        "mkdir /d; chown 1000:1000 /d; su -s /bin/sh daemon -c 'touch /tmp/theirs'; stat -c %u /d /tmp/theirs;"
        "ping -c 1 -W 1 127.0.0.1 > /dev/null && echo pinged; cat /proc/self/uid_map",
    ).split("\n")  # fmt: skip
    assert said[:7] == ["0", "hi", "0", "0", "1000", "1", "pinged"]
    inside, outside, size = said[7].split()
    assert (inside, size) == ("0", "65536")
    assert int(outside) > 65536


def test_cgroups_are_read_only_there_too(engine: EngineProcess) -> None:
    mounts = auto(engine, "busybox", "grep", "cgroup", "/proc/mounts").splitlines()
    assert mounts
    assert not [row for row in mounts if " ro," not in row]


def test_every_container_has_a_range_of_its_own_and_gives_it_back(engine: EngineProcess) -> None:
    start(engine, "one")
    start(engine, "two")
    try:
        first, second = host_root(engine, "one"), host_root(engine, "two")
        assert abs(first - second) >= 65536
        assert os.stat(f"/proc/{engine.inspect('one')['State']['Pid']}").st_uid == first
        engine.docker("restart", "-t", "0", "one")
        assert host_root(engine, "one") == first
        engine.docker("rm", "-f", "one")
        start(engine, "three")
        assert host_root(engine, "three") == first
    finally:
        engine.run_docker("rm", "-f", "one", "two", "three")


def test_layers_keep_their_owners_for_diff_export_commit_and_cp(engine: EngineProcess, tmp_path: Path) -> None:
    start(engine, "files")
    try:
        engine.docker("exec", "files", "sh", "-c", "mkdir /made; touch /made/f; chown 7:8 /made/f")
        assert set(engine.docker("diff", "files").split("\n")) >= {"A /made", "A /made/f"}
        exported = engine.run_docker("export", "files").stdout
        with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
            assert (archive.getmember("made/f").uid, archive.getmember("made/f").gid) == (7, 8)
            assert archive.getmember("etc/passwd").uid == 0
        (tmp_path / "in").write_text("in")
        engine.docker("cp", str(tmp_path / "in"), "files:/made/in")
        assert engine.docker("exec", "files", "stat", "-c", "%u", "/made/in", "/made/f") == "0\n7\n"
        engine.docker("cp", "files:/made/in", str(tmp_path / "out"))
        assert (tmp_path / "out").read_text() == "in"
        with tarfile.open(fileobj=io.BytesIO(engine.run_docker("cp", "files:/made", "-").stdout)) as archive:
            assert archive.getmember("made/f").uid == 7
        engine.docker("commit", "files", "committed")
        assert engine.docker("run", "--rm", "committed", "stat", "-c", "%u:%g", "/made/f") == "7:8\n"
        engine.docker("stop", "-t", "0", "files")
        engine.docker("cp", str(tmp_path / "in"), "files:/made/late")
        engine.docker("start", "files")
        assert engine.docker("exec", "files", "stat", "-c", "%u", "/made/late") == "0\n"
    finally:
        engine.run_docker("rm", "-f", "files")
        engine.run_docker("rmi", "committed")


def test_volumes_are_shared_by_containers_of_different_ranges(engine: EngineProcess) -> None:
    script = "touch /data/f; chown 33:44 /data/f"
    auto(engine, "-v", "between:/data", "busybox", "sh", "-c", script)
    try:
        assert auto(engine, "-v", "between:/data", "busybox", "stat", "-c", "%u:%g", "/data/f") == "33:44\n"
        assert engine.docker("run", "--rm", "-v", "between:/d", "busybox", "stat", "-c", "%u:%g", "/d/f") == "33:44\n"
    finally:
        engine.docker("volume", "rm", "between")


@pytest.fixture
def callers(tmp_path: Path) -> Path:
    """A folder of a user's on the host, with a file of another's."""
    folder = tmp_path / "callers"
    folder.mkdir()
    os.chown(folder, 1234, 1235)
    (folder / "other").touch()
    os.chown(folder / "other", 77, 78)
    return folder


def owner(path: Path) -> tuple[int, int]:
    return (path.stat().st_uid, path.stat().st_gid)


def test_an_idmapped_bind_keeps_the_callers_ownership(engine: EngineProcess, callers: Path) -> None:
    script = "stat -c %u:%g /b /b/other; touch /b/mine"
    for mode in ("--userns=auto", "--userns=host"):
        done = engine.dockyard("run", "--rm", mode, "-v", f"{callers}:/b:idmap", "busybox", "sh", "-c", script)
        # the caller's folder is the container's user's inside, and what that makes is the caller's outside
        assert done.stdout == b"0:0\n77:78\n", done.stderr
        assert owner(callers / "mine") == (1234, 1235)
        (callers / "mine").unlink()
    done = engine.dockyard("run", "--rm", "-u", "50:60", "-v", f"{callers}:/b:idmap", "busybox", "sh", "-c", script)
    assert done.stdout == b"50:60\n77:78\n"
    assert owner(callers / "mine") == (1234, 1235)


def test_a_plain_bind_shows_the_hosts_files_as_nobodys(engine: EngineProcess, callers: Path) -> None:
    script = "stat -c %u /b; touch /b/mine 2> /dev/null || echo refused"
    assert auto(engine, "-v", f"{callers}:/b", "busybox", "sh", "-c", script) == "65534\nrefused\n"


def test_namespaces_are_shared_with_the_user_namespace_they_belong_to(engine: EngineProcess) -> None:
    start(engine, "donor", "--ipc=shareable")
    try:
        for mode in ("--net=container:donor", "--pid=container:donor", "--ipc=container:donor"):
            said = auto(engine, mode, "busybox", "cat", "/proc/self/uid_map")
            assert int(said.split()[1]) == host_root(engine, "donor"), mode
    finally:
        engine.docker("rm", "-f", "donor")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--privileged"], b"privileged mode is incompatible with user namespaces"),
        (["--net=host"], b"cannot share the host's network namespace when user namespaces are enabled"),
        (["--pid=host"], b"cannot share the host PID namespace when user namespaces are enabled"),
        (["--security-opt=writable-cgroups=true"], b"option WritableCgroups conflicts with user namespaces"),
    ],
)
def test_what_goes_with_no_user_namespace_is_refused(engine: EngineProcess, arguments: list[str], words: bytes) -> None:
    done = engine.dockyard("run", "--rm", "--userns=auto", *arguments, "busybox", "true")
    assert words in done.stderr
    assert done.returncode == 125


def test_a_daemon_that_was_killed_takes_mapped_containers_up(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=8)
    engine.start()
    try:
        start(engine, "kept", "-v", "kept:/data")
        root = host_root(engine, "kept")
        engine.kill()
        engine.start()
        assert engine.docker("exec", "kept", "sh", "-c", "touch /data/x; stat -c %u /data/x") == "0\n"
        start(engine, "next")
        assert host_root(engine, "next") != root
        engine.docker("restart", "-t", "0", "kept")
        assert host_root(engine, "kept") == root
        engine.docker("rm", "-f", "kept", "next")
        assert list((engine.run / "userns").iterdir()) == []
        engine.docker("volume", "rm", "kept")
    finally:
        engine.clean_up()


@pytest.fixture
def remapped(tmp_path: Path) -> Iterator[EngineProcess]:
    """An engine in a mount namespace in which /etc/subuid gives the user nobody 65536 ids from 231072 on."""
    table = tmp_path / "sub"
    table.write_text("nobody:231072:65536\nnogroup:331072:65536\n")
    engine = EngineProcess(tmp_path / "engine", number=9, arguments=("--userns-remap=nobody:nogroup",))
    bind = f'mount --bind {table} /etc/subuid && mount --bind {table} /etc/subgid && exec "$@"'
    for file in ("/etc/subuid", "/etc/subgid"):
        Path(file).touch()
    engine.prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", bind, "sh")
    engine.start()
    try:
        yield engine
    finally:
        engine.clean_up()


def test_a_remapped_daemon_gives_every_container_its_ids(remapped: EngineProcess, tmp_path: Path) -> None:
    engine = remapped
    folders = [folder.name for folder in engine.data_root.iterdir()]
    assert folders == ["231072.331072"]
    script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; touch /v/f; stat -c %u /v/f"
    said = engine.docker("run", "--rm", "-v", "/v", "busybox", "sh", "-c", script)
    assert said.split("\n")[:3] == [" 0 231072 65536", " 0 331072 65536", "0"]
    assert engine.docker("run", "--rm", "--userns=host", "busybox", "cat", "/proc/self/uid_map").split()[1] == "0"
    assert engine.docker("run", "--rm", "--privileged", "--userns=host", "busybox", "id", "-u") == "0\n"
    done = engine.run_docker("run", "--rm", "--privileged", "busybox", "true")
    assert b"You must run the container in the host namespace when running privileged mode" in done.stderr
    assert any("userns" in option for option in engine.api("GET", "/info")[1]["SecurityOptions"])
    build = tmp_path / "build"
    build.mkdir()
    (build / "Dockerfile").write_text("FROM busybox\nRUN touch /run-made && chown 5 /run-made\nCOPY Dockerfile /\n")
    engine.docker("build", "-t", "built", str(build))
    said = engine.docker("run", "--rm", "--userns=host", "built", "stat", "-c", "%u", "/run-made", "/Dockerfile")
    assert said == "5\n0\n"
