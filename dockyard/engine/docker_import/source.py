"""Docker's data root as types: what its files say of images, layers, volumes, networks and containers.

Formats as moby writes them with the storage driver overlay2: image/overlay2/{imagedb,layerdb,repositories.json} and
overlay2/ (image/fs.go, layer/filestore.go), volumes/metadata.db, network/files/local-kv.db, containers/*/.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dockyard.engine.containers.config import ContainerConfig, EndpointSettings, HostConfig
from dockyard.engine.docker_import.bolt import Bolt
from dockyard.engine.images.documents import without_nulls
from dockyard.errors import DockyardError, InvalidParameter, NotFound
from dockyard.linux.rooted import Root
from dockyard.oci.digest import digest_of

T = TypeVar("T")
DRIVER = "overlay2"
NETWORK_KEYS = "docker/network/v1.0/network/"
INDEX = 8  # bytes of libkv's, before each value
PIECE = 1 << 20
FILE, SEGMENT = 1, 2  # what a row of tar-split.json is of (vbatts/tar-split, tar/storage/entry.go)


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """One layer: where its files are, and how its archive was laid out."""

    files: Path
    layout: Path


@dataclass(frozen=True, slots=True)
class SourceVolume:
    """A volume; `data` is the directory with its files."""

    name: str
    driver: str
    options: dict[str, str]
    labels: dict[str, str]
    data: Path


class SourceNetwork(msgspec.Struct, rename="camel"):
    """A network as libnetwork stores it; the lists of pools are JSON in JSON."""

    id: str
    name: str
    network_type: str
    scope: str = "local"
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    enable_i_pv4: bool = msgspec.field(default=True, name="enableIPv4")
    enable_i_pv6: bool = msgspec.field(default=False, name="enableIPv6")
    labels: dict[str, str] | None = None
    ipam_type: str = "default"
    ipam_options: dict[str, str] | None = None
    ipam_v4_config: str = msgspec.field(default="", name="ipamV4Config")
    ipam_v6_config: str = msgspec.field(default="", name="ipamV6Config")
    generic: dict[str, Any] = {}


class SourceState(msgspec.Struct, rename="pascal"):
    """How a container is, as far as it concerns us."""

    running: bool = False
    paused: bool = False
    restarting: bool = False
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""


class SourceMount(msgspec.Struct, rename="pascal"):
    """One of a container's mounts."""

    type: str = ""
    name: str = ""
    destination: str = ""
    rw: bool = msgspec.field(default=True, name="RW")


class SourceNetworks(msgspec.Struct, rename="pascal"):
    """The networks that a container is on, by their names."""

    networks: dict[str, EndpointSettings] = {}


class SourceContainer(msgspec.Struct, rename="pascal"):
    """config.v2.json."""

    id: str = msgspec.field(name="ID")
    name: str
    created: str
    image: str
    config: ContainerConfig
    state: SourceState = msgspec.field(default_factory=SourceState)
    network_settings: SourceNetworks = msgspec.field(default_factory=SourceNetworks)
    mount_points: dict[str, SourceMount] = {}
    restart_count: int = 0
    has_been_started_before: bool = False


