"""What is said about images: the small blobs that attestation manifests name, as files under their digests."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from dockyard.engine.state.documents import write_private
from dockyard.folders import own_folder
from dockyard.linux.durability import sync_path
from dockyard.oci.digest import digest_of

LARGEST = 16 << 20  # bytes of a blob; a bill of materials of a large image has a tenth of that


class Statements:
    """The blobs that are here. They are put before what names them, and swept when nothing does."""

    def __init__(self, folder: Path) -> None:
        self._folder = own_folder(folder)

    def _path(self, digest: str) -> Path:
        return self._folder / digest.partition(":")[2]

    def put(self, content: bytes) -> str:
        """Keep a blob, on the disk when this returns; its digest. To be called in a thread. Raises OSError."""
        digest = digest_of(content)
        path = self._path(digest)
        if self.get(digest) is None:
            path.unlink(missing_ok=True)
            write_private(str(path), content)
            sync_path(str(path))
            sync_path(str(self._folder))
        return digest

    def get(self, digest: str) -> bytes | None:
        """A blob; None when it is not here, or not what it should be."""
        try:
            content = self._path(digest).read_bytes()
        except OSError:
            return None
        return content if digest_of(content) == digest else None

    def __contains__(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def damaged(self) -> list[str]:
        """Digests of those that are not what they should be."""
        found = [f"sha256:{name}" for name in sorted(os.listdir(self._folder))]
        return [digest for digest in found if self.get(digest) is None]

    def remove(self, digest: str) -> None:
        """Forget a blob."""
        self._path(digest).unlink(missing_ok=True)

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove all others."""
        for name in os.listdir(self._folder):
            if f"sha256:{name}" not in wanted:
                (self._folder / name).unlink(missing_ok=True)
