"""The life of containers: create, start, stop, restart, remove, and what happens when they end by themselves.

Every change of a container happens under its own lock and is in the database before it is acknowledged. Readers take no
lock, so a container that hangs holds up no request about another.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from dockyard.config import Config
from dockyard.engine import names
from dockyard.engine import spec as specs
from dockyard.engine.container import Container, Record, State, nanoseconds, timestamp
from dockyard.engine.container_config import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.engine.container_mounts import MountResolver, spec_mounts
from dockyard.engine.database import Database
from dockyard.engine.events import Events
from dockyard.engine.health import Prober
from dockyard.engine.images import Image, ImageService, ImageUser
from dockyard.engine.layers import LayerStore
from dockyard.engine.networks import NetworkService
from dockyard.engine.users import find_user
from dockyard.engine.volumes import VolumeService
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound, NotModified, SystemFailure
from dockyard.linux import cgroups, mounts, seccomp, syscalls
from dockyard.networks.model import EndpointConfig, JoinRequest, Sandbox
from dockyard.oci import runtime_spec
from dockyard.runtime import defaults
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim.client import Attachment, ExitStatus, LogConfig, Shim, Shims, StartRequest

log = logging.getLogger("dockyard.containers")

DEFAULT_STOP_TIMEOUT = 10
# Logs are bounded unless asked otherwise: a container that talks must not fill the disk.
DEFAULT_LOG_SIZE, DEFAULT_LOG_FILES = 100 << 20, 3
# Docker's back-off: 100 ms, doubled at every quick death up to a minute; ten good seconds start it over.
RESTART_DELAY, LONGEST_RESTART_DELAY, GOOD_RUN = 0.1, 60.0, 10.0
# Where distributions keep a static PID 1 that forwards signals and reaps.
INIT_PATHS = ("/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/libexec/docker/docker-init")
SIGNALS = {signal.Signals(number).name.removeprefix("SIG"): number for number in map(int, signal.Signals)}


class StartFailure(DockyardError):
    """The runtime could not start the program; `exit_code` is what the command line should end with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CannotRun(StartFailure, InvalidParameter):
    """The program is not there or may not be executed."""


class RuntimeBroke(StartFailure, SystemFailure):
    """The container could not be made."""


