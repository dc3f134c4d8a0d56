"""Checkpoints: a container's processes in files, to go on from later. CRIU does the work (runtime/checkpoint/)."""

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from dockyard.engine.containers.checkpoint_folder import Checkpoint, partial_of, sweep
from dockyard.engine.containers.container import Container
from dockyard.engine.containers.service import ContainerService
from dockyard.errors import Conflict, InvalidParameter, NotFound, NotImplementedHere, SystemFailure
from dockyard.linux.durability import sync_file_system, sync_names
from dockyard.runtime.checkpoint import criu
from dockyard.runtime.checkpoint import dump as checkpoint
from dockyard.runtime.errors import ProgramMissing, RuntimeFailure
from dockyard.runtime.lifecycle.handle import ContainerHandle
from dockyard.shim.client import Shims

NAME_CHARACTERS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
NAME = re.compile(f"{NAME_CHARACTERS}+")


class CheckpointService:
    """Makes, lists and removes the checkpoints of containers, each a directory."""

    def __init__(self, containers: ContainerService, shims: Shims) -> None:
        self._containers = containers
        self._shims = shims

    def open(self) -> None:
        """Remove what a crash has left half written."""
        for container in self._containers.all():
            for left in sweep(self._root(container, ""), ended=not container.state.running):
                shutil.rmtree(left, ignore_errors=True)

    async def create(self, reference: str, name: str, directory: str, *, leave_running: bool) -> None:
        """Write a running container's processes down; they end by that, unless `leave_running`.

        Raises Conflict when it does not run or the name is taken, SystemFailure for what CRIU can't do.
        """
        container = self._containers.get(reference)
        if not container.state.running:
            raise Conflict(f"Container {reference} not running")
        if NAME.fullmatch(name) is None:
            raise InvalidParameter(f"Invalid checkpoint ID ({name}), only {NAME_CHARACTERS} are allowed")
        place = self._root(container, directory) / name
        async with container.lock:
            if place.exists():
                taken = f"checkpoint with name {name} already exists for container {container.name}"
                if not place.is_dir():
                    taken = f"{place} exists and is not a directory"
                raise Conflict(f"cannot checkpoint container {reference}: {taken}")
            exited, stopped = container.exited, container.record.stopped_by_user

            async def on_written() -> None:
                if not leave_running:
                    container.record.stopped_by_user = True  # it has not failed
                    self._containers.save(container)

            try:
                await self.write(container, place, leave_running=leave_running, on_written=on_written)
            except (SystemFailure, NotImplementedHere) as failure:
                container.record.stopped_by_user = stopped
                self._containers.save(container)
                raise type(failure)(f"Cannot checkpoint container {reference}: {failure.message}") from failure
        if not leave_running:
            await exited.wait()
        self._containers.emit(container, "checkpoint")

    async def write(
        self,
        container: Container,
        place: Path,
        *,
        leave_running: bool,
        to_move: bool = False,
        on_written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Write a running container's processes, under its lock, to the directory `place`, which is there whole or not.

        `on_written` is awaited when all is written, while the processes stand still; if it raises, or this daemon dies
        before it is over, they go on. `to_move`: another container is to go on from it.
        Raises SystemFailure or NotImplementedHere with the reason; then nothing is left.
        """
        if container.record.ids is not None:
            # made before the network, which belongs to it: CRIU makes one anew, from which that network is out of reach
            raise NotImplementedHere("it has a user namespace of its own, into which CRIU cannot restore it")
        partial = partial_of(place)
        shutil.rmtree(partial, ignore_errors=True)
        loop = asyncio.get_running_loop()

        def written() -> None:
            if not to_move:  # a fork begins at once from one that is to move, and then it goes
                sync_file_system(str(partial))
            os.rename(partial, place)
            if not to_move:  # the processes may end by it: from here on there is nothing else of them
                sync_names(str(place.parent))
            if on_written is not None:
                asyncio.run_coroutine_threadsafe(_run(on_written), loop).result()

        try:
            partial.mkdir(0o700, parents=True)
            Checkpoint.write_addresses(partial, container.record.sandbox)
            await asyncio.to_thread(self._dump, container.id, partial, leave_running, to_move, written)
        except BaseException as failure:
            for left in (partial, place):
                shutil.rmtree(left, ignore_errors=True)
            if isinstance(failure, ProgramMissing):
                raise NotImplementedHere(failure.message) from None
            if isinstance(failure, RuntimeFailure | OSError):
                raise SystemFailure(failure.message if isinstance(failure, RuntimeFailure) else str(failure)) from None
            raise

    def _dump(
        self, container_id: str, images: Path, leave_running: bool, to_move: bool, written: Callable[[], None]
    ) -> None:
        other = self._shims.other_container(container_id)
        if other is not None:
            if to_move:
                raise RuntimeFailure(f"the runtime {other.program.command[0]} cannot restore another's container")
            other.checkpoint(str(images), leave_running=leave_running)
            written()  # its processes have ended by now
            return
        # of the outside it may hold on to connections, sockets and locks of files; so may a restore (shim/starter.py)
        options = checkpoint.Options(
            str(images),
            leave_running=leave_running,
            tcp_established=not to_move,
            tcp_close=to_move,
            external_unix_sockets=True,
            file_locks=True,
            cgroup_mode="ignore" if to_move else "",
        )
        checkpoint.checkpoint(ContainerHandle.load(str(self._shims.state_root), container_id), options, written)

    def time_stopped(self, directory: str) -> float:
        """For how long, in seconds, the processes stood still while the checkpoint was made."""
        return criu.time_stopped(directory)

    def list(self, reference: str, directory: str) -> list[str]:
        """The names. Raises NotFound for a directory that is not there."""
        container = self._containers.get(reference)
        root = self._root(container, directory)
        if not root.is_dir():
            if directory:
                raise NotFound(f"checkpoint  does not exist for container {container.name}")  # Docker's words
            return []
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))

    async def remove(self, reference: str, name: str, directory: str) -> None:
        """Remove one. Raises NotFound when it is not there."""
        place = Path(self.find(reference, name, directory).directory)
        # first by its name, so that a crash leaves no half of one
        os.rename(place, partial_of(place))
        await asyncio.to_thread(shutil.rmtree, partial_of(place))
        await asyncio.to_thread(sync_names, str(place.parent))

    def find(self, reference: str, name: str, directory: str) -> Checkpoint:
        """The checkpoint. Raises NotFound when it is not there."""
        container = self._containers.get(reference)
        place = self._root(container, directory) / name
        if NAME.fullmatch(name) is None or not place.is_dir():
            raise NotFound(f"checkpoint {name} does not exist for container {container.name}")
        return Checkpoint(str(place))

    def _root(self, container: Container, directory: str) -> Path:
        if directory and not os.path.isabs(directory):
            raise InvalidParameter(f"checkpoint directory must be an absolute path: {directory}")
        return Path(directory) if directory else Path(self._containers.folder(container)) / "checkpoints"


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()
