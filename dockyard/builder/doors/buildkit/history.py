"""Builds that have ended, on the disk: what `buildx history` tells of them, over restarts of the daemon.

Up to three files for each: its record, all that onlookers were told, for `history logs`, and what the record only
names: provenance, and errors in full.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from dockyard.builder.doors.buildkit.traces import KIND
from dockyard.buildkit import wire_pb2 as wire
from dockyard.folders import own_folder
from dockyard.oci.digest import digest_of

log = logging.getLogger("dockyard.builder")

KEPT = 50  # builds, besides pinned ones
LARGEST = 8 << 20  # bytes of what onlookers were told
RECORD, STATUS, SAID = ".record", ".status", ".said"


class History:
    """Records of builds, the last ones and those that are pinned."""

    def __init__(self, folder: Path) -> None:
        self._folder = own_folder(folder)

    def keep(self, record: wire.HistoryRecord, told: wire.StatusResponse, said: Sequence[bytes]) -> None:
        """Add a build that has ended, with the contents that it names; old ones go. To be called in a thread."""
        place = self._place(record.ref)
        events = told.SerializeToString()
        try:
            if len(events) <= LARGEST:
                _write(place.with_suffix(STATUS), zlib.compress(events, 1))
            if said and sum(map(len, said)) <= LARGEST:
                _write(place.with_suffix(SAID), msgspec.msgpack.encode(list(said)))
            _write(place.with_suffix(RECORD), record.SerializeToString())
            kept = [one for one in self.records() if not one.pinned]
            for old in kept[:-KEPT]:
                self.remove(old.ref)
        except OSError as error:
            log.warning("a build can't be kept in the history: %s", error)

    def records(self) -> Sequence[wire.HistoryRecord]:
        """All of them, the oldest first."""
        return sorted(self._read(), key=lambda one: (one.created_at.seconds, one.created_at.nanos))

    def _read(self) -> Iterator[wire.HistoryRecord]:
        for file in self._folder.glob(f"*{RECORD}"):
            try:
                yield wire.HistoryRecord.FromString(file.read_bytes())
            except (OSError, DecodeError):
                continue

    def record(self, ref: str) -> wire.HistoryRecord | None:
        """The record of one build."""
        try:
            return wire.HistoryRecord.FromString(self._place(ref).with_suffix(RECORD).read_bytes())
        except (OSError, DecodeError):
            return None

    def told(self, ref: str) -> wire.StatusResponse | None:
        """What its onlookers were told."""
        try:
            return wire.StatusResponse.FromString(zlib.decompress(self._place(ref).with_suffix(STATUS).read_bytes()))
        except (OSError, DecodeError, zlib.error):
            return None

    def said(self, digest: str) -> bytes | None:
        """A content that a record names; None when there is no such."""
        for record in self._read():
            named = [
                record.trace,
                *record.result.attestations,
                *(one for said in record.results.values() for one in said.attestations),
            ]
            if digest not in (record.external_error.digest, *(one.digest for one in named)):
                continue
            try:
                contents = msgspec.msgpack.decode(
                    self._place(record.ref).with_suffix(SAID).read_bytes(), type=list[bytes]
                )
            except (OSError, msgspec.MsgspecError):
                continue
            for content in contents:
                if digest_of(content) == digest:
                    return content
        return None

    def add_trace(self, record: wire.HistoryRecord, trace: bytes) -> None:
        """Keep a trace with a record. To be called in a thread."""
        place = self._place(record.ref)
        try:
            contents = msgspec.msgpack.decode(place.with_suffix(SAID).read_bytes(), type=list[bytes])
        except (OSError, msgspec.MsgspecError):
            contents = []
        _write(place.with_suffix(SAID), msgspec.msgpack.encode([*contents, trace]))
        record.trace.CopyFrom(wire.Descriptor(media_type=KIND, digest=digest_of(trace), size=len(trace)))
        _write(place.with_suffix(RECORD), record.SerializeToString())

    def pin(self, record: wire.HistoryRecord, *, pinned: bool) -> None:
        """Have it stay, or no longer."""
        record.pinned = pinned
        _write(self._place(record.ref).with_suffix(RECORD), record.SerializeToString())

    def remove(self, ref: str) -> None:
        """Forget it."""
        for suffix in (RECORD, STATUS, SAID):
            self._place(ref).with_suffix(suffix).unlink(missing_ok=True)

    def _place(self, ref: str) -> Path:
        # a client has chosen its name
        return self._folder / hashlib.sha256(ref.encode(errors="surrogateescape")).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    other = path.with_suffix(path.suffix + ".new")
    other.write_bytes(content)
    os.replace(other, path)
