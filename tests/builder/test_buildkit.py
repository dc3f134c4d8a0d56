"""BuildKit's door, with a client of our own that does what buildx does."""

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.buildkit import wire_pb2 as wire
from dockyard.grpc.calls import Call, call
from dockyard.grpc.connection import Connection, Stream
from dockyard.grpc.status import CallFailed
from tests.buildkit_client import DATA, DIFF_COPY, STAT, Client, connect, stat_of
from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=41) as process:
        yield process


@pytest.fixture
def client(engine: EngineProcess, tmp_path: Path) -> Client:
    return Client(engine.socket, tmp_path, key=str(tmp_path))


def write(client: Client, dockerfile: str, **files: str) -> None:
    folder = client.directories["context"]
    (folder / "Dockerfile").write_text(dockerfile)
    for name, content in files.items():
        (folder / name).write_text(content)


async def test_a_multi_stage_build_runs_and_only_what_is_needed_is_built(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox AS maker\nWORKDIR /src\nCOPY source .\nRUN cat source > made\n"
        "FROM busybox AS unused\nRUN exit 7\n"
        'FROM busybox\nENV WORD=hello\nCOPY --from=maker /src/made /made\nCMD ["sh", "-c", "echo $WORD; cat /made"]\n',
        source="content\n",
    )
    built = await client.build(names="multi:1,multi:2")
    assert built.image
    assert engine.docker("run", "--rm", "multi:1") == "hello\ncontent\n"
    assert engine.inspect("multi:2")["Id"] == built.image
    assert not any("unused" in step.name for step in built.steps.values())
    again = await client.build(names="multi:1")
    assert again.image == built.image
    assert again.cached("RUN cat")
    assert again.cached("COPY source")
    assert again.cached("COPY --from")


async def test_output_comes_as_it_is_said_and_a_failure_tells_where(client: Client) -> None:
    write(client, "FROM busybox\n\nRUN echo one; echo two >&2; exit 3\n")
    built = await client.build()
    assert built.failure is not None
    assert built.failure.message == (
        'process "/bin/sh -c echo one; echo two >&2; exit 3" did not complete successfully: exit code: 3'
    )
    assert set(built.log.split()) == {b"one", b"two"}
    assert any(step.error for step in built.steps.values())


async def test_only_changed_files_are_sent_again(engine: EngineProcess, client: Client) -> None:
    write(client, "FROM busybox\nCOPY . /all\n", one="1", two="2")
    assert (await client.build(names="sent")).image
    assert sorted(set(client.sent)) == ["Dockerfile", "one", "two"]
    client.sent.clear()
    (client.directories["context"] / "two").write_text("changed")
    assert (await client.build(names="sent")).image
    assert [name for name in client.sent if name != "Dockerfile"] == ["two"]
    assert engine.docker("run", "--rm", "sent", "cat", "/all/one", "/all/two") == "1changed"


async def test_a_context_is_asked_only_for_what_the_steps_read(client: Client) -> None:
    write(client, "FROM busybox\nCOPY one /one\n", one="1", two="2")
    assert (await client.build()).image
    assert "two" not in client.sent


async def test_cache_mounts_stay_and_are_in_no_layer(engine: EngineProcess, client: Client) -> None:
    write(client, "FROM busybox\nARG N\nRUN --mount=type=cache,target=/var/cache/x date >> /var/cache/x/runs; "
                  "wc -l < /var/cache/x/runs > /count; rm -f /gone\n")  # fmt: skip
    assert (await client.build({"build-arg:N": "1"}, names="counted")).image
    assert engine.docker("run", "--rm", "counted", "cat", "/count") == "1\n"
    assert (await client.build({"build-arg:N": "2"}, names="counted")).image
    assert engine.docker("run", "--rm", "counted", "cat", "/count") == "2\n"
    # the mount point was not there before, and is not there after
    assert engine.docker("run", "--rm", "counted", "ls", "/var") == engine.docker(
        "run", "--rm", "busybox", "ls", "/var"
    )


async def test_bind_mounts_show_the_context_and_stages_and_take_nothing_in(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client,
        "FROM busybox AS maker\nRUN mkdir /d && echo made > /d/f\nFROM busybox\n"
        "RUN --mount=source=one,target=/in/one --mount=from=maker,source=/d,target=/made,rw "
        "cat /in/one /made/f > /out; echo more > /made/g; ! echo x > /in/one\n",
        one="1",
    )
    assert (await client.build(names="bound")).image
    assert engine.docker("run", "--rm", "bound", "sh", "-c", "cat /out; ls -d /in /made 2>/dev/null; true") == "1made\n"


async def test_secrets_reach_the_command_and_nothing_else(engine: EngineProcess, client: Client) -> None:
    secret = f"very-secret-{os.getpid()}"
    client.secrets["token"] = secret.encode()
    write(
        client,
        "FROM busybox\nRUN --mount=type=secret,id=token,mode=0440 --mount=type=secret,id=token,env=TOKEN,target=/t "
        'wc -c < /run/secrets/token > /size; stat -c %a /run/secrets/token >> /size; [ "$TOKEN" = "$(cat /t)" ]\n',
    )
    assert (await client.build(names="secretive")).image
    assert engine.docker("run", "--rm", "secretive", "cat", "/size") == f"{len(secret)}\n440\n"
    assert engine.docker("run", "--rm", "secretive", "sh", "-c", "ls /run/secrets /t 2>/dev/null; true") == ""
    for place, _, files in os.walk(engine.data_root):
        for name in files:
            path = Path(place) / name
            if path.is_file() and path.stat().st_size < 64 << 20:
                assert secret.encode() not in path.read_bytes(), path
    assert secret not in engine.log()


