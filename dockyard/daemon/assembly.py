"""Builds every service of the engine in the order in which they need each other, and takes them down in reverse."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from dockyard.api.services import Services
from dockyard.builder.builder import Builder
from dockyard.builder.cache.records import StepCache
from dockyard.builder.exec.run import Runner
from dockyard.config import Config, bytes_of, parse_mark
from dockyard.content.patience import Patience
from dockyard.content.registry import RegistryClient
from dockyard.content.signatures.gate import SignatureGate
from dockyard.content.unpack import Worker
from dockyard.daemon.cleanup import Cleanup
from dockyard.engine.containers.archive import ArchiveService
from dockyard.engine.containers.checkpoints.forks import ForkService
from dockyard.engine.containers.checkpoints.service import CheckpointService
from dockyard.engine.containers.commit import CommitService
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.leases import LeaseService
from dockyard.engine.containers.logs import options as log_options
from dockyard.engine.containers.reconfigure import Reconfigurer
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.containers.spec.cdi import DEFAULT_DIRECTORIES
from dockyard.engine.containers.spec.security import seccomp_profile, seccomp_text
from dockyard.engine.containers.spec.user_namespaces import UserNamespaces
from dockyard.engine.containers.stats import StatsService
from dockyard.engine.docker_import.importer import DockerImport
from dockyard.engine.events.service import Events
from dockyard.engine.execs.service import ExecService
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.networks.service import NetworkOptions, NetworkService
from dockyard.engine.repair.fsck import Fsck
from dockyard.engine.repair.rebuild import Rebuilder
from dockyard.engine.state.copies import StateCopies
from dockyard.engine.state.data_root import open_database
from dockyard.engine.system.apparmor import AppArmor
from dockyard.engine.system.id_ranges import IdRange, remap_range
from dockyard.engine.system.plugins import PluginService
from dockyard.engine.system.service import SystemService
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import DockyardError, InvalidParameter, SystemFailure
from dockyard.folders import own_folder
from dockyard.linux.cgroups import Cgroup
from dockyard.linux.durability import sync_file_system, sync_path
from dockyard.linux.mounts import mount_table
from dockyard.networks.claims import AddressClaims
from dockyard.oci.manifest import host
from dockyard.shim.client import Shims
from dockyard.snapshots.choice import choose
from dockyard.timestamps import duration
from dockyard.volumes.local import LocalDriver
from dockyard.watchdog import Step, unwatched

log = logging.getLogger("dockyard.engine")

STOP_GRACE = 15  # seconds beyond a container's own that its end may take: it is killed, and given back


class Engine:
    """The whole engine; `services` is what the API is given."""

    def __init__(self, config: Config, step: Step = unwatched, *, open_files: tuple[int, int] | None = None) -> None:
        """`step` is told what the start is at.

        `open_files`: the limit (soft, hard) of containers that do not ask for one, when it is not ours.
        """
        self._step = step
        remapped = remap_range(config.userns_remap) if config.userns_remap else None
        if remapped is not None:
            config = _remapped(config, remapped)
        self.config = config
        root = Path(config.data_root)
        exec_root = Path(config.exec_root)
        self._undo = AsyncExitStack()
        step(f"the state database in {root}")
        database = open_database(root)
        self._database = database
        self._undo.callback(database.close)
        self._copies = StateCopies(database)
        self._undo.push_async_callback(self._copies.close)
        events = Events()
        self._archives = Worker(lambda function, peer: self._shims.fork_helper(function, peer))
        self._undo.callback(self._archives.close)
        step(f"the storage driver in {root}")
        options = dict(option.partition("=")[::2] for option in config.storage_opts)
        driver = choose(config.storage_driver or None, root, options)
        log.info("storage driver %s", driver.name)
        step(f"layers, images and volumes in {root}")
        self._layers = LayerStore(driver, self._archives, database, root)
        self._container_layers = ContainerLayers(self._layers, database)
        self._registry = RegistryClient(
            config.registry_mirrors, config.insecure_registries, Patience.of(config.max_download_attempts)
        )
        steps = StepCache(self._layers, database)  # holds its layers before the images have the rest swept away
        images = ImageService(self._layers, self._registry, database, events)
        images.gate.configure(config.signature_policy, config.signature_lookaside)
        volumes = VolumeService([LocalDriver(root / "volumes")], database, events)
        claims = AddressClaims()
        self._networks = NetworkService(exec_root, database, events, network_options(config), claims)
        self._shims = Shims(exec_root)
        self._apparmor = AppArmor(exec_root)
        index = ContainerIndex(root / "containers", database, events, claims)
        self._containers = ContainerService(
            config,
            index,
            events,
            images,
            self._container_layers,
            volumes,
            self._networks,
            self._shims,
            UserNamespaces(exec_root, remapped),
            self._apparmor,
            open_files,
        )
        self._leases = LeaseService(database, self._containers, self._networks, volumes)
        checkpoints = CheckpointService(self._containers, self._shims)
        self.services = Services(
            containers=self._containers,
            execs=ExecService(self._containers, self._apparmor),
            images=images,
            layers=self._layers,
            container_layers=self._container_layers,
            networks=self._networks,
            volumes=volumes,
            archive=ArchiveService(self._containers, self._container_layers, volumes, self._archives),
            commit=CommitService(self._containers, images, self._layers, self._container_layers),
            builder=Builder(
                images,
                self._layers,
                self._container_layers,
                Runner(self._containers, config.cdi_spec_dirs or DEFAULT_DIRECTORIES),
                database,
                events,
                root / "builder",
                host().architecture,
                steps,
                exec_root / "builder",
                self._networks.host_gateways,
                config.builder,
            ),
            stats=StatsService(self._containers, self._networks),
            system=SystemService(config, database, events, self._apparmor),
            plugins=PluginService(root / "plugins", database, events),
            events=events,
            reconfigurer=Reconfigurer(self._containers, self._networks, volumes, root),
            leases=self._leases,
            checkpoints=checkpoints,
            docker_import=DockerImport(
                images, self._layers, self._container_layers, volumes, self._networks, self._containers, self._archives
            ),
            fsck=Fsck(root, database, self._layers, self._container_layers, images, volumes, index),
            forks=ForkService(self._containers, checkpoints, self._container_layers, volumes),
            on_disk=database.on_disk,
        )

        self._cleanup = Cleanup(images, self.services.builder.usage, index)
        self._keep_to_budget(config)

    def _keep_to_budget(self, config: Config) -> None:
        budget = bytes_of(config.cleanup_budget) if config.cleanup_budget else 0
        self._cleanup.configure(budget, (duration(config.cleanup_keep) or 0) / 1e9)

    async def open(self) -> None:
        """Start the zygote, bring networks up, take containers up again."""
        # before there is a copy of the database, beside which one that has nothing on the disk is taken for a new one
        await self._on_disk(new=self._database.fresh)
        self._copies.open()
        self._undo.push_async_callback(self._registry.close)
        self._undo.push_async_callback(self._layers.close)
        self._layers.open()
        self._container_layers.open()
        self._step("networks and the packet filter")
        await asyncio.gather(self._networks.open(self._step), self._apparmor.open())
        self._undo.push_async_callback(self._networks.close)
        self._step("the zygote")
        await self._shims.open()
        self._undo.push_async_callback(self._shims.close)
        self._undo.push_async_callback(self._containers.close)
        self._step("containers")
        await self._containers.open(self._step)
        self._step("leases")
        self.services.checkpoints.open()
        self._leases.open()
        self._undo.push_async_callback(self._leases.close)
        self._undo.push_async_callback(self.services.builder.close)
        self._cleanup.open()
        self._undo.push_async_callback(self._cleanup.close)
        naming = asyncio.ensure_future(self.services.fsck.name_at_start())
        self._undo.callback(naming.cancel)
        await self._on_disk()

    async def _on_disk(self, *, new: bool = False) -> None:
        """Until what this start has made is on the disk: of a `new` data root everything, with its own name."""
        try:
            if new:
                root = Path(self.config.data_root).resolve()
                await asyncio.to_thread(sync_file_system, str(root))
                for folder in root.parents[:2]:  # a remapped one lies in another
                    await asyncio.to_thread(sync_path, str(folder))
            await self._database.on_disk()
        except (OSError, SystemFailure) as failure:  # what ends containers works without the disk
            log.error("what this start has made and found is not on the disk: %s", failure)

    async def stop_containers(self) -> None:
        """Stop every running container in its own way and start none any more; `close` comes next."""
        await self._containers.stop_all()

    def longest_stop(self) -> float:
        """How long the containers that run may take to end, s; 0: for ever (moby, ShutdownTimeout)."""
        times = [container.stop_patience for container in self._containers.all() if container.state.running]
        configured = self.config.shutdown_timeout
        if configured < 0 or any(time < 0 for time in times):
            return 0
        return max([configured, *(time + STOP_GRACE for time in times)])

    async def close(self) -> None:
        """Take everything down in reverse; containers that run stay."""
        await self._undo.aclose()

    def reload(self, config: Config) -> None:
        """Take up what can change while the daemon runs."""
        self.config = config
        self._registry.configure(config.registry_mirrors, config.insecure_registries)
        self.services.images.gate.configure(config.signature_policy, config.signature_lookaside)
        self._keep_to_budget(config)
        self._containers.reload(config)
        self.services.system.reload(config)


def check(config: Config) -> None:
    """Refuse what can be refused before anything is opened. Raises InvalidParameter, SystemFailure."""
    if config.seccomp_profile not in ("", "builtin", "unconfined"):
        seccomp_profile(seccomp_text(config.seccomp_profile), [])
    if config.userns_remap not in ("", "default"):  # which is made when it is needed
        remap_range(config.userns_remap)
    SignatureGate(config.signature_policy, config.signature_lookaside).check()
    try:
        log_options.check(config.log_driver, config.log_opts)
    except InvalidParameter as error:
        raise InvalidParameter(f"failed to set log opts: {error}") from None


def recover(config: Config, told: Callable[[str], None]) -> None:
    """`dockyardd --recover`: make a state database from what is left. Raises SystemFailure."""
    remapped = remap_range(config.userns_remap) if config.userns_remap else None
    root = Path((_remapped(config, remapped) if remapped is not None else config).data_root)
    Rebuilder(root, told).rebuild()


async def stop_outlived(config: Config) -> None:
    """`dockyardd --stop-containers`: stop what runs on without a daemon, each in its own way, and start nothing."""
    try:
        if not os.listdir(Path(config.exec_root) / "shims"):
            return
    except FileNotFoundError:
        return
    engine = Engine(config)
    try:
        await engine.stop_containers()  # none is started from here on
        await engine.open()
        await engine.stop_containers()
    finally:
        await engine.close()


async def reset(config: Config, told: Callable[[str], None]) -> None:
    """`dockyardd --reset`: remove all containers, images, volumes and networks, and every trace of the engine.

    What an engine has elsewhere stays: its configuration, and what others put into the chain DOCKER-USER. Raises
    SystemFailure when something is still mounted below its folders.
    """
    engine = Engine(config)
    try:
        await engine.open()
        services = engine.services
        for container in services.containers.all():
            told(f"Removing container {container.name}")
            await services.containers.remove(container.id, force=True, volumes=True)
        await services.networks.abolish()
    finally:
        await engine.close()
    group = Cgroup(f"/{(config.cgroup_parent or 'docker').strip('/')}")
    if not config.systemd_cgroups and group.exists() and not group.pids():
        with suppress(OSError, DockyardError):  # another engine has containers there, too
            group.remove()
    for folder in (config.data_root, config.exec_root):
        told(f"Removing {folder}")
        _remove_folder(folder)


def _remove_folder(folder: str) -> None:
    """Remove `folder`, but never what is mounted in it. Raises SystemFailure."""
    inside = [
        place for place in (mount.target for mount in mount_table()) if place.startswith(f"{folder.rstrip('/')}/")
    ]
    if inside:
        raise SystemFailure(f"{inside[0]} is still mounted; unmount it and reset once more")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    try:
        os.rmdir(folder)
    except OSError:
        pass  # a mount of its own, which the host's table brings back


def _remapped(config: Config, ids: IdRange) -> Config:
    """With a data root of the ids' own, so that engines with and without user namespaces keep out of each other's way.

    Its files have the container's own ids: it needs no copy of the images, but moby has made one, and tools look there.
    """
    root = own_folder(own_folder(config.data_root, 0o710) / f"{ids.uid}.{ids.gid}", 0o710)
    os.chown(root, 0, 0)
    return msgspec.structs.replace(config, data_root=str(root))


def network_options(config: Config) -> NetworkOptions:
    """The settings that concern networks."""
    return NetworkOptions(
        bridge=config.bridge,
        bip=config.bip,
        fixed_cidr=config.fixed_cidr,
        mtu=config.mtu,
        icc=config.icc,
        ip=config.ip,
        iptables=config.iptables and config.firewall_backend != "none",
        firewall_backend="iptables" if config.firewall_backend == "iptables" else "nftables",
        userland_proxy_path=config.userland_proxy_path,
        accept_mark=parse_mark(config.bridge_accept_fwmark),
        ip_forward=config.ip_forward,
        ip_forward_no_drop=config.ip_forward_no_drop,
        ip_masq=config.ip_masq,
        userland_proxy=config.userland_proxy,
        dns=config.dns,
        dns_search=config.dns_search,
        dns_options=config.dns_opts,
        default_address_pools=[(pool.base, pool.size) for pool in config.default_address_pools],
        host_gateway_ips=config.host_gateway_ips,
        default_gateway=config.default_gateway,
        ipv6=config.ipv6,
        bip6=config.bip6,
        fixed_cidr_v6=config.fixed_cidr_v6,
        default_gateway_v6=config.default_gateway_v6,
        default_network_opts=config.default_network_opts,
        ip6tables=config.ip6tables,
        allow_direct_routing=config.allow_direct_routing,
        respect_host_firewall=config.respect_host_firewall,
        cluster_store=config.cluster_store,
        cluster_advertise=config.cluster_advertise,
    )
