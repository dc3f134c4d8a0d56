"""An image of one layer that is written here, and the docker archive that it is loaded from."""

import hashlib
import tempfile
from collections.abc import Iterator

import msgspec

from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.oci.digest import digest_of
from dockyard.oci.image_config import ContainerConfig, History, ImageConfig, RootFS
from dockyard.oci.manifest import host

IN_MEMORY = 8 << 20  # bytes; a larger layer is a file meanwhile
PIECE = 1 << 20


class Layer:
    """Writes a layer's tar; everything is root's and from the epoch."""

    def __init__(self) -> None:
        self._tar = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  (closed by EmbeddedImage)
        self._hasher = hashlib.sha256()
        self._folders: set[str] = set()
        self.size = 0

    @property
    def digest(self) -> str:
        """The diff ID, once all is written."""
        return "sha256:" + self._hasher.hexdigest()

    def directory(self, name: str, mode: int) -> None:
        """A directory."""
        self._folders.add(name)
        self._write(tar_format.header(Entry(name + "/", tar_format.DIRECTORY, mode)))

    def file(self, name: str, data: bytes, mode: int) -> None:
        """A regular file."""
        self._write(tar_format.header(Entry(name, mode=mode, size=len(data))))
        self._write(data)
        self._write(bytes(tar_format.padding(len(data))))

    def hard_link(self, name: str, target: str) -> None:
        """One more name of a file."""
        self._write(tar_format.header(Entry(name, tar_format.HARD_LINK, 0o755, link=target)))

    def symbolic_link(self, name: str, target: str) -> None:
        """A name that leads elsewhere."""
        self._write(tar_format.header(Entry(name, tar_format.SYMLINK, 0o777, link=target)))

    def folders_of(self, name: str) -> None:
        """The directories that `name` is in, as far as they are missing."""
        parts = name.split("/")[:-1]
        for length in range(1, len(parts) + 1):
            folder = "/".join(parts[:length])
            if folder not in self._folders:
                self.directory(folder, 0o755)

    def finish(self) -> None:
        """That is all."""
        self._write(tar_format.END)

    def pieces(self) -> Iterator[bytes]:
        """The tar; afterwards it is gone."""
        self._tar.seek(0)
        while piece := self._tar.read(PIECE):
            yield piece
        self._tar.close()

    def _write(self, data: bytes) -> None:
        self._tar.write(data)
        self._hasher.update(data)
        self.size += len(data)


class EmbeddedImage:
    """An image of one layer."""

    def __init__(self, name: str, layer: Layer, config: ContainerConfig, created: str, comment: str) -> None:
        """`created` is RFC 3339."""
        layer.finish()
        here = host()
        image = ImageConfig(
            architecture=here.architecture,
            variant=here.variant,
            os=here.os,
            created=created,
            config=config,
            rootfs=RootFS(diff_ids=[layer.digest]),
            history=[History(created=created, created_by="dockyard", comment=comment)],
        )
        self.name = name
        self._layer = layer
        self._config = msgspec.json.encode(image)

    def archive(self) -> Iterator[bytes]:
        """A docker archive (what `docker save` writes) of it, piece by piece. It can be had once."""
        config_name = digest_of(self._config).removeprefix("sha256:") + ".json"
        manifest = msgspec.json.encode([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}])
        yield from _file(config_name, self._config)
        yield tar_format.header(Entry("layer.tar", size=self._layer.size))
        yield from self._layer.pieces()
        yield bytes(tar_format.padding(self._layer.size))
        yield from _file("manifest.json", manifest)
        yield tar_format.END


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield tar_format.header(Entry(name, size=len(data)))
    yield data + bytes(tar_format.padding(len(data)))
