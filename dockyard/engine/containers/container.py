"""One container as the engine knows it: what is kept in the database, and what lives only while the daemon does."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dockyard.engine.containers.config import ContainerConfig, EndpointSettings, HostConfig
from dockyard.engine.system.id_ranges import IdRange
from dockyard.networks.model import JoinRequest, Sandbox
from dockyard.shim.connection import Shim
from dockyard.shim.orders import Attachment
from dockyard.timestamps import NEVER

DEFAULT_STOP_TIMEOUT = 10  # s
RESTART_DELAY = 0.1  # before the first restart, s: Docker's


class HealthResult(msgspec.Struct, rename="pascal"):
    """One probe."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(msgspec.Struct, rename="pascal"):
    """`status`: starting, healthy, unhealthy."""

    status: str = "starting"
    failing_streak: int = 0
    log: list[HealthResult] = []


class State(msgspec.Struct):
    """`status`: created, running, paused, restarting, exited, removing or dead; times RFC 3339."""

    status: str = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = NEVER
    finished_at: str = NEVER
    oom_killed: bool = False
    cgroup: str = ""  # of this run, below every hierarchy's top: the daemon's settings may have changed since
    health: Health | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self.status in ("running", "paused")


class MountPoint(msgspec.Struct, rename="pascal", omit_defaults=True, kw_only=True):
    """A volume, bind, image or tmpfs of a container.

    `copy`: an empty volume is filled from the image. `make`: a bind's source is made where it is missing.
    `given_propagation`: a user has said so. `read_only` of a bind that is not `rw`: "" all the way down where the
    kernel can, "once" without what is mounted below it. `image_id` and `layer` are a mounted image's: which one it is,
    and the snapshot that is mounted.
    """

    type: str
    name: str = ""
    source: str = ""
    destination: str
    driver: str = ""
    mode: str = ""
    rw: bool = msgspec.field(default=True, name="RW")
    propagation: str = ""
    options: list[str] = []
    copy: bool = False
    subpath: str = ""
    make: bool = False
    given_propagation: bool = False
    read_only: str = ""
    image_id: str = ""
    layer: str = ""


class Record(msgspec.Struct, kw_only=True):
    """A container in the database."""

    id: str
    name: str
    created: str
    image_id: str
    chain_id: str | None
    config: ContainerConfig
    host_config: HostConfig
    networks: dict[str, EndpointSettings] = {}
    mounts: list[MountPoint] = []
    links: dict[str, str] = {}  # legacy links: alias -> the linked container's id
    state: State = msgspec.field(default_factory=State)
    restart_count: int = 0
    stopped_by_user: bool = False
    to_be_started: bool = False  # stopped by us, to be started with other settings
    to_be_removed: bool = False  # a removal is under way, which the next daemon finishes if this one dies
    volumes_too: bool = False  # and its anonymous volumes are to go with it
    log_path: str = ""
    apparmor: str = ""  # the profile of its last run: what is executed in it is to be under the same
    sandbox: Sandbox | None = None
    join: JoinRequest | None = None
    platform: str = "linux"
    # the host's ids for the container's, unless they are the same; and whose user namespace it lives in, if not its own
    ids: IdRange | None = None
    ids_of: str = ""
    # of a build's step: nobody knows it, so it does not outlive the daemon
    scratch: bool = False

    @property
    def passing(self) -> bool:
        """Whether a power cut may take it as a whole: it is removed when it has ended, and that is then."""
        return self.host_config.auto_remove or self.scratch


@dataclass(eq=False)
class Container:
    """A record and its life: everything that changes it holds `lock`; readers need none."""

    record: Record
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shim: Shim | None = None
    # clients that attached before the start, to be handed to the shim with it
    waiting: list[Attachment] = field(default_factory=list)
    # set and replaced at every exit, when all that the run held is given back
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    removed: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: "asyncio.Task[None] | None" = None
    restarter: "asyncio.Task[None] | None" = None
    prober: "asyncio.Task[None] | None" = None
    restart_delay: float = RESTART_DELAY
    removing: bool = False
    oom_kills: int = 0  # of this run, as far as they have been told
    being_stopped: bool = False  # and nobody has been told yet
    restarting: bool = False  # by a user's order: the end of this run is not the container's
    stuck: "asyncio.Future[Any] | None" = None  # a reading of its files that has not come back
    exec_ids: list[str] = field(default_factory=list)
    # variables of its environment that nobody writes down: secrets of a build
    unrecorded: list[str] = field(default_factory=list, repr=False)
    warnings: list[str] = field(default_factory=list)  # about what it asked for and does not get

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.record.id

    @property
    def name(self) -> str:
        """Without the slash that the API puts before it."""
        return self.record.name

    @property
    def state(self) -> State:
        """Its state now."""
        return self.record.state

    @property
    def config(self) -> ContainerConfig:
        """What runs in it."""
        return self.record.config

    @property
    def host_config(self) -> HostConfig:
        """What it gets of the host."""
        return self.record.host_config

    @property
    def passing(self) -> bool:
        """See Record."""
        return self.record.passing

    @property
    def hidden(self) -> bool:
        """Whether it is a step of a build and of no image: then it is in no list and no event, as with BuildKit."""
        return self.record.scratch and not self.record.image_id

    @property
    def stop_patience(self) -> int:
        """How long it is waited for after its stop signal, s; -1: for ever."""
        own = self.config.stop_timeout
        return DEFAULT_STOP_TIMEOUT if own is None else own

    @property
    def argv(self) -> list[str]:
        """The command it runs."""
        return [*(self.config.entrypoint or []), *(self.config.cmd or [])]

    @property
    def volume_names(self) -> list[str]:
        """The volumes it uses."""
        return [mount.name for mount in self.record.mounts if mount.type == "volume"]

    @property
    def nameless_volumes(self) -> list[str]:
        """Those of them that were not asked for by name: only they may go with it."""
        named = {bind.partition(":")[0] for bind in self.host_config.binds or []}
        named |= {mount.source for mount in self.host_config.mounts or []}
        return [name for name in self.volume_names if name not in named]

    def cancel_restart(self) -> None:
        """Give up a restart that is waiting for its time."""
        if self.restarter is not None:
            self.restarter.cancel()
            self.restarter = None
            self.state.status = "exited"

    def give_up_restart(self) -> None:
        """As `cancel_restart`, for good: who waits for its end has it."""
        self.cancel_restart()
        exited, self.exited = self.exited, asyncio.Event()
        exited.set()
