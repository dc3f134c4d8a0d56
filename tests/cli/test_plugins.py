"""docker's command line plugins as commands of ours."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

PLUGIN = """#!/bin/sh
case "$1" in
docker-cli-plugin-metadata)
  echo '{"SchemaVersion": "0.1.0", "Vendor": "Us", "Version": "v9", "ShortDescription": "Says what it hears"}' ;;
docker-cli-plugin-hooks) echo '{"Type": 0, "Template": "{{command}} of {{argValue 0}} as {{flagValue \\"tag\\"}}"}' ;;
__complete) printf 'one\\tthe first\\ntwo\\n:4\\n' ;;
*) echo "$DOCKER_HOST|$*"; exit 7 ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "cli-plugins"
    folder.mkdir()
    for name, text in (("docker-echo", PLUGIN), ("dockyard-mine", PLUGIN), ("docker-bad", "#!/bin/sh\nexit 1\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "docker-notrun").write_text(PLUGIN)
    return tmp_path


def dockyard(engine: EngineProcess, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dockyard.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_CONFIG": str(home), "DOCKER_HOST": engine.host},
    )


def on_a_terminal(engine: EngineProcess, home: Path, *arguments: str, **environment: str) -> bytes:
    """What a command prints there, both streams as one."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dockyard.cli.main", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DOCKER_CONFIG": str(home),
            "DOCKER_HOST": engine.host,
            **environment,
        },
    )
    os.close(follower)
    said = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(leader)
    assert process.wait() == 0, said
    return said


def test_a_plugin_gets_all_arguments_and_the_engines_address(engine: EngineProcess, home: Path) -> None:
    done = dockyard(engine, home, "--debug", "echo", "-f", "x", "up", "--help")
    assert (done.returncode, done.stdout) == (7, f"{engine.host}|--debug echo -f x up --help\n")
    assert dockyard(engine, home, "mine", "a").returncode == 7
    for name in ("notrun", "nosuch", "../echo"):
        assert "unknown command" in dockyard(engine, home, name).stderr


def test_plugins_are_listed_in_help_info_and_completion(engine: EngineProcess, home: Path) -> None:
    assert "\n  echo*       Says what it hears\n" in dockyard(engine, home, "--help").stdout
    info = dockyard(engine, home, "info")
    assert (
        f"  echo: Says what it hears (Us)\n    Version:  v9\n    Path:     {home}/cli-plugins/docker-echo"
        in info.stdout
    )
    assert 'docker-bad" is not valid: failed to fetch metadata' in info.stderr
    told = json.loads(dockyard(engine, home, "info", "--format", "json").stdout)["ClientInfo"]["Plugins"]
    assert [plugin["Name"] for plugin in told] == ["echo", "mine"]
    assert "echo\tSays what it hears" in dockyard(engine, home, "__complete", "ec").stdout.splitlines()
    assert dockyard(engine, home, "__complete", "echo", "o").stdout == "one\tthe first\ntwo\n"


def test_a_plugins_hook_says_what_may_be_done_next_to_who_reads_it(engine: EngineProcess, home: Path) -> None:
    config = {"features": {"hooks": "true"}, "plugins": {"echo": {"hooks": "pull,volume create"}}}
    (home / "config.json").write_text(json.dumps(config))
    said = on_a_terminal(engine, home, "volume", "create", "--label", "a", "hooked")
    assert b"What's next:" in said
    assert b"    volume create of hooked as " in said
    assert "What's next" not in dockyard(engine, home, "volume", "create", "hooked").stderr
    engine.docker("volume", "rm", "hooked")


def test_a_command_on_a_terminal_imports_nothing_for_hooks_that_nobody_has_configured(
    engine: EngineProcess, home: Path
) -> None:
    (home / "config.json").write_text("{}")
    said = on_a_terminal(engine, home, "ps", PYTHONPROFILEIMPORTTIME="1").decode()
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "dockyard.cli.usage" in imported
    assert not imported & {"re", "json", "socket", "dockyard.cli.plugins"}
