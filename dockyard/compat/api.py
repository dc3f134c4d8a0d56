"""docker-py's APIClient: the Engine API's requests by name, which the objects of the other modules stand on."""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import TYPE_CHECKING, Any

from dockyard.client import address as addresses
from dockyard.client.calls import finish
from dockyard.client.channel import BlockingDialer
from dockyard.client.config_file import load
from dockyard.client.container_options import create_body, size
from dockyard.client.errors import CredentialsError
from dockyard.client.framing import MULTIPLEXED
from dockyard.client.session import PATIENT, Session
from dockyard.client.urls import path
from dockyard.compat import types
from dockyard.compat.constants import DEFAULT_DATA_CHUNK_SIZE, DEFAULT_TIMEOUT_SECONDS
from dockyard.compat.errors import APIError, DockerException, ImageNotFound, NullResource, translated
from dockyard.compat.streams import CancellableStream, Frames, Lines, Raw, Slices, separated, taken_over
from dockyard.compat.utils import parse_repository_tag
from dockyard.compat.utils.proxy import ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.client.framing import Decoder
    from dockyard.client.session import Exchange, Reply

Json = dict[str, Any]
TAR = {"Content-Type": "application/x-tar"}


def id_of(thing: Any) -> str:
    """The ID of what a program has: text, an object, or a dict of the API's. Raises NullResource."""
    if isinstance(thing, dict):
        thing = thing.get("Id", thing.get("ID"))
    found = getattr(thing, "id", thing)
    if not found:
        raise NullResource("Resource ID was not provided")
    return str(found)


def filters_of(filters: Any) -> Json:
    """Filters as the API has them: lists of text."""
    found = {}
    for name, value in (filters or {}).items():
        values = value if isinstance(value, (list, tuple)) else [value]
        found[name] = [str(item).lower() if isinstance(item, bool) else str(item) for item in values]
    return found


def moment(value: Any) -> Any:
    """A datetime (UTC when it says nothing) as UNIX seconds; else the value itself."""
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return value


