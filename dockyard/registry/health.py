"""Whether all is well: the storage answers, files that mean trouble are not there, others can be reached.

A check that has failed `threshold` times in a row makes the registry unhealthy: it says so, and answers 503.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable

from dockyard.registry import layout, settings
from dockyard.registry.config import seconds
from dockyard.registry.storage import Storage

Check = Callable[[], Awaitable[None]]


class Health:
    """Runs the checks."""

    def __init__(self, options: settings.Health, storage: Storage) -> None:
        self.failures: dict[str, str] = {}
        self._checks: list[tuple[str, Check, float, int]] = []
        driver = options.storagedriver
        if driver.enabled:

            async def ask() -> None:
                await storage.check(layout.ROOT)

            self._add("storagedriver", ask, driver.interval, driver.threshold)
        for file in options.file:
            self._add(file.file, _file(file), file.interval, file.threshold)
        for place in options.http:
            self._add(place.uri, _http(place), place.interval, place.threshold)
        for peer in options.tcp:
            self._add(peer.addr, _tcp(peer), peer.interval, peer.threshold)

    def _add(self, name: str, check: Check, interval: str, threshold: int) -> None:
        self._checks.append((name, check, seconds(interval), max(1, threshold)))

    async def watch(self) -> None:
        """Check for ever."""
        await asyncio.gather(*(self._watch(*one) for one in self._checks))

    async def _watch(self, name: str, check: Check, interval: float, threshold: int) -> None:
        failed = 0
        while True:
            try:
                await check()
            except (OSError, TimeoutError) as error:
                failed += 1
                if failed >= threshold:
                    self.failures[name] = str(error) or type(error).__name__
            else:
                failed = 0
                self.failures.pop(name, None)
            await asyncio.sleep(interval)


def _file(options: settings.FileCheck) -> Check:
    async def check() -> None:
        if os.path.exists(options.file):
            raise OSError("file exists")

    return check


def _tcp(options: settings.TCPCheck) -> Check:
    async def check() -> None:
        host, _, port = options.addr.rpartition(":")
        async with asyncio.timeout(seconds(options.timeout)):
            _, writer = await asyncio.open_connection(host.strip("[]") or "localhost", int(port))
        writer.close()

    return check


def _http(options: settings.HTTPCheck) -> Check:
    import aiohttp

    async def check() -> None:
        timeout = aiohttp.ClientTimeout(total=seconds(options.timeout))
        headers = {name: ", ".join(values) for name, values in options.headers.items()}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.head(options.uri, headers=headers) as response,
            ):
                if response.status != options.statuscode:
                    raise OSError(f"downstream service returned unexpected status: {response.status}")
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from None

    return check
