"""What Docker can't do: change a container that is there, lease it, fork it."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import criu
from tests.engine_process import EngineProcess
from tests.processes import eventually


def ours(engine: EngineProcess, *arguments: str) -> str:
    done = engine.dockyard(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def web(engine: EngineProcess) -> Iterator[str]:
    """A running web server that publishes nothing."""
    script = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    engine.docker("run", "-d", "--name", "web", "--env=KEPT=1", "busybox", "sh", "-c", script)
    yield "web"
    engine.run_docker("rm", "-f", "-v", "web")


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=3) as answer:
        text: str = answer.read().decode()
        return text


def ports(engine: EngineProcess, name: str) -> list[str]:
    return engine.docker("port", name).split("\n")[:-1]


def test_ports_are_published_and_withdrawn_while_the_container_runs(engine: EngineProcess, web: str) -> None:
    pid = engine.inspect(web)["State"]["Pid"]
    ours(engine, "update", "--publish-add", "127.0.0.1:28180:80", "--publish-add", "127.0.0.1:28181:80", web)
    assert fetch(28180) == fetch(28181) == "hello\n"
    assert engine.inspect(web)["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"] == "28180"
    ours(engine, "update", "--publish-rm", "28180:80", web)
    assert fetch(28181) == "hello\n"
    with pytest.raises(OSError, match=r"refused|timed out|reset"):
        fetch(28180)
    taken = engine.dockyard("update", "--publish-add", "127.0.0.1:28181:81", web)
    assert taken.returncode == 1
    assert b"port is already allocated" in taken.stderr
    assert ports(engine, web) == ["80/tcp -> 127.0.0.1:28181"]
    assert fetch(28181) == "hello\n"
    assert engine.inspect(web)["State"]["Pid"] == pid
    engine.docker("restart", "-t", "0", web)
    eventually(lambda: ports(engine, web) == ["80/tcp -> 127.0.0.1:28181"])
    ours(engine, "update", "--publish-rm", "80", web)
    assert ports(engine, web) == []
    missing = engine.dockyard("update", "--publish-rm", "80", web)
    assert b"port 80 is not published" in missing.stderr


def test_mounts_come_and_go_while_the_container_runs(engine: EngineProcess, web: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from the host")
    pid = engine.inspect(web)["State"]["Pid"]
    ours(
        engine, "update", "--mount-add", f"type=bind,src={tmp_path},dst=/mnt/ro,readonly",
        "--mount-add", "live-volume:/mnt/vol", "--mount-add", "type=tmpfs,dst=/mnt/tmp,tmpfs-size=1m", web,
    )  # fmt: skip
    script = "cat /mnt/ro/f; touch /mnt/ro/x 2>&1; touch /mnt/vol/y /mnt/tmp/z && df -k /mnt/tmp | tail -1"
    said = engine.docker("exec", web, "sh", "-c", script)
    assert said.startswith("from the host")
    assert "Read-only file system" in said
    assert "1024" in said
    assert {mount["Destination"] for mount in engine.inspect(web)["Mounts"]} == {"/mnt/ro", "/mnt/vol", "/mnt/tmp"}
    assert b"volume is in use" in engine.run_docker("volume", "rm", "live-volume").stderr
    assert b"Duplicate mount point" in engine.dockyard("update", "--mount-add", "/tmp:/mnt/ro", web).stderr
    assert b"is inside /proc" in engine.dockyard("update", "--mount-add", "/tmp:/proc/x", web).stderr
    # what fails leaves nothing of the rest
    failed = engine.dockyard("update", "--mount-add", "/tmp:/mnt/more", "--publish-add", "1:1", "--mount-add",
                             "type=bind,src=/nope,dst=/mnt/nope", web)  # fmt: skip
    assert b"bind source path does not exist: /nope" in failed.stderr
    assert ports(engine, web) == []
    engine.docker("restart", "-t", "0", web)
    assert engine.docker("exec", web, "cat", "/mnt/ro/f") == "from the host"
    pid = engine.inspect(web)["State"]["Pid"]
    ours(engine, "update", "--mount-rm", "/mnt/ro", "--mount-rm", "/mnt/vol", "--mount-rm", "/mnt/tmp", web)
    assert engine.docker("exec", web, "sh", "-c", "cat /proc/mounts").count(" /mnt/") == 0
    assert engine.inspect(web)["State"]["Pid"] == pid
    engine.docker("volume", "rm", "live-volume")


def test_a_hostile_container_cannot_have_its_guards_unmounted(engine: EngineProcess, web: str) -> None:
    ours(engine, "update", "--mount-add", "type=tmpfs,dst=/data/sys", web)
    engine.docker("exec", web, "sh", "-c", "mv /data /data2; ln -s /proc /data")
    done = engine.dockyard("update", "--mount-rm", "/data/sys", web)
    assert b"is inside /proc" in done.stderr
    assert " /proc/sys proc ro" in engine.docker("exec", web, "cat", "/proc/mounts")


def test_new_variables_start_it_anew_where_it_was(engine: EngineProcess, web: str) -> None:
    before = engine.inspect(web)
    engine.docker("exec", web, "touch", "/written")
    ours(engine, "update", "--env-add", "NEW=2", "--env-rm", "KEPT", "--label-add", "a=b", web)
    after = engine.inspect(web)
    assert after["Id"] == before["Id"]
    assert after["State"]["StartedAt"] != before["State"]["StartedAt"]
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    assert engine.docker("inspect", "-f", address, web).strip() == _address(before)
    said = engine.docker("exec", web, "sh", "-c", "ls /written; env")
    assert "/written" in said
    assert "NEW=2" in said
    assert "KEPT" not in said
    assert after["Config"]["Labels"]["a"] == "b"


def _address(shown: dict[str, dict[str, dict[str, dict[str, str]]]]) -> str:
    return next(iter(shown["NetworkSettings"]["Networks"].values()))["IPAddress"]


def test_a_fork_goes_on_from_the_files(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "first", "-p", "127.0.0.1:28190:80", "-v", "/anonymous", "-v", "shared:/shared",
        "busybox", "sh", "-c", "while sleep 1; do :; done",  # a sleep that is copied ends early (docs/checkpoints.md)
    )  # fmt: skip
    try:
        script = "echo 1 > /file; rm /etc/group; ln /file /link; echo a > /anonymous/f; echo s > /shared/f; mkdir /d"
        engine.docker("exec", "first", "sh", "-c", script)
        ours(engine, "fork", "first", "second")
        shown = engine.inspect("second")
        assert shown["State"]["Running"]
        assert shown["Config"]["Image"] == "busybox"
        said = engine.docker(
            "exec", "second", "sh", "-c",
            "cat /file /anonymous/f /shared/f; ls /etc/group 2>&1; stat -c %h /link;"
            "echo 2 > /file; echo b > /anonymous/f",
        )  # fmt: skip
        assert said == "1\na\ns\nls: /etc/group: No such file or directory\n2\n"
        assert engine.docker("exec", "first", "cat", "/file", "/anonymous/f") == "1\na\n"
        assert ports(engine, "second") != ports(engine, "first")
        assert "D /etc/group" in engine.docker("diff", "second")
        engine.docker("stop", "-t", "0", "first")
        ours(engine, "fork", "first", "third")
        assert engine.inspect("third")["State"]["Status"] == "created"
        taken = engine.dockyard("fork", "first", "third")
        assert b"is already in use" in taken.stderr
    finally:
        engine.run_docker("rm", "-f", "-v", "first", "second", "third")
        engine.run_docker("volume", "rm", "shared")


@criu.needed()
def test_a_fork_goes_on_in_memory(engine: EngineProcess) -> None:
    script = (
        "echo begun > /begun; nc -l -p 90 & i=0; while :; do i=$((i+1)); echo $i; echo $i > /number; sleep 0.1; done"
    )
    engine.docker("run", "-d", "--name", "first", "-v", "/anonymous", "busybox", "sh", "-c", script)
    try:
        eventually(lambda: len(engine.docker("logs", "first").split()) > 5)
        engine.docker("exec", "first", "sh", "-c", "echo a > /anonymous/f; rm /begun")
        status, forked = engine.api("POST", "/dockyard/containers/first/fork?name=second&memory=1")
        assert status == 201, forked
        assert forked["Memory"]
        assert forked["Warnings"] == []
        assert 0 < forked["StoppedMilliseconds"] < 30_000
        assert int(engine.docker("logs", "second").split()[0]) > 5  # not from the beginning
        asked = "hostname; cat /anonymous/f; ls /begun; netstat -ltn | grep -c :90"
        said = engine.docker("exec", "second", "sh", "-c", asked, check=False).split()
        assert said == [forked["Id"][:12], "a", "1"]
        second = _address(engine.inspect("second"))
        assert second != _address(engine.inspect("first"))
        mine = engine.docker("exec", "second", "hostname", "-i").split()
        assert mine == [second]
        engine.docker("restart", "-t", "0", "second")
        assert engine.docker("exec", "second", "cat", "/begun") == "begun\n"
        before = engine.docker("logs", "first").split()[-1]
        eventually(lambda: engine.docker("logs", "first").split()[-1] != before)
        ours(engine, "fork", "--no-memory", "first", "third")
        assert engine.docker("logs", "third").split()[0] == "1"
    finally:
        engine.run_docker("rm", "-f", "-v", "first", "second", "third")


@pytest.mark.skipif(not criu.reason_why_not(), reason="CRIU works here")
def test_a_fork_that_cannot_have_memory_says_so(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "first", "busybox", "sleep", "1000")
    try:
        done = engine.dockyard("fork", "first", "second")
        assert done.returncode == 0
        assert b"WARNING: only files were forked, the program begins anew: " in done.stderr
        assert engine.inspect("second")["State"]["Running"]
        refused = engine.dockyard("fork", "--memory", "first", "third")
        assert refused.returncode == 1
        assert b"cannot fork the memory of container first: " in refused.stderr
        assert engine.run_docker("inspect", "third").returncode == 1
        engine.docker("stop", "-t", "0", "first")
        assert b"it has no memory to copy" in engine.dockyard("fork", "--memory", "first", "third").stderr
    finally:
        engine.run_docker("rm", "-f", "first", "second", "third")


def leased(engine: EngineProcess, name: str) -> "subprocess.Popen[bytes]":
    """`run --lease` in the background, with its container running."""
    command = [sys.executable, "-m", "dockyard.cli.main", "run", "--lease", "--name", name, "busybox", "sleep", "1000"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(engine.folder), "DOCKER_HOST": engine.host}
    client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: "Up" in engine.docker("ps", "-f", f"name={name}", "--format", "{{.Status}}"))
    return client


def gone(engine: EngineProcess, name: str) -> bool:
    return engine.docker("ps", "-aq", "-f", f"name={name}") == ""


def test_a_lease_ends_with_its_client_however_that_ends(engine: EngineProcess) -> None:
    client = leased(engine, "leased")
    try:
        client.kill()
        client.wait()
        eventually(lambda: gone(engine, "leased"))
    finally:
        client.kill()
        client.wait()


@pytest.mark.slow
def test_leases_outlive_a_daemon_and_end_with_a_client_that_died_meanwhile(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=8)
    engine.start()
    living = dead = None
    try:
        engine.docker("run", "--rm", "busybox", "true")
        living, dead = leased(engine, "living"), leased(engine, "dead")
        engine.kill()
        dead.kill()
        dead.wait()
        engine.start()
        eventually(lambda: gone(engine, "dead"))
        assert not gone(engine, "living")
        living.kill()
        living.wait()
        eventually(lambda: gone(engine, "living"))
    finally:
        for client in (living, dead):
            if client is not None:
                client.kill()
                client.wait()
        engine.clean_up()


def test_an_ended_lease_takes_nothing_new(engine: EngineProcess) -> None:
    done = engine.run_docker("run", "--rm", "--label", "dockyard.lease=ended", "busybox", "true")
    assert b"lease ended has ended" in done.stderr
    assert done.returncode == 125


def test_files_go_between_containers_and_volumes_by_wildcards_too(engine: EngineProcess, tmp_path: Path) -> None:
    engine.docker("run", "-d", "--name", "from", "-v", "store:/store", "busybox", "sleep", "1000")
    engine.docker("create", "--name", "to", "busybox", "cat", "/renamed/b.log")
    try:
        script = "mkdir -p /logs/deep; cd /logs; echo 1 > a.log; echo 2 > b.log; touch c.txt deep/d.log; chown 7 a.log"
        engine.docker("exec", "from", "sh", "-c", script)
        ours(engine, "cp", "from:/logs", "to:/renamed")
        assert engine.docker("start", "-a", "to") == "2\n"
        ours(engine, "cp", "from:/logs/*.log", "to:/tmp")
        assert {"A /tmp/a.log", "A /tmp/b.log"} <= set(engine.docker("diff", "to").split("\n"))
        assert "c.txt" not in engine.docker("diff", "to").replace("/renamed/c.txt", "")
        ours(engine, "cp", "from:/log?/*.log", str(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "b.log"]
        ours(engine, "cp", "from:/logs/.", "volume:store:/")
        assert "a.log" in engine.docker("exec", "from", "ls", "/store")
        assert engine.docker("exec", "from", "stat", "-c", "%u", "/store/a.log") == "7\n"
        ours(engine, "cp", str(tmp_path / "b.log"), "volume:store:/in.log")
        ours(engine, "cp", "volume:store:/in.log", str(tmp_path / "out.log"))
        assert (tmp_path / "out.log").read_text() == "2\n"
        nothing = engine.dockyard("cp", "from:/logs/*.none", str(tmp_path))
        assert b"matches /logs/*.none" in nothing.stderr
        many = engine.dockyard("cp", "from:/logs/*.log", "to:/nowhere")
        assert b"must be a directory" in many.stderr
    finally:
        engine.run_docker("rm", "-f", "-v", "from", "to")
        engine.run_docker("volume", "rm", "store")
