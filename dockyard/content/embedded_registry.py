"""The embedded image `registry`: laid out as the distribution project's, with `dockyard.registry` as its program.

`docker run -d -p 5000:5000 registry:2` finds the same paths, variables, port, volume and user as in theirs.
"""

import re

from dockyard.content.embedded_layer import Layer
from dockyard.content.embedded_python import add_python
from dockyard.oci.image_config import ContainerConfig

TAGS = re.compile(r"latest|[23](?:\.\d+){0,2}")
PROGRAM = "dockyard.registry"
_CONFIGS = ("etc/docker/registry/config.yml", "etc/distribution/config.yml")  # of 2.x and of 3.x

_CONFIG = b"""\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""

_ENTRYPOINT = b"""\
#!/bin/sh
# A configuration file alone means to serve it; a command of the registry's may stand without its name.
set -e
case "$1" in
  *.yaml|*.yml) set -- registry serve "$@" ;;
  serve|garbage-collect|help|-*) set -- registry "$@" ;;
esac
exec "$@"
"""


def add_to(layer: Layer) -> None:
    """Add all that the registry needs to a layer that has a shell."""
    add_python(layer, PROGRAM, "bin/registry")
    layer.file("entrypoint.sh", _ENTRYPOINT, 0o755)
    for path in _CONFIGS:
        layer.folders_of(path)
        layer.file(path, _CONFIG, 0o644)
    layer.folders_of("var/lib/registry/")


def config(path: str) -> ContainerConfig:
    """What containers of it run; `path` is the variable PATH."""
    return ContainerConfig(
        env=[path],
        entrypoint=["/entrypoint.sh"],
        cmd=[f"/{_CONFIGS[0]}"],
        exposed_ports={"5000/tcp": {}},
        volumes={"/var/lib/registry": {}},
    )
