"""What a storage driver is.

A snapshot is a directory tree under a name: an image layer (immutable once something stands on it), a container's
init layer, or a container's own writable layer. Drivers are plain blocking code and know nothing of images, digests
or containers; `engine/images/layer_store.py` is their only caller and does the book-keeping.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from dockyard.oci.runtime_spec import IDMapping


class ChangeKind(IntEnum):
    """The numbers are those of the Engine API's `GET /containers/{id}/changes`."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True)
class Change:
    """One path (absolute, as the container sees it) that differs from the snapshot below."""

    kind: ChangeKind
    path: str


@dataclass(frozen=True, slots=True)
class Fixture:
    """A path that must exist in a container's init layer: a directory, an empty file, or a symlink to `target`."""

    path: str
    kind: Literal["directory", "file", "symlink"]
    target: str = ""


class Ids(Protocol):
    """Which ids of the host stand for those in a tree, as rows of uid_map and gid_map."""

    @property
    def uids(self) -> Sequence[IDMapping]: ...
    @property
    def gids(self) -> Sequence[IDMapping]: ...


class Driver(Protocol):
    """One way to stack snapshots. Every method may block; none may be called twice at once for the same `id`."""

    name: str
    home: str
    # how the layer unpacker has to record deletions in `diff_path`
    whiteouts: Literal["overlay", "plain"]

    def status(self) -> list[tuple[str, str]]:
        """Rows for `docker info`, in order."""

    def create(self, id: str, parent: str | None) -> str:
        """Make the image layer `id` on `parent` and return the directory to unpack into (see `diff_path`)."""

    def set_parent(self, id: str, parent: str) -> None:
        """Put the layer `id`, made and filled without a parent, onto `parent`. Only with overlay whiteouts."""

    def create_read_write(
        self,
        id: str,
        parent: str | None,
        *,
        fixtures: Sequence[Fixture] = (),
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Make the writable snapshot `id` on `parent`, with `fixtures` in a layer `<id>-init` between the two.

        No init layer is made when `fixtures` is empty. Raises InvalidParameter for an option it cannot honour.
        """

    def get(self, id: str, *, volatile: bool = False, ids: Ids | None = None) -> str:
        """Make the whole tree of `id` visible and return its path. `volatile`: its data need not survive a crash.

        With `ids`, an owner in the tree's files is seen as the host's id that stands for it. Raises NotImplementedHere
        when the file system can't.
        """

    def put(self, id: str) -> None:
        """Undo `get`. No error when nothing is mounted."""

    def mounted(self) -> list[str]:
        """The snapshots that are mounted, by whichever daemon."""

    def missing(self, id: str) -> tuple[str, str] | None:
        """(snapshot, what is not there) when `id` or one that it stands on is not all there, as far as can be seen.

        Only that the directories and what is kept about them are there is looked at, not their content.
        """

    def replace(self, id: str, fresh: str) -> None:
        """Let the damaged layer `id` have the content of the layer `fresh`, which goes; what stands on it stays."""

    def remove(self, id: str) -> Future[None]:
        """Make `id` (and its init layer) vanish at once; what is returned is done when its space is free."""

    def exists(self, id: str) -> bool:
        """Whether the snapshot is there."""

    def diff_path(self, id: str) -> str:
        """The directory with the layer's own content: overlay2's `diff`, or the whole tree for plain drivers."""

    def layer_path(self, id: str) -> str:
        """The directory that holds the snapshot and everything the driver keeps about it."""

    def parents(self, id: str) -> list[str]:
        """The diff paths under `id`, nearest first."""

    def changes(self, id: str) -> list[Change]:
        """What the writable snapshot `id` changed, parents before children."""

    def difference(self, id: str) -> AbstractContextManager[str]:
        """What the snapshot adds to its parent, as a directory with overlay's whiteouts; valid inside the block."""

    def copy_changes(self, source: str, target: str) -> None:
        """Let the fresh writable snapshot `target` differ from the same parent as `source` does."""

    def size(self, id: str) -> int:
        """Bytes in the regular files and symlinks of the layer's own content, each inode once."""

    def metadata(self, id: str) -> dict[str, str]:
        """GraphDriver.Data of `docker inspect`."""

    def problem(self, id: str, parent: str | None) -> str | None:
        """What is wrong with how the snapshot lies on the disk, on `parent`, if anything is; in words with a path."""

    def mendable(self, id: str) -> bool:
        """Whether `mend` can put right what is wrong with it: its files are there."""

    def mend(self, id: str, parent: str | None) -> None:
        """Make anew what the driver keeps about a snapshot. Raises OSError."""

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove every snapshot not in `known` and whatever a crash left half done; return their names."""

    def cleanup(self) -> None:
        """Finish background work; called once when the daemon ends. Mounts stay."""
