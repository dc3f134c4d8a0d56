"""The user namespaces of containers, each kept in a file with the network namespace that belongs to it.

A container's network is made before its first process. So that the container's root is master of it, it must belong to
the container's user namespace; hence both are made first, together, and joined by the process.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from dockyard.engine.containers.config import HostConfig
from dockyard.engine.containers.container import Container
from dockyard.engine.containers.spec.namespace_modes import joined
from dockyard.engine.system.id_ranges import IdRange, allocate, spans_for_containers, wanted_size
from dockyard.errors import InvalidParameter, NotFound
from dockyard.folders import own_folder
from dockyard.linux import userns

log = logging.getLogger("dockyard.containers")


class UserNamespaces:
    """Chooses ids, makes and forgets namespaces; the files are `<exec root>/userns/<container>.user` and `….net`."""

    def __init__(self, exec_root: Path, remapped: IdRange | None) -> None:
        """`remapped` are the ids of every container that does not say otherwise (`--userns-remap`)."""
        self._directory = exec_root / "userns"
        self._remapped = remapped
        self._reserved: dict[str, IdRange] = {}

    # -- ids

    def choose(
        self, container_id: str, host: HostConfig, containers: Iterable[Container], find: Callable[[str], Container]
    ) -> tuple[IdRange | None, str]:
        """(the ids for a new container, the one whose user namespace it shares or "").

        The ids are reserved until `settled`. Raises InvalidParameter for what goes with no user namespace.
        """
        size = wanted_size(host.userns_mode)
        if host.userns_mode == "host" or (size is None and self._remapped is None):
            return None, ""
        _check(host)
        for mode in (host.network_mode, host.ipc_mode, host.pid_mode):
            if joined(mode):
                # namespaces that belong to another's user namespace can be joined from inside that alone
                return self._of_others(host, find)
        if size is None:
            return self._remapped, ""
        taken = [container.record.ids for container in containers if container.record.ids is not None]
        taken += self._reserved.values()
        if self._remapped is not None:
            taken.append(self._remapped)
        ids = self._reserved[container_id] = allocate(size, taken, *spans_for_containers())
        return ids, ""

    @staticmethod
    def _of_others(host: HostConfig, find: Callable[[str], Container]) -> tuple[IdRange, str]:
        names = [joined(mode) for mode in (host.network_mode, host.ipc_mode, host.pid_mode) if joined(mode)]
        try:
            others = [find(name).record for name in names]
        except NotFound as missing:
            raise InvalidParameter(str(missing)) from None
        owners = {other.ids_of or other.id for other in others}
        ids = others[0].ids
        if ids is None or len(owners) > 1:
            raise InvalidParameter(
                f"cannot share namespaces with {' and '.join(names)}: "
                + ("they have different user namespaces" if ids else "it has no user namespace; use --userns host")
            )
        return ids, owners.pop()

    def settled(self, container_id: str) -> None:
        """Its ids are in its record now, or it has not come to be."""
        self._reserved.pop(container_id, None)

    # -- namespaces

    def make(self, container_id: str, ids: IdRange) -> str:
        """Make both, anew; returns the path of the network namespace. Blocking, below 1 ms. Raises OSError."""
        own_folder(self._directory)
        self.forget(container_id)
        with userns.held(ids.uids, ids.gids, network=True) as pid:
            userns.pin(pid, "user", self.path(container_id))
            userns.pin(pid, "net", self._network(container_id))
        return self._network(container_id)

    def join(self, container_id: str, other: str) -> str:
        """A network for a container that lives in another's user namespace; its path. Raises OSError."""
        self.forget(container_id)
        userns.make_network_in(self.path(other), self._network(container_id))
        return self._network(container_id)

    def path(self, container_id: str) -> str:
        """Where the container's user namespace is kept."""
        return str(self._directory / f"{container_id}.user")

    def _network(self, container_id: str) -> str:
        return str(self._directory / f"{container_id}.net")

    def network_made(self, container_id: str) -> None:
        """The network namespace is kept elsewhere now."""
        userns.unpin(self._network(container_id))

    def forget(self, container_id: str) -> None:
        """Let go of a container's; no error when there is none."""
        userns.unpin(self._network(container_id))
        userns.unpin(self.path(container_id))

    def sweep(self, running: Collection[str]) -> None:
        """Forget those of containers that do not run."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            container_id = name.partition(".")[0]
            if container_id not in running:
                self.forget(container_id)


def _check(host: HostConfig) -> None:
    """What moby refuses, too, with its words."""
    if host.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidParameter("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        raise InvalidParameter("cannot share the host PID namespace when user namespaces are enabled")
