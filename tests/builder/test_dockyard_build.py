"""`dockyard build` by the graph of steps: what our own client asks for, and what it shows."""

import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.registry.server import Server


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=43) as process:
        yield process


def build(engine: EngineProcess, folder: Path, dockerfile: str, *flags: str, fails: bool = False) -> tuple[str, str]:
    (folder / "Dockerfile").write_text(dockerfile)
    done = engine.dockyard("build", *flags, str(folder))
    assert (done.returncode != 0) == fails, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


def test_it_shows_the_steps_and_quiet_the_image(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox AS a\nRUN echo said\nFROM busybox\nCOPY --from=a /bin/busybox /b\n"
    out, said = build(engine, tmp_path, text, "-t", "mine", "--metadata-file", str(tmp_path / "meta"))
    assert out == ""
    assert "] RUN echo said" in said
    assert " said\n" in said
    assert re.search(r"naming to docker.io/library/mine:latest( [0-9.]+s)? done", said)
    image = engine.inspect("mine")["Id"]
    assert json.loads((tmp_path / "meta").read_text())["containerimage.config.digest"] == image
    assert build(engine, tmp_path, text, "-q") == (f"{image}\n", "")


def test_a_failure_is_said_with_the_commands_own_status(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 42\n")
    done = engine.dockyard("build", "-q", str(tmp_path))
    assert done.returncode == 42
    assert b'process "/bin/sh -c exit 42" did not complete successfully: exit code: 42' in done.stderr


def test_secrets_are_given_from_files(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush")
    text = "FROM busybox\nRUN --mount=type=secret,id=t [ $(cat /run/secrets/t) = hush ]\n"
    build(engine, tmp_path, text, "--secret", f"id=t,src={tmp_path / 'token'}")


def test_the_cache_says_why(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox\nARG WORD\nCOPY file /\nRUN echo $WORD > /w\n"
    (tmp_path / "file").write_text("one")
    flags = ("--explain-cache", "--build-arg")
    assert "no step with this instruction is known" in build(engine, tmp_path, text, *flags, "WORD=a")[1]
    said = build(engine, tmp_path, text, *flags, "WORD=a")[1]
    assert said.count("cache hit: made at") == 2
    said = build(engine, tmp_path, text, *flags, "WORD=b")[1]
    assert "cache miss: variable WORD was 'a', is 'b'" in said
    (tmp_path / "file").write_text("two")
    said = build(engine, tmp_path, text, *flags, "WORD=b")[1]
    assert "cache miss: file file has changed" in said
    assert "cache miss: the base has changed" in said


def test_raw_progress_is_events_in_json(engine: EngineProcess, tmp_path: Path) -> None:
    said = build(engine, tmp_path, "FROM busybox\nRUN echo x\n", "--progress=rawjson")[1]
    events = [json.loads(line) for line in said.splitlines()]
    steps = [step for event in events for step in event.get("vertexes", [])]
    assert any(step["name"].endswith("RUN echo x") and step.get("completed") for step in steps)
    assert any(log["data"] == "eAo=" for event in events for log in event.get("logs", []))


def test_what_only_the_classic_builder_has_takes_it(engine: EngineProcess, tmp_path: Path) -> None:
    out, _ = build(engine, tmp_path, "FROM busybox\nRUN true\n", "--memory=64m")
    assert "Successfully built" in out
    _, said = build(engine, tmp_path, "FROM busybox\n", "--memory=64m", "--explain-cache", fails=True)
    assert "--explain-cache is not for the classic builder, which --memory asks for" in said


def test_what_has_changed_of_the_context_is_sent_and_no_more(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(bytes(3_000_000))
    (tmp_path / "changed").write_bytes(bytes(1_000_000))
    text = "FROM busybox\nCOPY . /c/\n"
    sizes = []
    for content in (bytes(1_000_000), b"short"):
        (tmp_path / "changed").write_bytes(content)
        said = build(engine, tmp_path, text)[1]
        found = re.search(r"transferring context: ([0-9.]+)([kM]?)B", said)
        assert found is not None, said
        sizes.append(float(found[1]) * {"": 1, "k": 1e3, "M": 1e6}[found[2]])
    assert sizes[0] >= 4e6
    assert sizes[1] < 1e5


def test_dockerignore_links_and_named_contexts(engine: EngineProcess, tmp_path: Path) -> None:
    context, other = tmp_path / "context", tmp_path / "other"
    for folder in (context / "in" / "deep", other):
        folder.mkdir(parents=True)
    (context / "in" / "deep" / "back").write_text("back")
    (context / "in" / "out").write_text("out")
    (context / "real").write_text("real")
    (context / "link").symlink_to("real")
    (context / ".dockerignore").write_text("in\n!in/deep/back\n")
    (other / "file").write_text("other")
    text = """FROM busybox
COPY . /c/
COPY link /l
COPY --from=named file /f
RUN [ "$(find /c -type f | sort | tr '\\n' ' ')" = "/c/.dockerignore /c/Dockerfile /c/in/deep/back /c/real " ]
RUN [ "$(cat /l /f)" = realother ] && [ -L /c/link ] && [ $(stat -c %u /c/real) = 0 ]
"""
    build(engine, context, text, "--build-context", f"named={other}")


def test_outputs_are_written_here(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    text = "FROM scratch\nCOPY --from=busybox --chmod=0751 /bin/busybox /in/b\n"
    build(engine, tmp_path / "c", text, "-o", str(tmp_path / "out"))
    made = tmp_path / "out" / "in" / "b"
    assert made.stat().st_mode & 0o7777 == 0o751
    out = engine.dockyard("build", "-o", "-", str(tmp_path / "c")).stdout
    (tmp_path / "whole.tar").write_bytes(out)
    with tarfile.open(tmp_path / "whole.tar") as archive:
        file = archive.extractfile("in/b")
        assert file is not None
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(made.read_bytes()).digest()
    build(engine, tmp_path / "c", text, "-o", f"type=oci,dest={tmp_path / 'oci.tar'}", "-t", "x:1")
    with tarfile.open(tmp_path / "oci.tar") as archive:
        assert "index.json" in archive.getnames()
    assert "dest is required" in build(engine, tmp_path / "c", text, "-o", "type=local", fails=True)[1]


def test_an_output_stays_within_its_directory(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d").symlink_to(tmp_path / "elsewhere")
    build(engine, tmp_path / "c", "FROM scratch\nCOPY Dockerfile /d/f\n", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "d" / "f").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())


ASK = """
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **words) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char message[5] = {0, 0, 0, 1, words[2][0] == 'l' ? 11 : 19}; /* list the keys, remove all of them */
  char answer[9];
  int wire = socket(AF_UNIX, SOCK_STREAM, 0), left = words[2][0] == 'l' ? 9 : 5;
  strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
  if (connect(wire, (struct sockaddr *)&address, sizeof address)) return 1;
  write(wire, message, 5);
  while (left > 0) {
    int come = read(wire, answer, left);
    if (come <= 0) return 2;
    write(1, answer, come);
    left -= come;
  }
  return 0;
}
"""


def test_keys_in_files_are_used_and_never_removed(engine: EngineProcess, tmp_path: Path) -> None:
    key, context = tmp_path / "key", tmp_path / "c"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    context.mkdir()
    (tmp_path / "ask.c").write_text(ASK)
    subprocess.run(["gcc", "-static", "-o", context / "ask", tmp_path / "ask.c"], check=True)
    text = """FROM busybox AS made
COPY ask /ask
RUN --mount=type=ssh,id=k /ask $SSH_AUTH_SOCK remove > /removed && /ask $SSH_AUTH_SOCK list > /listed
FROM scratch
COPY --from=made /removed /listed /
"""
    build(engine, context, text, "--ssh", f"k={key}", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "removed").read_bytes() == b"\0\0\0\1\5"  # it is refused
    assert (tmp_path / "out" / "listed").read_bytes()[4:] == b"\x0c\0\0\0\1"  # there is one key


def test_questions_are_answered_without_a_build(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox AS one\nARG WORD=x\nFROM busybox as Two\n"
    (tmp_path / "Dockerfile").write_text(text)
    done = engine.dockyard("build", "--check", str(tmp_path))
    said = done.stdout.decode()
    assert done.returncode == 1
    assert said.startswith("Check complete, 2 warnings have been found!\n\nWARNING: ")
    assert "   3 | >>> FROM busybox as Two\n" in said
    assert (
        build(engine, tmp_path, text, "--call=targets")[0]
        == "TARGET        DESCRIPTION\none           \ntwo (default) \n"
    )
    answer = json.loads(build(engine, tmp_path, text, "--call=outline,format=json", "--target=one")[0])
    assert [argument["name"] for argument in answer["args"]] == ["WORD"]


def test_comments_describe_stages_and_arguments(engine: EngineProcess, tmp_path: Path) -> None:
    text = """ARG UNUSED
# BASE is the image
ARG BASE=busybox
# app is what runs
FROM ${BASE} AS app
# other things
# N counts
ARG N=1
RUN --mount=type=secret,id=s${N},required --mount=type=ssh true
FROM app
"""
    assert build(engine, tmp_path, text, "--call=outline", "--target=app", "--build-arg=N=2")[0] == (
        "TARGET:      app\nDESCRIPTION: is what runs\n\n"
        "BUILD ARG   VALUE     DESCRIPTION\nBASE        busybox   is the image\nN           2         counts\n\n"
        "SECRET   REQUIRED\ns2       true\n\nSSH       REQUIRED\ndefault   \n\n"
    )
    assert "app       is what runs\n" in build(engine, tmp_path, text, "--call=targets")[0]


def test_a_failure_shows_what_was_said_and_where(engine: EngineProcess, tmp_path: Path) -> None:
    said = build(engine, tmp_path, "FROM busybox\nRUN echo why; exit 3\n", fails=True)[1]
    end = f"""------
 > [2/2] RUN echo why; exit 3:
why
------
Dockerfile:2
--------------------
   1 |     FROM busybox
   2 | >>> RUN echo why; exit 3
   3 |     {""}
--------------------
ERROR: failed to build: failed to solve: process "/bin/sh -c echo why; exit 3" did not complete successfully: """
    assert end in said


def test_contexts_and_dockerfiles_come_in_otherwise(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, "w") as packed:
        (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY file /f\n")
        packed.add(tmp_path / "file", "file")
        packed.add(tmp_path / "Dockerfile", "Dockerfile")
    for arguments, given in (
        (("-q", "-"), archive.read_bytes()),
        (("-q", "-"), b"FROM busybox\n"),
        (("-q", "-f", "-", str(tmp_path)), b"FROM busybox\nCOPY file /f\n"),
    ):
        done = engine.dockyard("build", *arguments, input=given)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(b"sha256:")


def test_the_hosts_network_is_to_be_allowed(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox\nRUN --network=host true\n"
    assert "network.host is not allowed" in build(engine, tmp_path, text, fails=True)[1]
    build(engine, tmp_path, text, "--allow", "network.host")


def test_a_base_that_has_just_been_fetched_was_not_in_the_cache(
    engine: EngineProcess, tmp_path: Path, registry: Server
) -> None:
    name = f"127.0.0.1:{registry.port}/base:1"
    build(engine, tmp_path, "FROM scratch\nCOPY Dockerfile /\n", "-t", name, "--push")
    engine.docker("rmi", name)
    engine.docker("builder", "prune", "-af")
    text = f"FROM {name}\n"
    said = build(engine, tmp_path, text)[1]
    assert re.search(r"\[1/1\] FROM [^\n]*\n#\d+ DONE", said), said
    said = build(engine, tmp_path, text)[1]
    assert re.search(r"\[1/1\] FROM [^\n]*\n#\d+ CACHED", said), said


def test_names_of_one_file_are_that_in_a_directory_that_is_written(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox AS made\nRUN mkdir /out && echo one > /out/first && ln /out/first /out/second\n"
    text += "FROM scratch\nCOPY --from=made /out /\n"
    for _ in range(2):  # over what is there, too
        build(engine, tmp_path, text, "-o", str(tmp_path / "out"))
        assert (tmp_path / "out/second").read_text() == "one\n"
        assert (tmp_path / "out/first").samefile(tmp_path / "out/second")