async def test_a_missing_secret_is_refused_only_when_it_is_required(client: Client) -> None:
    write(client, "FROM busybox\nRUN --mount=type=secret,id=none [ ! -e /run/secrets/none ]\n")
    assert (await client.build()).image
    write(client, "FROM busybox\nRUN --mount=type=secret,id=none,required true\n")
    built = await client.build()
    assert built.failure is not None
    assert built.failure.message == "secret none: not found"


async def test_independent_stages_run_side_by_side_and_identical_steps_once(client: Client) -> None:
    meets = "RUN --mount=type=cache,target=/m echo >> /m/{0}; until [ -e /m/{1} ]; do sleep .05; done; cp /m/{0} /{0}\n"
    write(
        client,
        f"FROM busybox AS a\n{meets.format('a', 'b')}FROM busybox AS b\n{meets.format('b', 'a')}"
        f"FROM busybox AS c\n{meets.format('a', 'b')}FROM busybox\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n"
        "COPY --from=c /a /c\nRUN [ $(wc -l < /a) = 1 ] && cmp /a /c\n",
    )
    built = await asyncio.wait_for(client.build(), 60)  # one after the other, they would never meet
    assert built.image, built.failure
    runs = [step for step in client_steps(await client.build()) if "until" in step.name]
    assert len(runs) == 3


def client_steps(built: object) -> list[wire.Vertex]:
    return list(built.steps.values())  # type: ignore[attr-defined]


async def test_a_cancelled_build_ends_its_command_and_leaves_nothing(engine: EngineProcess, client: Client) -> None:
    write(client, "FROM busybox\nRUN sleep 98765\n")

    def cancel_soon(control: Connection, solving: "asyncio.Task[bytes]") -> None:
        async def wait_and_cancel() -> None:
            while b"98765" not in await asyncio.to_thread(commands):  # noqa: ASYNC110  (nothing tells of it)
                await asyncio.sleep(0.05)
            solving.cancel()

        tasks.append(asyncio.ensure_future(wait_and_cancel()))

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(asyncio.CancelledError):
        await client.build(meanwhile=cancel_soon)
    for _ in range(1200):
        if b"98765" not in commands() and not engine.docker("ps", "-aq"):
            break
        await asyncio.sleep(0.05)
    assert b"98765" not in commands()
    assert engine.docker("ps", "-aq") == ""


