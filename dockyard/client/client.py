"""The clients: `Client` blocks, `AsyncClient` is awaited; otherwise they are the same (see modes.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client import address as addresses
from dockyard.client.channel import BlockingDialer
from dockyard.client.container import Container
from dockyard.client.containers import Containers
from dockyard.client.errors import ContainerError
from dockyard.client.filters import filter_lists
from dockyard.client.framing import JsonLines
from dockyard.client.images import Images
from dockyard.client.leases import Lease
from dockyard.client.modes import Async, M, Resource, Sync, operation
from dockyard.client.networks import Networks
from dockyard.client.results import Result
from dockyard.client.session import PATIENT, Session
from dockyard.client.streams import Stream
from dockyard.client.urls import path
from dockyard.client.volumes import Volumes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack

    from dockyard.client.address import TLS
    from dockyard.client.channel import Dialer
    from dockyard.client.container_options import ContainerOptions
    from dockyard.client.session import Exchange


class Event(NamedTuple):
    """Something that happened: `type` container, `action` start, `id` of what it happened to.

    `attributes` tell more, such as its name and labels; `time` is in UNIX seconds.
    """

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time: float


class DiskUsage(NamedTuple):
    """What takes space, each in the API's own words, and the bytes of all layers."""

    layers_size: int
    images: list[dict[str, Any]]
    containers: list[dict[str, Any]]
    volumes: list[dict[str, Any]]
    build_cache: list[dict[str, Any]]


