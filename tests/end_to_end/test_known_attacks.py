"""Attacks by which other engines were once overcome, and that have no better place; docs/security.md lists all."""

import ctypes
import io
import json
import os
import re
import stat
import tarfile
import time
from pathlib import Path

import pytest

from dockyard.builder.context import git_archive
from dockyard.errors import DockyardError
from tests.engine_process import EngineProcess
from tests.processes import eventually


def test_the_socket_is_for_root_and_its_group_only(engine: EngineProcess) -> None:
    """CVE-2014-3499: whoever can write to it is root."""
    status = engine.socket.stat()
    assert stat.S_IMODE(status.st_mode) & 0o007 == 0
    assert status.st_uid == 0


def test_nothing_of_ours_listens_on_an_abstract_address(engine: EngineProcess) -> None:
    """CVE-2020-15257: those belong to the network namespace, and a container with --network host is in the host's."""
    said = engine.docker("run", "--rm", "--network=host", "busybox", "cat", "/proc/net/unix")
    assert not [row for row in said.splitlines() if "@" in row and ("dock" in row or "shim" in row)]


def test_capabilities_are_neither_inheritable_nor_ambient(engine: EngineProcess) -> None:
    """CVE-2022-24769, CVE-2016-8867, CVE-2022-29162: a program with file capabilities would raise them, as any user."""
    look = ("grep", "-E", "Cap(Inh|Amb)", "/proc/self/status")
    none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
    for options in ((), ("-u", "1000"), ("--cap-add=ALL",), ("--privileged",), ("-u", "1000", "--cap-add=ALL")):
        assert engine.docker("run", "--rm", *options, "busybox", *look) == none
    engine.docker("run", "-d", "--name=idle", "--cap-add=ALL", "busybox", "top")
    try:
        for options in ((), ("-u", "1000"), ("--privileged",)):
            assert engine.docker("exec", *options, "idle", *look) == none
        assert "CapEff:\t0000000000000000" in engine.docker("exec", "-u", "1000", "idle", "cat", "/proc/self/status")
    finally:
        engine.docker("rm", "-f", "idle")


@pytest.mark.parametrize(
    "path",
    ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi", "/proc/timer_list",
     "/proc/timer_stats", "/proc/sched_debug", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap"],
)  # fmt: skip
def test_what_tells_of_the_host_or_changes_it_is_hidden(engine: EngineProcess, path: str) -> None:
    """CVE-2015-3630, CVE-2017-16539 (/proc/scsi), CVE-2018-10892 (/proc/acpi), PLATYPUS (powercap)."""
    script = (
        f'[ ! -e {path} ] || [ -z "$(head -c 1 {path} 2> /dev/null; ls -A {path} 2> /dev/null | grep -v ^{path})" ]'
    )
    engine.docker("run", "--rm", "busybox", "sh", "-c", script)
    written = f"echo x > {path} 2> /dev/null && [ ! -c {path} ] && exit 1; mkdir {path}/x 2> /dev/null && exit 1; true"
    engine.docker("run", "--rm", "busybox", "sh", "-c", written)


