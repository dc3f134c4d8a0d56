"""docker-py's words for our client: a program that was written for docker-py runs with its import changed.

import dockyard.compat as docker

client = docker.from_env()
client.containers.run("busybox", "echo hello", remove=True) == b"hello\\n"

Names, arguments and what is given back are docker-py's (7.1), without docker-py. It is a layer of its own instead of
more methods on our own objects because the two differ where they share a word: `logs` gives bytes or a generator here
and LogLines there, `run` waits here and does not there. Swarm, services, secrets, configs and plugins are not here.
"""

from dockyard.compat import constants, errors, tls, types, utils
from dockyard.compat.api import APIClient
from dockyard.compat.client import DockerClient, from_env

__version__ = "7.1.0"  # docker-py's whose words these are

__all__ = ["APIClient", "DockerClient", "constants", "errors", "from_env", "tls", "types", "utils"]
