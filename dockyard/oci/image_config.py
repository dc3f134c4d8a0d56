"""The configuration of an image (image-spec config.md, with Docker's additions)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec


class Healthcheck(msgspec.Struct, rename="pascal", omit_defaults=True):
    """How to find out whether a container is well; times in ns. `test` begins with NONE, CMD or CMD-SHELL.

    `on_failure`: what is done when it is not: "" or none, restart, kill, stop (Podman's --health-on-failure).
    """

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
    on_failure: str = ""


class ContainerConfig(msgspec.Struct, rename="pascal"):
    """What containers of the image run, unless told otherwise."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class RootFS(msgspec.Struct):
    """The layers, bottom first, by the digests of their uncompressed tars."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(msgspec.Struct, omit_defaults=True):
    """Where a layer, or a change of configuration alone (`empty_layer`), came from; `created` is RFC 3339."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, kw_only=True):
    """The JSON whose digest is the image's ID."""

    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] = msgspec.field(default_factory=list, name="os.features")
    author: str = ""
    comment: str = ""
    created: str | None = None
    docker_version: str = ""
    container: str = ""
    config: ContainerConfig | None = None
    container_config: ContainerConfig | None = None
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: list[History] | None = None


def decode(data: bytes) -> ImageConfig:
    """Parse an image's configuration. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=ImageConfig)


def chain_id(diff_ids: Sequence[str]) -> str | None:
    """What a stack of layers, bottom first, is called (config.md, "Layer ChainID"); None for no layers."""
    chain: str | None = None
    for diff_id in diff_ids:
        chain = diff_id if chain is None else "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return chain