def parse_signal(text: str) -> int:
    """TERM, SIGTERM, 15, RTMIN+3. Raises InvalidParameter."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 0 < int(name) < 65:
        return int(name)
    if name in SIGNALS:
        return SIGNALS[name]
    for base, number in (("RTMIN", signal.SIGRTMIN), ("RTMAX", signal.SIGRTMAX)):
        if name.startswith(base) and name[len(base) + 1 :].isdigit():
            found = number + int(name[len(base) :])
            if signal.SIGRTMIN <= found <= signal.SIGRTMAX:
                return found
    raise InvalidParameter(f"invalid signal: {text}")


class ContainerService:
    """Every container of this engine."""

    def __init__(
        self,
        config: Config,
        database: Database,
        events: Events,
        images: ImageService,
        layers: LayerStore,
        volumes: VolumeService,
        networks: NetworkService,
        shims: Shims,
    ) -> None:
        self._config = config
        self._rows = database.collection("containers", Record)
        self._events = events
        self._images = images
        self._layers = layers
        self._volumes = volumes
        self._networks = networks
        self._shims = shims
        self._root = Path(config.data_root) / "containers"
        self._root.mkdir(mode=0o710, exist_ok=True)
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self._mounts = MountResolver(volumes, self.get)
        self._filters: dict[tuple[str, ...], bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.exec_gone: list[Callable[[str], None]] = []
        images.users.append(self._users_of_image)
        volumes.users.append(self._users_of_volume)

    # -- life of the service

    async def open(self) -> None:
        """Take up the containers of the database: those that ran on, those that ended meanwhile, and the others."""
        for container_id, record in list(self._rows.all()):
            container = Container(record)
            self._containers[container_id] = container
            self._names[record.name] = container_id
        for container in list(self._containers.values()):
            try:
                await self._recover(container)
            except Exception:
                log.exception("cannot take up container %s", container.id)
        self._sweep()
        await self._networks.sweep()
        for container in list(self._containers.values()):
            policy = container.host_config.restart_policy.name
            if not container.state.running and container.state.status != "created":
                again = policy == "always" or (policy == "unless-stopped" and not container.record.stopped_by_user)
                if again or container.state.status == "restarting":
                    self._spawn(self._start_again(container))

    async def close(self) -> None:
        """Let go of every container; they run on."""
        for container in self._containers.values():
            for task in (container.watcher, container.restarter, container.prober):
                if task is not None:
                    task.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop_all(self) -> None:
        """Stop every running container, side by side (a daemon without live-restore that ends)."""
        running = [container for container in self._containers.values() if container.state.running]
        await asyncio.gather(*(self.stop(container.id) for container in running), return_exceptions=True)

    def reload(self, config: Config) -> None:
        """Take up new settings."""
        self._config = config

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _recover(self, container: Container) -> None:
        record = container.record
        found = await self._shims.recover(container.id)
        if isinstance(found, Shim):
            if not record.state.running:
                # died between the start of the shim and the row that says so
                record.state.status, record.state.pid = "running", found.pid
                record.state.started_at = timestamp()
                self._save(container)
            container.shim = found
            await self._layers.mount(container.id)
            for name in container.volume_names:
                await self._volumes.mount(name, container.id)
            if record.sandbox is not None and record.join is not None:
                await self._networks.restore(container.id, record.sandbox, record.join)
            self._watch(container)
        elif record.state.running or found is not None:
            status = found or ExitStatus(255, time.time_ns())
            async with container.lock:
                await self._on_exit(container, status)
        elif record.state.status == "removing" or (record.host_config.auto_remove and record.state.status != "created"):
            await self.remove(container.id, force=True)

    def _sweep(self) -> None:
        """Remove what belongs to no container: directories and writable layers that a crash left."""
        for folder in self._root.iterdir():
            if folder.name not in self._containers:
                _unmount_shm(str(folder))
                shutil.rmtree(folder, ignore_errors=True)
        for container_id in self._layers.container_ids():
            if container_id not in self._containers:
                self._spawn(self._layers.release(container_id))

    # -- finding

    def all(self) -> list[Container]:
        """Every container, the oldest first."""
        return list(self._containers.values())

    def get(self, reference: str) -> Container:
        """The container of that id, name or unambiguous id prefix. Raises NotFound, InvalidParameter when ambiguous."""
        found = self._containers.get(reference)
        if found is not None:
            return found
        name = reference.removeprefix("/")
        if name in self._names:
            return self._containers[self._names[name]]
        matches = [found for key, found in self._containers.items() if reference and key.startswith(reference)]
        if len(matches) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {reference}")
        if not matches:
            raise NotFound(f"No such container: {reference}")
        return matches[0]

    def running(self, reference: str) -> tuple[Container, Shim]:
        """The container and its shim. Raises NotFound, Conflict when it does not run."""
        container = self.get(reference)
        if not container.state.running or container.shim is None:
            raise Conflict(f"container {container.id} is not running")
        return container, container.shim

    def _users_of_image(self, image_id: str) -> Sequence[ImageUser]:
        return [
            ImageUser(container.id, container.state.running)
            for container in self._containers.values()
            if container.record.image_id == image_id
        ]

    def _users_of_volume(self, name: str) -> Sequence[str]:
        return [container.id for container in self._containers.values() if name in container.volume_names]

    def folder(self, container: Container) -> str:
        """Where a container's own files are: log, hosts, hostname, resolv.conf."""
        return str(self._root / container.id)

    def save(self, container: Container) -> None:
        """Store what others have changed of a container's record, under its lock."""
        self._save(container)

    def note_networks(self, container: Container) -> None:
        """Take over what a running container has been given by its networks."""
        sandbox = self._networks.sandbox(container.id)
        if sandbox is not None:
            container.record.sandbox = sandbox
            self._note_networks(container.record, sandbox)

    def _save(self, container: Container) -> None:
        if container.id in self._containers:
            self._rows.put(container.id, container.record)

    def emit(self, container: Container, action: str, **further: str) -> None:
        """Tell what happened to a container, with its labels, image and name."""
        attributes = {**(container.config.labels or {}), "image": container.config.image, "name": container.name}
        self._events.emit("container", action, container.id, {**attributes, **further})

    # -- create

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
    ) -> Container:
        """Make a container. Raises NotFound for the image, Conflict for the name, InvalidParameter."""
        name = names.check_name(name) if name else names.choose_name(self._names)
        if name in self._names:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{self._names[name]}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        image = await self._images.get(config.image) if config.image else None
        container_id = secrets.token_hex(32)
        # taken at once, so that of two requests for one name only one goes on
        self._names[name] = container_id
        try:
            return await self._create(container_id, name, config, host, networks, image)
        except BaseException:
            del self._names[name]
            raise

    async def _create(
        self,
        container_id: str,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
        image: Image | None,
    ) -> Container:
        merge_image_config(config, image)
        if not config.entrypoint and not config.cmd:
            raise InvalidParameter("no command specified")
        config.hostname = config.hostname or container_id[:12]
        self._settle(host)
        specs.granted_capabilities(host.cap_add, host.cap_drop, host.privileged)
        specs.security_options(host.security_opt)
        if config.stop_signal:
            parse_signal(config.stop_signal)
        points = await self._mounts.resolve(config, host)
        record = Record(
            id=container_id,
            name=name,
            created=timestamp(),
            image_id=image.id if image else "",
            chain_id=image.chain_id if image else None,
            config=config,
            host_config=host,
            networks=self._wanted_networks(host, networks),
            mounts=points,
        )
        await self._layers.create_container_layer(
            container_id, record.chain_id, volatile=host.auto_remove, options=host.storage_opt
        )
        folder = self._root / container_id
        try:
            folder.mkdir(mode=0o710)
            if host.log_config.type in ("json-file", "local"):
                record.log_path = str(folder / f"{container_id}-json.log")
            container = Container(record)
            fresh = [point for point in points if point.type == "volume" and point.copy]
            if fresh:
                async with self._layers.mounted(container_id) as rootfs:
                    for point in fresh:
                        await self._volumes.populate(point.name, rootfs, point.destination)
            self._rows.put(container_id, record)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            await self._layers.release(container_id)
            raise
        self._containers[container_id] = container
        self.emit(container, "create")
        return container

    def _settle(self, host: HostConfig) -> None:
        """Fill in the daemon's defaults. Raises InvalidParameter for values that can't be."""
        if host.memory and host.memory < 6 << 20:
            raise InvalidParameter("Minimum memory limit allowed is 6MB")
        if host.memory_swap > 0 and not host.memory:
            raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
        if host.memory_swap > 0 and host.memory_swap < host.memory:
            raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
        if host.nano_cpus and (host.cpu_quota or host.cpu_period):
            raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
        cpus = os.cpu_count() or 1
        if host.nano_cpus < 0 or host.nano_cpus > cpus * 10**9:
            raise InvalidParameter(f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
        policy = host.restart_policy
        if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
            raise InvalidParameter(f"invalid restart policy: unknown policy '{policy.name}'")
        if policy.maximum_retry_count and policy.name != "on-failure":
            raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
        if host.auto_remove and policy.name not in ("", "no"):
            raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
        policy.name = policy.name or "no"
        host.network_mode = host.network_mode or "default"
        if not host.log_config.type:
            host.log_config.type = self._config.log_driver
            if not host.log_config.config:
                host.log_config.config = dict(self._config.log_opts)
        if host.log_config.type not in ("json-file", "local", "none"):
            raise InvalidParameter(f"logger: no log driver named '{host.log_config.type}' is registered")
        _log_sizes(host)
        host.ipc_mode = host.ipc_mode or self._config.default_ipc_mode
        host.cgroupns_mode = host.cgroupns_mode or ("host" if cgroups.layout().version == 1 else "private")
        host.shm_size = host.shm_size or int(self._config.default_shm_size)
        host.runtime = host.runtime or self._config.default_runtime
        if host.runtime not in ("runc", "io.containerd.runc.v2", "dockyard-runc"):
            raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
        if host.masked_paths is None and not host.privileged:
            host.masked_paths = list(defaults.MASKED_PATHS)
        if host.readonly_paths is None and not host.privileged:
            host.readonly_paths = list(defaults.READONLY_PATHS)
        if specs.security_options(host.security_opt).unmasked:
            host.masked_paths, host.readonly_paths = [], []

    def _wanted_networks(self, host: HostConfig, networks: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
        """The networks by name; the one of `--net` is among them. Raises NotFound for an unknown one."""
        mode = host.network_mode
        if mode.startswith("container:"):
            self.get(mode.removeprefix("container:"))
            return {}
        found: dict[str, EndpointSettings] = {}
        wanted = dict(networks)
        first = "bridge" if mode == "default" else mode
        for alias in ("default", mode):
            if alias in wanted and alias != first:
                wanted[first] = wanted.pop(alias)
        for reference in [first, *(name for name in wanted if name != first)]:
            found[self._networks.get(reference).name] = wanted.get(reference) or EndpointSettings()
        return found

    # -- start

    async def start(self, reference: str) -> None:
        """Start a container. Raises NotModified when it runs, StartFailure with an exit code, Conflict, …"""
        container = self.get(reference)
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.state.running:
                raise NotModified("container already started")
            if container.removing or container.state.status == "dead":
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            container.record.stopped_by_user = False
            container.record.restart_count = 0
            container.restart_delay = RESTART_DELAY
            await self._start(container)

    async def _start(self, container: Container) -> None:
        """Start under the lock; on failure everything is undone and the state says what went wrong."""
        record = container.record
        try:
            await self._launch(container)
        except BaseException as failure:
            for attachment in container.waiting:
                os.close(attachment.fd)
            container.waiting.clear()
            record.state.exit_code = failure.exit_code if isinstance(failure, StartFailure) else 128
            record.state.error = str(failure)
            if record.state.status in ("restarting", "exited"):
                record.state.status = "exited"
            await self._let_go(container)
            self._save(container)
            container.exited.set()
            container.exited = asyncio.Event()
            if record.host_config.auto_remove:
                self._spawn(self._remove_quietly(container))
            raise

    async def _launch(self, container: Container) -> None:
        record = container.record
        request = self._join_request(container)
        mounting = asyncio.ensure_future(self._layers.mount(container.id))
        joining = asyncio.ensure_future(self._networks.join(request))
        try:
            await asyncio.gather(mounting, joining)
        except BaseException:
            await asyncio.gather(mounting, joining, return_exceptions=True)
            raise
        rootfs, sandbox = mounting.result(), joining.result()
        sources = {
            point.destination: await self._volumes.mount(point.name, container.id)
            for point in record.mounts
            if point.type == "volume"
        }
        spec = self._spec(container, rootfs, sandbox, sources)
        log_config = record.host_config.log_config
        size, files = _log_sizes(record.host_config)
        attachments, container.waiting = container.waiting, []
        start = StartRequest(
            container_id=container.id,
            bundle=self.folder(container),
            spec=runtime_spec.encode(spec),
            seccomp_program=self._seccomp_program(record.host_config, spec),
            terminal=record.config.tty,
            open_stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=LogConfig(log_config.type, record.log_path, size, files),
            attachments=attachments,
            console_size=_console_size(record.host_config),
        )
        # Stored before there is a process: a daemon that dies in between must not sweep its network away.
        record.sandbox, record.join = sandbox, request
        self._save(container)
        try:
            shim = await self._shims.start(start)
        except RuntimeFailure as failure:
            raise _start_failure(failure) from failure
        container.shim = shim
        self._note_networks(record, sandbox)
        record.state = State(
            status="running",
            pid=shim.pid,
            started_at=timestamp(),
            finished_at=record.state.finished_at,
        )
        self._save(container)
        self._watch(container)
        self.emit(container, "start")

    def _watch(self, container: Container) -> None:
        container.watcher = asyncio.ensure_future(self._await_exit(container))
        check = container.config.healthcheck
        if check is not None and check.test and check.test[0] != "NONE":
            prober = Prober(container, check, self._on_health)
            container.prober = asyncio.ensure_future(prober.run())

    def _on_health(self, container: Container, changed: bool) -> None:
        self._save(container)
        if changed and container.state.health is not None:
            self.emit(container, f"health_status: {container.state.health.status}")

    def _join_request(self, container: Container) -> JoinRequest:
        record, host = container.record, container.host_config
        mode = host.network_mode
        joined_netns = joined_files = ""
        if mode.startswith("container:"):
            other, shim = self.running(mode.removeprefix("container:"))
            mode = f"container:{other.id}"
            joined_netns = f"/proc/{shim.pid}/ns/net"
            joined_files = self.folder(other)
        return JoinRequest(
            container_id=container.id,
            name=container.name,
            hostname=record.config.hostname,
            domainname=record.config.domainname,
            mode=mode,
            endpoints={name: _endpoint_config(settings, host) for name, settings in record.networks.items()},
            port_bindings={
                port: [(binding.host_ip, binding.host_port) for binding in bindings or [PortBinding()]]
                for port, bindings in (host.port_bindings or {}).items()
            },
            exposed_ports=set(record.config.exposed_ports or {}),
            publish_all=host.publish_all_ports,
            links=host.links or [],
            dns=host.dns or [],
            dns_search=host.dns_search or [],
            dns_options=host.dns_options or [],
            extra_hosts=host.extra_hosts or [],
            files_dir=self.folder(container),
            joined_netns=joined_netns,
            joined_files_dir=joined_files,
        )

    def _note_networks(self, record: Record, sandbox: Sandbox) -> None:
        """What the container got, into what `inspect` shows of its networks."""
        for name, state in sandbox.endpoints.items():
            settings = record.networks.setdefault(name, EndpointSettings())
            settings.network_id, settings.endpoint_id = state.network_id, state.endpoint_id
            settings.gateway, settings.ip_address = state.gateway, state.ip
            settings.ip_prefix_len, settings.mac_address = state.prefix_len, state.mac
            settings.ipv6_gateway, settings.global_ipv6_address = state.ipv6_gateway, state.ipv6
            settings.global_ipv6_prefix_len = state.ipv6_prefix_len
            settings.dns_names = state.dns_names or None

    def _spec(
        self, container: Container, rootfs: str, sandbox: Sandbox, sources: Mapping[str, str]
    ) -> runtime_spec.Spec:
        record, host = container.record, container.host_config
        user, home = find_user(rootfs, record.config.user, host.group_add or [])
        paths, shared, shm = self._namespaces(container, sandbox)
        options = specs.security_options(host.security_opt)
        granted = specs.granted_capabilities(host.cap_add, host.cap_drop, host.privileged)
        folder = self.folder(container)
        files_from = folder
        if host.network_mode.startswith("container:"):
            files_from = self.folder(self.get(host.network_mode.removeprefix("container:")))
        around = specs.Surroundings(
            container_id=container.id,
            rootfs=rootfs,
            cgroup_path=self.cgroup_path(container),
            hostname=record.config.hostname,
            user=user,
            home=home,
            namespaces=paths,
            host_namespaces=frozenset(shared),
            files=[
                (f"{files_from}/{name}", f"/etc/{name}")
                for name in ("resolv.conf", "hostname", "hosts")
                if os.path.exists(f"{files_from}/{name}")
            ],
            mounts=spec_mounts(record.mounts, dict(sources)),
            shm_source=shm,
            seccomp=self._seccomp(options.seccomp, granted, host.privileged),
            no_new_privileges=options.no_new_privileges or self._config.no_new_privileges,
            init_path=self._init_path(host),
            rootfs_propagation=_propagation(record),
        )
        return specs.build(record.config, host, around)

    def cgroup_path(self, container: Container) -> str:
        """The container's cgroup below every hierarchy's top."""
        parent = container.host_config.cgroup_parent or self._config.cgroup_parent or "docker"
        return f"/{parent.strip('/')}/{container.id}"

    def _init_path(self, host: HostConfig) -> str:
        wanted = self._config.init if host.init is None else host.init
        if not wanted:
            return ""
        for path in (self._config.init_path, *INIT_PATHS):
            if path and os.access(path, os.X_OK):
                return path
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
                other, shim = self.running(mode.removeprefix("container:"))
                if kind == "ipc":
                    if other.host_config.ipc_mode != "shareable":
                        raise InvalidParameter(
                            f"cannot join IPC of container {other.id}: non-shareable IPC (hint: use IpcMode:shareable "
                            "for the donor container)"
                        )
                    shm = _shm_path(self.folder(other))
                paths[kind] = f"/proc/{shim.pid}/ns/{kind}"
        if host.ipc_mode == "shareable":
            shm = _mount_shm(self.folder(container), host.shm_size)
        if host.cgroupns_mode != "private":
            shared.add("cgroup")
        return paths, shared, shm

    def _seccomp(self, wanted: str, granted: list[str], privileged: bool) -> runtime_spec.Seccomp | None:
        wanted = wanted or self._config.seccomp_profile
        if privileged or wanted == "unconfined":
            return None
        if not wanted or wanted == "builtin":
            return defaults.default_seccomp(granted)
        if not wanted.lstrip().startswith("{"):
            try:
                wanted = Path(wanted).read_text()
            except OSError as error:
                raise InvalidParameter(f"opening seccomp profile ({wanted}) failed: {error.strerror}") from None
        return specs.seccomp_profile(wanted, granted)

    def _seccomp_program(self, host: HostConfig, spec: runtime_spec.Spec) -> bytes | None:
        """The compiled filter; each distinct one is compiled once."""
        profile = spec.linux.seccomp
        if profile is None:
            return None
        key = (msgspec.json.encode(profile).decode(),)
        program = self._filters.get(key)
        if program is None:
            try:
                program = self._filters[key] = seccomp.compile_profile(profile)
            except (OSError, ValueError) as error:
                raise InvalidParameter(f"seccomp profile can't be compiled: {error}") from error
        spec.linux.seccomp = None
        return program

    # -- the end of a run

    async def _await_exit(self, container: Container) -> None:
        assert container.shim is not None
        status = await container.shim.wait()
        async with container.lock:
            container.watcher = None
            await self._on_exit(container, status)

    async def _on_exit(self, container: Container, status: ExitStatus) -> None:
        """Record the end, tell everyone, give back what the run held, then restart or remove."""
        record, shim = container.record, container.shim
        container.shim = None
        if container.prober is not None:
            container.prober.cancel()
            container.prober = None
        state = record.state
        started = nanoseconds(state.started_at)
        state.status, state.pid, state.exit_code = "exited", 0, status.code
        state.finished_at = timestamp(status.exited_at_ns)
        state.oom_killed = status.oom_killed
        if state.health is not None:
            state.health.status = "unhealthy"
        again = self._restarts(record, status.code) and not container.removing
        if again:
            state.status = "restarting"
        self._save(container)
        if status.oom_killed:
            self.emit(container, "oom")
        duration = max(status.exited_at_ns - started, 0) // 10**9 if started else 0
        self.emit(container, "die", exitCode=str(status.code), execDuration=str(duration))
        exited, container.exited = container.exited, asyncio.Event()
        for execution in container.exec_ids:
            for gone in self.exec_gone:
                gone(execution)
        container.exec_ids.clear()
        if record.host_config.auto_remove and not container.removing:
            container.removing = True
            exited.set()
            await self._let_go(container, shim)
            await self._delete(container, volumes=True)
            return
        exited.set()
        await self._let_go(container, shim)
        self._save(container)
        if again:
            if status.exited_at_ns - started > GOOD_RUN * 1e9:
                container.restart_delay = RESTART_DELAY
            container.restarter = asyncio.ensure_future(self._restart_later(container))

    async def _let_go(self, container: Container, shim: Shim | None = None) -> None:
        """Give back network, mounts and shim of a run that is over. Each is tried, whatever happens to the others."""
        record = container.record
        wishes = record.join.endpoints if record.join is not None else {}
        record.sandbox = record.join = None
        for name, settings in record.networks.items():
            if settings.endpoint_id:
                # else the next start would ask for this one, which may belong to another address by then
                settings.mac_address = wishes[name].mac_address if name in wishes else ""
            settings.endpoint_id = settings.gateway = settings.ip_address = ""
            settings.ipv6_gateway = settings.global_ipv6_address = ""
            settings.ip_prefix_len = settings.global_ipv6_prefix_len = 0
        results: list[object] = []
        results += await asyncio.gather(
            self._networks.leave(container.id),
            shim.delete() if shim is not None else self._shims.forget(container.id),
            return_exceptions=True,
        )
        # the mount goes after the shim, whose processes may still use it
        results += await asyncio.gather(
            self._unmount(container),
            *(self._volumes.unmount(name, container.id) for name in container.volume_names),
            return_exceptions=True,
        )
        _unmount_shm(self.folder(container))
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, NotFound):
                log.warning("cleaning up after container %s: %s", container.id, result)

    async def _unmount(self, container: Container) -> None:
        if not container.removing:  # a removal unmounts and removes in one go
            await self._layers.unmount(container.id)

    def _restarts(self, record: Record, code: int) -> bool:
        policy = record.host_config.restart_policy
        if record.stopped_by_user:
            return False
        if policy.name in ("always", "unless-stopped"):
            return True
        most = policy.maximum_retry_count
        return policy.name == "on-failure" and code != 0 and (not most or record.restart_count < most)

    async def _restart_later(self, container: Container) -> None:
        await asyncio.sleep(container.restart_delay)
        container.restart_delay = min(container.restart_delay * 2, LONGEST_RESTART_DELAY)
        await self._start_again(container)

    async def _start_again(self, container: Container) -> None:
        async with container.lock:
            if container.state.running or container.removing:
                return
            container.restarter = None
            container.record.restart_count += 1
            try:
                await self._start(container)
            except Exception as failure:
                log.warning("cannot restart container %s: %s", container.id, failure)

    def _cancel_restart(self, container: Container) -> None:
        if container.restarter is not None:
            container.restarter.cancel()
            container.restarter = None
            container.state.status = "exited"

    # -- stop and the like

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Ask it to end and, `timeout` s later, end it (-1: never). Raises NotModified when it does not run."""
        container = self.get(reference)
        if not container.state.running:
            if container.restarter is not None:
                container.record.stopped_by_user = True
                self._cancel_restart(container)
                self._save(container)
                return
            raise NotModified("container already stopped")
        await self._stop(container, timeout, signal_name)
        self.emit(container, "stop")

    async def _stop(self, container: Container, timeout: int | None, signal_name: str = "") -> None:
        shim, exited = container.shim, container.exited
        if shim is None:
            return
        container.record.stopped_by_user = True
        self._save(container)
        if timeout is None:
            timeout = container.config.stop_timeout
        if timeout is None:
            timeout = DEFAULT_STOP_TIMEOUT
        if container.state.status == "paused":
            await self.unpause(container.id)
        signo = parse_signal(signal_name or container.config.stop_signal or "TERM")
        with suppress(NotFound):
            await shim.signal(signo)
            self.emit(container, "kill", signal=str(signo))
        try:
            await asyncio.wait_for(exited.wait(), timeout if timeout >= 0 else None)
        except TimeoutError:
            with suppress(NotFound):
                await shim.signal(signal.SIGKILL)
                self.emit(container, "kill", signal=str(int(signal.SIGKILL)))
            await exited.wait()
        # whoever stops and starts at once must find all given back
        async with container.lock:
            pass

    async def kill(self, reference: str, signal_name: str = "KILL") -> None:
        """Send a signal. Raises Conflict when it does not run."""
        signo = parse_signal(signal_name or "KILL")
        container, shim = self._live(reference, "kill")
        if signo in (signal.SIGKILL, parse_signal(container.config.stop_signal or "TERM")):
            container.record.stopped_by_user = True
            self._save(container)
        exited = container.exited
        if signo == signal.SIGKILL and container.state.status == "paused":
            await shim.resume()
        try:
            await shim.signal(signo)
        except NotFound:
            raise Conflict(f"cannot kill container: {reference}: container {container.id} is not running") from None
        self.emit(container, "kill", signal=str(signo))
        if signo == signal.SIGKILL:
            with suppress(TimeoutError):
                await asyncio.wait_for(exited.wait(), 10)

    def _live(self, reference: str, doing: str) -> tuple[Container, Shim]:
        container = self.get(reference)
        if not container.state.running or container.shim is None:
            raise Conflict(f"cannot {doing} container: {reference}: container {container.id} is not running")
        return container, container.shim

    async def restart(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        """Stop it, if it runs, and start it."""
        container = self.get(reference)
        if container.state.running:
            auto_remove, container.host_config.auto_remove = container.host_config.auto_remove, False
            try:
                await self._stop(container, timeout, signal_name)
            finally:
                container.host_config.auto_remove = auto_remove
        with suppress(NotModified):
            await self.start(container.id)
        self.emit(container, "restart")

    async def pause(self, reference: str) -> None:
        """Freeze it. Raises Conflict when it does not run or is paused."""
        container, shim = self.running(reference)
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is already paused")
            await _translate(shim.pause())
            container.state.status = "paused"
            self._save(container)
        self.emit(container, "pause")

    async def unpause(self, reference: str) -> None:
        """Let it go on. Raises Conflict when it is not paused."""
        container = self.get(reference)
        async with container.lock:
            if container.state.status != "paused" or container.shim is None:
                raise Conflict(f"Container {container.id} is not paused")
            await _translate(container.shim.resume())
            container.state.status = "running"
            self._save(container)
        self.emit(container, "unpause")

    async def resize(self, reference: str, height: int, width: int) -> None:
        """Set its terminal's size, in characters."""
        container, shim = self.running(reference)
        await _translate(shim.resize(height, width))
        self.emit(container, "resize", height=str(height), width=str(width))

    def rename(self, reference: str, name: str) -> None:
        """Give it another name. Raises Conflict when that is taken."""
        container = self.get(reference)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        name, old = names.check_name(name), container.name
        if name == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        if name in self._names:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{self._names[name]}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        del self._names[old]
        self._names[name] = container.id
        container.record.name = name
        self._save(container)
        self._networks.rename(container.id, name)
        self.emit(container, "rename", oldName=f"/{old}")

    async def update(self, reference: str, changes: Mapping[str, object]) -> None:
        """Change limits and restart policy, live when it runs; `changes` by HostConfig's JSON names."""
        container = self.get(reference)
        async with container.lock:
            merged = msgspec.to_builtins(container.host_config)
            merged.update({key: value for key, value in changes.items() if value not in (None, 0, "", [], {})})
            if "RestartPolicy" in changes and not (changes["RestartPolicy"] or {}).get("Name"):  # type: ignore[attr-defined]  # a JSON object
                merged["RestartPolicy"] = msgspec.to_builtins(container.host_config.restart_policy)
            try:
                host = msgspec.convert(merged, HostConfig)
            except msgspec.ValidationError as error:
                raise InvalidParameter(str(error)) from None
            self._settle(host)
            if container.shim is not None:
                wanted = specs.resources(host)
                await _translate(container.shim.update(runtime_spec.encode(wanted)))
            container.record.host_config = host
            self._save(container)
        self.emit(container, "update")

    # -- remove

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; with `volumes` its anonymous volumes too. Raises Conflict while it runs, unless `force`."""
        container = self.get(reference)
        if container.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        if container.state.running or container.state.status == "restarting":
            if not force:
                what = "paused" if container.state.status == "paused" else container.state.status
                hint = "unpause and then stop" if what == "paused" else "stop"
                raise Conflict(
                    f'cannot remove container "/{container.name}": container is {what}: '
                    f"{hint} the container before removing or force remove"
                )
            container.removing = True
            self._cancel_restart(container)
            with suppress(Conflict, NotFound):
                await self.kill(container.id)
        container.removing = True
        try:
            async with container.lock:
                await self._delete(container, volumes=volumes)
        except BaseException:
            container.removing = False
            raise

    async def _remove_quietly(self, container: Container) -> None:
        try:
            await self.remove(container.id, force=True, volumes=True)
        except (NotFound, Conflict):
            pass

    async def _delete(self, container: Container, *, volumes: bool) -> None:
        """Take away all that the container was; under its lock."""
        if container.id not in self._containers:
            raise NotFound(f"No such container: {container.id}")
        container.state.status = "removing"
        self._save(container)
        for attachment in container.waiting:
            os.close(attachment.fd)
        container.waiting.clear()
        await self._layers.release(container.id)
        self._rows.delete(container.id)
        del self._containers[container.id]
        self._names.pop(container.name, None)
        _unmount_shm(self.folder(container))
        shutil.rmtree(self.folder(container), ignore_errors=True)
        self.emit(container, "destroy")
        container.exited.set()
        container.removed.set()
        if volumes:
            for point in container.record.mounts:
                if point.type == "volume":
                    await self._remove_anonymous(point.name)

    async def _remove_anonymous(self, name: str) -> None:
        with suppress(NotFound, Conflict):
            volume = await self._volumes.get(name)
            if volume.anonymous:
                await self._volumes.remove(name)

    async def prune(self, matches: Callable[[Container], bool]) -> tuple[list[str], int]:
        """Remove every stopped container that `matches`: (their ids, bytes freed)."""
        removed, freed = [], 0
        for container in self.all():
            if container.state.running or container.state.status == "restarting" or not matches(container):
                continue
            with suppress(Conflict, NotFound):
                size = (await self._layers.sizes(container.id))[0]
                await self.remove(container.id)
                removed.append(container.id)
                freed += size
        self._events.emit("container", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    # -- waiting and streams

    async def wait(self, reference: str, condition: str = "not-running") -> tuple[int, str]:
        """(exit code, error) once it does not run, has exited the next time, or is removed."""
        container = self.get(reference)
        if condition == "removed":
            await container.removed.wait()
        elif condition == "next-exit" or container.state.running or container.state.status == "restarting":
            if condition == "not-running" and not container.state.running and container.restarter is None:
                return container.state.exit_code, container.state.error
            await container.exited.wait()
        return container.state.exit_code, container.state.error

    async def attach(self, reference: str, attachment: Attachment) -> None:
        """Connect a client to the streams: now, or when it starts. The descriptor is ours from here on."""
        try:
            container = self.get(reference)
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        except BaseException:
            os.close(attachment.fd)
            raise
        self.emit(container, "attach")
        if container.shim is not None:
            await container.shim.attach(attachment)
        else:
            container.waiting.append(attachment)

    @asynccontextmanager
    async def rootfs(self, container: Container) -> AsyncIterator[str]:
        """The container's root file system on the host, mounted for the time of the block."""
        async with self._layers.mounted(container.id) as path:
            yield path


def merge_image_config(config: ContainerConfig, image: Image | None) -> None:
    """Fill in what the image says and the request leaves open."""
    base = image.config.config if image is not None else None
    if base is None:
        return
    config.user = config.user or base.user
    config.working_dir = config.working_dir or base.working_dir
    config.stop_signal = config.stop_signal or base.stop_signal
    config.stop_timeout = base.stop_timeout if config.stop_timeout is None else config.stop_timeout
    config.exposed_ports = {**(base.exposed_ports or {}), **(config.exposed_ports or {})} or None
    config.volumes = {**(base.volumes or {}), **(config.volumes or {})} or None
    config.labels = {**(base.labels or {}), **(config.labels or {})}
    given = {entry.partition("=")[0] for entry in config.env or []}
    config.env = [*(config.env or []), *(entry for entry in base.env or [] if entry.partition("=")[0] not in given)]
    if not config.entrypoint:
        if not config.cmd:
            config.cmd = base.cmd
        if config.entrypoint is None:
            config.entrypoint = base.entrypoint
    if config.entrypoint == [""]:
        config.entrypoint = []
    config.shell = config.shell or base.shell
    if config.healthcheck is None:
        config.healthcheck = base.healthcheck
    elif base.healthcheck is not None and not config.healthcheck.test:
        check = config.healthcheck
        check.test = base.healthcheck.test
        for name in ("interval", "timeout", "start_period", "start_interval", "retries"):
            setattr(check, name, getattr(check, name) or getattr(base.healthcheck, name))


def _endpoint_config(settings: EndpointSettings, host: HostConfig) -> EndpointConfig:
    addresses = settings.ipam_config
    return EndpointConfig(
        aliases=settings.aliases or [],
        links=settings.links or [],
        ipv4_address=addresses.ipv4_address if addresses else "",
        ipv6_address=addresses.ipv6_address if addresses else "",
        mac_address=settings.mac_address if not settings.endpoint_id else "",
        link_local_ips=addresses.link_local_ips or [] if addresses else [],
        driver_opts=settings.driver_opts or {},
        gw_priority=settings.gw_priority,
    )


def _console_size(host: HostConfig) -> tuple[int, int] | None:
    if len(host.console_size) == 2 and all(host.console_size):
        return host.console_size[0], host.console_size[1]
    return None


def _log_sizes(host: HostConfig) -> tuple[int, int]:
    """(bytes a log file may have, how many there may be). Raises InvalidParameter for malformed options."""
    given = host.log_config.config or {}
    size, files = DEFAULT_LOG_SIZE, DEFAULT_LOG_FILES
    if "max-size" in given:
        text = given["max-size"].lower().removesuffix("b")
        unit = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:], 1)
        number = text.rstrip("kmg")
        if text == "-1":
            size = -1
        elif not number.isdigit():
            raise InvalidParameter(f"invalid log opt 'max-size': invalid size: '{given['max-size']}'")
        else:
            size = int(number) * unit
        files = 1
    if "max-file" in given:
        if not given["max-file"].isdigit() or int(given["max-file"]) < 1:
            raise InvalidParameter("max-file cannot be less than 1")
        files = int(given["max-file"])
    return size, files


