"""The configurations that stages begin with."""

from __future__ import annotations

import msgspec

from dockyard.oci.image_config import ContainerConfig, ImageConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def copied(config: ImageConfig) -> ImageConfig:
    """A copy, so that a stage may change it, without what belongs to the image that it is of."""
    own = msgspec.json.decode(msgspec.json.encode(config), type=ImageConfig)
    return msgspec.structs.replace(own, config=own.config or ContainerConfig())


def with_path(config: ImageConfig) -> ImageConfig:
    """With a search path, if it has none."""
    assert config.config is not None
    if not any(item.startswith("PATH=") for item in config.config.env or ()):
        config.config.env = [*(config.config.env or ()), DEFAULT_PATH]
    return config