def commands() -> bytes:
    """The command lines of all processes."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes()
        except OSError:
            continue
    return found


async def test_the_cache_survives_a_killed_daemon(engine: EngineProcess, client: Client) -> None:
    write(client, "FROM busybox\nCOPY one /\nRUN echo survived > /s\n", one="x")
    first = await client.build()
    engine.kill()
    engine.start()
    again = await client.build()
    assert again.image == first.image
    assert again.cached("RUN echo")


async def test_a_daemon_killed_in_the_midst_of_a_step_leaves_nothing(engine: EngineProcess, client: Client) -> None:
    client.secrets["token"] = b"left-behind"
    write(client, "FROM busybox\nRUN --mount=type=secret,id=token --mount=from=busybox,target=/b sleep 54321\n")

    async def kill_soon() -> None:
        while b"54321" not in await asyncio.to_thread(commands):  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.kill)

    killing = asyncio.ensure_future(kill_soon())
    with pytest.raises(ConnectionError):
        await client.build()
    await killing
    await asyncio.to_thread(engine.start)
    for _ in range(1200):
        if b"54321" not in commands():
            break
        await asyncio.sleep(0.05)
    assert b"54321" not in commands()
    assert not list((engine.run / "builder").glob("*"))
    mounted = Path(f"/proc/{engine.listener()}/mountinfo")
    for _ in range(1200):  # what a step had mounted goes while the daemon answers already
        if "/overlay2/build-" not in mounted.read_text():
            break
        await asyncio.sleep(0.05)
    assert "/overlay2/build-" not in mounted.read_text()
    write(client, "FROM busybox\nRUN true\n")
    assert (await client.build()).image


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../x", "missing/x", "", "."])
async def test_a_client_cannot_send_files_with_impossible_names(client: Client, path: str) -> None:
    async def hostile(stream: Stream) -> None:
        if stream.headers["dir-name"] == "dockerfile" or stream.headers.get("followpaths") == ".dockerignore":
            await client.diff_copy(stream)
            return
        await stream.send(wire.Packet(type=STAT, stat=wire.Stat(path=path, mode=0o644, size=3)).SerializeToString())
        await stream.send(wire.Packet(type=STAT).SerializeToString())
        await stream.receive()

    client.methods[DIFF_COPY] = hostile
    write(client, "FROM busybox\nCOPY . /all\n")
    built = await client.build()
    assert built.failure is not None
    assert "impossible name" in built.failure.message


async def test_a_client_cannot_send_what_it_was_not_asked_for(client: Client) -> None:
    async def hostile(stream: Stream) -> None:
        if stream.headers["dir-name"] == "dockerfile" or stream.headers.get("followpaths") == ".dockerignore":
            await client.diff_copy(stream)
            return
        folder = client.directories["context"]
        await stream.send(wire.Packet(type=STAT, stat=stat_of(folder, "Dockerfile")).SerializeToString())
        await stream.send(wire.Packet(type=DATA, id=77, data=b"x").SerializeToString())
        await stream.receive()

    client.methods[DIFF_COPY] = hostile
    write(client, "FROM busybox\nCOPY . /all\n")
    built = await client.build()
    assert built.failure is not None
    assert "not asked for" in built.failure.message


async def test_a_link_in_a_context_does_not_leave_it(engine: EngineProcess, client: Client) -> None:
    (client.directories["context"] / "link").symlink_to("/etc/passwd")
    write(client, "FROM busybox\nCOPY link /x\n")
    built = await client.build()
    assert built.failure is not None or "root:" not in engine.docker("run", "--rm", built.image, "cat", "/x")


async def test_a_foreign_frontend_is_refused_in_words(client: Client) -> None:
    write(client, "# syntax=evil/frontend:1\nFROM busybox\n")
    built = await client.build()
    assert built.failure is not None
    assert built.failure.message.startswith("frontend image evil/frontend:1 is not run here")


async def test_garbage_on_the_door_closes_it_and_nothing_else(engine: EngineProcess) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(2000), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100):
        for target in ("/grpc", "/session"):
            reader, writer = await asyncio.open_unix_connection(engine.socket)
            head = f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
            writer.write(f"{head}X-Docker-Expose-Session-Uuid: {os.urandom(8).hex()}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(garbage)
            await asyncio.wait_for(reader.read(), 10)
            writer.close()
    assert engine.docker("version")


def contexts_files(client: Client) -> None:
    folder = client.directories["context"]
    for path in ("a/one.txt", "a/two.md", "a/deep/three.txt", "b/four.txt", "b/keep/five.md"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "b").chmod(0o750)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("COPY --parents a/one.txt b/four.txt /to/", "a a/one.txt b b/four.txt"),
        ("COPY --parents ./a/./deep/three.txt /to", "deep deep/three.txt"),
        ("COPY --parents a/**/*.txt /to/", "a a/deep a/deep/three.txt a/one.txt"),
        ("COPY --exclude=*.md a /to", "deep deep/three.txt one.txt"),
        ("COPY --exclude=**/*.md --exclude=deep a b /to/", "four.txt keep one.txt"),
        ("COPY --exclude=* --exclude=!one.txt a /to", "one.txt"),
        ("COPY --link a /to", "deep deep/three.txt one.txt two.md"),
        ("COPY --link --parents --exclude=*.md b /to/", "b b/four.txt b/keep b/keep/five.md"),
    ],
)
async def test_what_a_copy_takes(engine: EngineProcess, client: Client, instruction: str, expected: str) -> None:
    write(client, f"FROM busybox\n{instruction}\n")
    contexts_files(client)
    image = (await client.build()).image
    found = engine.docker("run", "--rm", image, "sh", "-c", "cd /to && find . | sed 's#^./##' | grep -v '^[.]$' | sort")
    assert found.split() == expected.split()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("0640", "640"), ("u+x,go-r", "700"), ("a=rX", "444"), ("g=u", "664"), ("o+t,u+s", "5644")],
)
async def test_chmod_takes_numbers_and_letters(engine: EngineProcess, client: Client, mode: str, expected: str) -> None:
    write(client, f"FROM busybox\nCOPY --chmod={mode} one /one\n", one="1")
    (client.directories["context"] / "one").chmod(0o644)
    image = (await client.build()).image
    assert engine.docker("run", "--rm", image, "stat", "-c", "%a", "/one").strip() == expected


async def test_a_linked_copy_is_the_same_layer_on_another_base(client: Client) -> None:
    write(client, "FROM busybox\nRUN echo first > /base\nCOPY --link one /one\n", one="1")
    assert (await client.build()).image
    write(client, "FROM busybox\nRUN echo second > /base\nCOPY --link one /one\n", one="1")
    again = await client.build()
    assert again.image
    assert again.cached("COPY --link")


async def test_here_documents_are_scripts_and_files(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox\nARG WHO=you\nRUN <<EOF\necho a > /out\necho b >> /out\nEOF\n"
        "RUN <<SCRIPT\n#!/bin/sh\necho c-$0 >> /out\nSCRIPT\n"
        'COPY <<ONE <<"TWO" /docs/\nfor $WHO\nONE\nfor $WHO\nTWO\nRUN cat <<A > /both\nin\nA\n',
    )
    image = (await client.build()).image
    said = engine.docker("run", "--rm", image, "sh", "-c", "cat /out /docs/ONE /docs/TWO /both; [ ! -e /dev/pipes ]")
    assert said.splitlines()[:6] == ["a", "b", "c-/dev/pipes/SCRIPT", "for you", "for $WHO", "in"]


async def test_no_cache_for_all_or_for_one_stage(client: Client) -> None:
    write(client, "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox\nRUN echo 2 > /2\nCOPY --from=one /1 /\n")
    assert (await client.build()).image
    filtered = await client.build({"no-cache": "one"})
    assert not filtered.cached("RUN echo 1")
    assert filtered.cached("RUN echo 2")
    assert not (await client.build({"no-cache": ""})).cached("RUN echo 2")


async def test_prune_gives_back_what_no_image_has(engine: EngineProcess, client: Client) -> None:
    write(client, "FROM busybox\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/x bs=1M count=2; "
                  "dd if=/dev/zero of=/big bs=1M count=3\n")  # fmt: skip
    assert (await client.build(exporter="")).failure is None
    _, before = engine.api("GET", "/system/df?type=build-cache")
    kinds = {entry["Type"]: entry["Size"] for entry in sorted(before["BuildCache"], key=lambda entry: entry["Size"])}
    assert kinds["regular"] >= 3 << 20
    assert kinds["exec.cachemount"] >= 2 << 20
    status, pruned = engine.api("POST", "/build/prune?all=true&filters=%7B%22type%22%3A%5B%22regular%22%5D%7D")
    assert status == 200
    assert pruned["SpaceReclaimed"] >= 3 << 20
    engine.api("POST", "/build/prune?all=true")
    _, after = engine.api("GET", "/system/df?type=build-cache")
    assert after["BuildCache"] == []
    assert not list((engine.data_root / "builder" / "cache-mounts").iterdir())


async def test_two_builds_at_one_time_run_a_step_once(client: Client) -> None:
    moment = time.time_ns()
    write(client, f"FROM busybox\nRUN sleep 1; echo {moment}; date +%s%N > /when\n")
    other = Client(client.path, client.directories["context"], key=client.key)
    one, two = await asyncio.gather(client.build(), other.build())
    assert one.image == two.image
    assert b"%d" % moment in one.log
    assert b"%d" % moment in two.log


async def test_a_new_cache_begins_with_what_a_stage_has(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox AS seed\nRUN mkdir -p /s/d && echo seeded > /s/d/f\nFROM busybox\n"
        "RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s cat /c/d/f > /out\n",
    )
    assert engine.docker("run", "--rm", (await client.build()).image, "cat", "/out") == "seeded\n"


async def test_what_a_run_gets_of_network_limits_and_hosts(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox\nRUN --network=none ls /sys/class/net > /nets; ulimit -n > /files; grep far /etc/hosts > /far; "
        "df /dev/shm | tail -1 > /shm\n",
    )
    options = {"add-hosts": "far=10.1.2.3", "ulimit": "nofile=777:777", "shm-size": "1048576"}
    image = (await client.build(options)).image
    said = engine.docker("run", "--rm", image, "cat", "/nets", "/files", "/far", "/shm").split()
    assert said[:4] == ["lo", "777", "10.1.2.3", "far"]
    assert said[5] == "1024"
    write(client, "FROM busybox\nRUN --network=host true\n")
    refused = await client.build()
    assert refused.failure is not None
    assert refused.failure.message == "network.host is not allowed"
    assert (await client.build(entitlements=["network.host"])).image


async def test_an_image_is_dated_as_asked(engine: EngineProcess, client: Client) -> None:
    write(client, "FROM busybox\nCOPY one /one\nCMD true\n", one="1")
    image = (await client.build({"build-arg:SOURCE_DATE_EPOCH": "1000000000"})).image
    assert engine.inspect(image)["Created"].startswith("2001-09-09T01:46:40")


async def test_an_agent_of_the_client_can_be_asked(client: Client, tmp_path: Path) -> None:
    async def check(stream: Stream) -> None:
        await stream.receive()
        await stream.send(b"")

    async def forward(stream: Stream) -> None:
        asked.append(stream.headers["buildkit.ssh.id"])
        message = await stream.receive()
        assert message is not None
        data = wire.Bytes.FromString(message).data
        await stream.send(wire.Bytes(data=b"answer to " + data).SerializeToString())

    asked: list[str] = []
    client.methods["/moby.sshforward.v1.SSH/CheckAgent"] = check
    client.methods["/moby.sshforward.v1.SSH/ForwardAgent"] = forward
    (tmp_path / "ask.c").write_text(ASK)
    compile_it = ["gcc", "-static", "-o", tmp_path / "ask", tmp_path / "ask.c"]
    await asyncio.to_thread(subprocess.run, compile_it, check=True)
    write(
        client,
        "FROM busybox\nRUN --mount=type=ssh --mount=source=ask,target=/ask /ask $SSH_AUTH_SOCK | "
        "grep 'answer to question'\n",
    )
    assert (await client.build()).image
    assert asked == ["default"]


ASK = """
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **words) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char answer[100];
  int wire = socket(AF_UNIX, SOCK_STREAM, 0);
  strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
  if (connect(wire, (struct sockaddr *)&address, sizeof address)) return 1;
  write(wire, "question", 8);
  write(1, answer, read(wire, answer, sizeof answer));
  return 0;
}
"""


async def test_what_buildkits_own_tests_take_for_granted(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox AS base\nONBUILD RUN <<EOF\necho triggered > /trigger\nEOF\nFROM base\nARG KIND=tmpfs\n"
        "RUN --mount=type=$KIND,target=/t touch /t/x\nADD *.none /dest\nRUN ls /t 2>/dev/null || echo gone > /gone\n",
    )
    image = (await client.build()).image
    assert engine.docker("run", "--rm", image, "cat", "/trigger", "/gone") == "triggered\ngone\n"
    write(client, "FROM scratch\nCOPY one /\n", one="1")
    assert engine.inspect((await client.build()).image)["Config"]["WorkingDir"] == "/"
    write(client, "FROM busybox\nARG A=b\nRUN --mount=from=$A,target=/x true\n")
    refused = (await client.build()).failure
    assert refused is not None
    assert "'from' doesn't support variable expansion" in refused.message
    write(client, "FROM busybox\nARG A=b\nCOPY --from=$A /x /y\n")
    refused = (await client.build()).failure
    assert refused is not None
    assert refused.message.startswith("variable expansion is not supported for --from")


async def test_documents_have_the_escapes_and_substitutions_of_words_but_no_quotes(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client,
        "FROM busybox\nENV V=val\nCOPY <<E /h\n"
        "a\\\\b \\$V $V \"$V\" '$V' \\n ${U:-other} ${V#v} <<foo\nnext \\\nlast\\\\\nE\n"
        "COPY <<'E' /raw\na\\\\b $V\nE\n",
    )
    image = (await client.build()).image
    assert engine.docker("run", "--rm", image, "cat", "/h", "/raw") == (
        "a\\b $V val \"val\" 'val' n other al <<foo\nnext \nlast\\\na\\\\b $V\n"
    )


async def test_directories_on_the_way_have_the_mode_of_chmods_number(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox\nCOPY --chmod=711 <<E /one/two/file\nE\nCOPY --chmod=u=rw,go= <<E /letters/file\nE\n"
        "COPY <<E /tmp/three/file\nE\n",
    )
    image = (await client.build()).image
    said = engine.docker("run", "--rm", image, "stat", "-c", "%a", "/one", "/one/two", "/letters", "/tmp", "/tmp/three")
    assert said.split() == ["711", "711", "755", "1777", "755"]


async def test_a_run_has_no_hostname_variable_and_may_execute_what_it_puts_on_a_tmpfs(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client,
        "FROM busybox AS plain\nRUN env > /env\nRUN --mount=type=tmpfs,target=/t,size=8m "
        "df /t | tail -1 > /df; cp /bin/busybox /t/echo && /t/echo ran > /ran\n"
        "FROM plain\nENV HOSTNAME=chosen\nRUN echo $HOSTNAME > /chosen\n",
    )
    image = (await client.build()).image
    assert "HOSTNAME" not in engine.docker("run", "--rm", image, "cat", "/env")
    said = engine.docker("run", "--rm", image, "cat", "/df", "/ran", "/chosen").split()
    assert (said[0], said[1], said[5:]) == ("tmpfs", "8192", ["/t", "ran", "chosen"])


async def test_a_directory_can_be_what_a_stage_begins_with(client: Client, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "file").write_text("base")
    client.directories["base"] = tmp_path / "base"
    write(client, 'FROM base\nCOPY --from=busybox /bin/busybox /bin/\nRUN ["/bin/busybox", "grep", "base", "/file"]\n')
    assert (await client.build({"context:base": "local:base"})).image


async def test_steps_have_the_host_name_that_is_asked_for(client: Client) -> None:
    write(client, "FROM busybox\nRUN [ $(hostname) = mine ] && grep -w mine /etc/hosts\n")
    assert (await client.build({"build-arg:BUILDKIT_SANDBOX_HOSTNAME": "mine", "hostname": "other"})).image


async def test_a_secret_variable_is_not_in_the_name_of_its_step(client: Client) -> None:
    client.secrets["s"] = b"hush"
    write(client, 'FROM busybox\nENV A=plain S=old\nRUN --mount=type=secret,id=s,env=S [ "$S" = hush ] # $A\n')
    outcome = await client.build()
    assert outcome.image
    assert any('[ "****" = hush ] # plain' in step.name for step in outcome.steps.values())


async def test_stages_know_the_arguments_of_those_they_are_based_on(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox AS maker\nARG A=one\nARG B\nENV X=env\nARG X=arg\nARG A\nRUN [ $A.$B.$X = one.given.arg ]\n"
        "FROM maker AS next\nARG D=$A\nRUN [ $A.$B.$D.$X = one.given.one.env ]\nENV A=two\n"
        "FROM next\nARG Z\nARG D=late\nRUN [ $A.$B.$D.$X.$Z = two.given.late.env. ]\n",
    )
    outcome = await client.build({"build-arg:B": "given"})
    assert any("[ two.given.late.env." in step.name for step in outcome.steps.values())
    config = engine.inspect(outcome.image)["Config"]
    assert config["Env"][1:] == ["X=env", "A=two"]
    made = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", outcome.image).splitlines()
    assert made[0].startswith("RUN |5 A=two B=given X=env D=late Z= /bin/sh -c ")


async def test_proxies_given_are_in_run_alone_and_before_those_of_env(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox\nENV no_proxy=own\nENV SAW=$HTTP_PROXY.\n"
        "RUN [ $no_proxy.$NO_PROXY.$http_proxy.$HTTP_PROXY.$SAW = b.b.a.a.. ]\nENV KEPT=$no_proxy\n",
    )
    outcome = await client.build({"build-arg:HTTP_PROXY": "a", "build-arg:NO_PROXY": "b"})
    assert engine.inspect(outcome.image)["Config"]["Env"][1:] == ["no_proxy=own", "SAW=.", "KEPT=own"]


async def test_a_linked_copy_leaves_the_directory_it_goes_to_usable(client: Client) -> None:
    write(
        client,
        "FROM busybox AS only\nWORKDIR /there\nCOPY --link --chmod=640 one ./\n"
        "RUN [ $(stat -c %a . ./one | xargs | tr ' ' -) = 755-640 ]\nCMD true\n",
        one="1",
    )
    outcome = await client.build()
    assert outcome.image
    assert any(step.name.startswith("[4/4] RUN") for step in outcome.steps.values())


async def test_history_has_of_copies_what_counts_and_steps_how_scripts_begin(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client,
        "FROM busybox\nCOPY --link --chmod=644 --chown=1:2 one <<two /x/\nTwo\ntwo\n"
        "RUN <<E\ntrue && true && true && true\ntrue\nE\n",
        one="1",
    )
    outcome = await client.build()
    assert any(step.name.endswith("RUN <<E (true && true && true && true...)") for step in outcome.steps.values())
    made = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", outcome.image).splitlines()
    assert "COPY --chown=1:2 --chmod=644 one <<two /x/ # buildkit" in made


async def test_triggers_are_counted_and_named(engine: EngineProcess, client: Client) -> None:
    write(
        client,
        "FROM busybox AS base\nONBUILD ARG A=one\nONBUILD RUN [ $A = one ]\nFROM base\nRUN [ $A = one ] && true\n",
    )
    outcome = await client.build()
    names = [step.name for step in outcome.steps.values()]
    assert "[stage-1 1/3] ONBUILD RUN [ one = one ]" in names
    assert "[stage-1 2/3] RUN [ one = one ] && true" in names
    made = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", outcome.image).splitlines()
    assert not any(line.startswith("ONBUILD") for line in made)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (
            "FROM scratch AS build\n",
            {"target": "bulid"},
            'target stage "bulid" could not be found (did you mean build?)',
        ),
        ("FROM scratch\nRUN --mont=type=bind x\n", {}, "unknown flag: --mont (did you mean mount?)"),
        ("FROM scratch\nRUN --mount=typ=bind x\n", {}, "(did you mean type?)"),
        ("FROM scratch\nCOPY notexist /\n", {}, '"/notexist": not found'),
    ],
)
async def test_what_is_wrong_is_said_with_what_may_have_been_meant(
    client: Client, text: str, options: dict[str, str], said: str
) -> None:
    write(client, text)
    failure = (await client.build(options)).failure
    assert failure is not None
    assert said in failure.message


async def test_dockerfiles_are_made_of_fragments(client: Client) -> None:
    text = """# syntax=dockyard/dockerfile:1
