"""An application of two services, from `up` to `down`: made, browsed, watched, stopped, taken away."""

import json
import subprocess
import sys

from tests.compose.conftest import ComposeFolder, page
from tests.engine_process import EngineProcess
from tests.processes import eventually

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


def test_logs_that_are_followed_show_services_that_start_later(compose: ComposeFolder) -> None:
    compose.write("services:\n  a: {image: busybox, init: true, command: sh -c 'echo early; sleep 100'}")
    compose("up", "-d")
    following = compose.start("-p", compose.folder.name, "logs", "-f")
    assert following.stdout is not None
    assert following.stdout.readline() == "a-1  | early\n"
    compose.write("services:\n  b: {image: busybox, init: true, command: sh -c 'echo late; sleep 100'}", "more.yaml")
    compose("-f", "compose.yaml", "-f", "more.yaml", "up", "-d")
    assert following.stdout.readline() == "b-1  | late\n"
    compose("down", "--remove-orphans", "-t", "0")
    following.communicate(timeout=20)


def test_with_a_lease_everything_goes_with_the_command(compose: ComposeFolder, engine: EngineProcess) -> None:
    compose.write(
        """
services:
  a: {image: busybox, init: true, command: sh -c 'echo ready; sleep 100', volumes: ["data:/data"]}
volumes: {data: {}}
"""
    )
    name = compose.folder.name
    error = compose.error("up", "-d", "--lease")
    assert error.startswith("--lease is for what runs as long as this command does")
    running = compose.start("up", "--lease")
    assert running.stdout is not None
    assert running.stdout.readline() == "Attaching to a-1\n"
    assert running.stdout.readline() == "a-1  | ready\n"
    assert engine.docker("volume", "ls", "-q", "--filter", f"name={name}").split() == [f"{name}_data"]
    running.kill()
    running.communicate(timeout=20)
    of_it = ("--filter", f"label=com.docker.compose.project={name}")
    eventually(lambda: not engine.docker("ps", "-aq", *of_it))
    eventually(lambda: not engine.docker("network", "ls", "-q", *of_it))
    eventually(lambda: not engine.docker("volume", "ls", "-q", *of_it))


def test_what_a_container_writes_to_its_stderr_goes_to_ours(compose: ComposeFolder) -> None:
    compose.write("services:\n  a: {image: busybox, command: sh -c 'echo good; echo bad >&2'}")
    done = compose.run("up")
    assert "a-1  | good\n" in done.stdout
    assert "a-1  | bad\n" in done.stderr


def test_the_variables_of_services_that_are_not_wanted_are_not_looked_for(compose: ComposeFolder) -> None:
    compose.write(
        """
services:
  a: {image: busybox, command: "true"}
  b: {image: busybox, env_file: ./nowhere.env}
"""
    )
    compose("up", "-d", "a")
    assert "nowhere.env not found" in compose.error("up", "-d")


def test_a_container_that_a_killed_command_was_to_put_in_the_place_of_another_goes(
    compose: ComposeFolder, engine: EngineProcess
) -> None:
    compose.write("services: {a: {image: busybox, command: sleep 1000, init: true, scale: 2}}")
    compose("up", "-d")
    name = compose.folder.name
    before = engine.docker("ps", "-q", "--filter", f"name={name}").split()
    labels = engine.inspect(f"{name}-a-1")["Config"]["Labels"] | {"com.docker.compose.replace": "a-1"}
    given = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    engine.docker("create", "--name", f"0123456789ab_{name}-a-1", *given, "busybox", "sleep", "1000")
    compose("up", "-d")
    assert sorted(engine.docker("ps", "-aq", "--filter", f"name={name}").split()) == sorted(before)
