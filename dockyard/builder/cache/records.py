"""The build cache: what came of a step, known by a key, and the layer that it holds.

A row is written when its layer is in the store. A crash before that leaves a layer that nobody holds, which the store
sweeps; a power cut may leave a row whose layer is damaged, which is then no hit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import msgspec

from dockyard.engine.images.layer_store import EMPTY, LayerStore, chain_of
from dockyard.engine.state.database import Database


class StepRow(msgspec.Struct, frozen=True):
    """A step as the database keeps it, under its key. Times are UNIX s; `diff_id` "": it changed no file."""

    parent: str | None
    diff_id: str
    name: str
    created: str
    made: float
    used: float
    uses: int = 0
    kind: str = "regular"
    facts: dict[str, str] = {}

    @property
    def chain_id(self) -> str | None:
        """The layer that the row holds."""
        return chain_of(self.parent, self.diff_id) if self.diff_id else self.parent


class StepCache:
    """Remembers what steps have made."""

    def __init__(self, layers: LayerStore, database: Database) -> None:
        """Hold what is known; to be made before the layer store sweeps."""
        self._layers = layers
        self._database = database
        self._rows = database.collection("build_steps", StepRow)
        self._known: dict[str, StepRow] = {}
        self._used: set[str] = set()  # whose use is not written down yet
        for key, row in list(self._rows.all()):
            if row.chain_id is not None and row.chain_id not in layers:
                self._rows.delete(key)
                continue
            self._take(key, row)

    def _take(self, key: str, row: StepRow) -> None:
        if row.chain_id is not None:
            self._layers.hold(row.chain_id)
        self._known[key] = row

    def find(self, key: str) -> StepRow | None:
        """What came of the step, if it is here and whole; it counts as used now."""
        row = self._known.get(key)
        if row is None or (row.chain_id is not None and self._layers.is_damaged(row.chain_id)):
            return None
        row = msgspec.structs.replace(row, used=time.time(), uses=row.uses + 1)
        self._known[key] = row
        self._used.add(key)
        return row

    def note_uses(self) -> None:
        """Write down when steps were used last; a kill before that only makes them look older."""
        used, self._used = self._used, set()
        with self._database.transaction():
            for key in used & self._known.keys():
                self._rows.put(key, self._known[key], lazy=True)

    def put(
        self,
        key: str,
        parent: str | None,
        diff_id: str,
        *,
        name: str,
        created: str,
        kind: str = "regular",
        facts: dict[str, str] | None = None,
    ) -> StepRow:
        """Remember what a step made of `parent`: the layer `diff_id`, or nothing ("")."""
        moment = time.time()
        row = StepRow(parent, "" if diff_id == EMPTY else diff_id, name, created, moment, moment, 0, kind, facts or {})
        before = self._known.get(key)
        self._take(key, row)
        self._rows.put(key, row, lazy=True)
        self._release(before)
        return row

    def _release(self, row: StepRow | None) -> int:
        """Let go of a row's layer; the bytes that are freed by that."""
        if row is None or row.chain_id is None:
            return 0
        return sum(layer.size for layer in self._layers.drop(row.chain_id))

    def rows(self) -> Iterator[tuple[str, StepRow]]:
        """Everything known, (key, row)."""
        return iter(list(self._known.items()))

    def size(self, row: StepRow) -> int:
        """Bytes of a row's own layer."""
        if not row.diff_id or row.chain_id is None or row.chain_id not in self._layers:
            return 0
        return self._layers.get(row.chain_id).size

    def forget(self, keys: Iterable[str]) -> int:
        """Forget steps; the bytes that are freed by that."""
        freed = 0
        for key in keys:
            row = self._known.pop(key, None)
            self._rows.delete(key)
            freed += self._release(row)
        return freed
