"""What changes below some paths, those among them that are not there yet as well."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

QUIET_MS = 200  # how long nothing must have changed for changes to be told together
STEP_MS = 50
LOOK_MS = 200  # how often the paths are looked for, and whether to stop

Places = tuple[frozenset[str], frozenset[str]]


def changed_files(paths: Sequence[str], stop: threading.Event) -> Iterator[set[str]]:
    """The paths that have changed since, whenever some have, until `stop` is set; at first none, once all is watched.

    A file is replaced by another one as often as it is written, and what is not there cannot be watched: then the
    folder is that they are in.
    """
    places = _places(paths)
    told = False
    while not stop.is_set():
        ended = threading.Event()
        batches: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=_watch, args=(some, recursive, ended, batches), daemon=True)
            for some, recursive in zip(places, (True, False), strict=True)
            if some
        ]
        for thread in threads:
            thread.start()
        try:
            missed = set().union(*(batches.get() for _ in threads))
            if not told:
                told = True
                yield set()
            while not stop.is_set():
                batch, missed = batches.get() | missed, set()
                now = _places(paths)
                appeared = now[0] - places[0]
                found = _below([*batch, *appeared])
                if found:
                    yield found
                if now != places:
                    places = now
                    break
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def _places(paths: Iterable[str]) -> Places:
    """Folders to watch with all that is in them, and folders of which only the entries count."""
    deep, shallow = set(), set()
    for path in paths:
        if os.path.isdir(path):
            deep.add(path)
        else:
            folder = os.path.dirname(path)
            while not os.path.isdir(folder):
                folder = os.path.dirname(folder)
            shallow.add(folder)
    return frozenset(deep), frozenset(shallow)


def _below(paths: Iterable[str]) -> set[str]:
    """Paths, and the files in those that are folders: what was in one before it was watched was not told of."""
    found = set(paths)
    for path in list(found):
        for folder, _, names in os.walk(path):
            found.update(os.path.join(folder, name) for name in names)
    return found


def _watch(paths: Iterable[str], recursive: bool, ended: threading.Event, batches: queue.SimpleQueue[set[str]]) -> None:
    from watchfiles import watch

    try:
        for batch in watch(
            *sorted(paths),
            stop_event=ended,
            watch_filter=None,
            step=STEP_MS,
            debounce=QUIET_MS,
            recursive=recursive,
            raise_interrupt=False,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
        ):
            batches.put({path for _, path in batch})
    except FileNotFoundError:
        batches.put(set())  # it has gone meanwhile: a look at the places tells so
