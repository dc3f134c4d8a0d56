"""`build`: the context packed and sent, the builder's words shown."""

from __future__ import annotations

import os
import sys

from dockyard.cli import output, progress, values
from dockyard.cli.commands import build_graph
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, path
from dockyard.cli.usage import Flags, usage
from dockyard.client import credentials
from dockyard.client.errors import APIError
from dockyard.dockerfile.git_source import is_git

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

CHUNK = 1 << 18


@usage(
    """
dockyard build [OPTIONS] PATH | URL | -

Build an image from a Dockerfile

Options:
      --add-host list           Name a host and its address (host:ip)
      --allow stringArray       Allow what is privileged: network.host, security.insecure, device
      --annotation stringArray  Annotations of the image ([TYPE:]KEY=VALUE)
      --attest stringArray      Attestations of the image (type=sbom, type=provenance,mode=max)
      --build-arg list          Variables of the build
      --build-context list      Other contexts by name (NAME=PATH, docker-image://IMAGE or an address)
      --cache-from strings      Caches to begin with (an image, type=registry,ref=IMAGE, type=local,src=DIR)
      --cache-to stringArray    Where to export the cache to (type=inline, type=registry,ref=…, type=local,dest=…)
      --call string             Ask the Dockerfile: build, check, outline, targets (default "build")
      --cgroup-parent string    Cgroup for the build's containers
      --check                   Check the Dockerfile and build nothing (short for --call=check)
      --compress                Compress the context
      --cpu-period int          CFS period in microseconds
      --cpu-quota int           CFS quota in microseconds
  -c, --cpu-shares int          CPU weight relative to others
      --cpuset-cpus string      CPUs to run on (0-3, 0,1)
      --cpuset-mems string      Memory nodes to use (0-3, 0,1)
      --debug                   Open a shell in the container of a step that fails
      --disable-content-trust   Accepted for compatibility (default true)
      --explain-cache           Say of every step why it was in the cache or not
  -f, --file string             The Dockerfile, PATH/Dockerfile when not given
      --force-rm                Remove intermediate containers even after a failure
      --iidfile string          File to write the image's ID to
      --isolation string        Isolation technology
      --label list              Labels of the image
      --load                    Make an image of the engine's (short for --output=type=docker)
  -m, --memory bytes            Memory limit
      --memory-swap bytes       Memory and swap together; -1: no limit of swap
      --metadata-file string    File to write what came of the build to
      --network string          Network of RUN instructions (default "default")
      --no-cache                Do every step anew
      --no-cache-filter strings   Do the steps of these stages anew
  -o, --output stringArray      Where the result goes (PATH, -, or type=local|tar|oci|docker|image|registry,dest=PATH)
      --platform string         Platforms to build for
      --progress string         How the build is shown: auto, plain, tty, rawjson, quiet (default "auto")
      --provenance string       Short for --attest=type=provenance
      --pull                    Ask the registry for newer base images
      --push                    Push the image (short for --output=type=registry)
  -q, --quiet                   Show the image's ID only
      --rm                      Remove intermediate containers (default true)
      --sbom string             Short for --attest=type=sbom
      --secret stringArray      Secrets for RUN --mount=type=secret (id=NAME[,src=FILE|,env=VARIABLE])
      --security-opt strings    Security options
      --shm-size bytes          Size of /dev/shm
      --squash                  Make one layer of the new ones
      --ssh stringArray         SSH agents and keys for RUN --mount=type=ssh (default|NAME=SOCKET|NAME=KEY[,KEY])
  -t, --tag list                Name and optionally tag (name:tag)
      --target string           Stage to build
      --ulimit ulimit           Resource limits
"""
)
def build(session: Session, flags: Flags) -> int:
    """Shows the steps; the image's ID with -q.

    DOCKER_BUILDKIT=0, and flags that only the classic builder has, take that.
    """
    if build_graph.wanted(flags):
        return build_graph.run(session, flags)
    source = flags.arguments[0]
    if not is_git(source):
        return _build(session, flags, *_context(source, flags))
    import tempfile

    from dockyard.cli.git_context import checkout
    from dockyard.client.build_context import pack_folder

    with tempfile.TemporaryDirectory(prefix="docker-build-git") as folder:
        top = checkout(source, os.path.realpath(folder))
        named = os.path.join(top, flags.text("file")) if flags.text("file") not in ("", "-") else flags.text("file")
        return _build(session, flags, "", *pack_folder(top, named, lambda: sys.stdin.buffer.read()))


