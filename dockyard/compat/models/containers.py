"""docker-py's containers: `client.containers`."""

from __future__ import annotations

from typing import Any, NamedTuple

from dockyard.compat.constants import DEFAULT_DATA_CHUNK_SIZE
from dockyard.compat.errors import ContainerError, DockerException, ImageNotFound, NotFound
from dockyard.compat.models.images import Image
from dockyard.compat.models.resource import Collection, Model

WITH_LOGS = ("json-file", "journald", "local")


class ExecResult(NamedTuple):
    """A command's end; `exit_code` is None when it may still run, `output` then a generator or a socket."""

    exit_code: int | None
    output: Any


class Container(Model):
    """A container. Its methods take and give what those of APIClient do, without the ID."""

    @property
    def name(self) -> str | None:
        """Its name."""
        name = self.attrs.get("Name") or next(iter(self.attrs.get("Names") or ()), None)
        return None if name is None else str(name).lstrip("/")

    @property
    def image(self) -> Image | None:
        """Its image."""
        name = self.attrs.get("ImageID", self.attrs["Image"])
        return None if name is None else self.client.images.get(name.partition(":")[2] or name)

    @property
    def labels(self) -> dict[str, str]:
        """Its labels. Raises DockerException when it was listed with `sparse`."""
        try:
            return dict(self.attrs["Config"].get("Labels") or {})
        except KeyError:
            raise DockerException("a container that was listed sparsely has no labels: reload() it") from None

    @property
    def status(self) -> str:
        """created, running, paused, exited…, as of the last `reload`."""
        state = self.attrs["State"]
        return str(state["Status"] if isinstance(state, dict) else state)

    @property
    def health(self) -> str:
        """healthy, unhealthy, starting or unknown."""
        state = self.attrs.get("State")
        return str(((state.get("Health") if isinstance(state, dict) else None) or {}).get("Status", "unknown"))

    @property
    def ports(self) -> dict[str, Any]:
        """Where its ports are published."""
        return dict(self.attrs.get("NetworkSettings", {}).get("Ports") or {})

    def attach(self, **options: Any) -> Any:
        """What it writes from here on: stdout, stderr, stream, logs, demux."""
        return self.client.api.attach(self.id, **options)

    def attach_socket(self, **options: Any) -> Any:
        """The socket of its streams: params, ws."""
        return self.client.api.attach_socket(self.id, **options)

    def commit(self, repository: str | None = None, tag: str | None = None, **options: Any) -> Image:
        """Make an image of it: message, author, pause, changes, conf."""
        made = self.client.api.commit(self.id, repository, tag, **options)
        return self.client.images.get(made["Id"])

    def diff(self) -> Any:
        """What differs from its image: [{"Path": …, "Kind": …}]."""
        return self.client.api.diff(self.id)

    def exec_run(
        self,
        cmd: Any,
        stdout: bool = True,
        stderr: bool = True,
        stdin: bool = False,
        tty: bool = False,
        privileged: bool = False,
        user: str = "",
        detach: bool = False,
        stream: bool = False,
        socket: bool = False,
        environment: Any = None,
        workdir: str | None = None,
        demux: bool = False,
    ) -> ExecResult:
        """Run a command in it."""
        api = self.client.api
        made = api.exec_create(
            self.id, cmd, stdout, stderr, stdin, tty, privileged, user, environment=environment, workdir=workdir
        )
        output = api.exec_start(made["Id"], detach, tty, stream, socket, demux)
        if socket or stream:
            return ExecResult(None, output)
        return ExecResult(api.exec_inspect(made["Id"])["ExitCode"], output)

    def export(self, chunk_size: int | None = DEFAULT_DATA_CHUNK_SIZE) -> Any:
        """Its files as pieces of a tar archive."""
        return self.client.api.export(self.id, chunk_size)

    def get_archive(
        self, path: str, chunk_size: int | None = DEFAULT_DATA_CHUNK_SIZE, encode_stream: bool = False
    ) -> tuple[Any, Any]:
        """A file or folder as pieces of a tar archive, and what it is."""
        return self.client.api.get_archive(self.id, path, chunk_size, encode_stream)

    def put_archive(self, path: str, data: Any) -> bool:
        """Unpack a tar archive in a folder of it."""
        return self.client.api.put_archive(self.id, path, data)

    def kill(self, signal: Any = None) -> None:
        """Send a signal, SIGKILL by default."""
        self.client.api.kill(self.id, signal)

    def logs(self, **options: Any) -> Any:
        """What it has written: stdout, stderr, stream, timestamps, tail, since, follow, until."""
        return self.client.api.logs(self.id, **options)

    def pause(self) -> None:
        """Freeze it."""
        self.client.api.pause(self.id)

    def unpause(self) -> None:
        """Let it go on."""
        self.client.api.unpause(self.id)

    def remove(self, **options: Any) -> None:
        """Remove it: v, link, force."""
        self.client.api.remove_container(self.id, **options)

    def rename(self, name: str) -> None:
        """Give it another name."""
        self.client.api.rename(self.id, name)

    def resize(self, height: int, width: int) -> None:
        """Set the size of its terminal."""
        self.client.api.resize(self.id, height, width)

    def restart(self, **options: Any) -> None:
        """Stop it and start it: timeout."""
        self.client.api.restart(self.id, **options)

    def start(self, **options: Any) -> None:
        """Start it."""
        self.client.api.start(self.id, **options)

    def stats(self, **options: Any) -> Any:
        """What it uses: decode, stream, one_shot."""
        return self.client.api.stats(self.id, **options)

    def stop(self, **options: Any) -> None:
        """Stop it: timeout."""
        self.client.api.stop(self.id, **options)

    def top(self, **options: Any) -> Any:
        """Its processes: ps_args."""
        return self.client.api.top(self.id, **options)

    def update(self, **options: Any) -> Any:
        """Change its limits or restart policy."""
        return self.client.api.update_container(self.id, **options)

    def wait(self, **options: Any) -> Any:
        """Wait for its end, {"StatusCode": …}: timeout, condition."""
        return self.client.api.wait(self.id, **options)


