"""What a volume driver is."""

from collections.abc import Collection, Mapping
from typing import Protocol


class Driver(Protocol):
    """Keeps volumes by name. Every method may block; the service calls none twice at once for one volume."""

    name: str
    scope: str

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Raise InvalidParameter when no volume of that name and those options can be."""

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make the volume; no error when it is there."""

    def remove(self, name: str) -> None:
        """Make the volume and its data vanish, and free their space; no error when it is not there."""

    def path(self, name: str) -> str:
        """Where the volume's data are on the host (when mounted)."""

    def mount(self, name: str, options: Mapping[str, str]) -> str:
        """Make the data reachable and return their path; no error when they are."""

    def unmount(self, name: str, options: Mapping[str, str]) -> None:
        """Undo `mount`; no error when not mounted."""

    def exists(self, name: str) -> bool:
        """Whether the volume is there."""

    def created_ns(self, name: str) -> int:
        """When the volume was made, UNIX ns."""

    def size(self, name: str) -> int:
        """Bytes the data take on this host's disk; -1 when not known."""

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove what a crash left half done; return the names of volumes that are there but not in `known`."""
