"""How much a repository or a namespace may hold: the blobs in it, each counted once."""

import re
import time

from dockyard.errors import InvalidParameter
from dockyard.registry import layout
from dockyard.registry.catalog import Catalog
from dockyard.registry.errors import Refused
from dockyard.registry.settings import Quota
from dockyard.registry.storage import Missing, Storage

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?", re.IGNORECASE)
# Seconds after which it is counted anew: other processes add, and the collector frees.
COUNTED_FOR = 30.0


class Quotas:
    """Refuses what would be too much."""

    def __init__(self, quotas: list[Quota], storage: Storage) -> None:
        """Raises InvalidParameter."""
        self._storage = storage
        self._catalog = Catalog(storage)
        self._limits = {quota.name: _bytes(quota.size) for quota in quotas}
        self._used: dict[str, tuple[int, float]] = {}  # (bytes, when that was counted)

    def __bool__(self) -> bool:
        return bool(self._limits)

    def _of(self, name: str) -> list[str]:
        """The quotas that a repository is under: its own, and those of the namespaces it is in ("team/", "")."""
        return [one for one in self._limits if one == name or (_is_namespace(one) and name.startswith(one))]

    async def check(self, name: str, size: int) -> None:
        """Raise Refused if the repository `name` may not get `size` bytes more."""
        for one in self._of(name):
            used = await self._usage(one)
            if used + size > self._limits[one]:
                words = f"quota of {one or 'the registry'} exceeded: {used} of {self._limits[one]} bytes are in use"
                raise Refused("DENIED", {"quota": self._limits[one], "used": used}, message=words)

    def room(self, name: str) -> int | None:
        """How many bytes more the repository may get, by what was counted last; None: any number."""
        left = [self._limits[one] - self._used.get(one, (0, 0.0))[0] for one in self._of(name)]
        return max(0, min(left)) if left else None

    def add(self, name: str, size: int) -> None:
        """The repository has got a blob."""
        for one in self._of(name):
            used, counted = self._used.get(one, (0, 0.0))
            self._used[one] = (used + size, counted)

    async def _usage(self, quota: str) -> int:
        used, counted = self._used.get(quota, (0, 0.0))
        if time.monotonic() - counted > COUNTED_FOR or not counted:
            used = await self._count(quota)
            self._used[quota] = (used, time.monotonic())
        return used

    async def _count(self, quota: str) -> int:
        names = [quota]
        if _is_namespace(quota):
            names = [name for name in await self._catalog.repositories(with_uploads=True) if name.startswith(quota)]
        sizes: dict[str, int] = {}
        for name in names:
            for folder in (layout.layers(name), layout.revisions(name)):
                for algorithm in await self._storage.names(folder):
                    for value in await self._storage.names(f"{folder}/{algorithm}"):
                        digest = f"{algorithm}:{value}"
                        if digest not in sizes:
                            try:
                                sizes[digest] = await self._storage.size(layout.blob_data(digest))
                            except Missing:
                                continue
        return sum(sizes.values())


def _is_namespace(quota: str) -> bool:
    return quota == "" or quota.endswith("/")


def _bytes(text: str) -> int:
    """A size: 10g, 512 MB, in powers of 1024. Raises InvalidParameter."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidParameter(f"configuration: quotas: invalid size {text!r}")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " "))