class ContainerCollection(Collection[Container]):
    """The engine's containers."""

    model = Container

    def run(
        self,
        image: Any,
        command: Any = None,
        stdout: bool = True,
        stderr: bool = False,
        remove: bool = False,
        **options: Any,
    ) -> Any:
        """Run a container to its end and give its output, or with `detach` start it and give it.

        With `stream` the output is a generator. Raises ContainerError for an exit status other than 0.
        """
        stream, detach = options.pop("stream", False), options.pop("detach", False)
        if detach and remove:
            options["auto_remove"] = True
        if options.get("network") and options.get("network_mode"):
            raise RuntimeError('The options "network" and "network_mode" can not be used together.')
        if options.get("networking_config") and not options.get("network"):
            raise RuntimeError('The option "networking_config" can not be used without `network`.')
        name = image.id if isinstance(image, Image) else image
        try:
            container = self.create(name, command, detach=detach, **options)
        except ImageNotFound:
            self.client.images.pull(name, platform=options.get("platform"))
            container = self.create(name, command, detach=detach, **options)
        container.start()
        if detach:
            return container
        output: Any = None
        if container.attrs["HostConfig"]["LogConfig"]["Type"] in WITH_LOGS:
            output = container.logs(stdout=stdout, stderr=stderr, stream=True, follow=True)
            if not stream and not options.get("auto_remove"):
                output = [b"".join(output)]  # all of it before the container can be removed
        status = container.wait()["StatusCode"]
        if status:
            output = None if options.get("auto_remove") else container.logs(stdout=False, stderr=True)
        if remove:
            container.remove()
        if status:
            raise ContainerError(container, status, command, image, output)
        return output if stream or output is None else b"".join(output)

    def create(self, image: Any, command: Any = None, **options: Any) -> Container:
        """Create a container. Raises ImageNotFound."""
        api = self.client.api
        name, platform = options.pop("name", None), options.pop("platform", None)
        network, endpoints = options.pop("network", None), options.pop("networking_config", None)
        if network:
            options["network_mode"] = network
        body = api.container_body(image, command, options)
        if network and network in (endpoints or {}):
            body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
        return self.get(api.create_container_from_config(body, name, platform)["Id"])

    def get(self, container_id: str) -> Container:
        """The container of that name or ID. Raises NotFound."""
        return self.prepare_model(self.client.api.inspect_container(container_id))

    def list(
        self,
        all: bool = False,
        before: str | None = None,
        filters: Any = None,
        limit: int = -1,
        since: str | None = None,
        sparse: bool = False,
        ignore_removed: bool = False,
    ) -> list[Container]:
        """Those that run, or `all`. With `sparse` only the list is asked for, and `attrs` is shorter."""
        rows = self.client.api.containers(all=all, before=before, filters=filters, limit=limit, since=since)
        if sparse:
            return [self.prepare_model(row) for row in rows]
        found = []
        for row in rows:
            try:
                found.append(self.get(row["Id"]))
            except NotFound:  # removed in the meantime
                if not ignore_removed:
                    raise
        return found

    def prune(self, filters: Any = None) -> Any:
        """Remove the containers that do not run."""
        return self.client.api.prune_containers(filters)
