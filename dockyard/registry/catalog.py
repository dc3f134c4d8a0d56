"""Which repositories there are."""

import asyncio

from dockyard.registry import layout
from dockyard.registry.storage import Storage


class Catalog:
    """The repositories of a storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def repositories(self, *, with_uploads: bool = False) -> list[str]:
        """Their names, sorted: those that hold manifests, or `with_uploads`, whatever has been sent to."""
        found: list[str] = []
        waiting = [""]
        while waiting:
            name = waiting.pop()
            folder = f"{layout.REPOSITORIES}/{name}" if name else layout.REPOSITORIES
            children = await self._storage.names(folder)
            own = [child for child in children if child.startswith("_")]
            if name and own and (with_uploads or await self._holds_manifests(name)):
                found.append(name)
            waiting += [f"{name}/{child}" if name else child for child in children if not child.startswith(("_", "."))]
            await asyncio.sleep(0)  # there may be many
        return sorted(found)

    async def _holds_manifests(self, name: str) -> bool:
        folder = layout.revisions(name)
        for algorithm in await self._storage.names(folder):
            if await self._storage.names(f"{folder}/{algorithm}"):
                return True
        return False