class DockerRoot:
    """A data root. Raises NotFound when `root` is none, InvalidParameter for a kind that can't be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images = root / "image" / DRIVER
        if not (root / "containers").is_dir() or not (root / "volumes").is_dir():
            raise NotFound(f"{root} is not a data root of Docker")
        if not (self._images / "imagedb").is_dir():
            drivers = ", ".join(sorted(entry.name for entry in (root / "image").glob("*"))) or "containerd"
            raise InvalidParameter(
                f"the images of {root} are kept by {drivers}, not by {DRIVER}: use `docker save` and `dockyard load`"
            )

    # -- images

    def images(self) -> Iterator[tuple[str, bytes]]:
        """(ID, configuration) of every image that is whole."""
        for path in sorted((self._images / "imagedb/content/sha256").iterdir()):
            raw = path.read_bytes()
            if digest_of(raw) == f"sha256:{path.name}":
                yield f"sha256:{path.name}", raw

    def parent(self, image_id: str) -> str:
        """The ID of the image that it was built on, "" for none."""
        path = self._images / "imagedb/metadata/sha256" / image_id.partition(":")[2] / "parent"
        return path.read_text().strip() if path.is_file() else ""

    def names(self) -> Iterator[tuple[str, str]]:
        """(tag or digest reference, image ID)."""
        try:
            known = json.loads((self._images / "repositories.json").read_bytes())["Repositories"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        for references in known.values():
            yield from references.items()

    def layer(self, chain_id: str) -> SourceLayer:
        """A layer by its chain ID. Raises NotFound."""
        folder = self._images / "layerdb/sha256" / chain_id.partition(":")[2]
        try:
            cache = (folder / "cache-id").read_text().strip()
        except OSError:
            raise NotFound(f"layer {chain_id} is missing in {self.root}") from None
        return SourceLayer(self.root / DRIVER / os.path.basename(cache) / "diff", folder / "tar-split.json.gz")

    # -- the rest

    def volumes(self) -> Iterator[SourceVolume]:
        """Every volume whose directory is there."""
        known = Bolt(self.root / "volumes/metadata.db").bucket("volumes")
        for name, value in sorted(known.items()):
            data = self.root / "volumes" / os.path.basename(name) / "_data"
            if data.is_dir():
                told = json.loads(value)
                yield SourceVolume(name, told.get("Driver") or "local", told.get("Options") or {},
                                   told.get("Labels") or {}, data)  # fmt: skip

    def networks(self) -> Iterator[SourceNetwork]:
        """Every network, those that Docker always has among them."""
        path = self.root / "network/files/local-kv.db"
        if not path.is_file():
            return
        for key, value in sorted(Bolt(path).bucket("libnetwork").items()):
            if key.startswith(NETWORK_KEYS) and len(value) > INDEX:
                yield _decoded(value[INDEX:], SourceNetwork, str(path))

    def containers(self) -> Iterator[tuple[SourceContainer, HostConfig]]:
        """Every container with what was asked of the host for it."""
        for folder in sorted((self.root / "containers").iterdir()):
            path = folder / "config.v2.json"
            if path.is_file():
                container = _decoded(path.read_bytes(), SourceContainer, str(path))
                host = folder / "hostconfig.json"
                yield container, _decoded(host.read_bytes(), HostConfig, str(host))

    def changes(self, container_id: str) -> Path:
        """The directory with a container's own files, as overlayfs has them. Raises NotFound."""
        try:
            mount = (self._images / "layerdb/mounts" / container_id / "mount-id").read_text().strip()
        except OSError:
            raise NotFound(f"the files of container {container_id} are missing in {self.root}") from None
        return self.root / DRIVER / os.path.basename(mount) / "diff"


def _decoded(data: bytes, kind: type[T], path: str) -> T:
    """JSON as Go writes it, in which null stands for what is not there."""
    try:
        return msgspec.convert(without_nulls(json.loads(data)), kind, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidParameter(f"{path} cannot be read: {error}") from None


def archive(layer: SourceLayer) -> Iterator[bytes]:
    """A layer's tar stream, byte for byte as Docker once unpacked it. Raises DockyardError."""
    root = Root(layer.files)
    try:
        with gzip.open(layer.layout) as rows:
            for line in rows:
                row = json.loads(line)
                if row["type"] == SEGMENT:
                    yield base64.b64decode(row.get("payload") or "")
                elif row["type"] == FILE and row.get("size"):
                    name = base64.b64decode(row["name_raw"]) if row.get("name_raw") else row["name"].encode()
                    yield from _content(root, os.fsdecode(name), row["size"])
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DockyardError(f"the layer in {layer.files} cannot be read: {error}") from None
    finally:
        root.close()


def _content(root: Root, name: str, size: int) -> Iterator[bytes]:
    with open(root.open(name, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        while size > 0:
            piece = file.read(min(size, PIECE))
            if not piece:
                raise ValueError(f"{name} is shorter than it was")
            size -= len(piece)
            yield piece
