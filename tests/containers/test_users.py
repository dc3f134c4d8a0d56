"""Whom `--user` and its like mean: a number is the number, whatever names an image has (CVE-2016-3697)."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
1000:x:0:0:who would be root:/root:/bin/sh
ann:x:1001:1001::/home/ann:/bin/sh
4294967295:x:0:0::/root:/bin/sh
lofty:x:4294967295:4294967295::/:/bin/sh
"""
GROUP = """\
root:x:0:
50:x:0:
1000:x:0:
staff:x:77:ann
lofty:x:4294967295:
"""
OUT_OF_RANGE = "uids and gids must be in range 0-2147483647"
# what no id is; as numbers, and as a name of the image's for one
TOO_LARGE = ["4294967295", "4294967296", "2147483648", "-1", "9" * 5000, "0:4294967295", "0:-1", "lofty", "0:lofty"]


@pytest.fixture(scope="module")
def image(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with names that are numbers."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "passwd").write_text(PASSWD)
    (folder / "group").write_text(GROUP)
    (folder / "Dockerfile").write_text("FROM busybox\nCOPY passwd group /etc/\n")
    engine.docker("build", "-q", "-t", "names", str(folder))
    yield "names"
    engine.docker("rmi", "-f", "names")


IDS = "echo $(id -u) $(id -g) $(id -G)"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("1000", "1000 0 0"),
        ("1000:1000", "1000 1000 1000"),
        ("+1000", "1000 0 0"),
        ("01000", "1000 0 0"),
        ("ann", "1001 1001 1001 77"),
        ("1001", "1001 1001 1001 77"),
        ("ann:50", "1001 50 50"),
        ("ann:staff", "1001 77 77"),
        ("0", "0 0 0"),
    ],
)
def test_a_number_is_the_number_in_run_exec_and_health_checks(
    engine: EngineProcess, image: str, user: str, ids: str
) -> None:
    given = ("--user", user)
    assert engine.docker("run", "--rm", *given, image, "sh", "-c", IDS).strip() == ids
    hardened = ("--security-opt", "no-new-privileges")
    assert engine.docker("run", "--rm", *given, *hardened, image, "sh", "-c", IDS).strip() == ids
    check = ("--health-cmd", IDS, "--health-interval", "50ms")
    engine.docker("run", "-d", "--name", "numbered", *given, *check, image, "sleep", "600")
    try:
        assert engine.docker("exec", "numbered", "sh", "-c", IDS).strip() == ids
        assert engine.docker("exec", *given, "numbered", "sh", "-c", IDS).strip() == ids
        while not (log := engine.inspect("numbered")["State"]["Health"]["Log"]):
            pass
        assert log[0]["Output"].strip() == ids
    finally:
        engine.docker("rm", "-f", "numbered")


def test_a_number_is_the_number_in_group_add(engine: EngineProcess, image: str) -> None:
    groups = engine.docker(
        "run", "--rm", "--user", "7:7", "--group-add", "50", "--group-add", "staff", image, "id", "-G"
    )
    assert groups.split() == ["7", "50", "77"]


def test_a_number_is_the_number_in_builds(engine: EngineProcess, image: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {image}\nCOPY --chown=1000 file /one\n"
        "COPY --chown=1000:50 file /two\nADD --chown=ann:staff file /three\n"
        "RUN echo $(stat -c %u:%g /one /two /three) > /owners\n"
        f"USER 1000\nRUN {IDS} > /tmp/ids\n"
    )
    engine.docker("build", "-q", "-t", "numbers", str(tmp_path))
    try:
        said = engine.docker("run", "--rm", "numbers", "sh", "-c", f"cat /owners /tmp/ids; {IDS}").splitlines()
        assert said == ["1000:1000 1000:50 1001:77", "1000 0 0", "1000 0 0"]
    finally:
        engine.docker("rmi", "-f", "numbers")


@pytest.mark.parametrize("user", TOO_LARGE, ids=lambda user: user[:12])
def test_what_is_out_of_range_is_refused_everywhere(
    engine: EngineProcess, image: str, tmp_path: Path, user: str
) -> None:
    refused: list[subprocess.CompletedProcess[bytes]] = [
        engine.run_docker("run", "--rm", "--user", user, image, "true")
    ]
    group = user.partition(":")[2] or user
    refused.append(engine.run_docker("run", "--rm", "--group-add", group, image, "true"))
    engine.docker("run", "-d", "--name", "ranged", image, "sleep", "600")
    try:
        refused.append(engine.run_docker("exec", "--user", user, "ranged", "true"))
    finally:
        engine.docker("rm", "-f", "ranged")
    for number, instruction in enumerate((f"USER {user}\nRUN true", f"COPY --chown={user} Dockerfile /file")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "Dockerfile").write_text(f"FROM {image}\n{instruction}\n")
        refused.append(engine.run_docker("build", "-q", str(folder)))
    for done in refused:
        assert done.returncode != 0
        assert OUT_OF_RANGE in done.stderr.decode()


