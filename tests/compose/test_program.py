"""A project in a program, without the command line."""

import pytest

import dockyard
import dockyard.compose
from dockyard.compose.errors import ComposeError
from tests.compose.conftest import ComposeFolder


def test_a_project_is_loaded_brought_up_and_taken_down(compose: ComposeFolder) -> None:
    file = compose.write(
        """
services:
  a:
    image: ${IMAGE}
    command: sleep 100
    stop_grace_period: 0s
    healthcheck: {test: "true", interval: 100ms}
    volumes: ["data:/data"]
  tool: {image: nowhere, profiles: [tools]}
volumes: {data: {}}
"""
    )
    project = dockyard.compose.load(file, environment={"IMAGE": "busybox"})
    assert list(project.services) == ["a"]
    with dockyard.Client(compose.environment["DOCKER_HOST"]) as client:
        (container,) = dockyard.compose.up(client, project, wait=True)
        assert container.name == f"{project.name}-a-1"
        assert container.status == "running"
        dockyard.compose.down(client, project, volumes=True)
        assert not client.containers.list(all=True, filters={"label": f"com.docker.compose.project={project.name}"})


def test_what_is_wrong_in_a_file_is_said(compose: ComposeFolder) -> None:
    file = compose.write("services: {a: {imge: x}}")
    with pytest.raises(ComposeError, match="additional properties 'imge' not allowed"):
        dockyard.compose.load(file)