class APIClient:
    """One engine, in docker-py's lower words. Threads may share it."""

    def __init__(
        self,
        base_url: str | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
        tls: Any = False,
        **_: Any,
    ) -> None:
        """`base_url`: where the engine is; by default where our command line looks. `tls`: a TLSConfig.

        Raises DockerException when no engine answers and no `version` is given, as docker-py does.
        """
        self.base_url = base_url or ""
        with translated():
            own_tls = tls.own() if hasattr(tls, "own") else addresses.TLS() if tls else None
            address = addresses.find(self.base_url.removeprefix("http+"), own_tls)
            folder = addresses.config_folder()
            plain = "" if version in (None, "auto") else str(version)
            self._session = Session(address, BlockingDialer(), timeout=timeout, version=plain, config_folder=folder)
        self.timeout = timeout
        self._general_configs = self._stored()
        self._proxy_configs = self._stored_proxies()
        if not plain:
            self.ping()

    def _stored(self) -> Json:
        """The docker configuration; nothing when it cannot be read."""
        try:
            return dict(load(self._session.config_folder))
        except CredentialsError:
            return {}

    def _stored_proxies(self) -> ProxyConfig:
        stored = self._general_configs.get("proxies") or {}
        return ProxyConfig.from_dict(stored.get(str(self._session.address)) or stored.get("default") or {})

    @property
    def _version(self) -> str:
        return ".".join(str(part) for part in self._session.version)

    @property
    def api_version(self) -> str:
        """The version of the API that is spoken."""
        return self._version

    # -- requests

    def _request(self, method: str, place: str, body: Any = None, **options: Any) -> Reply:
        with translated():
            return finish(self._session.request(method, place, body, **options))

    def _json(self, method: str, place: str, body: Any = None, **options: Any) -> Any:
        return self._request(method, place, body, **options).json()

    def _open(self, method: str, place: str, body: Any = None, headers: dict[str, str] | None = None) -> Exchange:
        with translated():
            return finish(self._session.open(method, place, body, headers=headers, timeout=PATIENT))

    def _stream(
        self,
        method: str,
        place: str,
        body: Any = None,
        *,
        decoder: Decoder[Any],
        headers: dict[str, str] | None = None,
    ) -> CancellableStream:
        return CancellableStream(self._open(method, place, body, headers), decoder)

    def _output(self, exchange: Exchange, tty: Callable[[], bool], stream: bool, demux: bool) -> Any:
        """A container's or command's output as docker-py gives it: bytes or a generator, both streams apart or not."""
        kind = exchange.headers.get("content-type", "")
        framed = kind == MULTIPLEXED if self._session.version >= (1, 42) else not tty()
        frames = CancellableStream(
            exchange, Frames() if framed else Raw(), separated if demux else lambda frame: frame[1]
        )
        if stream:
            return frames
        if not demux:
            return b"".join(frames)
        pieces = list(frames)
        return tuple(
            b"".join(found) if (found := [pair[side] for pair in pieces if pair[side] is not None]) else None
            for side in (0, 1)
        )

    # -- the engine

    def ping(self) -> bool:
        """Whether the engine answers."""
        return self._request("GET", "/_ping").data == b"OK"

    def info(self) -> Any:
        """How the engine is set up."""
        return self._json("GET", "/info")

    def version(self, api_version: bool = True) -> Any:
        """What the engine is."""
        return self._json("GET", "/version")

    def df(self) -> Any:
        """What takes space."""
        return self._json("GET", "/system/df", timeout=PATIENT)

    def events(self, since: Any = None, until: Any = None, filters: Any = None, decode: bool | None = None) -> Any:
        """What happens, as it does."""
        place = path("/events", since=moment(since), until=moment(until), filters=filters_of(filters))
        return self._stream("GET", place, decoder=Lines(raw=not decode))

    def login(
        self,
        username: str,
        password: str | None = None,
        email: str | None = None,
        registry: str | None = None,
        **_: Any,
    ) -> Any:
        """Check a login with a registry and use it from here on."""
        from dockyard.client.credentials import DOCKER_HUB

        server = registry or DOCKER_HUB
        auth = {"username": username, "password": password or "", "serveraddress": server}
        answer = self._json("POST", "/auth", auth)
        self._session.logins[server] = auth
        return answer

    def close(self) -> None:
        """Close the connections that are kept."""
        self._session.close()

    # -- containers

    def containers(
        self,
        quiet: bool = False,
        all: bool = False,
        trunc: bool = False,
        latest: bool = False,
        since: str | None = None,
        before: str | None = None,
        limit: int = -1,
        size: bool = False,
        filters: Any = None,
    ) -> Any:
        """The list of containers."""
        wanted = filters_of(filters)
        wanted |= {name: [value] for name, value in (("since", since), ("before", before)) if value}
        count = 1 if latest else limit if limit > 0 else None
        rows = self._json("GET", path("/containers/json", all=all, limit=count, size=size, filters=wanted))
        return [{"Id": row["Id"]} for row in rows] if quiet else rows

    def create_container(
        self,
        image: Any,
        command: Any = None,
        name: str | None = None,
        platform: str | None = None,
        **options: Any,
    ) -> Any:
        """Create a container of lower words (`host_config` of create_host_config, `networking_config`)."""
        options = dict(options)
        host = options.pop("host_config", None) or {}
        networks = options.pop("networking_config", None)
        volumes = options.pop("volumes", None) or []
        ports = options.pop("ports", None) or []
        body = self.container_body(image, command, options)
        body["HostConfig"] = {**body.get("HostConfig", {}), **host}
        if networks:
            body["NetworkingConfig"] = networks
        if volumes:
            body["Volumes"] = {volume: {} for volume in ([volumes] if isinstance(volumes, str) else volumes)}
        for port in ports:
            text = "/".join(str(part) for part in port) if isinstance(port, tuple) else str(port)
            body.setdefault("ExposedPorts", {})[text if "/" in text else f"{text}/tcp"] = {}
        return self.create_container_from_config(body, name, platform)

    def create_container_from_config(self, config: Json, name: str | None = None, platform: str | None = None) -> Any:
        """Create a container of the API's own words."""
        return self._json("POST", path("/containers/create", name=name, platform=platform), config)

    def create_host_config(self, **options: Any) -> Json:
        """The HostConfig of docker-py's words."""
        if "binds" in options:
            options["volumes"] = options.pop("binds")
        if "port_bindings" in options:
            options["ports"] = options.pop("port_bindings")
        found: Json = self.container_body("", None, options)["HostConfig"]
        return found

    def create_networking_config(self, *given: Any) -> types.NetworkingConfig:
        """Networks to join."""
        return types.NetworkingConfig(*given)

    def create_endpoint_config(self, *given: Any, **options: Any) -> types.EndpointConfig:
        """How to join a network."""
        return types.EndpointConfig(self._version, *given, **options)

    def container_body(self, image: Any, command: Any, given: Json) -> Json:
        """The body of POST /containers/create; raises TypeError for a word that docker-py has not."""
        options = {name: value for name, value in given.items() if value is not None}
        raw: Json = {}
        host: Json = {}
        for name, field in _RAW_HOST.items():
            if name in options:
                host[field] = options.pop(name)
        if "kernel_memory" in options:
            host["KernelMemory"] = size(options.pop("kernel_memory"))
        options.pop("version", None)
        if options.pop("use_config_proxy", True):
            environment = types.environment_of(options.get("environment"))
            if found := self._proxy_configs.inject_proxy_environment(environment):
                options["environment"] = found
        if not options.pop("detach", False):
            raw |= {"AttachStdout": True, "AttachStderr": True}
            if options.get("stdin_open"):
                raw |= {"AttachStdin": True, "StdinOnce": True}
        for name, convert in _SHAPES.items():
            if options.get(name):
                options[name] = convert(options[name])
        if "healthcheck" in options:
            raw["Healthcheck"] = types.Healthcheck(**options.pop("healthcheck"))
        raw["HostConfig"] = host
        return create_body(image if isinstance(image, str) else id_of(image), command, {**options, "raw": raw})

    def inspect_container(self, container: Any) -> Any:
        """Everything about a container."""
        return self._json("GET", path("/containers", id_of(container), "/json"))

    def _act(self, container: Any, what: str, **query: Any) -> None:
        self._request("POST", path("/containers", id_of(container), what, **query), timeout=PATIENT)

    def start(self, container: Any, *_: Any, **__: Any) -> None:
        """Start a container."""
        self._act(container, "/start")

    def stop(self, container: Any, timeout: float | None = None) -> None:
        """Stop a container, after `timeout` seconds by force."""
        self._act(container, "/stop", t=None if timeout is None else math.ceil(timeout))

    def restart(self, container: Any, timeout: float = 10) -> None:
        """Stop a container and start it."""
        self._act(container, "/restart", t=math.ceil(timeout))

    def kill(self, container: Any, signal: Any = None) -> None:
        """Send a signal, SIGKILL by default."""
        self._act(
            container,
            "/kill",
            signal=None if signal is None else str(int(signal) if isinstance(signal, int) else signal),
        )

    def pause(self, container: Any) -> None:
        """Freeze a container."""
        self._act(container, "/pause")

    def unpause(self, container: Any) -> None:
        """Let a frozen container go on."""
        self._act(container, "/unpause")

    def rename(self, container: Any, name: str) -> None:
        """Give a container another name."""
        self._act(container, "/rename", name=name)

    def resize(self, container: Any, height: int, width: int) -> None:
        """Set the size of a container's terminal."""
        self._act(container, "/resize", h=height, w=width)

    def remove_container(self, container: Any, v: bool = False, link: bool = False, force: bool = False) -> None:
        """Remove a container, with `v` its anonymous volumes, too."""
        place = path("/containers", id_of(container), v=v, link=link, force=force)
        self._request("DELETE", place, timeout=PATIENT)

    def wait(self, container: Any, timeout: float | None = None, condition: str | None = None) -> Any:
        """Wait for a container's end: {"StatusCode": …}."""
        place = path("/containers", id_of(container), "/wait", condition=condition)
        return self._json("POST", place, timeout=PATIENT if timeout is None else timeout)

    def top(self, container: Any, ps_args: str | None = None) -> Any:
        """A container's processes."""
        return self._json("GET", path("/containers", id_of(container), "/top", ps_args=ps_args))

    def diff(self, container: Any) -> Any:
        """What differs from the image."""
        return self._json("GET", path("/containers", id_of(container), "/changes"), timeout=PATIENT)

    def port(self, container: Any, private_port: int | str) -> Any:
        """Where a port is published."""
        ports = self.inspect_container(container)["NetworkSettings"]["Ports"] or {}
        wanted = str(private_port)
        found = [ports.get(name) for name in ([wanted] if "/" in wanted else [f"{wanted}/tcp", f"{wanted}/udp"])]
        return next((places for places in found if places), None)

    def update_container(self, container: Any, **options: Any) -> Any:
        """Change a container's limits or restart policy."""
        body = create_body("", None, {name: value for name, value in options.items() if name != "kernel_memory"})
        return self._json("POST", path("/containers", id_of(container), "/update"), body.get("HostConfig", {}))

    def commit(
        self,
        container: Any,
        repository: str | None = None,
        tag: str | None = None,
        message: str | None = None,
        author: str | None = None,
        pause: bool = True,
        changes: Any = None,
        conf: Any = None,
    ) -> Any:
        """Make an image of a container."""
        lines = "\n".join(changes) if isinstance(changes, (list, tuple)) else changes
        place = path(
            "/commit",
            container=id_of(container),
            repo=repository,
            tag=tag,
            comment=message,
            author=author,
            pause="1" if pause else "0",
            changes=lines,
        )
        return self._json("POST", place, conf or {}, timeout=PATIENT)

    def export(self, container: Any, chunk_size: int | None = DEFAULT_DATA_CHUNK_SIZE) -> CancellableStream:
        """A container's files as pieces of a tar archive."""
        return self._stream("GET", path("/containers", id_of(container), "/export"), decoder=Slices(chunk_size))

    def get_archive(
        self,
        container: Any,
        path: str,
        chunk_size: int | None = DEFAULT_DATA_CHUNK_SIZE,
        encode_stream: bool = False,
    ) -> tuple[CancellableStream, Any]:
        """A file or folder as pieces of a tar archive, and what it is."""
        exchange = self._open("GET", _archive_place(container, path))
        stat = json.loads(base64.b64decode(exchange.headers["x-docker-container-path-stat"]))
        return CancellableStream(exchange, Slices(chunk_size)), stat

    def put_archive(self, container: Any, path: str, data: Any) -> bool:
        """Unpack a tar archive (bytes, a file or pieces) in a folder."""
        from dockyard.client.files import body_of

        self._request("PUT", _archive_place(container, path), body_of(data), headers=TAR, timeout=PATIENT)
        return True

    def prune_containers(self, filters: Any = None) -> Any:
        """Remove the containers that do not run."""
        return self._prune("/containers/prune", filters)

    def _prune(self, what: str, filters: Any) -> Any:
        return self._json("POST", path(what, filters=filters_of(filters)), timeout=PATIENT)

    def _tty(self, container: Any) -> bool:
        return bool(self.inspect_container(container)["Config"]["Tty"])

    def logs(
        self,
        container: Any,
        stdout: bool = True,
        stderr: bool = True,
        stream: bool = False,
        timestamps: bool = False,
        tail: int | str = "all",
        since: Any = None,
        follow: bool | None = None,
        until: Any = None,
    ) -> Any:
        """What a container has written: bytes, or with `stream` a generator (that follows, unless told not to)."""
        follow = stream if follow is None else follow
        lines = str(tail) if tail == "all" or (isinstance(tail, int) and tail >= 0) else "all"
        place = path(
            "/containers",
            id_of(container),
            "/logs",
            stdout=stdout,
            stderr=stderr,
            follow=follow,
            timestamps=timestamps,
            tail=lines,
            since=moment(since),
            until=moment(until),
        )
        return self._output(self._open("GET", place), lambda: self._tty(container), stream, False)

    def attach(
        self,
        container: Any,
        stdout: bool = True,
        stderr: bool = True,
        stream: bool = False,
        logs: bool = False,
        demux: bool = False,
    ) -> Any:
        """What a container writes from here on, with `logs` what it has written, too."""
        place = path("/containers", id_of(container), "/attach", stdout=stdout, stderr=stderr, stream=stream, logs=logs)
        with translated():
            exchange = finish(self._session.hijack(place))
        return self._output(exchange, lambda: self._tty(container), stream, demux)

    def attach_socket(self, container: Any, params: Json | None = None, ws: bool = False) -> Any:
        """The socket of a container's streams."""
        if ws:
            raise DockerException("sockets are not to be had as WebSockets here")
        query = {"detachKeys": self._general_configs.get("detachKeys")}
        query |= params or {"stdout": 1, "stderr": 1, "stream": 1}
        with translated():
            return taken_over(self._session, path("/containers", id_of(container), "/attach", **query), None)

    def stats(
        self, container: Any, decode: bool | None = None, stream: bool = True, one_shot: bool | None = None
    ) -> Any:
        """What a container uses: a generator of bytes (of dicts with `decode`), or one dict without `stream`."""
        query = {"stream": "true" if stream else "false", "one-shot": one_shot and not stream}
        place = path("/containers", id_of(container), "/stats", **query)
        if stream:
            return self._stream("GET", place, decoder=Lines(raw=not decode))
        return self._json("GET", place)

    # -- commands in containers

    def exec_create(
        self,
        container: Any,
        cmd: Any,
        stdout: bool = True,
        stderr: bool = True,
        stdin: bool = False,
        tty: bool = False,
        privileged: bool = False,
        user: str = "",
        environment: Any = None,
        workdir: str | None = None,
        detach_keys: str | None = None,
    ) -> Any:
        """Prepare a command in a container."""
        body = {
            "Cmd": types.command_of(cmd),
            "AttachStdin": stdin,
            "AttachStdout": stdout,
            "AttachStderr": stderr,
            "Tty": tty,
            "Privileged": privileged,
            "User": str(user),
            "Env": types.environment_of(environment),
            "WorkingDir": workdir,
            "DetachKeys": detach_keys or self._general_configs.get("detachKeys"),
        }
        kept = {name: value for name, value in body.items() if value is not None}
        return self._json("POST", path("/containers", id_of(container), "/exec"), kept)

    def exec_start(
        self,
        exec_id: Any,
        detach: bool = False,
        tty: bool = False,
        stream: bool = False,
        socket: bool = False,
        demux: bool = False,
    ) -> Any:
        """Start it: its output, a generator of it, its socket, or nothing when it is detached."""
        place = path("/exec", id_of(exec_id), "/start")
        body = {"Tty": tty, "Detach": detach}
        if detach:
            return self._request("POST", place, body).data.decode()
        with translated():
            if socket:
                return taken_over(self._session, place, body)
            exchange = finish(self._session.hijack(place, body))
        return self._output(exchange, lambda: tty, stream, demux)

    def exec_inspect(self, exec_id: Any) -> Any:
        """Everything about it; its ExitCode is None while it runs."""
        return self._json("GET", path("/exec", id_of(exec_id), "/json"))

    def exec_resize(self, exec_id: Any, height: int | None = None, width: int | None = None) -> None:
        """Set the size of its terminal."""
        self._request("POST", path("/exec", id_of(exec_id), "/resize", h=height, w=width))

    # -- images

    def images(self, name: str | None = None, quiet: bool = False, all: bool = False, filters: Any = None) -> Any:
        """The list of images."""
        wanted = filters_of(filters) | ({"reference": [name]} if name else {})
        rows = self._json("GET", path("/images/json", all=all, filters=wanted))
        return [row["Id"] for row in rows] if quiet else rows

    def inspect_image(self, image: Any) -> Any:
        """Everything about an image."""
        return self._json("GET", path("/images", id_of(image), "/json"))

    def inspect_distribution(self, image: str, auth_config: Any = None) -> Any:
        """What a registry has under a name."""
        headers = self._login(parse_repository_tag(image)[0], auth_config)
        return self._json("GET", path("/distribution", image, "/json"), headers=headers)

    def history(self, image: Any) -> Any:
        """What an image was made by."""
        return self._json("GET", path("/images", id_of(image), "/history"))

    def remove_image(self, image: Any, force: bool = False, noprune: bool = False) -> Any:
        """Remove a name, and with the last of them the image."""
        return self._json("DELETE", path("/images", id_of(image), force=force, noprune=noprune), timeout=PATIENT)

    def tag(self, image: Any, repository: str, tag: str | None = None, force: bool = False) -> bool:
        """Give an image one more name."""
        name, named = parse_repository_tag(repository)
        place = path("/images", id_of(image), "/tag", repo=name, tag=tag or named, force=force)
        return self._request("POST", place).status == 201

    def get_image(self, image: Any, chunk_size: int | None = DEFAULT_DATA_CHUNK_SIZE) -> CancellableStream:
        """Images as pieces of a tar archive."""
        names = [id_of(one) for one in (image if isinstance(image, (list, tuple)) else [image])]
        return self._stream("GET", path("/images/get", names=names), decoder=Slices(chunk_size))

    def load_image(self, data: Any, quiet: bool | None = None) -> CancellableStream:
        """Take in what `get_image` gives; the engine's messages."""
        from dockyard.client.files import body_of

        body = data.encode() if isinstance(data, str) else body_of(data)
        return self._stream("POST", path("/images/load", quiet=quiet), body, decoder=Lines(), headers=TAR)

    def import_image(
        self,
        src: Any = None,
        repository: str | None = None,
        tag: str | None = None,
        image: str | None = None,
        changes: Any = None,
        **_: Any,
    ) -> str:
        """Make an image of a file system in a tar archive (bytes, a file, its path), of a URL or of an image."""
        from dockyard.client.files import body_of

        body: Any = b""
        query: Json = {"repo": repository, "tag": tag, "changes": changes, "fromImage": image}
        if image is None and isinstance(src, str) and src.startswith(("http://", "https://")):
            query["fromSrc"] = src
        elif image is None:
            query["fromSrc"] = "-"
            body = body_of(open(src, "rb") if isinstance(src, str) else src)  # noqa: SIM115  # ends with the body
        data = self._request("POST", path("/images/create", **query), body, headers=TAR, timeout=PATIENT).data
        return data.decode()

    def import_image_from_data(self, data: Any, **options: Any) -> str:
        """Make an image of a file system in a tar archive."""
        return self.import_image(data, **options)

    def pull(
        self,
        repository: str,
        tag: str | None = None,
        stream: bool = False,
        auth_config: Any = None,
        decode: bool = False,
        platform: str | None = None,
        all_tags: bool = False,
    ) -> Any:
        """Fetch an image; the engine's messages, as text or with `stream` one by one."""
        name, named = parse_repository_tag(repository)
        wanted = None if all_tags else tag or named or "latest"
        place = path("/images/create", fromImage=name, tag=wanted, platform=platform)
        return self._messages(place, self._login(name, auth_config), stream, decode)

    def push(
        self,
        repository: str,
        tag: str | None = None,
        stream: bool = False,
        auth_config: Any = None,
        decode: bool = False,
    ) -> Any:
        """Send an image to its registry; messages as `pull` gives them."""
        name, named = parse_repository_tag(repository)
        place = path("/images", name, "/push", tag=tag or named)
        return self._messages(place, self._login(name, auth_config), stream, decode)

    def _messages(self, place: str, headers: dict[str, str], stream: bool, decode: bool) -> Any:
        found = self._stream("POST", place, decoder=Lines(raw=not decode), headers=headers)
        if stream:
            return found
        return list(found) if decode else b"".join(found).decode()

    def _login(self, repository: str, auth: Any) -> dict[str, str]:
        from dockyard.client.images import registry_auth

        with translated():
            return {"X-Registry-Auth": finish(registry_auth(self._session, repository, auth))}

    def search(self, term: str, limit: int | None = None) -> Any:
        """What a registry finds."""
        return self._json("GET", path("/images/search", term=term, limit=limit))

    def prune_images(self, filters: Any = None) -> Any:
        """Remove images without a name."""
        return self._prune("/images/prune", filters)

    def prune_builds(self, filters: Any = None, keep_storage: int | None = None, all: bool | None = None) -> Any:
        """Remove the builder's cache."""
        query = {"filters": filters_of(filters), "keep-storage": keep_storage, "all": all}
        return self._json("POST", path("/build/prune", **query), timeout=PATIENT)

    def build(
        self,
        path: str | None = None,
        tag: str | None = None,
        quiet: bool = False,
        fileobj: Any = None,
        nocache: bool = False,
        rm: bool = False,
        timeout: float | None = None,
        custom_context: bool = False,
        encoding: str | None = None,
        pull: bool = False,
        forcerm: bool = False,
        dockerfile: str | None = None,
        container_limits: Json | None = None,
        decode: bool = False,
        buildargs: Any = None,
        gzip: bool = False,
        shmsize: int | str | None = None,
        labels: Any = None,
        cache_from: Any = None,
        target: str | None = None,
        network_mode: str | None = None,
        squash: bool | None = None,
        extra_hosts: Any = None,
        platform: str | None = None,
        isolation: str | None = None,
        use_config_proxy: bool = True,
    ) -> CancellableStream:
        """Build an image; the engine's messages. `fileobj` is the Dockerfile, or with `custom_context` an archive."""
        from dockyard.client.images import build_query, build_source, registry_config

        if path is None and fileobj is None:
            raise TypeError("Either path or fileobj needs to be provided.")
        given: Json = {"dockerfile": dockerfile or ""}
        if custom_context:
            given["context"] = fileobj
        elif fileobj is not None:
            if fileobj.seekable():
                fileobj.seek(0)  # all of it, wherever its reader was
            given["dockerfile_text"] = fileobj.read()
            path = None
        limits = container_limits or {}
        unknown = set(limits) - set(_BUILD_LIMITS)
        if unknown:
            raise TypeError(f"there is no build limit {unknown.pop()!r}")
        arguments = {**(self._proxy_configs.get_environment() if use_config_proxy else {}), **(buildargs or {})}
        options = {
            "tag": tag,
            "build_args": arguments,
            "labels": labels,
            "target": target,
            "platform": platform,
            "no_cache": nocache,
            "pull": pull,
            "rm": rm,
            "force_rm": forcerm,
            "squash": squash,
            "cache_from": cache_from,
            "network_mode": network_mode,
            "extra_hosts": extra_hosts,
            **({"shm_size": shmsize} if shmsize is not None else {}),
            **{_BUILD_LIMITS[name]: value for name, value in limits.items()},
        }
        with translated():
            remote, name, body = build_source(path, given)
            headers = {**TAR, "X-Registry-Config": finish(registry_config(self._session))}
        if encoding:
            headers["Content-Encoding"] = encoding
        place = build_place(remote, name, quiet, build_query(options))
        return self._stream("POST", place, body, decoder=Lines(raw=not decode), headers=headers)

    # -- networks

    def networks(self, names: Any = None, ids: Any = None, filters: Any = None) -> Any:
        """The list of networks."""
        wanted = filters_of(filters)
        wanted |= {name: list(values) for name, values in (("name", names), ("id", ids)) if values}
        return self._json("GET", path("/networks", filters=wanted))

    def create_network(
        self,
        name: str,
        driver: str | None = None,
        options: Any = None,
        ipam: Any = None,
        check_duplicate: bool | None = None,
        internal: bool = False,
        labels: Any = None,
        enable_ipv6: bool = False,
        attachable: bool | None = None,
        scope: str | None = None,
        ingress: bool | None = None,
    ) -> Any:
        """Create a network."""
        _check_labels(labels)
        body = {
            "Name": name,
            "Driver": driver,
            "Options": options,
            "IPAM": ipam,
            "CheckDuplicate": check_duplicate,
            "Internal": internal or None,
            "Labels": labels,
            "EnableIPv6": enable_ipv6 or None,
            "Attachable": attachable,
            "Scope": scope,
            "Ingress": ingress,
        }
        return self._json("POST", "/networks/create", {key: value for key, value in body.items() if value is not None})

    def remove_network(self, net_id: Any) -> None:
        """Remove a network."""
        self._request("DELETE", path("/networks", id_of(net_id)))

    def inspect_network(self, net_id: Any, verbose: bool | None = None, scope: str | None = None) -> Any:
        """Everything about a network."""
        return self._json("GET", path("/networks", id_of(net_id), verbose=verbose, scope=scope))

    def connect_container_to_network(self, container: Any, net_id: Any, **endpoint: Any) -> None:
        """Let a container join a network."""
        body = {"Container": id_of(container), "EndpointConfig": types.EndpointConfig(self._version, **endpoint)}
        self._request("POST", path("/networks", id_of(net_id), "/connect"), body)

    def disconnect_container_from_network(self, container: Any, net_id: Any, force: bool = False) -> None:
        """Let a container leave a network."""
        body = {"Container": id_of(container), **({"Force": True} if force else {})}
        self._request("POST", path("/networks", id_of(net_id), "/disconnect"), body)

    def prune_networks(self, filters: Any = None) -> Any:
        """Remove the networks that nobody uses."""
        return self._prune("/networks/prune", filters)

    # -- volumes

    def volumes(self, filters: Any = None) -> Any:
        """The list of volumes."""
        return self._json("GET", path("/volumes", filters=filters_of(filters)))

    def create_volume(
        self, name: str | None = None, driver: str | None = None, driver_opts: Any = None, labels: Any = None
    ) -> Any:
        """Create a volume."""
        _check_labels(labels)
        body = {"Name": name, "Driver": driver, "DriverOpts": driver_opts, "Labels": labels}
        return self._json("POST", "/volumes/create", {key: value for key, value in body.items() if value is not None})

    def inspect_volume(self, name: str) -> Any:
        """Everything about a volume."""
        return self._json("GET", path("/volumes", name))

    def remove_volume(self, name: Any, force: bool = False) -> None:
        """Remove a volume."""
        self._request("DELETE", path("/volumes", id_of(name), force=force), timeout=PATIENT)

    def prune_volumes(self, filters: Any = None) -> Any:
        """Remove the volumes that nobody uses."""
        return self._prune("/volumes/prune", filters)

    # -- what the objects need

    def pulled(self, repository: str, tag: str | None, all_tags: bool, options: Json) -> None:
        """Pull to the end. Raises ImageNotFound, or APIError for what goes wrong on the way."""
        for message in self.pull(repository, tag, stream=True, decode=True, all_tags=all_tags, **options):
            if said := message.get("error"):
                kind = ImageNotFound if "not found" in said or "manifest unknown" in said else APIError
                raise kind(said, None, said)


