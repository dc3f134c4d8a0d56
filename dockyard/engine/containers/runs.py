"""A container's run: what it holds while it runs (layer, volumes, networks, shim), taken in order and given back."""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress

from dockyard.engine.containers.checkpoint_folder import Checkpoint
from dockyard.engine.containers.config import EndpointSettings, HostConfig, PortBinding
from dockyard.engine.containers.container import Container, MountPoint, Record, State
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.logs import options as log_options
from dockyard.engine.containers.logs.forwarding import LogForwarding
from dockyard.engine.containers.mounts import host_mounts
from dockyard.engine.containers.mounts.image_mounts import ImageMounts, image_points
from dockyard.engine.containers.networks.endpoint_settings import endpoint_config
from dockyard.engine.containers.networks.links import linked_containers
from dockyard.engine.containers.spec.container_spec import SpecMaker
from dockyard.engine.containers.spec.security import security_options
from dockyard.engine.containers.spec.user_namespaces import UserNamespaces
from dockyard.engine.containers.start_failures import start_failure
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.system.apparmor import AppArmor
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, DockyardError, NotFound
from dockyard.networks.model import JoinRequest, Sandbox
from dockyard.oci import runtime_spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim.client import Shims
from dockyard.shim.connection import Shim
from dockyard.shim.orders import LogConfig, StartRequest
from dockyard.timestamps import timestamp

log = logging.getLogger("dockyard.containers")


