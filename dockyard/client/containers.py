"""The engine's containers: made, run to their ends, found and removed: `client.containers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from dockyard.client.calls import Pending
from dockyard.client.container import Container, Deadline
from dockyard.client.container_options import ContainerOptions, create_body
from dockyard.client.errors import ContainerError, ImageNotFound, TimedOut
from dockyard.client.filters import filter_lists
from dockyard.client.framing import MultiplexedOutput, RawOutput
from dockyard.client.images import Images
from dockyard.client.modes import Async, M, Resource, Sync, operation
from dockyard.client.results import Pruned, Result
from dockyard.client.session import PATIENT
from dockyard.client.streams import collect
from dockyard.client.urls import path
from dockyard.oci.quick_json import loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack


# options that name what outlives a container, or what only one container can have
SHARED = frozenset(
    """
    name volumes mounts volumes_from network networks ports publish_all_ports mac_address devices links
    """.split()
)


class Containers(Resource[M]):
    """The engine's containers: `client.containers`."""

    @operation
    async def create(
        self, image: str, command: str | Sequence[str] | None = None, **options: Unpack[ContainerOptions]
    ) -> Container[M]:
        """Make a container, without starting it. See ContainerOptions for what it can be asked to be.

        Raises ImageNotFound, Conflict when the name is taken, BadRequest.
        """
        return await self._create(image, command, options)

    async def _create(
        self, image: str, command: str | Sequence[str] | None, options: Mapping[str, Any], **body: Any
    ) -> Container[Any]:
        asked = create_body(image, command, options)
        asked.update(body)
        place = path("/containers/create", name=options.get("name"), platform=options.get("platform"))

        async def make() -> Container[Any]:
            made = (await self._session.request("POST", place, asked)).json()
            return Container(self._session, made["Id"], tty=bool(options.get("tty")))

        return await self._session.dialer.make(make(), Container._leave)

    async def _create_pulling(
        self, image: str, command: str | Sequence[str] | None, options: Mapping[str, Any], **body: Any
    ) -> Container[Any]:
        """Make a container, and fetch its image first if it is not there."""
        try:
            return await self._create(image, command, options, **body)
        except ImageNotFound:
            images: Images[Any] = Images(self._session)
            await images._pull(image, platform=options.get("platform") or "")
            return await self._create(image, command, options, **body)

    async def _start_new(
        self, image: str, command: str | Sequence[str] | None, options: Mapping[str, Any]
    ) -> Container[Any]:
        """Make and start a container; nothing of it stays when it cannot be started."""
        container = await self._create_pulling(image, command, options)
        try:
            await container._post("/start")
        except BaseException:
            await container._leave()
            raise
        return container

    async def _execute(
        self,
        image: str,
        command: str | Sequence[str] | None,
        input: bytes | str | Iterable[bytes | str] | None,
        timeout: float | None,
        options: Mapping[str, Any],
        *,
        remove: bool = True,
    ) -> Result:
        """Run a container to its end: see Client.execute. With `remove` it is gone then, or is about to be."""
        clock = Deadline(timeout)
        streams: dict[str, Any] = {"AttachStdout": True, "AttachStderr": True}
        if input is not None:
            streams |= {"AttachStdin": True, "OpenStdin": True, "StdinOnce": True}
        options = {**options, "auto_remove": True} if remove else options
        container = await self._create_pulling(image, command, options, **streams)
        try:
            attached = await self._session.hijack(
                path(
                    "/containers",
                    container.id,
                    "/attach",
                    stream=True,
                    stdin=input is not None,
                    stdout=True,
                    stderr=True,
                )
            )
            # The engine answers as soon as it waits; what is known to wait cannot miss the end. If anything was used
            # that may be wanted again at once, such as a name, the removal is waited for too.
            condition = "removed" if remove and _shares(options) else "next-exit"
            waiting = await self._session.open(
                "POST", path("/containers", container.id, "/wait", condition=condition), timeout=PATIENT
            )
            try:
                await container._post("/start")
                decoder = RawOutput() if options.get("tty") else MultiplexedOutput()
                stdout, stderr = await collect(attached, decoder, input, clock.left())
                ended = await waiting.read_all()
            finally:
                attached.close()
                waiting.close()
        except TimedOut:
            await container._leave()
            raise TimedOut(f"{command!r} in {image} has not ended within {timeout} s") from None
        except BaseException:
            await container._leave()
            raise
        return Result(int(loads(ended)["StatusCode"]), stdout, stderr)

    @overload
    def run(
        self: Containers[Sync],
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: Literal[True],
        remove: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> Container[Sync]: ...
    @overload
    def run(
        self: Containers[Sync],
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: Literal[False] = False,
        remove: bool = False,
        stdout: bool = True,
        stderr: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> bytes: ...
    @overload
    def run(
        self: Containers[Async],
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: Literal[True],
        remove: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> Pending[Container[Async]]: ...
    @overload
    def run(
        self: Containers[Async],
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: Literal[False] = False,
        remove: bool = False,
        stdout: bool = True,
        stderr: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> Pending[bytes]: ...
    def run(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: bool = False,
        remove: bool = False,
        stdout: bool = True,
        stderr: bool = False,
        **options: Any,
    ) -> Any:
        """Run a container as docker-py does it: what it wrote, once it has ended; or itself, at once, with `detach`.

        With `remove` it is removed when it has ended. Raises ContainerError when its exit status is not 0,
        ImageNotFound when there is no such image here or in the registry.
        """
        return self._session.call(self._run(image, command, detach, remove, stdout, stderr, options))

    async def _run(
        self, image: str, command: Any, detach: bool, remove: bool, stdout: bool, stderr: bool, options: dict[str, Any]
    ) -> Any:
        if detach:
            return await self._start_new(image, command, {**options, "auto_remove": True} if remove else options)
        result = await self._execute(image, command, None, None, options, remove=remove)
        if not result.ok:
            raise ContainerError(command, image, result)
        return (result.stdout if stdout else b"") + (result.stderr if stderr else b"")

    @operation
    async def get(self, name: str) -> Container[M]:
        """The container of that name, ID or beginning of an ID. Raises NotFound."""
        container: Container[M] = Container(self._session, name)
        await container._inspect()
        return container

    @operation
    async def prune(self, filters: Mapping[str, str | Sequence[str]] | None = None) -> Pruned:
        """Remove every container that does not run. `filters`: until, label."""
        place = path("/containers/prune", filters=filter_lists(filters))
        found = (await self._session.request("POST", place, timeout=PATIENT)).json()
        return Pruned(found["ContainersDeleted"] or [], found["SpaceReclaimed"])

    @operation
    async def list(
        self,
        *,
        all: bool = False,
        limit: int | None = None,
        size: bool = False,
        filters: Mapping[str, str | Sequence[str]] | None = None,
    ) -> list[Container[M]]:
        """Running containers, or with `all` every one, the newest first.

        `filters`: {"status": "exited", "label": ["a=b"], "name": …, "ancestor": …, "network": …, "health": …}.
        Their `attrs` are the shorter ones of a list (ContainerSummary).
        """
        place = path("/containers/json", all=all, limit=limit, size=size, filters=filter_lists(filters))
        found = (await self._session.request("GET", place)).json()
        return [Container(self._session, row["Id"], row) for row in found]


def _shares(options: Mapping[str, Any]) -> bool:
    """Whether a container with these options uses what others may want as soon as it has ended."""
    return not SHARED.isdisjoint(options) or options.get("network_mode", "none") not in ("none", "host", "bridge")
