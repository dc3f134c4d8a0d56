"""Whatever is typed, our client and the stock one say the same."""

import re
from collections.abc import Iterator

import pytest

from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def things(engine: EngineProcess) -> Iterator[EngineProcess]:
    """An engine with a container, a network and a volume to look at."""
    engine.docker("run", "-d", "--name", "looked-at", "--label", "a=b", "-p", "127.0.0.1::80", "busybox", "top")
    engine.docker("run", "--name", "ended", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    engine.docker("network", "create", "--label", "x=y", "net-looked-at")
    engine.docker("volume", "create", "--label", "x=y", "vol-looked-at")
    yield engine
    engine.docker("rm", "-f", "looked-at", "ended")
    engine.docker("network", "rm", "net-looked-at")
    engine.docker("volume", "rm", "vol-looked-at")


def said(text: bytes) -> str:
    """What was said, apart from the program's name and times."""
    plain = re.sub(r'time="[^\n]*level=error msg="Error waiting[^\n]*\n', "", text.decode()).replace(
        "dockyard", "docker"
    )
    timeless = re.sub(r"(Less than a second|About a minute|\d+ seconds?) *", "TIME ", plain)
    # a second that passes between the two clients changes the width of a column
    return re.sub(" +", " ", timeless) if timeless != plain else plain


@pytest.mark.parametrize(
    "line",
    [
        "ps -a",
        "ps -aq --no-trunc",
        "ps -a --format {{.Names}}|{{.State}}|{{.Ports}}|{{.Labels}}|{{.Networks}}|{{.Mounts}}",
        "ps -a --format 'table {{.Names}}\t{{.Label \"a\"}}\t{{.Status}}'",
        "ps -f name=nothing",
        "ps -f status=exited -f label=zz",
        "images",
        "images -q",
        "images --format {{.Repository}}:{{.Tag}}={{.Size}}",
        "image ls --digests --no-trunc",
        "inspect looked-at --format '{{.State.Running}}:{{.Config.Image}}:{{json .Config.Cmd}}'",
        "inspect --format '{{range .Mounts}}{{end}}{{len .Mounts}}{{index .Config.Labels \"a\"}}' looked-at",
        "inspect --format '{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}' looked-at",
        "inspect --format '{{with .State}}{{.Pid}}{{end}}' looked-at",
        "inspect --format '{{if eq .State.ExitCode 3}}three{{else}}other{{end}} {{upper .Name}}' ended",
        "inspect --format '{{.Nothing}}' ended",
        "inspect --format '{{nothing}}' ended",
        "inspect --format '{{.State' ended",
        "inspect looked-at ended",
        "inspect busybox",
        "container inspect nothing",
        "port looked-at",
        "port looked-at 80",
        "port looked-at 81",
        "diff ended",
        "logs ended",
        "logs -n 1 ended",
        "network ls",
        "network ls --format {{.Name}}:{{.Driver}}:x",
        "network inspect net-looked-at",
        "volume ls",
        "volume ls --format json",
        "volume inspect vol-looked-at",
        "system df",
        "history busybox",
        "history -q --no-trunc busybox",
        "top looked-at",
        "events --since 1h --until 0s --filter type=volume --format {{.Action}}:{{.Actor.ID}}",
        "wait ended",
        "rename looked-at ended",
        "kill ended",
        "start nothing",
        "stop nothing",
        "rm nothing",
        "rm -f nothing",
        "rmi nothing",
        "exec ended true",
        "exec looked-at sh -c 'echo a; echo b >&2; exit 5'",
        "exec looked-at nothing-there",
        "run --rm --pull never nothing:there",
        "run --rm busybox nothing-there",
        "run --rm busybox /etc/passwd",
        "run --rm busybox sh -c 'exit 42'",
        "run --rm -m 1k busybox true",
        "run --rm -p 1:2:3:4 busybox true",
        "run --rm -v /a:/b:bogus busybox true",
        "run --rm --mount type=bogus busybox true",
        "run --rm -e A=1 -e B= -w /tmp -u 1:2 --hostname h busybox sh -c 'env | sort; pwd; id -u; id -g; hostname'",
        "run --rm --entrypoint echo busybox entry",
        "run --rm --read-only busybox touch /x",
        "run --rm --ulimit nofile=64 busybox sh -c 'ulimit -n'",
        "run --rm --cap-drop ALL busybox grep CapEff /proc/self/status",
        "run --rm --name looked-at busybox true",
        "run --bogus",
        "run -Z",
        "run",
        "run --name",
        "pause",
        "tag a",
        "ps a",
        "rename a",
        "frobnicate",
        "volume frobnicate",
        "run --rm --tty=maybe busybox true",
        "cp a b",
        "cp looked-at:/etc/nothing /tmp",
        "update looked-at",
        "volume rm nothing",
        "network connect nothing looked-at",
    ],
)
def test_same_words_and_same_status(things: EngineProcess, line: str) -> None:
    import shlex

    words = shlex.split(line)
    theirs, ours = things.run_docker(*words), things.dockyard(*words)
    assert said(ours.stdout) == said(theirs.stdout)
    assert said(ours.stderr) == said(theirs.stderr)
    assert ours.returncode == theirs.returncode