class ContainerRuns:
    """Begins, takes up again and ends the runs of containers, each under its container's lock."""

    def __init__(
        self,
        index: ContainerIndex,
        specs: SpecMaker,
        layers: ContainerLayers,
        volumes: VolumeService,
        networks: NetworkService,
        shims: Shims,
        logs: LogForwarding,
        user_namespaces: UserNamespaces,
        apparmor: AppArmor,
        image_mounts: ImageMounts,
    ) -> None:
        self._index = index
        self._specs = specs
        self._layers = layers
        self._volumes = volumes
        self._networks = networks
        self._shims = shims
        self._logs = logs
        self._user_namespaces = user_namespaces
        self._apparmor = apparmor
        self._image_mounts = image_mounts

    async def begin(self, container: Container, checkpoint: Checkpoint | None = None) -> None:
        """Start its process; afterwards it has a shim. On failure `end` undoes what was begun.

        With a `checkpoint` its processes go on from there.
        """
        record, host = container.record, container.host_config
        record.apparmor = self._apparmor.profile(
            security_options(host.security_opt).apparmor, privileged=host.privileged
        )
        await self._apparmor.ensure(record.apparmor)
        request = self._join_request(container)
        if checkpoint is not None:
            request.preferred = {
                network: (address.ip, address.ipv6) for network, address in checkpoint.addresses().items()
            }
        request.prepared_netns = await self._user_namespace(container)
        mounting = asyncio.ensure_future(self._layers.mount(container.id))
        joining = asyncio.ensure_future(self._join(request))
        try:
            await asyncio.gather(mounting, joining)
        except BaseException:
            await asyncio.gather(mounting, joining, return_exceptions=True)
            raise
        rootfs, sandbox = mounting.result(), joining.result()
        if request.mode in ("default", "bridge") and not self._networks.has_default_bridge:
            container.record.config.network_disabled = True
        if request.prepared_netns:
            self._user_namespaces.network_made(container.id)
        volumes = [point for point in record.mounts if point.type == "volume"]
        sources = {point.destination: await self._source(container, point) for point in volumes}
        sources |= await self._images_of(container)
        self._volumes.tell_mounts(volumes, container.id)
        spec = self._specs.make(container, rootfs, sandbox, sources)
        order = log_options.forwarding(container, self._index.folder(container))
        if order is not None:
            await self._logs.check(order)
            await self._logs.begin(order)
        program = await self._specs.seccomp_program(container, spec)
        attachments, container.waiting = container.waiting, []
        start = StartRequest(
            container_id=container.id,
            bundle=self._index.folder(container),
            spec=runtime_spec.encode(spec),
            seccomp_program=program,
            terminal=record.config.tty,
            open_stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=_log_config(container, self._index.folder(container)),
            attachments=attachments,
            console_size=_console_size(record.host_config),
            runtime=self._specs.runtime(container),
            checkpoint=checkpoint.directory if checkpoint is not None else "",
            moved=checkpoint is not None and checkpoint.moved,
            systemd_cgroup=self._specs.systemd_cgroups,
        )
        # Stored before there is a process: a daemon that dies in between must not sweep its network away.
        record.sandbox, record.join = sandbox, request
        self._index.save(container)
        try:
            shim = await self._shims.start(start)
        except RuntimeFailure as failure:
            raise start_failure(failure, restored=checkpoint is not None) from failure
        if any(point.subpath for point in record.mounts):
            host_mounts.unmount_subpaths(self._index.folder(container))
        container.shim = shim
        _note_networks(record, sandbox)
        record.state = State(
            status="running",
            pid=shim.pid,
            started_at=timestamp(),
            finished_at=record.state.finished_at,
            cgroup=self._specs.cgroup_path(container),
        )
        self._index.save(container)
        self._index.emit(container, "start")

    async def _join(self, request: JoinRequest) -> Sandbox:
        """Give the container its networking; what is wrong with that is told as such."""
        try:
            return await self._networks.join(request)
        except DockyardError as error:
            raise type(error)(f"failed to set up container networking: {error}") from error

    async def _source(self, container: Container, point: MountPoint) -> str:
        """Where on the host the volume is that the container has there, or the part of it that is wanted."""
        volume = await self._volumes.mount(point.name, container.id)
        return await self._part(container, point, volume)

    async def _images_of(self, container: Container) -> dict[str, str]:
        """Where on the host the images are that the container has mounted, by destination."""
        points = image_points(container.record)
        places = await self._image_mounts.mount(points)
        return {point.destination: await self._part(container, point, places[point.destination]) for point in points}

    async def _part(self, container: Container, point: MountPoint, whole: str) -> str:
        if not point.subpath:
            return whole
        return await asyncio.to_thread(host_mounts.mount_subpath, self._index.folder(container), whole, point.subpath)

    async def _user_namespace(self, container: Container) -> str:
        """Make the container's user namespace, if it has one, and its network; the path of that or ""."""
        record = container.record
        if record.ids is None:
            return ""
        if not record.ids_of:
            return await asyncio.to_thread(self._user_namespaces.make, container.id, record.ids)
        self._index.running(record.ids_of)
        if record.host_config.network_mode.startswith("container:"):
            return ""
        return await asyncio.to_thread(self._user_namespaces.join, container.id, record.ids_of)

    def _join_request(self, container: Container) -> JoinRequest:
        record, host = container.record, container.host_config
        mode = host.network_mode
        joined_netns = joined_files = ""
        if mode.startswith("container:"):
            other, shim = self._networked(mode.removeprefix("container:"))
            mode = f"container:{other.id}"
            joined_netns = f"/proc/{shim.pid}/ns/net"
            joined_files = self._index.folder(other)
        return JoinRequest(
            container_id=container.id,
            name=container.name,
            hostname=record.config.hostname,
            domainname=record.config.domainname,
            mode=mode,
            endpoints={name: endpoint_config(settings) for name, settings in record.networks.items()},
            port_bindings={
                port: [(binding.host_ip, binding.host_port) for binding in bindings or [PortBinding()]]
                for port, bindings in (host.port_bindings or {}).items()
            },
            exposed_ports=set(record.config.exposed_ports or {}),
            publish_all=host.publish_all_ports,
            links=[f"{linked.id}:{alias}" for alias, linked in linked_containers(self._index, container)],
            dns=host.dns or [],
            dns_search=host.dns_search or [],
            dns_options=host.dns_options or [],
            extra_hosts=host.extra_hosts or [],
            files_dir=self._index.folder(container),
            joined_netns=joined_netns,
            joined_files_dir=joined_files,
            alone=container.hidden,
        )

    def _networked(self, reference: str) -> tuple[Container, Shim]:
        """The running container whose network another one joins."""
        try:
            other = self._index.get(reference)
        except NotFound as error:
            raise NotFound(f"joining network namespace of container: {error}") from error
        if not other.state.running or other.shim is None:
            raise Conflict(
                "cannot join network namespace of a non running container: "
                f"container {other.name} is {other.state.status}"
            )
        return other, other.shim

    async def take_up(self, container: Container, shim: Shim) -> None:
        """Hold again what a container holds that ran on while the daemon was down."""
        record = container.record
        if not record.state.running:
            # died between the start of the shim and the row that says so
            record.state.status, record.state.pid = "running", shim.pid
            record.state.started_at = timestamp()
            self._index.save_surely(container)
        if record.state.status == "paused" and not shim.frozen and not shim.silent:
            record.state.status = "running"
            self._index.save_surely(container)
        elif shim.frozen and record.state.status != "paused":
            # of a pause that was never acknowledged, or for the time of a commit
            with suppress(RuntimeFailure, DockyardError):
                await shim.resume()
        container.shim = shim
        holding: list[Awaitable[object]] = [self._layers.mount(container.id)]
        holding += [self._volumes.mount(name, container.id) for name in container.volume_names]
        holding.append(self._image_mounts.mount(image_points(record)))
        holding.append(self._forward_again(container))
        if record.sandbox is not None and record.join is not None:
            holding.append(self._networks.restore(container.id, record.sandbox, record.join))
        for failure in await asyncio.gather(*holding, return_exceptions=True):
            if isinstance(failure, Exception):
                log.error("container %s runs on, but not all that it uses is there: %s", container.id, failure)

    async def send_rest(self, container: Container) -> None:
        """Send what a container that has ended had logged and the last daemon had not sent."""
        if log_options.is_sent(container, self._index.folder(container)):
            return
        if await self._forward_again(container):
            self._logs.end(container.id)

    async def _forward_again(self, container: Container) -> bool:
        order = log_options.forwarding(container, self._index.folder(container))
        if order is not None:
            await self._logs.begin(order)
        return order is not None

    def note_networks(self, container: Container) -> None:
        """Take over what a running container has been given by its networks."""
        sandbox = self._networks.sandbox(container.id)
        if sandbox is not None:
            container.record.sandbox = sandbox
            _note_networks(container.record, sandbox)

    async def end(self, container: Container, shim: Shim | None = None) -> None:
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
            self.unmount(container),
            *(self._volumes.unmount(name, container.id) for name in container.volume_names),
            return_exceptions=True,
        )
        self._volumes.tell_unmounts([point for point in record.mounts if point.type == "volume"], container.id)
        self._logs.end(container.id)
        host_mounts.unmount_all(self._index.folder(container))
        if record.ids is not None:
            self._user_namespaces.forget(container.id)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, NotFound):
                log.warning("cleaning up after container %s: %s", container.id, result)

    async def unmount(self, container: Container) -> None:
        """Give back its file system."""
        if not container.removing:  # a removal unmounts and removes in one go
            await self._layers.unmount(container.id)
            await self._image_mounts.unmount(image_points(container.record))


