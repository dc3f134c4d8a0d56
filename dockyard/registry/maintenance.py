"""What is done to a storage from time to time, in a thread of its own: collections, and the purging of old uploads."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dockyard.registry.blobs import Blobs
from dockyard.registry.collector import Collector
from dockyard.registry.config import seconds
from dockyard.registry.manifests import Manifests
from dockyard.registry.settings import Config
from dockyard.registry.storage import Storage

log = logging.getLogger("dockyard.registry")

SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 86400.0  # seconds between two looks for what a cache may forget
FIRST_PURGE = 60.0  # seconds after the start


def collector(storage: Storage, **options: Any) -> Collector:
    """A collection of `storage`, about to run; `options` are Collector's."""
    return Collector(storage, Manifests(storage, Blobs(storage)), **options)


async def maintain(config: Config, make_storage: Callable[[], Storage]) -> None:
    """Do all that the settings ask for, for ever."""
    if config.storage.maintenance.readonly.enabled:
        return
    tasks = []
    collection, purging = config.collection, config.storage.maintenance.uploadpurging
    if collection.interval:

        async def collect() -> None:
            found = collector(make_storage(), grace=seconds(collection.grace), untagged=collection.untagged)
            log.info("collection: %s", await found.run())

        interval = seconds(collection.interval)
        tasks.append(_every(interval, interval, collect))
    if config.proxy.remoteurl and config.proxy.ttl not in ("0", "0s"):
        life = seconds(config.proxy.ttl)

        async def expire() -> None:
            found = collector(make_storage(), grace=life, unused=True)
            log.info("expiry: %s", await found.run())

        often = min(max(life / 8, SHORTEST_INTERVAL), LONGEST_INTERVAL)
        tasks.append(_every(often, often, expire))
    if purging.enabled:

        async def purge() -> None:
            found = collector(make_storage(), grace=0, dry_run=purging.dryrun)
            await found.purge_uploads(seconds(purging.age))
            if found.report.uploads:
                log.info("%d unfinished uploads given up", found.report.uploads)

        interval = seconds(purging.interval)
        tasks.append(_every(min(FIRST_PURGE, interval), interval, purge))
    await asyncio.gather(*tasks)


async def _every(first: float, interval: float, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(first)
    loop = asyncio.get_running_loop()
    while True:
        try:
            # what lists many folders must not hold up who is served
            await loop.run_in_executor(None, _run, work)
        except Exception:
            log.exception("maintenance failed; it is tried again in %.0f s", interval)
        await asyncio.sleep(interval)


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())
