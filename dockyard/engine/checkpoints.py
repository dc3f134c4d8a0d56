"""Checkpoints: a container's processes in files, to go on from later. CRIU does the work (runtime/checkpoint.py)."""

import asyncio
import os
import re
import shutil
from pathlib import Path

from dockyard.engine.containers import ContainerService
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from dockyard.runtime import checkpoint
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.existing import Existing

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class CheckpointService:
    """Makes, lists and removes the checkpoints of containers, each a directory."""

    def __init__(self, containers: ContainerService, state_root: Path) -> None:
        """`state_root` is where the runtime keeps what it knows of running containers."""
        self._containers = containers
        self._state_root = state_root

    async def create(self, reference: str, name: str, directory: str, *, leave_running: bool) -> None:
        """Write a running container's processes down; they end by that, unless `leave_running`.

        Raises Conflict when the name is taken or the container does not run, SystemFailure with CRIU's reason.
        """
        _check_name(name)
        container, _ = self._containers.running(reference)
        if container.record.ids is not None:
            raise Conflict(f"Cannot checkpoint container {reference}: it has a user namespace")
        place = self._root(reference, directory) / name
        if place.exists():
            raise Conflict(
                f"cannot checkpoint container {reference}: checkpoint with name {name} already exists "
                f"for container {container.name}"
            )
        exited, stopped = container.exited, container.record.stopped_by_user
        if not leave_running:
            container.record.stopped_by_user = True  # it has not failed
            self._containers.save(container)
        try:
            async with container.lock:
                await asyncio.to_thread(self._write, container.id, str(place), leave_running)
        except RuntimeFailure as failure:
            shutil.rmtree(place, ignore_errors=True)
            container.record.stopped_by_user = stopped
            self._containers.save(container)
            raise SystemFailure(f"Cannot checkpoint container {reference}: {failure.message}") from failure
        if not leave_running:
            await exited.wait()
        self._containers.emit(container, "checkpoint")

    def _write(self, container_id: str, place: str, leave_running: bool) -> None:
        # of the outside it may hold on to connections, sockets and locks of files; so may a restore (shim/starter.py)
        options = checkpoint.Options(
            place, leave_running=leave_running, tcp_established=True, external_unix_sockets=True, file_locks=True
        )
        checkpoint.checkpoint(Existing.load(str(self._state_root), container_id), options)

    def list(self, reference: str, directory: str) -> list[str]:
        """The names. Raises NotFound for a directory that is not there."""
        root = self._root(reference, directory)
        if not root.is_dir():
            if directory:
                raise NotFound(f'checkpoint directory "{directory}" does not exist for container {reference}')
            return []
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir())

    async def remove(self, reference: str, name: str, directory: str) -> None:
        """Remove one. Raises NotFound."""
        await asyncio.to_thread(shutil.rmtree, self.find(reference, name, directory))

    def find(self, reference: str, name: str, directory: str) -> str:
        """Where the checkpoint is. Raises NotFound."""
        _check_name(name)
        place = self._root(reference, directory) / name
        if not place.is_dir():
            raise NotFound(f"checkpoint {name} does not exist for container {reference}")
        return str(place)

    def _root(self, reference: str, directory: str) -> Path:
        container = self._containers.get(reference)
        if directory and not os.path.isabs(directory):
            raise InvalidParameter(f"checkpoint directory must be an absolute path: {directory}")
        return Path(directory) if directory else Path(self._containers.folder(container)) / "checkpoints"


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None or name.endswith("."):
        raise InvalidParameter(f'invalid checkpoint ID "{name}", only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed')
