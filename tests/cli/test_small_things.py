"""What a user of docker's command line would stumble over."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.processes import eventually


def shell(script: str, host: str = "unix:///nowhere") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "DOCKER_HOST": host}
    script = 'dockyard() { "$PYTHON" -m dockyard.cli.main "$@"; }\n' + script
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_traceback(engine: EngineProcess, closed: str) -> None:
    for command in ("--help", "version", "ps", "nosuchcommand", "run --rm busybox echo hello"):
        done = shell(f"dockyard {command} {closed}", engine.host)
        assert "Traceback" not in done.stderr
        assert done.returncode == int(command == "nosuchcommand")


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "unix:///nowhere", "tcp://no.such.invalid:2375"])
def test_an_engine_that_is_not_there_is_told_of_in_words(host: str) -> None:
    done = shell("dockyard ps", host)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot connect to the Docker daemon at {host}. Is the dockyard daemon running?")
    assert "Errno" not in done.stderr


@pytest.mark.parametrize(
    "word", ["manifest", "trust", "plugin", "swarm", "node", "service", "stack", "secret", "config"]
)
def test_commands_that_are_not_here_are_answered(word: str) -> None:
    done = shell(f"dockyard {word} ls")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dockyard: 'dockyard {word}' is not here")


def test_maps_are_in_the_order_of_their_keys(engine: EngineProcess) -> None:
    engine.docker("create", "--name", "ordered", "--label", "z=1", "--label", "a=2", "-p", "90", "-p", "80", "--sysctl",
                  "net.ipv4.tcp_syncookies=1", "--sysctl", "net.core.somaxconn=5", "busybox")  # fmt: skip
    try:
        told = engine.inspect("ordered")
        for found in (told["Config"]["Labels"], told["Config"]["ExposedPorts"], told["HostConfig"]["PortBindings"],
                      told["HostConfig"]["Sysctls"]):  # fmt: skip
            assert list(found) == sorted(found)
        assert list(told)[:3] == ["Id", "Created", "Path"]
        line = engine.dockyard("inspect", "--format", "{{json .Config.Labels}}", "ordered").stdout
        assert line == b'{"a":"2","z":"1"}\n'
    finally:
        engine.docker("rm", "ordered")


def test_a_dockerfile_is_looked_for_from_where_we_are(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/D3").write_text("FROM scratch\nLABEL in=context\n")
    script = f"cd {tmp_path}; dockyard build -q -f D3 context"
    assert "failed to read dockerfile: open D3: no such file or directory" in shell(script, engine.host).stderr
    (tmp_path / "D3").write_text("FROM scratch\nLABEL in=here\n")
    made = shell(script, engine.host).stdout.strip()
    assert json.loads(engine.docker("image", "inspect", made))[0]["Config"]["Labels"] == {"in": "here"}
    assert shell(f"cd {tmp_path}/context; dockyard build -q -f D3 .", engine.host).returncode == 0


def test_a_dockerfile_from_elsewhere_is_no_file_of_the_context(engine: EngineProcess, tmp_path: Path) -> None:
    """As with docker's client, beside which each is built."""
    engine.docker("pull", "busybox")
    context = tmp_path / "context"
    context.mkdir()
    (context / "kept").write_text("")
    (tmp_path / "Elsewhere").write_text("FROM busybox\nCOPY . /copied\nRUN ls -A /copied > /names\nCMD cat /names\n")
    for ignored, names in ((None, "kept\n"), ("left\n.dockerignore\n", "kept\n"), ("left", ".dockerignore\nkept\n")):
        (context / "left").unlink(missing_ok=True)
        if ignored is not None:
            (context / "left").write_text("")
            (context / ".dockerignore").write_text(ignored)
        for program in ("dockyard", "docker"):
            for how in ("-f Elsewhere", "-f - <Elsewhere"):
                how, _, source = how.partition(" <")
                build = f"build -q {how} context" + (f" < {source}" if source else "")
                made = shell(f"cd {tmp_path}; export DOCKER_BUILDKIT=0; {program} {build}", engine.host)
                assert made.returncode == 0, made.stderr
                assert engine.docker("run", "--rm", made.stdout.strip()) == names, (program, how, ignored)


def test_since_0_is_the_beginning(engine: EngineProcess) -> None:
    engine.docker("run", "--name", "told", "busybox", "echo", "hello")
    try:
        assert shell("dockyard logs --since 0 told", engine.host).stdout == "hello\n"
        events = shell("dockyard events --since 0 --until 0s --filter container=told", engine.host).stdout
        assert " container start " in events
    finally:
        engine.docker("rm", "told")


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_git_context_is_cloned_by_the_users_own_git(
    engine: EngineProcess, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As with docker's client, beside which each is built: the address is known to the user's settings only."""
    engine.docker("pull", "busybox")
    repository = tmp_path / "one.git"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (repository / "sub").mkdir(parents=True)
    (repository / "sub" / "Dockerfile").write_text("FROM busybox\nCOPY file /\nCMD cat /file\n")
    (repository / "sub" / "Other").write_text("FROM busybox\nCMD echo other\n")
    (repository / "sub" / "file").write_text("from git\n")
    git = f"git -C {repository} -c user.name=a -c user.email=a@b"
    made = shell(f"{git} init -q -b main; {git} add .; {git} commit -q -m one; {git} tag v1")
    assert made.returncode == 0, made.stderr
    settings = (
        f"export DOCKER_BUILDKIT=0 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.git://127.0.0.1:{port}/.insteadOf "
        "GIT_CONFIG_VALUE_0=https://git.invalid/ TMPDIR=" + str(tmp_path)
    )
    serving = f"--base-path={tmp_path} --listen=127.0.0.1 --port={port} --export-all --reuseaddr".split()
    server = subprocess.Popen(["git", "daemon", *serving], stderr=subprocess.DEVNULL, start_new_session=True)
    request.addfinalizer(lambda: (os.killpg(server.pid, signal.SIGKILL), server.wait()))  # it forks
    assert eventually(lambda: answers(port))
    for given in ("#nosuch", "#main:nosuch", "#main:../..", "#--upload-pack=x"):
        refused = shell(f"{settings}; dockyard build -q 'https://git.invalid/one.git{given}'", engine.host)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("unable to prepare context: ")
    for program in ("dockyard", "docker"):
        for given, said in (
            ("https://git.invalid/one.git#main:sub", "from git\n"),
            ("https://git.invalid/one.git#v1:sub -f Other", "other\n"),
        ):
            built = shell(f"{settings}; {program} build -q {given}", engine.host)
            assert built.returncode == 0, built.stderr
            assert engine.docker("run", "--rm", built.stdout.strip()) == said


def test_the_help_of_fork_has_a_line_for_each_flag() -> None:
    lines = shell("dockyard fork --help").stdout.partition("Options:\n")[2].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("      --")] == [
        "--memory", "--no-memory", "--no-start", "--start",
    ]  # fmt: skip
