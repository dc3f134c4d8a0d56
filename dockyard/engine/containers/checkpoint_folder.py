"""One checkpoint, as a directory: CRIU's images, and beside them what of the outside a restore should find again."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.networks.model import Sandbox

FILE = "dockyard.json"
PARTIAL = ".partial"


class Address(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a container had in one network."""

    ip: str = ""
    ipv6: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run goes on from. `moved`: it is another container's, which may still run."""

    directory: str
    moved: bool = False

    def addresses(self) -> dict[str, Address]:
        """By the ids of networks, what the processes may have bound sockets to; none of another container's."""
        if self.moved:
            return {}
        try:
            return msgspec.json.decode((Path(self.directory) / FILE).read_bytes(), type=dict[str, Address])
        except (OSError, msgspec.MsgspecError):
            return {}  # made by other hands

    @staticmethod
    def write_addresses(directory: Path, sandbox: Sandbox | None) -> None:
        """Keep them. Raises OSError."""
        found = {
            state.network_id: Address(state.ip, state.ipv6)
            for state in (sandbox.endpoints.values() if sandbox is not None else ())
        }
        (directory / FILE).write_bytes(msgspec.json.encode(found))


def partial_of(place: Path) -> Path:
    """Where a checkpoint is while it is written: no checkpoint's name begins so."""
    return place.parent / f".{place.name}{PARTIAL}"


def sweep(root: Path, *, ended: bool) -> list[Path]:
    """What a crash has left half written below `root`, where checkpoints are kept.

    With `ended`, the container does not run, those keep their place that are whole: another runtime, which ends the
    processes itself, went on with its checkpoint when the daemon had died.
    """
    left = []
    for entry in [Path(entry.path) for entry in os.scandir(root)] if root.is_dir() else []:
        if not entry.name.startswith("."):
            continue
        place = root / entry.name.removeprefix(".").removesuffix(PARTIAL)
        whole = (entry / FILE).exists() and (entry / "inventory.img").exists()  # CRIU writes that last
        if ended and whole and entry == partial_of(place) and not place.exists() and not place.name.startswith("."):
            os.rename(entry, place)
        else:
            left.append(entry)
    return left
