"""One container's OCI runtime spec: its record, joined with what the host, its image and other containers say."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from dockyard.config import Config
from dockyard.engine.containers.container import Container, MountPoint, Record
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.mounts import host_mounts
from dockyard.engine.containers.mounts.bind_sources import prepare
from dockyard.engine.containers.mounts.container_mounts import spec_mounts
from dockyard.engine.containers.networks.links import link_environment
from dockyard.engine.containers.spec import cdi
from dockyard.engine.containers.spec import runtime_spec as specs
from dockyard.engine.containers.spec.seccomp_filters import SeccompFilters
from dockyard.engine.containers.spec.security import (
    granted_capabilities,
    seccomp_profile,
    seccomp_text,
    security_options,
)
from dockyard.engine.containers.spec.user_namespaces import UserNamespaces
from dockyard.engine.containers.spec.users import find_user
from dockyard.engine.system import runtimes
from dockyard.errors import InvalidParameter
from dockyard.linux import systemd
from dockyard.networks.model import Sandbox
from dockyard.oci import runtime_spec
from dockyard.runtime.spec import defaults
from dockyard.shim import unit
from dockyard.shim.orders import Runtime

# Where distributions keep a static PID 1 that forwards signals and reaps.
INIT_PATHS = ("/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/libexec/docker/docker-init")


class SpecMaker:
    """Makes specs, and what goes with them."""

    def __init__(
        self,
        config: Config,
        index: ContainerIndex,
        user_namespaces: UserNamespaces,
        open_files: tuple[int, int] | None,
    ) -> None:
        """`open_files`: the limit (soft, hard) of containers that do not ask for one; None: the daemon's."""
        self._open_files = open_files
        self._config = config
        self._index = index
        self._user_namespaces = user_namespaces
        self._filters = SeccompFilters()
        self._enders = unit.enders()

    def reload(self, config: Config) -> None:
        """Take up new settings."""
        self._config = config

    def make(
        self, container: Container, rootfs: str, sandbox: Sandbox, sources: Mapping[str, str]
    ) -> runtime_spec.Spec:
        """The spec of a container whose root, network sandbox and volumes (`sources`: by destination) are ready."""
        record, host = container.record, container.host_config
        user, home = find_user(rootfs, record.config.user, host.group_add or [])
        paths, shared, shm = self._namespaces(container, sandbox)
        options = security_options(host.security_opt)
        granted = granted_capabilities(host.cap_add, host.cap_drop, host.privileged)
        folder = self._index.folder(container)
        points = prepare(record.mounts, Path(self._config.data_root), record.ids)
        files_from = folder
        if host.network_mode.startswith("container:"):
            files_from = self._index.folder(self._index.get(host.network_mode.removeprefix("container:")))
        around = specs.Surroundings(
            container_id=container.id,
            rootfs=rootfs,
            cgroup_path=self._cgroups_path(container),
            hostname=record.config.hostname,
            user=user,
            home=home,
            namespaces=paths,
            host_namespaces=frozenset(shared),
            files=[
                (f"{files_from}/{name}", f"/etc/{name}")
                for name in (("resolv.conf", "hosts") if container.hidden else ("resolv.conf", "hostname", "hosts"))
                if os.path.exists(f"{files_from}/{name}")
            ],
            fixed_files=container.hidden,
            mounts=spec_mounts(points, dict(sources), record.ids, (user.uid, user.gid)),
            shm_source=shm,
            link_variables=link_environment(self._index, container),
            secret_variables=container.unrecorded,
            seccomp=self._seccomp(options.seccomp, granted, host.privileged),
            no_new_privileges=(
                self._config.no_new_privileges if options.no_new_privileges is None else options.no_new_privileges
            ),
            apparmor=record.apparmor,
            writable_cgroups=_writable_cgroups(options.writable_cgroups, record),
            init_path=self._init_path(container),
            rootfs_propagation=_propagation(points),
            ids=record.ids,
            open_files=self._open_files,
        )
        spec = specs.build(record.config, host, around)
        if self.systemd_cgroups and self._enders:
            # A scope in a slice of its own would be stopped with that at once when the system goes down.
            spec.annotations.setdefault("org.systemd.property.Before", str(self._enders))
        cdi.inject(spec, host.device_requests or [], self._config.cdi_spec_dirs or cdi.DEFAULT_DIRECTORIES)
        return spec

    @property
    def systemd_cgroups(self) -> bool:
        """Whether the specs' cgroups are systemd's, see Config."""
        return self._config.systemd_cgroups

    def _cgroups_path(self, container: Container) -> str:
        """Its cgroup as the spec has it: a path, or "slice:prefix:name" of a scope of systemd's."""
        parent = container.host_config.cgroup_parent or self._config.cgroup_parent
        if self.systemd_cgroups:
            return f"{parent or 'system.slice'}:docker:{container.id}"
        return f"/{(parent or 'docker').strip('/')}/{container.id}"

    def cgroup_path(self, container: Container) -> str:
        """The container's cgroup below every hierarchy's top, when it is started now."""
        path = self._cgroups_path(container)
        return systemd.scope_path(path) if self.systemd_cgroups else path

    def _init_path(self, container: Container) -> str:
        """The container's own copy of docker-init, "" when it is to have none.

        Its own: who may remount what is mounted read-only could write to the host's. Raises InvalidParameter.
        """
        host = container.host_config
        wanted = self._config.init if host.init is None else host.init
        if not wanted or host.pid_mode:  # in a PID namespace of others there is an init already
            return ""
        for path in (self._config.init_path, *INIT_PATHS):
            if path and os.access(path, os.X_OK):
                copy = f"{self._index.folder(container)}/docker-init"
                shutil.copyfile(path, f"{copy}.new")
                os.chmod(f"{copy}.new", 0o755)
                os.rename(f"{copy}.new", copy)
                return copy
        raise InvalidParameter("no docker-init on this host: install the package tini, or give its path by --init-path")

    def _namespaces(self, container: Container, sandbox: Sandbox) -> tuple[dict[str, str], set[str], str]:
        """(namespaces to join by path, those shared with the host, the host path of /dev/shm or "")."""
        host = container.host_config
        paths: dict[str, str] = {}
        shared: set[str] = set()
        shm = ""
        if sandbox.netns_path is None:
            shared.add("network")
        else:
            paths["network"] = sandbox.netns_path
        for kind, mode in (("pid", host.pid_mode), ("uts", host.uts_mode), ("ipc", host.ipc_mode)):
            if mode == "host":
                shared.add(kind)
            elif mode.startswith("container:"):
                other, shim = self._index.running(mode.removeprefix("container:"))
                if kind == "ipc":
                    if other.host_config.ipc_mode != "shareable":
                        raise InvalidParameter(
                            f"failed to join IPC namespace: container {other.id}: non-shareable IPC "
                            "(hint: use IpcMode:shareable for the donor container)"
                        )
                    shm = host_mounts.shm_path(self._index.folder(other))
                paths[kind] = f"/proc/{shim.pid}/ns/{kind}"
        if host.ipc_mode == "shareable":
            shm = host_mounts.mount_shm(self._index.folder(container), host.shm_size, container.record.ids)
        if container.record.ids is not None:
            paths["user"] = self._user_namespaces.path(container.record.ids_of or container.id)
        if host.cgroupns_mode != "private":
            shared.add("cgroup")
        return paths, shared, shm

    def _seccomp(self, wanted: str, granted: list[str], privileged: bool) -> runtime_spec.Seccomp | None:
        if privileged and not wanted:
            return None
        wanted = wanted or self._config.seccomp_profile
        if wanted == "unconfined":
            return None
        if _is_builtin(wanted):
            return defaults.default_seccomp(granted)
        return seccomp_profile(seccomp_text(wanted), granted)

    def runtime(self, container: Container) -> Runtime | None:
        """Which runtime makes it; None is ours. Raises InvalidParameter when the one it was made for is gone."""
        return runtimes.find(container.host_config.runtime or self._config.default_runtime, self._config)

    async def seccomp_program(self, container: Container, spec: runtime_spec.Spec) -> bytes | None:
        """The compiled filter of a spec made for the container. Raises InvalidParameter."""
        profile = spec.linux.seccomp
        if profile is None:
            return None
        wanted = security_options(container.host_config.security_opt).seccomp or self._config.seccomp_profile
        return await self._filters.compiled(profile, builtin=_is_builtin(wanted))


def _writable_cgroups(wanted: bool | None, record: Record) -> bool:
    if record.ids is not None:
        if wanted is not None:
            raise InvalidParameter("option WritableCgroups conflicts with user namespaces and rootless mode")
        return False
    return record.host_config.privileged if wanted is None else wanted


def _propagation(points: Iterable[MountPoint]) -> str:
    """The root's propagation that the container's mounts need: shared mounts only work from a shared root."""
    wanted = {point.propagation for point in points}
    if wanted & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if wanted & {"slave", "rslave"} else ""


def _is_builtin(profile: str) -> bool:
    return profile in ("", "builtin")