def test_a_volume_is_filled_from_the_image_and_nothing_else(engine: EngineProcess, tmp_path: Path) -> None:
    """CVE-2022-23648: the path of an image's volume led to the host's files, which were copied into it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("the host's")
    up = "/.." * 12
    for where, made in (
        (f"{up}{secret}", "true"),
        ("/link", f"ln -s {up}{secret} /link"),
        ("/a/b", f"ln -s {up}{tmp_path} /a"),
    ):
        volume = json.dumps([where if where != "/a/b" else "/a/secret"])
        text = f"FROM busybox\nRUN {made}\nVOLUME {volume}\n"
        engine.docker("build", "-q", "-t", "greedy", "-", input=text.encode())
        try:
            said = engine.run_docker("run", "--rm", "greedy", "sh", "-c", f"cat /link/key /a/secret/key {secret}/key")
            assert b"the host's" not in said.stdout
        finally:
            engine.docker("rmi", "-f", "greedy")
    assert [path.name for path in secret.iterdir()] == ["key"]


def test_a_volume_over_proc_is_refused(engine: EngineProcess) -> None:
    """CVE-2019-16884, CVE-2015-3631: over /proc/self/attr it kept AppArmor and SELinux from being told anything."""
    for place in ("/proc", "/proc/self/attr", "/proc/sys/kernel"):
        text = f'FROM busybox\nVOLUME ["{place}"]\n'
        engine.docker("build", "-q", "-t", "covering", "-", input=text.encode())
        try:
            assert engine.run_docker("run", "--rm", "covering", "true").returncode != 0
        finally:
            engine.docker("rmi", "-f", "covering")


@pytest.mark.parametrize("cpus", ["0-4294967295", "0-999999999", "1,2,3-99999999999999999999", "0-2147483647:1/2"])
@pytest.mark.parametrize("flag", ["--cpuset-cpus", "--cpuset-mems"])
def test_a_huge_set_of_processors_is_refused_at_once(engine: EngineProcess, flag: str, cpus: str) -> None:
    """CVE-2018-20699: it was written out in memory."""
    begin = time.monotonic()
    assert engine.run_docker("create", f"{flag}={cpus}", "busybox").returncode == 1
    assert time.monotonic() - begin < 10


def test_a_check_that_talks_without_end_is_cut_off(engine: EngineProcess) -> None:
    """CVE-2022-1708, CVE-2022-31030: all that a probe said was kept in memory."""
    check = ("--health-cmd=yes", "--health-interval=1s", "--health-timeout=3s")
    engine.docker("run", "-d", "--name=talker", *check, "busybox", "top")
    try:
        eventually(lambda: engine.inspect("talker")["State"]["Health"]["Log"])
        assert len(engine.inspect("talker")["State"]["Health"]["Log"][0]["Output"]) < 10_000
        assert engine.process is not None
        usage = Path(f"/proc/{engine.process.pid}/status").read_text()
        assert int(next(line.split()[1] for line in usage.splitlines() if line.startswith("VmRSS"))) < 400_000
    finally:
        engine.docker("rm", "-f", "talker")


def test_who_has_no_ipv6_address_has_no_ipv6(engine: EngineProcess) -> None:
    """CVE-2024-32473: an interface that was given only IPv4 had link-local IPv6, past rules that know of none."""
    said = engine.docker(
        "run", "--rm", "busybox", "sh", "-c", "cat /proc/net/if_inet6 /proc/net/ipv6_route 2> /dev/null; true"
    )
    assert [row for row in said.splitlines() if " lo" not in row] == []


def test_variables_are_the_containers_own(engine: EngineProcess) -> None:
    """CVE-2021-21334, CVE-2020-14370: containers of one image shared them. CVE-2021-3602: RUN had the host's."""
    engine.docker("run", "--rm", "-e", "SECRET=of-the-first", "busybox", "true")
    assert "SECRET" not in engine.docker("run", "--rm", "busybox", "env")
    assert engine.process is not None
    hosts = Path(f"/proc/{engine.process.pid}/environ").read_bytes().split(b"\0")
    text = b"FROM busybox\nENV OF_THE_IMAGE=1\nRUN env > /env\n"
    engine.docker("build", "-q", "--no-cache", "-t", "nosy", "-", input=text)
    try:
        had = {row.partition("=")[0] for row in engine.docker("run", "--rm", "nosy", "cat", "/env").splitlines()}
    finally:
        engine.docker("rmi", "-f", "nosy")
    assert "OF_THE_IMAGE" in had
    usual = {"PATH", "HOME", "HOSTNAME", "SHLVL", "PWD", "OLDPWD"}
    assert not had & ({row.partition(b"=")[0].decode() for row in hosts if row} - usual)


