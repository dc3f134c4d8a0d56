"""What a client of the classic API may say about a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dockyard.content.registry_auth import Credentials
from dockyard.engine.containers.config import HostConfig
from dockyard.errors import InvalidParameter
from dockyard.oci.reference import Reference


@dataclass(slots=True)
class BuildOptions:
    """A build's options; `host`: limits and networking of the containers of RUN."""

    dockerfile: str = ""
    tags: Sequence[Reference] = ()
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    pull: bool = False
    no_cache: bool = False
    remove: bool = True
    force_remove: bool = False
    cache_from: Sequence[str] = ()
    host: HostConfig = field(default_factory=HostConfig)
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    build_id: str = ""
    squash: bool = False


def check_tags(names: Sequence[str]) -> list[Reference]:
    """The names a build is to get. Raises InvalidParameter."""
    tags: dict[Reference, None] = {}
    for name in names:
        if not name:
            continue
        reference = Reference.parse(name)
        if reference.digest is not None:
            raise InvalidParameter("build tag cannot contain a digest")
        tags[reference if reference.tag is not None else reference.with_tag("latest")] = None
    return list(tags)