FROM busybox
INCLUDE parts/one
RUN [ "$A" = "in one" ] && [ "$B" = "in two" ] && cat > /said <<EOF
INCLUDE is a word here
EOF
RUN grep "^INCLUDE is" /said
"""
    folder = client.directories["context"]
    (folder / "parts").mkdir()
    (folder / "parts" / "one").write_text("# what is common\nENV A='in one'\nINCLUDE parts/two\n")
    (folder / "parts" / "two").write_text("ENV B='in two'")
    write(client, text)
    assert (await client.build()).image


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# syntax=dockyard/dockerfile:1\nFROM busybox\nINCLUDE ../x\n", "line 3: INCLUDE ../x leads out"),
        ("# syntax=dockyard/dockerfile:1\nFROM busybox\nINCLUDE a b\n", "line 3: INCLUDE requires exactly one path"),
        ("# syntax=dockyard/dockerfile:1\nFROM busybox\nINCLUDE no\n", "open no: no such file or directory"),
        ("# syntax=dockyard/dockerfile:1\nFROM busybox\nINCLUDE loop\n", "loop line 2: loop includes itself"),
        ("# syntax=docker/dockerfile:1\nFROM busybox\nINCLUDE loop\n", "unknown instruction: INCLUDE"),
    ],
)
async def test_fragments_that_cannot_be_are_said(client: Client, text: str, said: str) -> None:
    write(client, text, loop="\nINCLUDE loop\n")
    failure = (await client.build()).failure
    assert failure is not None
    assert said in failure.message


async def history(client: Client, **asked: object) -> list[wire.HistoryRecord]:
    """What the engine tells of builds."""
    connection = Connection()
    await connect(client.path, "/grpc", connection)
    listening = Call(connection, "/moby.buildkit.v1.Control/ListenBuildHistory", {})
    await listening.send(wire.HistoryRequest(early_exit=True, **asked).SerializeToString())  # type: ignore[arg-type]
    listening.half_close()
    found = []
    while (message := await listening.receive()) is not None:
        found.append(wire.HistoryEvent.FromString(message).record)
    connection.close()
    return found


async def content(client: Client, digest: str) -> bytes:
    """What a record names."""
    connection = Connection()
    await connect(client.path, "/grpc", connection)
    reading = Call(connection, "/containerd.services.content.v1.Content/Read", {})
    await reading.send(wire.ReadContentRequest(digest=digest).SerializeToString())
    reading.half_close()
    found = b""
    while (message := await reading.receive()) is not None:
        found += wire.ReadContentResponse.FromString(message).data
    connection.close()
    return found


async def test_the_history_says_how_a_build_was_made_that_has_wanted_no_provenance(client: Client) -> None:
    known = {record.ref for record in await history(client)}
    write(client, "FROM busybox\nCOPY <<one /one\nsaid\none\n")
    assert (await client.build()).image
    (record,) = (record for record in await history(client) if record.ref not in known)
    assert [exporter.type for exporter in record.exporters] == ["moby"]
    (about,) = record.result.attestations
    predicate = json.loads(await content(client, about.digest))
    (source,) = predicate["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["source"]["infos"]
    assert base64.b64decode(source["data"]).startswith(b"FROM busybox")
    assert source["llbDefinition"][0]["op"]["Op"]["source"]["identifier"] == "local://dockerfile"


async def test_the_history_of_builds_outlives_the_daemon(engine: EngineProcess, client: Client) -> None:
    known = {record.ref for record in await history(client)}
    write(client, "FROM busybox\nRUN echo kept\n")
    assert (await client.build()).image
    write(client, "FROM busybox\nRUN exit 9\n")
    assert (await client.build()).failure is not None
    good, bad = (record for record in await history(client) if record.ref not in known)
    assert "exit code: 9" in bad.error.message

    async def kept(ref: str) -> bool:
        return any(record.ref == ref for record in await history(client, ref=ref))

    engine.stop()
    engine.start()
    after = {record.ref: record for record in await history(client)}
    assert after[good.ref].exporter_response == good.exporter_response
    assert after[bad.ref].error.message == bad.error.message
    in_full = wire.RpcStatus.FromString(await content(client, bad.external_error.digest))
    assert in_full.message == bad.error.message
    assert any(b"Dockerfile" in detail.value for detail in in_full.details)
    assert any("Stack" in detail.type_url and b"dockyard/builder" in detail.value for detail in in_full.details)
    connection = Connection()
    await connect(client.path, "/grpc", connection)
    finalize = wire.UpdateHistoryRequest(ref=bad.ref, finalize=True).SerializeToString()
    await call(connection, "/moby.buildkit.v1.Control/UpdateBuildHistory", finalize)
    (record,) = await history(client, ref=bad.ref)
    spans = [json.loads(line) for line in (await content(client, record.trace.digest)).splitlines()]
    assert {span["SpanContext"]["TraceID"] for span in spans} == {spans[0]["SpanContext"]["TraceID"]}
    assert [span["Name"] for span in spans if span["Status"]["Code"] == 1] == ["build", "[2/2] RUN exit 9"]
    told = Call(connection, "/moby.buildkit.v1.Control/Status", {})
    await told.send(wire.StatusRequest(ref=good.ref).SerializeToString())
    told.half_close()
    response = wire.StatusResponse.FromString(await told.receive() or b"")
    assert b"".join(one.msg for one in response.logs) == b"kept\n"
    gone = wire.UpdateHistoryRequest(ref=bad.ref, delete=True).SerializeToString()
    await call(connection, "/moby.buildkit.v1.Control/UpdateBuildHistory", gone)
    connection.close()
    assert not await kept(bad.ref)
    assert await kept(good.ref)


async def test_arguments_are_told_in_order_and_proxies_in_both_cases(engine: EngineProcess, client: Client) -> None:
    text = 'FROM busybox\nARG z=1\nARG a=2\nRUN [ "$HTTP_PROXY$http_proxy" = pp ] && [ -n "$no_proxy" ]\n'
    write(client, text)
    image = (await client.build({"build-arg:http_proxy": "p", "build-arg:NO_PROXY": "n"})).image
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "RUN |2 z=1 a=2 /bin/sh -c [" in history


async def test_what_a_client_gives_makes_up_for_a_missing_default(client: Client) -> None:
    write(client, 'ARG A=${A:?"is needed"}\nFROM busybox\n')
    failure = (await client.build()).failure
    assert failure is not None
    assert "A: is needed" in failure.message
    assert (await client.build({"build-arg:A": "x"})).image


async def test_two_stages_may_have_one_name_and_none_stands_before_itself(client: Client) -> None:
    write(client, "FROM busybox AS a\nRUN exit 1\nFROM busybox AS a\nRUN touch /two\nFROM a\nRUN [ -e /two ]\n")
    outcome = await client.build()
    assert outcome.image
    assert any("DuplicateStageName" in warning for warning in outcome.warnings)
    write(client, "FROM busybox AS a\nCOPY --from=b / /\nFROM busybox AS b\nFROM a\n")
    failure = (await client.build()).failure
    assert failure is not None
    assert 'cannot copy from stage "b", it needs to be defined before current stage "a"' in failure.message


async def test_contexts_of_nothing_and_patterns_of_nothing(client: Client) -> None:
    write(client, "FROM one\nCOPY Dockerfile /\n")
    assert (await client.build({"context:one": "docker-image://scratch"})).image
    write(client, "FROM busybox\nCOPY . /c\n", **{".dockerignore": "!\n"})
    failure = (await client.build()).failure
    assert failure is not None
    assert 'illegal exclusion pattern: "!"' in failure.message


async def test_a_dockerfile_that_needs_no_context_is_built_without_one(client: Client) -> None:
    write(client, "FROM busybox AS one\nRUN true\nFROM busybox\nCOPY file /\n")
    del client.directories["context"]
    assert (await client.build({"target": "one"})).image
    failure = (await client.build()).failure
    assert failure is not None
    assert "the client's files can't be read" in failure.message


async def test_a_cache_of_a_mode_of_its_own_begins_anew_without_the_cache(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client, "FROM busybox\nARG N\nRUN --mount=type=cache,target=/anew,mode=0773 touch /anew/$N && ls /anew > /out\n"
    )

    async def listed(number: str, **more: str) -> list[str]:
        assert (await client.build({"build-arg:N": number, **more}, names="anew")).image
        return engine.docker("run", "--rm", "anew", "cat", "/out").split()

    assert await listed("1") == ["1"]
    assert await listed("2", **{"no-cache": ""}) == ["2"]
    assert await listed("3") == ["2", "3"]


async def test_a_step_may_show_a_cache_twice_and_steps_want_locked_ones_in_any_order(client: Client) -> None:
    cache = "--mount=type=cache,sharing=locked"
    twice = f'RUN {cache},id=x,target=/a {cache},id=x,target=/b echo $N > /a/n && test "$(cat /b/n)" = "$N"\n'
    one = f"FROM busybox AS one\nARG N\nRUN {cache},id=x,target=/a {cache},id=y,target=/b sleep .2; touch /one\n"
    two = f"FROM busybox AS two\nARG N\nRUN {cache},id=y,target=/a {cache},id=x,target=/b sleep .2; touch /two\n"
    last = "FROM busybox\nARG N\n" + twice + "COPY --from=one /one /\nCOPY --from=two /two /\n"
    write(client, one + two + last)
    for number in range(3):
        assert (await asyncio.wait_for(client.build({"build-arg:N": str(number)}), 120)).image


async def test_the_server_of_an_address_is_told_the_clients_login_for_it_and_no_other(client: Client) -> None:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        to = f"HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}/other\r\nContent-Length: 0\r\n\r\n"
        found = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nx\n"
        writer.write((to if "GET /moved" in asked[-1] else found).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = b"word\n"
    write(client, f"FROM busybox\nADD http://127.0.0.1:{port}/file /f\nADD http://127.0.0.1:{port}/moved /g\n")
    try:
        assert (await client.build()).image
    finally:
        server.close()
    told = {head.split()[1]: "Authorization: Bearer word\r\n" in head for head in asked}
    assert told == {"/file": True, "/moved": True, "/other": False}


async def test_what_a_command_dates_itself_stays_so_beside_its_mounts(client: Client, engine: EngineProcess) -> None:
    write(client, "FROM busybox\nRUN mkdir /own /other && touch -d @1000000000 /own /other\n"
                  "RUN --mount=type=tmpfs,target=/own/t --mount=type=tmpfs,target=/other/t "
                  "touch -d @1234567890 /own /own/t\nCMD stat -c %Y /own /other\n")  # fmt: skip
    assert (await client.build(names="touched")).image
    assert engine.docker("run", "--rm", "touched").split() == ["1234567890", "1000000000"]


async def test_a_working_directory_is_dated_as_the_build_is(client: Client, engine: EngineProcess) -> None:
    write(client, "FROM busybox\nWORKDIR /dated\nCMD stat -c %Y /dated\n")
    assert (await client.build({"build-arg:SOURCE_DATE_EPOCH": "1000000000"}, names="dated")).image
    assert engine.docker("run", "--rm", "dated").strip() == "1000000000"


async def test_definitions_of_sources_and_copies_are_solved_and_read(client: Client, tmp_path: Path) -> None:
    folder = client.directories["context"]
    (folder / "sub" / "in").mkdir(parents=True)
    (folder / "sub" / "in" / "Dockerfile").write_text("FROM busybox\nCOPY file /f\nRUN grep -x said /f\n")
    (folder / "sub" / "in" / "file").write_text("said\n")
    source = wire.Op(source=wire.SourceOp(identifier="local://context")).SerializeToString()
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    about_copy = wire.FileCopy(source="/sub/in", destination="/", contents_only=True, mode=-1, timestamp=-1)
    copy = wire.FileAction(input=-1, secondary_input=0, copy=about_copy)
    copied = wire.Op(inputs=[wire.Input(digest=digest)], file=wire.FileOp(actions=[copy])).SerializeToString()
    last = wire.Op(inputs=[wire.Input(digest=f"sha256:{hashlib.sha256(copied).hexdigest()}")]).SerializeToString()
    definition = wire.Definition(ops=[source, copied, last])
    control = Connection()
    await connect(client.path, "/grpc", control)
    about = {"buildkit-controlapi-buildid": "of-llb"}
    bridge = "/moby.buildkit.v1.frontend.LLBBridge/"

    async def ask(method: str, message: bytes) -> bytes:
        return await call(control, f"{bridge}{method}", message, about)

    async with client.session():
        request = wire.ControlSolveRequest(ref="of-llb", session=client.id, internal=True).SerializeToString()
        solving = asyncio.ensure_future(call(control, "/moby.buildkit.v1.Control/Solve", request))
        asked = wire.SolveRequest(definition=definition).SerializeToString()
        ref = wire.SolveResponse.FromString(await ask("Solve", asked)).result.ref.id
        read = await ask("ReadFile", wire.ReadFileRequest(ref=ref, path="file").SerializeToString())
        assert wire.ReadFileResponse.FromString(read).data == b"said\n"
        stat = await ask("StatFile", wire.StatFileRequest(ref=ref, path="/file").SerializeToString())
        assert wire.StatFileResponse.FromString(stat).stat.size == 5
        listed = await ask("ReadDir", wire.ReadDirRequest(ref=ref, path="/").SerializeToString())
        assert [one.path for one in wire.ReadDirResponse.FromString(listed).entries] == ["Dockerfile", "file"]
        with pytest.raises(CallFailed, match="no such file"):
            await ask("StatFile", wire.StatFileRequest(ref=ref, path="none").SerializeToString())
        # and a Dockerfile with its context may lie in one
        inputs = {"dockerfile": definition, "context": definition}
        asked = wire.SolveRequest(frontend="dockerfile.v0", frontend_inputs=inputs, evaluate=True).SerializeToString()
        assert wire.SolveResponse.FromString(await ask("Solve", asked)).result.ref.id
        await ask("Return", b"")
        await solving
    control.close()


async def test_what_checks_find_is_told_of_a_file_that_makes_no_sense_too(client: Client) -> None:
    write(client, "FROM busybox as one\nBADCMD x\n")
    outcome = await client.build()
    assert outcome.failure is not None
    assert "unknown instruction: BADCMD" in outcome.failure.message
    assert any("FromAsCasing" in warning for warning in outcome.warnings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM --platform=$BULIDPLATFORM busybox\n", "empty platform value from expression $BULIDPLATFORM (did you"),
        ("ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox\n", "(did you mean MY_ARCH?)"),
    ],
)
async def test_a_platform_of_an_unknown_variable_is_said(client: Client, text: str, said: str) -> None:
    write(client, text)
    failure = (await client.build()).failure
    assert failure is not None
    assert said in failure.message


async def test_one_directory_may_be_sent_for_many_builds_at_one_time(client: Client) -> None:
    (client.directories["context"] / "file").write_text("x")
    write(client, "FROM busybox\nCOPY file /f\n")

    async def build(number: int) -> str:
        another = Client(client.path, client.directories["context"], key="the same")
        (client.directories["context"] / f"more{number}").write_text("x")
        return (await another.build({"build-arg:N": str(number)})).image

    images = await asyncio.gather(*map(build, range(6)))
    assert len(set(images)) == 1
