"""Whom `--user` and its like mean: a number is the number, whatever names an image has (CVE-2016-3697)."""

import subprocess
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
