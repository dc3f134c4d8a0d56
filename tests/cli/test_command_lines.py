"""Hundreds of command lines, right ones and wrong ones: our client and the stock one say the same and end the same.

A line of `command_lines/*.txt` is what is typed after `docker`; FOLDER is a folder of ours, and what follows `<<<` is
standard input. Left out are lines whose answers differ by nature: what they make or remove is there or gone for the
second client, they name a client's version, or Docker advises to install something of its own.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

TABLES = sorted(Path(__file__).with_name("command_lines").glob("*.txt"))


@pytest.fixture(scope="module")
def things(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, Path]]:
    """An engine with containers in several states, a network, a volume and names of an image; and a folder of files."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "bad.env").write_text("A=1\n# c\nB b=2\n")
    (folder / "good.env").write_text("A=1\n# c\nB=2\nHOME\nNOPE\n")
    (folder / "cid").write_text("x")
    ports = ["-p", "127.0.0.1:28081:80", "-p", "28090-28092:28090-28092"]
    labels = ["--label", "a=b", "--label", "z=1", "-e", "X=1"]
    engine.docker("run", "-d", "--name", "looked", *labels, *ports, "-v", "vol1:/v", "-v", "/tmp:/t", "busybox", "top")
    engine.docker("run", "--name", "ended", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    engine.docker(
        "create", "--name", "made", "--hostname", "hh", "busybox", "echo", "a very long command line that is cut"
    )
    engine.docker("network", "create", "n1", "--label", "x=y")
    engine.docker("tag", "busybox", "busybox:other")
    yield engine, folder
    engine.docker("rm", "-f", "looked", "ended", "made", check=False)
    engine.docker("network", "rm", "n1", check=False)
    engine.docker("rmi", "busybox:other", check=False)
    engine.docker("volume", "prune", "-af")


def said(text: bytes) -> str:
    """What was said, apart from the program's name, times, random IDs and names, and Docker's log of itself."""
    plain = text.decode(errors="replace").replace("dockyard", "docker")
    plain = re.sub(r'time="[^\n]*level=error msg="Error waiting[^\n]*\n', "", plain)
    plain = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", plain)
    plain = re.sub(r"(Less than a second|About a minute|About an hour|\d+ (seconds?|minutes?|hours?))", "TIME", plain)
    plain = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "MOMENT", plain)
    return re.sub(" +", " ", plain)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_every_line_says_the_same_with_both_clients(things: tuple[EngineProcess, Path], table: Path) -> None:
    engine, folder = things
    wrong = []
    for row in table.read_text().splitlines():
        line, _, given = row.replace("FOLDER", str(folder)).partition(" <<< ")
        words, stdin = shlex.split(line), given.encode().decode("unicode_escape").encode()
        one, two = engine.run_docker(*words, input=stdin), engine.dockyard(*words, input=stdin)
        theirs = (said(one.stdout), said(one.stderr), one.returncode)
        ours = (said(two.stdout), said(two.stderr), two.returncode)
        if theirs != ours:
            wrong.append(f"{row}\n  docker: {theirs}\n  ours:   {ours}")
    assert not wrong, "\n".join(wrong)
