"""Images of services built by BuildKit's API, and by the classic one where that is asked for."""

import json
import socket
from pathlib import Path

from tests.compose.conftest import ComposeFolder
from tests.engine_process import EngineProcess

APPLICATION = """
services:
  base:
    build: {context: base}
  web:
    image: ${NAME}
    build:
      context: web
      additional_contexts: {parent: "service:base", files: ./files}
      dockerfile_inline: |
        FROM parent
        COPY --from=files hello /hello
        COPY own /own
        ARG WHO=nobody
        RUN --mount=type=secret,id=token cp /run/secrets/token /token && echo $$WHO > /who && ulimit -n > /files
        RUN grep 10.9.8.7 /etc/hosts && df -k /dev/shm | grep -q 8192
      args: {WHO: me}
      tags: ["${NAME}:other"]
      labels: {shape: round}
      secrets: [token]
      shm_size: 8m
      ulimits: {nofile: 1000}
      extra_hosts: {elsewhere: 10.9.8.7}
secrets: {token: {environment: TOKEN}}
"""


def application(compose: ComposeFolder, what: str = "built") -> str:
    """The application's files; the name of the image of `web`."""
    name = f"{compose.folder.name}-{what}"
    compose.write(APPLICATION)
    compose.write("FROM busybox\nRUN echo base > /base\n", "base/Dockerfile")
    compose.write("hello", "files/hello")
    compose.write("own", "web/own")
    compose.write(f"TOKEN=s3cret\nNAME={name}\n", ".env")
    return name


def test_a_service_is_built_with_all_that_its_file_says(compose: ComposeFolder, engine: EngineProcess) -> None:
    name = application(compose)
    text = compose("build", timeout=120)
    assert " 2/2] RUN echo base > /base" in text  # (of both builds, and named after that which tells of it first)
    assert "[web internal] load build definition from Dockerfile" in text
    said = engine.docker("run", "--rm", f"{name}:other", "cat", "/base", "/hello", "/own", "/token", "/who", "/files")
    assert said == "base\nhelloowns3cretme\n1000\n"
    labels = engine.inspect(name)["Config"]["Labels"]
    assert labels["shape"] == "round"
    assert labels["com.docker.compose.service"] == "web"
    assert "com.docker.compose.image.builder" not in labels
    # what is built again is in the cache
    again = compose("build")
    assert again.count("CACHED") >= 5


def test_an_ssh_agent_is_forwarded_to_the_build(compose: ComposeFolder, engine: EngineProcess, tmp_path: Path) -> None:
    name = f"{compose.folder.name}-ssh"
    place = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(place))
        agent.listen()
        compose.write(
            f"""
services:
  a:
    image: {name}
    build:
      dockerfile_inline: |
        FROM busybox
        RUN --mount=type=ssh,required=true test -S "$$SSH_AUTH_SOCK" && touch /seen
      ssh: ["default={place}"]
"""
        )
        compose("build", timeout=120)
    assert engine.docker("run", "--rm", name, "ls", "/seen") == "/seen\n"
    assert 'invalid ssh key "mine"' in compose.error("build", "--ssh", "mine")


def test_a_failed_build_shows_its_output_and_the_lines_of_the_dockerfile(compose: ComposeFolder) -> None:
    compose.write("services: {a: {build: {}}}")
    compose.write("FROM busybox\nRUN echo before; false\n", "Dockerfile")
    done = compose.run("build", timeout=120)
    assert done.returncode == 1
    assert "before" in done.stdout
    assert "   2 | >>> RUN echo before; false" in done.stderr
    assert done.stderr.endswith(
        'target a: failed to solve: process "/bin/sh -c echo before; false" did not complete successfully: '
        "exit code: 1\n"
    )


def test_the_bake_file_is_printed_and_dockerfiles_are_checked_without_building(
    compose: ComposeFolder, engine: EngineProcess
) -> None:
    name = application(compose, "checked")
    printed = json.loads(compose("build", "--print", "web"))
    assert printed["target"]["web"]["contexts"]["parent"] == "target:base"
    assert printed["target"]["web"]["secret"] == ["id=token,type=env,env=TOKEN"]
    assert printed["target"]["base"]["output"] == ["type=docker"]
    compose.write("FROM busybox\nfrom busybox as other\n", "base/Dockerfile")
    done = compose.run("build", "--check", "base")
    assert done.returncode == 1
    assert "WARNING: ConsistentInstructionCasing" in done.stdout
    assert engine.docker("images", "-q", name) == ""


def test_up_builds_what_is_missing_and_what_has_changed(compose: ComposeFolder, engine: EngineProcess) -> None:
    compose.write("services: {a: {build: {}, command: sleep 1000, init: true}}")
    compose.write("FROM busybox\nCOPY file /file\n", "Dockerfile")
    compose.write("one", "file")
    compose("up", "-d", timeout=120)
    assert compose("exec", "-T", "a", "cat", "/file") == "one"
    compose.write("two", "file")
    compose("up", "-d")
    assert compose("exec", "-T", "a", "cat", "/file") == "one"
    compose("up", "-d", "--build", timeout=120)
    assert compose("exec", "-T", "a", "cat", "/file") == "two"
    engine.docker("rmi", "-f", f"{compose.folder.name}-a")


def test_without_bake_a_dockerfile_may_name_the_image_of_what_its_service_depends_on(
    compose: ComposeFolder, engine: EngineProcess
) -> None:
    base = f"{compose.folder.name}-ordered"
    compose.write(
        f"""
services:
  app: {{build: {{dockerfile_inline: "FROM {base}\\nRUN cat /base"}}, depends_on: [base]}}
  base: {{image: {base}, build: {{dockerfile_inline: "FROM busybox\\nRUN sleep 1; echo base > /base"}}}}
"""
    )
    compose("build", timeout=120, COMPOSE_BAKE="false")
    engine.docker("rmi", "-f", base, f"{compose.folder.name}-app")


def test_the_classic_builder_refuses_what_it_cannot(compose: ComposeFolder, engine: EngineProcess) -> None:
    application(compose)
    said = compose.error("build", DOCKER_BUILDKIT="0")
    assert "the classic builder doesn't support additional contexts, set DOCKER_BUILDKIT=1 to use BuildKit" in said
    done = compose.run("build", "base", timeout=120, DOCKER_BUILDKIT="0")
    assert done.returncode == 0
    assert "Step 2/" in done.stdout
    assert "expects boolean value" in compose.error("build", DOCKER_BUILDKIT="perhaps")


def test_a_platform_that_a_build_does_not_have_is_refused(compose: ComposeFolder) -> None:
    compose.write("services: {a: {build: {platforms: [linux/amd64]}}}")
    compose.write("FROM busybox\n", "Dockerfile")
    assert compose.error("build", DOCKER_DEFAULT_PLATFORM="linux/arm64") == (
        'service "a" build.platforms does not support value set by DOCKER_DEFAULT_PLATFORM: linux/arm64'
    )
    assert 'no builder "mine" found' in compose.error("build", "--builder", "mine")
