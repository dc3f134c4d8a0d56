"""What the commands do, each on a small project."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

from tests.compose.conftest import ComposeFolder
from tests.engine_process import EngineProcess

PROJECT = """
services:
  base: {image: busybox, command: sleep 1000, stop_grace_period: 0s, environment: {A: "${A:-1}"}}
  web:
    image: busybox
    command: sh -c 'echo started; exec sleep 1000'
    depends_on: {base: {condition: service_started, restart: true}}
    stop_grace_period: 0s
    secrets: [token]
    configs: [{source: settings, target: /etc/settings}]
  job: {image: busybox, command: "sh -c 'echo working; exit 3'", profiles: [jobs], stop_grace_period: 0s}
secrets: {token: {environment: TOKEN}}
configs: {settings: {content: "for ${A:-1}"}}
"""


def states(compose: ComposeFolder) -> dict[str, str]:
    rows = [json.loads(line) for line in compose("ps", "-a", "--format", "json").splitlines()]
    return {row["Name"].removeprefix(compose.folder.name + "-"): row["State"] for row in rows}


def test_commands_go_into_containers(compose: ComposeFolder) -> None:
    compose.environment["TOKEN"] = "sesame"
    compose.write(PROJECT)
    compose("up", "-d")
    assert compose("exec", "web", "cat", "/run/secrets/token", "/etc/settings") == "sesamefor 1"
    assert compose.run("exec", "-e", "X=y", "web", "sh", "-c", "echo $X; exit 4").returncode == 4
    assert compose("run", "--rm", "-T", "-e", "X=y", "base", "sh", "-c", "echo $A$X") == "1y\n"
    done = compose.run("run", "--rm", "job")
    assert (done.returncode, done.stdout) == (3, "working\n")
    (compose.folder / "file").write_text("content")
    compose("cp", "file", "web:/tmp/file")
    assert compose("exec", "web", "cat", "/tmp/file") == "content"
    compose("cp", "web:/etc/settings", "got")
    assert (compose.folder / "got").read_text() == "for 1"
    assert "sleep 1000" in compose("top", "base")
    assert compose("logs", "--no-log-prefix", "web") == "started\n"


def test_only_what_has_changed_is_made_anew_and_it_is_said_why(compose: ComposeFolder) -> None:
    compose.environment["TOKEN"] = "sesame"
    compose.write(PROJECT)
    compose("up", "-d")
    name = compose.folder.name
    assert compose("diff") == ""
    told = compose("diff", A="2")
    assert told == f"~ container {name}-base-1: its configuration has changed: environment.A\n"
    done = compose.run("up", "-d", A="2")
    assert f"Container {name}-base-1 is made anew: its configuration has changed: environment.A" in done.stderr
    lines = [" ".join(line.split()) for line in done.stderr.splitlines()]
    # what is to be restarted with it stops before and starts after it
    assert lines.index(f"Container {name}-web-1 Stopped") < lines.index(f"Container {name}-base-1 Recreated")
    assert lines.index(f"Container {name}-base-1 Started") < lines.index(f"Container {name}-web-1 Started")


def test_a_dry_run_changes_nothing(compose: ComposeFolder, engine: EngineProcess) -> None:
    compose.environment["TOKEN"] = "sesame"
    compose.write(PROJECT)
    done = compose.run("--dry-run", "up", "-d")
    assert done.returncode == 0, done.stderr
    assert f"DRY-RUN MODE -  Container {compose.folder.name}-web-1  Started" in done.stderr
    assert compose("ps", "-aq") == ""
    assert engine.docker("network", "ls", "-q", "--filter", f"name={compose.folder.name}") == ""


def test_a_service_has_as_many_containers_as_it_is_told(compose: ComposeFolder) -> None:
    compose.write("services: {base: {image: busybox, command: sleep 1000, stop_grace_period: 0s}}")
    compose("up", "-d", "--scale", "base=3")
    assert states(compose) == {"base-1": "running", "base-2": "running", "base-3": "running"}
    compose("scale", "base=1")
    assert states(compose) == {"base-1": "running"}
    compose("pause")
    assert states(compose) == {"base-1": "paused"}
    compose("unpause")
    compose("kill", "-s", "KILL")
    assert states(compose) == {"base-1": "exited"}
    compose("rm", "-f")
    assert states(compose) == {}


def test_in_the_foreground_all_end_with_the_first_whose_status_is_asked_for(compose: ComposeFolder) -> None:
    compose.write(PROJECT)
    done = compose.run("up", "--exit-code-from", "job", "base", "job", timeout=30)
    assert done.returncode == 3
    assert re.search(r"^job-1 +\| working$", done.stdout, re.MULTILINE)
    assert "job-1 exited with code 3" in done.stdout
    assert states(compose)["base-1"] == "exited"


def test_ctrl_c_stops_the_project_and_a_second_one_kills_it(compose: ComposeFolder) -> None:
    compose.write(
        """
        services:
          stubborn:
            image: busybox
            command: sh -c 'trap "echo no" TERM; echo up; while :; do sleep 0.1; done'
            stop_grace_period: 60s
        """
    )
    running = compose.start("up")
    assert running.stdout is not None
    while "up" not in (line := running.stdout.readline()) or "|" not in line:
        assert line
    running.send_signal(signal.SIGINT)
    while "| no" not in running.stdout.readline():
        pass
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=20)
    assert time.monotonic() - began < 15
    assert "stubborn-1 exited with code 137" in out
    assert running.returncode == 130


def test_what_depends_waits_for_health_and_for_success(compose: ComposeFolder) -> None:
    compose.write(
        """
        services:
          setup: {image: busybox, command: "sh -c 'sleep 0.5; exit ${CODE:-0}'"}
          db:
            image: busybox
            command: sh -c 'sleep 0.5; touch /ready; exec sleep 1000'
            healthcheck: {test: "[ -e /ready ]", interval: 100ms, retries: 100}
            stop_grace_period: 0s
          web:
            image: busybox
            command: sleep 1000
            stop_grace_period: 0s
            depends_on: {setup: {condition: service_completed_successfully}, db: {condition: service_healthy}}
        """
    )
    compose("up", "-d", "--wait")
    assert states(compose) == {"setup-1": "exited", "db-1": "running", "web-1": "running"}
    compose("down")
    assert compose.error("up", "-d", CODE="4").endswith('service "setup" didn\'t complete successfully: exit 4')
    assert states(compose)["web-1"] == "created"


def test_images_are_built_from_the_files_folder_wherever_we_are(compose: ComposeFolder) -> None:
    compose.write("services: {web: {build: {context: ctx, args: {V: '7'}}, stop_grace_period: 0s}}")
    compose.write("FROM busybox\nARG V\nRUN echo $V > /v\nCMD cat /v\n", "ctx/Dockerfile")
    compose.write("FROM nothing\n", "Dockerfile")
    assert "exporting to image" in compose("build")
    assert "Successfully built" in compose("build", DOCKER_BUILDKIT="0")
    assert compose("run", "--rm", "-T", "web") == "7\n"
    compose("down", "--rmi", "local")
    assert compose.run("up", "--no-build", "-d").returncode != 0


def test_containers_of_services_that_are_gone_are_told_of_and_removed_when_asked(compose: ComposeFolder) -> None:
    one = "{image: busybox, command: sleep 1000, stop_grace_period: 0s}"
    compose.write(f"services: {{old: {one}, new: {one}}}")
    compose("up", "-d")
    compose.write(f"services: {{new: {one}}}")
    done = compose.run("up", "-d")
    assert f"Found orphan containers ([{compose.folder.name}-old-1]) for this project." in done.stderr
    compose("up", "-d", "--remove-orphans")
    assert states(compose) == {"new-1": "running"}


def test_a_graph_shows_who_waits_for_whom(files: ComposeFolder) -> None:
    files.write(PROJECT)
    assert "└─▶ base (started, restarted with it)" in files("graph")
    assert files("graph", "--format", "svg").startswith("<svg ")
    assert '"web" -> "base"' in files("graph", "--format", "dot")


def test_what_a_killed_up_has_left_half_made_anew_is_finished(compose: ComposeFolder, engine: EngineProcess) -> None:
    compose.write("services:\n  a: {image: busybox, command: sleep 100, stop_grace_period: 0s}")
    name = f"{compose.folder.name}-a-1"
    compose("up", "-d")
    old = compose("ps", "-q").strip()
    label = f"com.docker.compose.replace={name}"
    compose.write(
        f"services:\n  a: {{image: busybox, command: sleep 100, stop_grace_period: 0s, labels: ['{label}']}}", "r.yaml"
    )
    compose("-f", "r.yaml", "up", "-d")
    engine.docker("rename", name, f"{old[:12]}_{name}")
    kept = compose("ps", "-q")
    compose("-f", "r.yaml", "up", "-d")
    assert compose("ps", "-q") == kept
    assert compose("ps", "--format", "{{.Name}}").strip() == name


def test_as_dockers_plugin_a_command_ends_when_docker_does(compose: ComposeFolder) -> None:
    compose.write("services:\n  a: {image: busybox, init: true, command: sh -c 'echo ready; sleep 100'}")
    compose("up", "-d")
    place = compose.folder / "plugin.sock"
    with socket.socket(socket.AF_UNIX) as docker:
        docker.bind(str(place))
        docker.listen()
        plugin = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from dockyard.cli.compose.main import *; sys.exit(main())",
                "compose",
                "logs",
                "-f",
            ],
            cwd=compose.folder,
            env={**compose.environment, "DOCKER_CLI_PLUGIN_SOCKET": str(place)},
            stdout=subprocess.PIPE,
            text=True,
        )
        connection, _ = docker.accept()
        assert plugin.stdout is not None
        assert plugin.stdout.readline() == "a-1  | ready\n"
        connection.close()
        plugin.communicate(timeout=60)
    assert plugin.returncode == 130