def _log_config(container: Container, folder: str) -> LogConfig:
    log_config = container.host_config.log_config
    file = log_options.log_file(log_config.type, log_config.config or {})
    if file is None:
        return LogConfig("none")
    return LogConfig(
        log_config.type,
        container.record.log_path,
        file.max_size,
        file.max_file,
        log_options.attributes(container),
        file.compress,
        log_options.sent_note(folder) if log_options.blocks(log_config.type, log_config.config or {}) else "",
    )


def _note_networks(record: Record, sandbox: Sandbox) -> None:
    """What the container got, into what `inspect` shows of its networks."""
    for name, state in sandbox.endpoints.items():
        if state.gateway_only:
            continue
        settings = record.networks.setdefault(name, EndpointSettings())
        settings.network_id, settings.endpoint_id = state.network_id, state.endpoint_id
        settings.gateway, settings.ip_address = state.gateway, state.ip
        settings.ip_prefix_len, settings.mac_address = state.prefix_len, state.mac
        settings.ipv6_gateway, settings.global_ipv6_address = state.ipv6_gateway, state.ipv6
        settings.global_ipv6_prefix_len = state.ipv6_prefix_len
        settings.dns_names = state.dns_names or None


def _console_size(host: HostConfig) -> tuple[int, int] | None:
    if len(host.console_size) == 2 and all(host.console_size):
        return host.console_size[0] & 0xFFFF, host.console_size[1] & 0xFFFF
    return None