def _propagation(record: Record) -> str:
    """The root's propagation that the container's mounts need: shared mounts only work from a shared root."""
    wanted = {mount.propagation for mount in record.mounts}
    if wanted & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if wanted & {"slave", "rslave"} else ""


def _start_failure(failure: RuntimeFailure) -> StartFailure:
    text = (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        f"runc create failed: unable to start container process: {failure.message}"
    )
    if failure.exit_code in (126, 127):
        return CannotRun(text, failure.exit_code)
    return RuntimeBroke(text, 128)


async def _translate(work: Coroutine[Any, Any, None]) -> None:
    """Await a request to a shim; what the runtime refuses is a failure of the system, an ended container a conflict."""
    try:
        await work
    except RuntimeFailure as failure:
        raise SystemFailure(failure.message) from failure
    except NotFound:
        raise Conflict("container is not running") from None


def _shm_path(folder: str) -> str:
    return f"{folder}/mounts/shm"


def _mount_shm(folder: str, size: int) -> str:
    """A /dev/shm that other containers can join: a tmpfs on the host."""
    path = _shm_path(folder)
    os.makedirs(path, mode=0o700, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC | syscalls.MS_NODEV
    mounts.mount("shm", path, "tmpfs", flags, f"mode=1777,size={size}")
    return path


def _unmount_shm(folder: str) -> None:
    path = _shm_path(folder)
    if os.path.isdir(path):
        with suppress(OSError):
            mounts.unmount(path, syscalls.MNT_DETACH)