class BaseClient(Resource[M]):
    """What both clients can do. Threads and tasks may share a client."""

    def __init__(
        self,
        host: str = "",
        *,
        tls: TLS | None = None,
        context: str = "",
        timeout: float | None = 60,
        version: str = "",
        start: bool = False,
        dialer: Dialer,
    ) -> None:
        address = addresses.find(host, tls, context)
        if start and address.socket in (addresses.DOCKYARD_SOCKET, addresses.DOCKER_SOCKET) and not host:
            from dockyard.client import local_engine

            local_engine.start()
            address = addresses.Address(socket=addresses.DOCKYARD_SOCKET)
        folder = addresses.config_folder()
        super().__init__(Session(address, dialer, timeout=timeout, version=version, config_folder=folder))
        self.containers: Containers[M] = Containers(self._session)
        self.images: Images[M] = Images(self._session)
        self.networks: Networks[M] = Networks(self._session)
        self.volumes: Volumes[M] = Volumes(self._session)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}>"

    @property
    def host(self) -> str:
        """The engine's address."""
        return str(self._session.address)

    # -- short ways

    @operation
    async def run(
        self, image: str, command: str | Sequence[str] | None = None, **options: Unpack[ContainerOptions]
    ) -> Container[M]:
        """Start a container and give it, running; as a context it is removed at the end.

        with client.run("busybox", "sleep 60", mem_limit="64m") as container:
            container.exec("ls /")

        An image that is not there is pulled. Raises ImageNotFound, Conflict when the name is taken, APIError when it
        cannot start (nothing of it stays then).
        """
        return await self.containers._start_new(image, command, options)

    @operation
    async def execute(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        input: bytes | str | Iterable[bytes | str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> Result:
        """Run a command in a container of its own, to its end; its exit status and output. The container is removed.

        client.execute("busybox", "wc -c", input=b"hello").stdout == b"5\\n"

        `input` is what it reads from stdin. Raises TimedOut after `timeout` seconds, and the container is killed;
        with `check` ContainerError when its exit status is not 0; and what `run` raises.
        """
        result = await self.containers._execute(image, command, input, timeout, options)
        if check and not result.ok:
            raise ContainerError(command, image, result)
        return result

    @operation
    async def lease(self, grace: float = 0) -> Lease[M]:
        """A lease: what is made with it is removed when its block or this process ends, however it ends.

        `grace`: seconds that its holder may be away. Raises NotFound when the engine knows no leases: Dockyard's does.
        """
        lease: Lease[M] = Lease(self._session)
        await lease._begin(grace)
        return lease

    # -- the engine itself

    @operation
    async def ping(self) -> bool:
        """True when the engine answers. Raises Unreachable."""
        return (await self._session.request("GET", "/_ping")).data == b"OK"

    @operation
    async def version(self) -> dict[str, Any]:
        """What the engine is: Version, ApiVersion, Os, Arch, KernelVersion… (SystemVersion)."""
        found: dict[str, Any] = (await self._session.request("GET", "/version")).json()
        return found

    @operation
    async def info(self) -> dict[str, Any]:
        """How the engine is set up and what it has: Containers, Images, Driver, NCPU, MemTotal… (SystemInfo)."""
        found: dict[str, Any] = (await self._session.request("GET", "/info")).json()
        return found

    @operation
    async def request(
        self,
        method: str,
        place: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Any request of the Engine API, below its version: what is answered, decoded if it is JSON, else as bytes.

        client.request("GET", "/containers/json", query={"all": True})

        `body` is sent as JSON, bytes as they are; what is no text in `query` is JSON, too. Raises as all others do.
        """
        reply = await self._session.request(method, path(place, **(query or {})), body, timeout=timeout)
        if "json" in reply.headers.get("content-type", "") and reply.data:
            return reply.json()
        return reply.data

    def stream_requests(self, requests: Iterable[Mapping[str, Any]]) -> Stream[dict[str, Any], M]:
        """Several requests in one, of our own engine's alone (docs/extensions.md): what it tells of each as it goes.

        Each has "Key", "Method", "Path", "Body", and in "After" the keys of those that must be done before.
        """

        async def begin() -> Exchange:
            body = {"Requests": list(requests)}
            return await self._session.open("POST", "/dockyard/requests", body, timeout=PATIENT)

        return Stream(self._session, begin, lambda _: JsonLines())

    @operation
    async def df(self) -> DiskUsage:
        """What takes space on the engine's disk."""
        found = (await self._session.request("GET", "/system/df", timeout=PATIENT)).json()
        return DiskUsage(
            found.get("LayersSize", 0),
            *(found.get(name) or [] for name in ("Images", "Containers", "Volumes", "BuildCache")),
        )

    def events(
        self,
        *,
        since: float | str | None = None,
        until: float | str | None = None,
        filters: Mapping[str, str | Sequence[str]] | None = None,
    ) -> Stream[Event, M]:
        """What happens, as it does, for ever or until `until`. Times: UNIX seconds or RFC 3339.

        `filters`: {"type": "container", "event": ["start", "die"], "container": …, "image": …, "label": …}.
        """

        async def begin() -> Exchange:
            place = path("/events", since=since, until=until, filters=filter_lists(filters))
            return await self._session.open("GET", place, timeout=PATIENT)

        return Stream(self._session, begin, lambda _: JsonLines(), _event)

    @operation
    async def login(self, username: str, password: str, registry: str = "") -> str:
        """Check a login with a registry (Docker Hub's by default) and use it from here on; what the registry says.

        Nothing is written to disk. Raises Unauthorized.
        """
        from dockyard.client.credentials import DOCKER_HUB

        server = registry or DOCKER_HUB
        auth = {"username": username, "password": password, "serveraddress": server}
        found = (await self._session.request("POST", "/auth", auth)).json() or {}
        if found.get("IdentityToken"):
            auth = {"identitytoken": found["IdentityToken"], "serveraddress": server}
        self._session.logins[server] = auth
        return str(found.get("Status", ""))


class Client(BaseClient[Sync]):
    """A blocking client of an engine.

    with dockyard.Client() as client:
        print(client.execute("busybox", "echo hello").text)
    """

    def __init__(
        self,
        host: str = "",
        *,
        tls: TLS | None = None,
        context: str = "",
        timeout: float | None = 60,
        version: str = "",
        start: bool = False,
    ) -> None:
        """`host`: unix://PATH or tcp://HOST:PORT; by default what DOCKER_HOST, the docker context or the usual socket
        says (see address.py). `tls`: the files to use with tcp://. `timeout`: seconds that an answer may take, but for
        those that wait for something. `version`: of the API, "1.41"; by default the newest that both sides know.
        `start`: start the engine of this host when it is meant and does not run, as the command line does.

        Nothing is sent yet. Raises ClientError for an address that cannot be one, EngineFailed.
        """
        dialer = BlockingDialer()
        super().__init__(host, tls=tls, context=context, timeout=timeout, version=version, start=start, dialer=dialer)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(BaseClient[Async]):
    """A client of an engine for asyncio.

    async with dockyard.AsyncClient() as client:
        print((await client.execute("busybox", "echo hello")).text)
    """

    def __init__(
        self,
        host: str = "",
        *,
        tls: TLS | None = None,
        context: str = "",
        timeout: float | None = 60,
        version: str = "",
        start: bool = False,
    ) -> None:
        """As Client's; it may be made outside of an event loop. `start` waits for the engine, blocking."""
        from dockyard.client.loop_channel import LoopDialer

        dialer = LoopDialer()
        super().__init__(host, tls=tls, context=context, timeout=timeout, version=version, start=start, dialer=dialer)

    async def close(self) -> None:
        """Close the connections that are kept."""
        self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _event(value: dict[str, Any]) -> Event:
    actor = value.get("Actor") or {}
    return Event(
        value.get("Type", ""),
        value.get("Action", ""),
        actor.get("ID", ""),
        dict(actor.get("Attributes") or {}),
        value.get("timeNano", 0) / 1e9 or float(value.get("time", 0)),
    )


def from_env(**options: Any) -> Client:
    """A client for the engine that the environment names, as docker-py's `from_env`; `Client()` does the same."""
    return Client(**options)
