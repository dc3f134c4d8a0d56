"""The labels by which containers, networks and volumes are known to belong to a project: Docker Compose's own, so that
either program can go on with what the other has made."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.compose.model.project import Project

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
CONFIG_HASH = "com.docker.compose.config-hash"
NUMBER = "com.docker.compose.container-number"
VOLUME = "com.docker.compose.volume"
NETWORK = "com.docker.compose.network"
FOLDER = "com.docker.compose.project.working_dir"
FILES = "com.docker.compose.project.config_files"
ENV_FILES = "com.docker.compose.project.environment_file"
ONE_OFF = "com.docker.compose.oneoff"
SLUG = "com.docker.compose.slug"
IMAGE = "com.docker.compose.image"
DEPENDENCIES = "com.docker.compose.depends_on"
VERSION = "com.docker.compose.version"
BUILDER = "com.docker.compose.image.builder"
REPLACES = "com.docker.compose.replace"

COMPATIBLE_VERSION = "2.40.3"  # of Docker Compose, whose labels these are


def of_service(project: Project, name: str, image_id: str = "") -> dict[str, str]:
    """What a service's containers are marked with, besides its own labels and what differs between them."""
    found = {
        PROJECT: project.name,
        SERVICE: name,
        VERSION: COMPATIBLE_VERSION,
        FOLDER: project.folder,
        FILES: ",".join(project.files),
        ONE_OFF: "False",
    }
    if project.env_files:
        found[ENV_FILES] = ",".join(project.env_files)
    if image_id:
        found[IMAGE] = image_id
    return found


def of_network(project: Project, key: str) -> dict[str, str]:
    """What a network is marked with, but for its hash."""
    return {NETWORK: key, PROJECT: project.name, VERSION: COMPATIBLE_VERSION}


def of_volume(project: Project, key: str) -> dict[str, str]:
    """What a volume is marked with, but for its hash."""
    return {VOLUME: key, PROJECT: project.name, VERSION: COMPATIBLE_VERSION}
