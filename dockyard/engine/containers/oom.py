"""Tells that the kernel has killed in a container for want of memory, when it does and not only at its end."""

import asyncio
import logging

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.index import ContainerIndex
from dockyard.linux.cgroups import Cgroup
from dockyard.linux.oom import OomNotice

log = logging.getLogger("dockyard.containers")


class OomWatcher:
    """Watches the cgroups of the running containers."""

    def __init__(self, index: ContainerIndex) -> None:
        self._index = index
        self._notices: dict[str, OomNotice] = {}

    def watch(self, container: Container, cgroup_path: str) -> None:
        """Tell from now on what happens to a container that runs."""
        self.forget(container)
        cgroup = Cgroup(cgroup_path)
        try:
            notice = OomNotice(cgroup)
        except OSError as error:
            log.debug("container %s: no notice of memory: %s", container.id, error)
            return
        self._notices[container.id] = notice
        asyncio.get_running_loop().add_reader(notice.fileno(), self._noticed, container, cgroup)

    def _noticed(self, container: Container, cgroup: Cgroup) -> None:
        notice = self._notices.get(container.id)
        if notice is None:
            return
        notice.clear()
        if not cgroup.exists():  # on v1 this is noticed, too
            self.forget(container)
            return
        # v1 notices a lack of memory only, but before it counts the kill; v2 also what is no kill, but counts first
        kills = cgroup.oom_kills() if cgroup.version == 2 else container.oom_kills + 1
        if kills > container.oom_kills:
            container.oom_kills = kills
            container.state.oom_killed = True
            self._index.save(container)
            self._index.emit(container, "oom")

    def forget(self, container: Container) -> None:
        """Its run is over."""
        notice = self._notices.pop(container.id, None)
        if notice is not None:
            asyncio.get_running_loop().remove_reader(notice.fileno())
            notice.close()

    def close(self) -> None:
        """The daemon ends."""
        for notice in self._notices.values():
            asyncio.get_running_loop().remove_reader(notice.fileno())
            notice.close()
        self._notices.clear()