def _check_labels(labels: Any) -> None:
    if labels is not None and not isinstance(labels, dict):
        raise TypeError("labels must be a dictionary")


def _archive_place(container: Any, inside: str) -> str:
    return path("/containers", id_of(container), "/archive", path=inside)


def build_place(remote: str, dockerfile: str, quiet: bool, query: Json) -> str:
    """The request of a build."""
    return path("/build", remote=remote, dockerfile=dockerfile, q=quiet, **query)


_BUILD_LIMITS = {
    "memory": "mem_limit",
    "memswap": "memswap_limit",
    "cpushares": "cpu_shares",
    "cpusetcpus": "cpuset_cpus",
}
_RAW_HOST = {"cpu_count": "CpuCount", "cpu_percent": "CpuPercent", "isolation": "Isolation", "init_path": "InitPath"}


def _each(kind: Callable[..., Json]) -> Callable[[Any], Any]:
    return lambda given: [kind(**item) for item in given]


# docker-py's shapes that differ from our own words'
_SHAPES: dict[str, Callable[[Any], Any]] = {
    "device_requests": _each(types.DeviceRequest),
    "environment": types.environment_of,
    "links": types.pairs_of,
    "log_config": lambda given: types.LogConfig(**given),
    "ulimits": _each(types.Ulimit),
    "user": str,
    "volumes": types.binds_of,
    "volumes_from": lambda given: given.split(",") if isinstance(given, str) else given,
}
