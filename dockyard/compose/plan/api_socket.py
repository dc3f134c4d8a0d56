"""`use_api_socket`: the engine's socket in a service's containers, and the client's logins (compose apiSocket.go)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dockyard.client import credentials
from dockyard.compose.model.project import ordered

if TYPE_CHECKING:
    from dockyard.compose.model.project import Project

Tree = dict[str, Any]

CONFIG = "#apisocket"
SOCKET = "/var/run/docker.sock"
FOLDER = "/run/secrets/docker"


def with_api_socket(project: Project, config_folder: str) -> Project:
    """The project, in which services that use the socket have it mounted. Raises CredentialsError."""
    if not any(service.get("use_api_socket") for service in project.services.values()):
        return project
    logins = {
        registry: credentials.entry_of(login)
        for registry, login in credentials.every_login(config_folder).items()
        if login is not None
    }
    configs = {**project.configs, CONFIG: {"name": CONFIG, "content": json.dumps({"auths": logins}, indent="\t")}}
    services = {
        name: _with_socket(service) if service.get("use_api_socket") else service
        for name, service in project.services.items()
    }
    return project.with_(configs=configs, services=services)


def _with_socket(service: Tree) -> Tree:
    environment = service.get("environment") or {}
    return ordered(
        {
            **service,
            "volumes": [*(service.get("volumes") or ()), {"type": "bind", "source": SOCKET, "target": SOCKET}],
            # who has set it already knows better
            "environment": {"DOCKER_CONFIG": FOLDER, **environment},
            "configs": [*(service.get("configs") or ()), {"source": CONFIG, "target": f"{FOLDER}/config.json"}],
        }
    )
