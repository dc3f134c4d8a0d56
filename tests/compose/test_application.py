"""An application of two services, from `up` to `down`: made, browsed, watched, stopped, taken away."""

import json
import subprocess
import sys

from tests.compose.conftest import ComposeFolder, page
from tests.engine_process import EngineProcess

# A database that counts, behind a web page that asks it.
APPLICATION = """
services:
  db:
    image: busybox
    command:
      - sh
      - -c
      - |
        cat > /count <<'END'
        #!/bin/sh
        n=$$(($$(cat /data/n 2>/dev/null || echo 0) + 1))
        echo $$n | tee /data/n
        END
        chmod +x /count
        echo ready for $$NAME
        exec nc -ll -p 3306 -e /count
    volumes: [data:/data]
    environment: {NAME: "${NAME:-connections}"}
    healthcheck: {test: "[ -x /count ]", interval: 200ms, retries: 50}
    stop_grace_period: 0s
  web:
    image: busybox
    depends_on: {db: {condition: service_healthy}}
    command:
      - sh
      - -c
      - |
        mkdir -p /www/cgi-bin
        printf '#!/bin/sh\\necho; echo visits: $$(nc db 3306 </dev/null)\\n' > /www/cgi-bin/index.cgi
        chmod +x /www/cgi-bin/index.cgi
        exec httpd -f -vv -h /www
    ports: ["127.0.0.1::80"]
    stop_grace_period: 0s
volumes: {data: {}}
"""


def test_an_application_is_made_browsed_watched_stopped_and_taken_away(
    compose: ComposeFolder, engine: EngineProcess
) -> None:
    compose.write(APPLICATION)
    name = compose.folder.name
    done = compose.run("up", "-d")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert lines.index(f"Container {name}-db-1 Healthy") < lines.index(f"Container {name}-web-1 Starting")
    address = compose("port", "web", "80").strip()
    assert page(address + "/cgi-bin/index.cgi") == "visits: 1\n"
    assert page(address + "/cgi-bin/index.cgi") == "visits: 2\n"
    rows = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    assert [(row["Service"], row["State"], row["Health"]) for row in rows] == [
        ("db", "running", "healthy"),
        ("web", "running", ""),
    ]
    following = compose.start("logs", "-f", "db")
    assert following.stdout is not None
    assert following.stdout.readline() == "db-1  | ready for connections\n"
    compose("stop")
    following.communicate(timeout=20)
    assert compose("ps", "-q") == ""
    assert len(compose("ps", "-aq").split()) == 2
    compose("start")
    address = compose("port", "web", "80").strip()
    assert page(address + "/cgi-bin/index.cgi") == "visits: 3\n"
    compose("down", "-v")
    assert engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={name}") == ""
    assert engine.docker("volume", "ls", "-q", "--filter", f"name={name}") == ""
    assert engine.docker("network", "ls", "-q", "--filter", f"name={name}") == ""


def test_up_again_changes_nothing_but_what_has_changed(compose: ComposeFolder, engine: EngineProcess) -> None:
    compose.write(APPLICATION)
    compose("up", "-d")
    before = dict(zip(compose("ps", "-q").split(), ("db", "web"), strict=True))
    done = compose.run("up", "-d")
    assert "Creat" not in done.stderr
    assert "Starting" not in done.stderr
    assert dict(zip(compose("ps", "-q").split(), ("db", "web"), strict=True)) == before
    done = compose.run("up", "-d", NAME="others")
    assert f"Container {compose.folder.name}-db-1  Recreated" in done.stderr
    assert f"Container {compose.folder.name}-web-1  Re" not in done.stderr
    after = compose("ps", "-q", NAME="others").split()
    assert len(set(after) & set(before)) == 1


def test_a_project_is_found_without_its_files(compose: ComposeFolder, engine: EngineProcess) -> None:
    compose.write(APPLICATION)
    compose("up", "-d")
    name = compose.folder.name
    assert name in compose("ls")
    assert len(compose("-p", name, "ps", "-q").split()) == 2
    moved = compose.folder / "compose.yaml"
    moved.rename(compose.folder / "elsewhere.txt")
    compose("-p", name, "down", "-v")
    assert engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={name}") == ""


def test_the_program_of_its_own_is_a_plugin_of_dockers_command_line_too(compose: ComposeFolder) -> None:
    program = [sys.executable, "-m", "dockyard.cli.compose.main"]
    told = subprocess.run([*program, "docker-cli-plugin-metadata"], capture_output=True, text=True, check=True).stdout
    assert json.loads(told)["SchemaVersion"] == "0.1.0"
    compose.write("services: {one: {image: busybox}}")
    for words in (
        ["config", "--services"],
        ["compose", "config", "--services"],
        ["-D", "compose", "config", "--services"],
    ):
        done = subprocess.run(
            [*program, *words], capture_output=True, text=True, check=True, cwd=compose.folder, env=compose.environment
        )
        assert done.stdout == "one\n"
