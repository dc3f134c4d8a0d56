"""What an archive of images holds, as `load` finds it: docker's layout, OCI's, or both at once.

The archive has been unpacked into a directory of its own; that directory is the root of every path, so that no name or
symlink in it means anything outside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import msgspec

from dockyard.engine.images.manifests import DEEPEST, attested
from dockyard.errors import InvalidParameter, NotFound
from dockyard.linux import syscalls
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import check_digest, digest_of
from dockyard.oci.manifest import runs_on

# Documents of an archive are read into memory; none needs more than this.
LARGEST_DOCUMENT = 16 << 20
IMAGE_NAME = "io.containerd.image.name"
REFERENCE_NAME = "org.opencontainers.image.ref.name"


class SavedImage(msgspec.Struct, rename="pascal", omit_defaults=True):
    """An element of manifest.json; paths are relative to the archive."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None
    layer_sources: dict[str, Descriptor] | None = None


class Unpacked:
    """The directory an archive was unpacked into."""

    def __init__(self, path: str) -> None:
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._root)

    def open(self, name: str) -> BinaryIO:
        """A regular file of the archive; symlinks stay inside. Raises NotFound or InvalidParameter."""
        with self._found(name) as found:
            return open(f"/proc/self/fd/{found}", "rb")

    def identity(self, name: str) -> int:
        """The same for all names of a file. Raises as `open`."""
        with self._found(name) as found:
            return os.fstat(found).st_ino

    def empty(self, name: str) -> None:
        """Forget a file's content: what is not there any more need not be written to the disk. Raises as `open`."""
        with self._found(name) as found:
            os.truncate(f"/proc/self/fd/{found}", 0)

    @contextmanager
    def _found(self, name: str) -> Iterator[int]:
        """The file, open for nothing."""
        try:
            found = syscalls.openat2(self._root, name.lstrip("/"), os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
        except FileNotFoundError:
            raise NotFound(f"invalid archive: it has no {name}") from None
        except OSError as error:
            raise InvalidParameter(f"invalid archive: cannot open {name}: {error.strerror}") from None
        try:
            # Looked at before it is opened: to open a device of the archive's making could do something.
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise InvalidParameter(f"invalid archive: {name} is not a file")
            yield found
        finally:
            os.close(found)

    def read(self, name: str) -> bytes:
        """The content of a document."""
        with self.open(name) as file:
            data = file.read(LARGEST_DOCUMENT + 1)
        if len(data) > LARGEST_DOCUMENT:
            raise InvalidParameter(f"invalid archive: {name} is too large")
        return data

    def blob(self, descriptor: Descriptor) -> bytes:
        """A document by its digest, which it must have."""
        data = self.read(blob_path(descriptor.digest))
        if digest_of(data) != descriptor.digest:
            raise InvalidParameter(f"invalid archive: blob {descriptor.digest} is damaged")
        return data


def blob_path(digest: str) -> str:
    """Where an OCI image layout keeps a blob."""
    return "blobs/" + check_digest(digest).replace(":", "/")


@dataclass
class Group:
    """An index of an archive: what it is called there, its document first and then those it leads to, and its images.

    `images`: the paths of their configurations; `statements`: the blobs of attestations.
    """

    tags: list[str]
    documents: list[tuple[bytes, str]]
    images: list[str] = field(default_factory=list)
    statements: list[bytes] = field(default_factory=list)


def contents(archive: Unpacked) -> tuple[list[SavedImage], list[Group]]:
    """The images of an archive, and the indexes that some of them stand in. Raises InvalidParameter."""
    try:
        document = archive.read("manifest.json")
    except NotFound:
        try:
            return _of_layout(archive, archive.read("index.json"))
        except NotFound:
            raise InvalidParameter("invalid archive: does not contain a manifest.json") from None
    try:
        saved = msgspec.json.decode(document, type=list[SavedImage])
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid archive: failed to decode manifest.json: {error}") from None
    groups: list[Group] = []
    with suppress(NotFound, InvalidParameter):  # manifest.json is what counts
        groups = _of_layout(archive, archive.read("index.json"))[1]
    return saved, groups


def _of_layout(archive: Unpacked, index: bytes) -> tuple[list[SavedImage], list[Group]]:
    """The images of an OCI image layout (image-spec image-layout.md)."""
    saved: list[SavedImage] = []
    groups: list[Group] = []
    for entry in oci.Index.decode(index).manifests:
        document = archive.blob(entry)
        name = entry.annotations.get(IMAGE_NAME) or entry.annotations.get(REFERENCE_NAME, "")
        tags = [name] if ":" in name else []
        if entry.media_type not in oci.INDEXES:
            saved.append(_image(archive, document, tags))
            continue
        group = Group(tags, [(document, entry.media_type)])
        found = _platforms(archive, document, group, DEEPEST)
        if found:
            found[0].repo_tags = tags
            group.images = [image.config for image in found]
            saved += found
            groups.append(group)
    return saved, groups


def _image(archive: Unpacked, document: bytes, tags: list[str]) -> SavedImage:
    manifest = oci.Manifest.decode(document)
    archive.blob(manifest.config)
    return SavedImage(
        blob_path(manifest.config.digest), list(tags), [blob_path(layer.digest) for layer in manifest.layers]
    )


def _platforms(archive: Unpacked, index: bytes, group: Group, depth: int) -> list[SavedImage]:
    """The images of an index that are whole in the archive, this host's first; the first one, if none is.

    An index may list what was never fetched.
    """
    found: list[tuple[bool, bool, SavedImage]] = []
    missing: NotFound | None = None
    for entry in oci.Index.decode(index).manifests:
        platform = entry.platform
        if platform is not None and platform.os not in ("", "linux") and not attested(entry):
            continue
        try:
            document = archive.blob(entry)
            inner = _platforms(archive, document, group, depth - 1) if entry.media_type in oci.INDEXES and depth else []
            image = _image(archive, document, []) if entry.media_type in oci.MANIFESTS and not attested(entry) else None
        except NotFound as error:
            missing = missing or error
            continue
        group.documents.append((document, entry.media_type))
        if attested(entry):
            group.statements += _statements(archive, document)
        here = platform is None or runs_on(platform, oci.host())
        found += [(True, here, each) for each in inner]
        if image is not None:
            found.append((all(_is_there(archive, layer) for layer in image.layers or ()), here, image))
    if missing is not None and not found:
        raise missing
    found.sort(key=lambda each: (not each[0], not each[1]))
    whole = [image for complete, _, image in found if complete]
    return whole or [image for _, _, image in found[:1]]


def _statements(archive: Unpacked, document: bytes) -> list[bytes]:
    """The blobs of an attestation, as far as they are in the archive."""
    found = []
    manifest = oci.Manifest.decode(document)
    for blob in (manifest.config, *manifest.layers):
        with suppress(NotFound):
            found.append(archive.blob(blob))
    return found


def _is_there(archive: Unpacked, name: str) -> bool:
    try:
        archive.identity(name)
    except (NotFound, InvalidParameter):
        return False
    return True
