"""Files of containers that do not run, or have not yet, and files that are mounts, as `cp` and its like see them."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


def copied(engine: EngineProcess, source: str) -> dict[str, bytes | None]:
    """What `cp SOURCE -` brings: contents by name, None for a directory."""
    done = engine.run_docker("cp", source, "-")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        return {
            member.name: archive.extractfile(member).read() if member.isfile() else None  # type: ignore[union-attr]  # it is
            for member in archive
        }


def test_network_files_are_those_of_the_last_run(engine: EngineProcess) -> None:
    options = ["--hostname", "its-own-name", "--dns", "192.0.2.7", "--add-host", "there:192.0.2.8"]
    engine.docker("run", "--name", "ran", *options, "busybox", "true")
    try:
        assert copied(engine, "ran:/etc/hostname") == {"hostname": b"its-own-name\n"}
        assert b"192.0.2.7" in (copied(engine, "ran:/etc/resolv.conf")["resolv.conf"] or b"")
        assert b"192.0.2.8\tthere" in (copied(engine, "ran:/etc/hosts")["hosts"] or b"")
        assert b"192.0.2.8\tthere" in (copied(engine, "ran:/etc")["etc/hosts"] or b"")
    finally:
        engine.docker("rm", "ran")


def test_a_bind_over_a_network_file_is_what_is_there(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("mine\n")
    engine.docker("run", "--name", "bound", "-v", f"{tmp_path}/hosts:/etc/hosts", "busybox", "true")
    try:
        assert copied(engine, "bound:/etc/hosts") == {"hosts": b"mine\n"}
    finally:
        engine.docker("rm", "bound")


@pytest.mark.parametrize("remapped", [False, True], ids=["", "userns"])
def test_the_working_directory_is_there_from_the_creation_on(engine: EngineProcess, remapped: bool) -> None:
    options = ["--userns", "auto"] if remapped else []

    def create() -> None:
        arguments = [
            "create",
            "--name",
            "fresh",
            "-w",
            "/new/place",
            *options,
            "busybox",
            "stat",
            "-c",
            "%u:%g",
            "/new",
            ".",
        ]
        done = engine.dockyard(*arguments)  # the stock client knows no `--userns auto`
        assert done.returncode == 0, done.stderr

    create()
    try:
        assert copied(engine, "fresh:/new/place") == {"place": None}
        if not remapped:
            assert engine.docker("diff", "fresh").splitlines() == ["A /new", "A /new/place"]
        assert engine.docker("start", "-a", "fresh").splitlines() == ["0:0", "0:0"]
        engine.docker("rm", "fresh")
        create()
        with tarfile.open(fileobj=io.BytesIO(engine.run_docker("export", "fresh").stdout)) as archive:
            assert "new/place" in [name.strip("/") for name in archive.getnames()]
        engine.docker("rm", "fresh")
        create()
        image = engine.docker("commit", "fresh").strip()
        assert engine.docker("run", "--rm", "--workdir", "/", image, "ls", "/new") == "place\n"
        engine.docker("rmi", image)
    finally:
        engine.docker("rm", "fresh")


@pytest.mark.parametrize("running", [True, False])
def test_nothing_is_copied_onto_a_mount(engine: EngineProcess, tmp_path: Path, running: bool) -> None:
    """The kernel would take the mount out of the container, which has it no more and knows nothing of it."""
    (tmp_path / "outside").write_text("outside\n")
    (tmp_path / "new").write_text("new\n")
    (tmp_path / "hosts").write_text("new\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "bound").mkdir()
    (tmp_path / "folder" / "bound" / "more").write_text("")
    engine.docker("run", "-d", "--name", "mounted", "-v", f"{tmp_path}/outside:/deep/bound", "busybox", "sleep", "600")
    if not running:
        engine.docker("kill", "mounted")
    try:
        for source, target in (("new", "/deep/bound"), ("hosts", "/etc/hosts"), ("folder", "/deep/bound")):
            done = engine.run_docker("cp", str(tmp_path / source), f"mounted:{target}")
            assert done.returncode == 1, (source, target)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as made:
            made.addfile(tarfile.TarInfo("deep"))  # a file in the place of the directory with the mount
        done = engine.run_docker("cp", "-", "mounted:/", input=archive.getvalue())
        assert done.returncode == 1
        if running:
            assert engine.docker("exec", "mounted", "cat", "/deep/bound") == "outside\n"
            assert (
                engine.docker("exec", "mounted", "grep", "-c", "-E", "/deep/bound|/etc/hosts", "/proc/mounts") == "2\n"
            )
        assert copied(engine, "mounted:/deep/bound") == {"bound": b"outside\n"}
        assert (tmp_path / "outside").read_text() == "outside\n"
    finally:
        engine.docker("rm", "-f", "mounted")


@pytest.mark.parametrize("kind", ["file", "directory", "socket directory", "missing"])
def test_what_is_no_device_is_refused(engine: EngineProcess, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    elif "directory" in kind:
        place.mkdir()
        if "socket" in kind:
            import socket

            socket.socket(socket.AF_UNIX).bind(str(place / "s"))
    done = engine.run_docker("run", "--rm", "--device", str(place), "busybox", "true")
    why = "no such file or directory" if kind == "missing" else "not a device node"
    assert done.returncode in (125, 127)
    words = f'error gathering device information while adding custom device "{place}": {why}'
    assert words in done.stderr.decode()


def test_a_volume_without_a_slash_is_below_the_root(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir /data && echo seed > /data/f\nVOLUME data ./other ../up\n"
    )
    engine.docker("build", "-q", "-t", "relative", str(tmp_path))
    try:
        script = "cat /data/f; grep -cE ' /(data|other|up|more) ' /proc/mounts"
        said = engine.docker("run", "--name", "relative", "-v", "more/", "relative", "sh", "-c", script)
        assert said == "seed\n4\n"
        shown = engine.inspect("relative")
        assert sorted(mount["Destination"] for mount in shown["Mounts"]) == ["/data", "/more", "/other", "/up"]
        assert copied(engine, "relative:/data/f") == {"f": b"seed\n"}
        for text, words in (
            ("named:data", "for type \"volume\": invalid mount path: 'data' mount path must be absolute"),
            ("/tmp:data", "for type \"bind\": invalid mount path: 'data' mount path must be absolute"),
            ("/data:ro", "invalid volume specification: '/data:ro'"),
            (".", "invalid specification: destination can't be '/'"),
        ):
            done = engine.run_docker("run", "--rm", "-v", text, "busybox", "true")
            assert (done.returncode, words in done.stderr.decode()) == (125, True), done
    finally:
        engine.docker("rm", "-f", "-v", "relative")
        engine.docker("rmi", "-f", "relative")