def test_an_unknown_user_or_group_of_an_exec_is_refused_when_it_is_created(engine: EngineProcess, image: str) -> None:
    engine.docker("run", "-d", "--name", "known", image, "sleep", "600")
    try:
        for user, words in (
            ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
            ("0:nosuch", "unable to find group nosuch: no matching entries in group file"),
            ("-1", OUT_OF_RANGE),
        ):
            status, answer = engine.api("POST", "/containers/known/exec", {"Cmd": ["true"], "User": user})
            assert (status, answer["message"]) == (400, words)
            done = engine.run_docker("exec", "-u", user, "known", "true")
            assert (done.returncode, done.stdout) == (1, b"")
            assert done.stderr.decode().strip() == f"Error response from daemon: {words}"
        assert engine.inspect("known")["ExecIDs"] is None
    finally:
        engine.docker("rm", "-f", "known")


@pytest.mark.parametrize(
    "made",
    [
        "rm -f /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group",
        "rm -f /etc/passwd /etc/group; mknod /etc/passwd c 1 5; ln -s passwd /etc/group",
        "rm -f /etc/passwd /etc/group; truncate -s 1000G /etc/passwd; truncate -s 1000G /etc/group",
        "rm -f /etc/passwd /etc/group; mkdir /etc/passwd; ln -s group /etc/group",
        "yes root:x:5:root | head -c 40000000 > /etc/group; yes a:x:1:1::/:/bin/sh | head -c 40000000 > /etc/passwd",
    ],
)
def test_names_without_end_hold_nobody_up(engine: EngineProcess, made: str) -> None:
    """GHSA-72x6-4j93-7w86: names are looked up in files that the container has made, and those may never end."""
    engine.docker("run", "-d", "--name", "endless", "busybox", "top")
    try:
        engine.docker("exec", "endless", "sh", "-c", made)
        for user in ("1234", "nobody-known", "root", "1234:staff"):
            begin = time.monotonic()
            engine.run_docker("exec", "-u", user, "endless", "true")
            assert time.monotonic() - begin < 20
        assert engine.docker("exec", "-u", "1234", "endless", "stat", "-L", "-c", "%u", "/proc/self") == "1234\n"
        engine.docker("restart", "-t", "0", "endless")
        assert engine.process is not None
        usage = Path(f"/proc/{engine.process.pid}/status").read_text()
        assert int(next(line.split()[1] for line in usage.splitlines() if line.startswith("VmRSS"))) < 400_000
    finally:
        engine.docker("rm", "-f", "endless")


def test_what_an_image_says_of_itself_gives_it_no_rights(engine: EngineProcess) -> None:
    """Labels were taken for settings: CVE-2026-94603 and CVE-2026-53488 of others."""
    labels = {
        "io.podman.annotations.privileged": "TRUE", "io.podman.annotations.label": "disable",
        "io.podman.annotations.seccomp": "unconfined", "io.podman.annotations.apparmor": "unconfined",
        "run.oci.keep_original_groups": "1", "run.oci.hooks.stderr": "/tmp/x", "org.systemd.property.TasksMax": "1",
        "org.criu.config": "/etc/passwd", "containerd.io/restart.logpath": "binary:///bin/sh?-c=touch%20/tmp/x",
        "cdi.k8s.io/x": "vendor.com/class=all", "io.kubernetes.cri-o.Devices": "/dev/mem:/dev/mem:rwm",
        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.forwarding=1",
    }  # fmt: skip
    text = "FROM busybox\n" + "".join(f'LABEL {name}="{value}"\n' for name, value in labels.items())
    engine.docker("build", "-q", "-t", "boasting", "-", input=text.encode())
    look = "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; cat /proc/self/attr/current; id; ls /dev"
    try:
        plain = engine.docker("run", "--rm", "busybox", "sh", "-c", look)
        assert engine.docker("run", "--rm", "boasting", "sh", "-c", look) == plain
        engine.docker("create", "--name", "boaster", "boasting")
        host = engine.inspect("boaster")["HostConfig"]
        assert not host["Privileged"]
        assert not host.get("Annotations")
    finally:
        engine.docker("rm", "-f", "boaster", check=False)
        engine.docker("rmi", "-f", "boasting")
