"""Services that other programs provide, models, and the engine's socket in a container."""

import json

import pytest

from tests.compose.conftest import ComposeFolder
from tests.engine_process import EngineProcess

PROGRAM = """#!/bin/sh
if [ "$2" = metadata ]; then
  echo '{"description": "x", "up": {"parameters": [{"name": "size", "required": true}]}, "down": {"parameters": []}}'
  exit
fi
echo "$@" >> "$RECORD"
case $3 in
  up) echo '{"type": "info", "message": "working"}
            {"type": "setenv", "message": "URL=https://cloud.example/'"$5"'"}' ;;
  down) [ -z "$BROKEN" ] || { echo '{"type": "error", "message": "Permission error"}'; exit 1; } ;;
esac
"""
PROJECT = """
services:
  bucket: {provider: {type: cloud, options: {size: 10, color: red}}}
  app: {image: busybox, command: sh -c 'echo $$BUCKET_URL; sleep 1000', init: true, depends_on: [bucket]}
"""


@pytest.fixture
def provided(compose: ComposeFolder) -> ComposeFolder:
    """A project, a service of which a program provides that is in PATH."""
    program = compose.write(PROGRAM, "programs/cloud")
    program.chmod(0o755)
    compose.environment["PATH"] += f":{program.parent}"
    compose.environment["RECORD"] = str(compose.folder / "record")
    compose.write(PROJECT)
    return compose


def test_a_program_provides_a_service_and_tells_dependents_of_it(provided: ComposeFolder) -> None:
    name = provided.folder.name
    done = provided.run("up", "-d")
    assert done.returncode == 0, done.stderr
    assert " bucket  working" in done.stderr
    assert provided("logs", "--no-log-prefix", "app").strip() == "https://cloud.example/bucket"
    provided("up", "-d")
    failed = provided.error("down", BROKEN="1")
    assert failed.endswith("Permission error")
    provided("down")
    record = (provided.folder / "record").read_text().splitlines()
    up = f"compose --project-name={name} up --size=10 bucket"
    assert record == [up, up, *[f"compose --project-name={name} down bucket"] * 2]


def test_what_a_program_cannot_do_is_said(provided: ComposeFolder) -> None:
    provided.write("services: {a: {provider: {type: cloud}}}")
    assert provided.error("up", "-d").endswith('required parameter "size" is missing from provider "cloud" definition')
    provided.write("services: {a: {provider: {type: nothing-there}}}")
    assert provided.error("up", "-d").endswith('exec: "nothing-there": executable file not found in $PATH')
    provided.write("services: {a: {image: busybox, models: [m]}}\nmodels: {m: {model: ai/m}}")
    assert "'models' support requires Docker Model plugin" in provided.error("up", "-d")


def test_the_engine_s_socket_is_given_to_a_service_with_the_logins(
    compose: ComposeFolder, engine: EngineProcess
) -> None:
    login = {"auths": {"registry.example": {"auth": "bWU6c2VjcmV0"}}}
    compose.write(json.dumps(login), ".docker/config.json")
    compose.write("services: {a: {image: busybox, command: sleep 1000, init: true, use_api_socket: true}}")
    compose("create")
    container = compose("ps", "-aq").strip()
    found = engine.inspect(container)
    assert "DOCKER_CONFIG=/run/secrets/docker" in found["Config"]["Env"]
    assert ("/var/run/docker.sock", "/var/run/docker.sock") in [
        (mount["Source"], mount["Destination"]) for mount in found["Mounts"]
    ]
