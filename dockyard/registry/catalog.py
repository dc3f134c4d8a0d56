"""Which repositories there are."""

from dockyard.registry import layout
from dockyard.registry.storage import Storage


class Catalog:
    """The repositories of a storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def repositories(self, *, with_uploads: bool = False) -> list[str]:
        """Their names, sorted: those that hold manifests, or with `with_uploads` whatever has been sent to."""
        found: list[str] = []
        waiting = [""]
        while waiting:
            name = waiting.pop()
            folder = f"{layout.REPOSITORIES}/{name}" if name else layout.REPOSITORIES
            children = await self._storage.names(folder)
            own = [child for child in children if child.startswith("_")]
            if name and ("_manifests" in own or (with_uploads and own)):
                found.append(name)
            waiting += [f"{name}/{child}" if name else child for child in children if not child.startswith(("_", "."))]
        return sorted(found)