def test_secrets_are_not_logged(engine: EngineProcess) -> None:
    """CVE-2019-13509: a daemon that logs for debugging logged what clients sent."""
    engine.docker("run", "--rm", "-e", "TOKEN=hush-hush-1", "--label", "key=hush-hush-2", "busybox", "true")
    engine.api("POST", "/auth", {"username": "me", "password": "hush-hush-3", "serveraddress": "127.0.0.1:1"})
    engine.docker("build", "-q", "--build-arg", "PASS=hush-hush-4", "-", input=b"FROM busybox\nARG PASS\n")
    assert "hush-hush" not in engine.log()


def test_the_list_of_processes_is_made_by_the_hosts_ps(engine: EngineProcess) -> None:
    """CVE-2022-1227: the container's own was run, in namespaces of the host's."""
    lie = r"#!/bin/sh\n: > /sprung\necho PID; echo 1\n"
    script = f"rm -f /bin/ps; printf '{lie}' > /bin/ps; chmod 755 /bin/ps; exec top"
    engine.docker("run", "-d", "--name=liar", "busybox", "sh", "-c", script)
    try:
        eventually(lambda: "top" in engine.docker("top", "liar"))
        assert engine.run_docker("exec", "liar", "test", "-e", "/sprung").returncode == 1
    finally:
        engine.docker("rm", "-f", "liar")


def test_copies_stay_inside_while_the_container_exchanges_directories_for_links(
    engine: EngineProcess, tmp_path: Path
) -> None:
    """CVE-2018-15664, CVE-2026-41568, CVE-2026-42306: a path changed between the look at it and its use."""
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    for folder in (outside, volume / "real"):
        folder.mkdir(parents=True)
    (outside / "file").write_text("the host's")
    (volume / "real" / "file").write_text("the container's")
    # in the container as on the host, so that whoever follows it on the host gets there
    (volume / "swap").symlink_to(outside)
    engine.docker("run", "-d", "--name=juggler", "-v", f"{volume}:/v", "busybox", "top")
    swapper = os.fork()
    if swapper == 0:
        exchange = ctypes.CDLL(None).renameat2
        while True:
            exchange(-100, os.fsencode(volume / "real"), -100, os.fsencode(volume / "swap"), 2)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("planted")
        tar.addfile(entry)
    try:
        for _ in range(25):
            said = engine.run_docker("cp", "juggler:/v/real/file", "-")
            assert b"the host's" not in said.stdout
            engine.run_docker("cp", "-", "juggler:/v/real", input=archive.getvalue())
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)
        engine.docker("rm", "-f", "juggler")
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "the host's"


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:1/x.git#--upload-pack=touch${IFS}/tmp/sprung",
        "https://127.0.0.1:1/x.git#-x:y",
        "ext::sh -c touch% /tmp/sprung",
        "--upload-pack=touch /tmp/sprung",
        "file:///etc#main",
        "git@-oProxyCommand=touch${IFS}/tmp/sprung:x.git",
    ],
)
async def test_the_url_of_a_git_context_is_no_command(tmp_path: Path, url: str) -> None:
    """CVE-2019-13139, CVE-2026-15793 and others of BuildKit's: options and transports that run programs."""
    with pytest.raises(DockyardError):
        await git_archive(url, tmp_path)
    assert not Path("/tmp/sprung").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag", ["--mount=type=cache,target=/x", "--mount=type=bind,source=/,target=/x", "--security=insecure"]
)
def test_what_a_run_may_not_have_is_refused(engine: EngineProcess, flag: str) -> None:
    """CVE-2024-1753, CVE-2024-9407, CVE-2024-9675, CVE-2024-23651, CVE-2024-23652, CVE-2024-23653."""
    done = engine.run_docker("build", "-q", "-", input=f"FROM busybox\nRUN {flag} true\n".encode())
    assert done.returncode == 1
    assert b"requires BuildKit" in done.stderr


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    page = Path(__file__).parents[2] / "docs" / "security.md"
    named = set(re.findall(r"`(tests/[^`:]+)`", page.read_text()))
    assert len(named) > 40
    assert not [path for path in named if not (page.parents[1] / path).exists()]