def _build(session: Session, flags: Flags, remote: str, dockerfile: str, pieces: Iterator[bytes] | bytes) -> int:
    quiet = flags.on("quiet")
    sent = _Counted(pieces)
    arguments = {}
    for text in flags.all("build-arg"):
        name, equals, value = text.partition("=")
        arguments[name] = value if equals else os.environ.get(name)
    place = path(
        "/build",
        t=flags.all("tag"),
        dockerfile=dockerfile,
        remote=remote,
        q=quiet,
        nocache=flags.on("no-cache"),
        pull=flags.on("pull"),
        rm=None if flags.on("rm", default=True) else "0",
        forcerm=flags.on("force-rm"),
        squash=flags.on("squash"),
        target=flags.text("target"),
        networkmode=flags.text("network"),
        platform=flags.text("platform"),
        cgroupparent=flags.text("cgroup-parent"),
        cpuperiod=flags.text("cpu-period"),
        cpuquota=flags.text("cpu-quota"),
        cpushares=flags.text("cpu-shares"),
        cpusetcpus=flags.text("cpuset-cpus"),
        cpusetmems=flags.text("cpuset-mems"),
        memory=_bytes(flags, "memory"),
        memswap=-1 if flags.text("memory-swap") == "-1" else _bytes(flags, "memory-swap"),
        shmsize=_bytes(flags, "shm-size"),
        extrahosts=flags.all("add-host"),
        buildargs=arguments,
        labels=values.pairs(flags.all("label")),
        cachefrom=_json_list(flags.all("cache-from")),
        ulimits=_json_list([values.ulimit(text) for text in flags.all("ulimit")]),
    )
    headers = {"Content-Type": "application/x-tar", **_registries(session)}
    try:
        response = session.api.request("POST", place, sent.pieces(), headers=headers)
    except APIError as error:
        if error.message.startswith("invalid reference format") and flags.given("tag"):
            raise flags.invalid("tag", flags.text("tag"), str(error)) from None
        sent.show(quiet)
        raise
    sent.show(quiet)
    said: list[str] = []
    found = progress.show(_noting(response.objects(), said), quiet=quiet)
    identifier = next((aux["ID"] for aux in reversed(found) if "ID" in aux), "".join(said).strip() if quiet else "")
    return _finish(flags, identifier, quiet)


def _finish(flags: Flags, identifier: str, quiet: bool) -> int:
    """Tell of the image where that was asked for."""
    if quiet:
        print(identifier)
    if flags.given("iidfile"):
        with open(flags.text("iidfile"), "w", encoding="ascii") as file:
            file.write(identifier)
    return 0


class _Counted:
    """The context on its way, and how much of it there was."""

    def __init__(self, context: Iterator[bytes] | bytes) -> None:
        self._context = context
        self._size = 0

    def pieces(self) -> Iterator[bytes]:
        """The context."""
        for piece in [self._context] if isinstance(self._context, bytes) else self._context:
            self._size += len(piece)
            yield piece

    def show(self, quiet: bool) -> None:
        """Say how much was sent, as the classic builder's users know it."""
        if not quiet and self._size:
            print(f"Sending build context to Docker daemon  {output.size(self._size, 4)}\r\r", flush=True)


def _noting(messages: Iterator[dict[str, Any]], said: list[str]) -> Iterator[dict[str, Any]]:
    for message in messages:
        said.append(message.get("stream", ""))
        yield message


def _bytes(flags: Flags, name: str) -> int | None:
    try:
        return values.size(flags.text(name)) if flags.given(name) else None
    except ValueError as error:
        raise flags.invalid(name, flags.text(name), str(error)) from None


def _json_list(found: Sequence[object]) -> str | None:
    import json

    return json.dumps(found) if found else None


def _registries(session: Session) -> dict[str, str]:
    """The header with every login, for the base images."""
    import base64
    import json

    logins = credentials.every_login(session.config_folder)
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(logins).encode()).decode()}


def _context(source: str, flags: Flags) -> tuple[str, str, Iterator[bytes] | bytes]:
    """Where the engine finds the context, the Dockerfile's name in it, and the context itself."""
    dockerfile = flags.text("file")
    if source.startswith(("http://", "https://")):
        return source, dockerfile, b""
    if source == "-":
        if dockerfile == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(dockerfile)
    if not os.path.isdir(source):
        if not os.path.exists(source):
            raise Failure(f'unable to prepare context: path "{source}" not found')
        raise Failure(f"unable to prepare context: context must be a directory: {os.path.abspath(source)}")
    from dockyard.client.build_context import pack_folder

    # as with docker, a Dockerfile is looked for from where we are, not in the context
    named = os.path.abspath(dockerfile) if dockerfile not in ("", "-") else dockerfile
    name, pieces = pack_folder(source, named, lambda: sys.stdin.buffer.read())
    return "", name, pieces


def _from_stdin(dockerfile: str) -> tuple[str, str, Iterator[bytes] | bytes]:
    """A tar archive, or a Dockerfile without a context."""
    stream = sys.stdin.buffer
    head = stream.read(512)
    packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    if packed or head[257:262] == b"ustar":
        return "", dockerfile, _chain(head, iter(lambda: stream.read(CHUNK), b""))
    import io
    import tarfile

    data, archive = head + stream.read(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    # Python fills records of 10 kB, where the two blocks that end an archive are enough
    return "", "", archive.getvalue()[: 512 + -(-len(data) // 512) * 512 + 1024]


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest
