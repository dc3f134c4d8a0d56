"""What is to be built: what every door translates its client's wishes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dockyard.builder.graph.vertex import Vertex
from dockyard.engine.containers.config import HostConfig
from dockyard.oci.image_config import ImageConfig


@dataclass(slots=True)
class BuildRequest:
    """One Dockerfile and how to build it.

    `no_cache`: stages whose steps are done anew, [] for all of them, None for none. `contexts`: named contexts, such
    as {"alpine": "docker-image://alpine:3"}; `input_configs`: what those are to say as images that are inputs.
    `epoch`: what images are said to be made at, UNIX s. `network`: of every RUN that names none.
    """

    dockerfile: str
    file_name: str = "Dockerfile"
    target: str = ""
    platform: str = ""
    several_platforms: bool = False
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: Sequence[str] | None = None
    contexts: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Built] = field(default_factory=dict)
    input_configs: Mapping[str, bytes] = field(default_factory=dict)
    pull: bool = False
    network: str = ""
    hostname: str = ""
    host: HostConfig = field(default_factory=HostConfig)
    cache_namespace: str = ""
    epoch: int | None = None
    entitlements: Sequence[str] = ()
    check: str = ""
    all_stages: bool = False  # whatever the target needs, as for the build checks


@dataclass(slots=True)
class Line:
    """A line of an image's history; `vertex`: the step that may have made a layer, None for none."""

    created_by: str
    vertex: Vertex | None = None


@dataclass(slots=True)
class Built:
    """What a conversion leads to: the step whose result is the image's files, and what the image is to say.

    The configuration's own history is the base image's; `history` comes after it. `epoch`: what an output is dated,
    UNIX s; `dated`: what the configuration says of itself if its output is not.
    """

    vertex: Vertex
    config: ImageConfig
    history: list[Line]
    platform: str
    epoch: int | None = None
    dated: int | None = None
