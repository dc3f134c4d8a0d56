"""`build`: the context packed and sent, the builder's words shown."""

from __future__ import annotations

import os
import sys

from dockyard.cli import credentials, progress, values
from dockyard.cli.session import Failure, Session, path
from dockyard.cli.usage import Flags, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CHUNK = 1 << 18


@usage(
    """
dockyard build [OPTIONS] PATH | URL | -

Build an image from a Dockerfile

Options:
      --add-host list           Name a host and its address (host:ip)
      --build-arg list          Variables of the build
      --cache-from list         Images whose steps count as cached
      --cgroup-parent string    Cgroup for the build's containers
      --compress                Compress the context
      --cpu-period int          CFS period in microseconds
      --cpu-quota int           CFS quota in microseconds
  -c, --cpu-shares int          CPU weight relative to others
      --cpuset-cpus string      CPUs to run on (0-3, 0,1)
      --cpuset-mems string      Memory nodes to use (0-3, 0,1)
      --disable-content-trust   Accepted for compatibility (default true)
  -f, --file string             The Dockerfile (default PATH/Dockerfile)
      --force-rm                Remove intermediate containers even after a failure
      --iidfile string          File to write the image's ID to
      --isolation string        Isolation technology
  -l, --label list              Labels of the image
  -m, --memory bytes            Memory limit
      --memory-swap bytes       Memory and swap together; -1: no limit of swap
      --network string          Network of RUN instructions (default "default")
      --no-cache                Do every step anew
      --platform string         Platform to build for
      --pull                    Ask the registry for newer base images
  -q, --quiet                   Show the image's ID only
      --rm                      Remove intermediate containers (default true)
      --security-opt list       Security options
      --shm-size bytes          Size of /dev/shm
      --squash                  Make one layer of the new ones
  -t, --tag list                Name and optionally tag (name:tag)
      --target string           Stage to build
      --ulimit ulimit           Resource limits
"""
)
def build(session: Session, flags: Flags) -> int:
    """Shows the steps; the image's ID with -q."""
    source, quiet = flags.arguments[0], flags.on("quiet")
    remote, dockerfile, pieces = _context(source, flags)
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
    response = session.api.request(
        "POST", place, pieces, headers={"Content-Type": "application/x-tar", **_registries(session)}
    )
    found = progress.show(response.objects(), quiet=quiet)
    identifier = next((aux["ID"] for aux in reversed(found) if "ID" in aux), "")
    if quiet:
        print(identifier)
    if flags.given("iidfile"):
        with open(flags.text("iidfile"), "w", encoding="ascii") as file:
            file.write(identifier)
    return 0


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

    known = credentials.load(session.config_folder).get("auths") or {}
    logins = {name: credentials.find(session.config_folder, name) for name in known}
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(logins).encode()).decode()}


def _context(source: str, flags: Flags) -> tuple[str, str, Iterator[bytes] | bytes]:
    """Where the engine finds the context, the Dockerfile's name in it, and the context itself."""
    dockerfile = flags.text("file")
    if source.startswith(("http://", "https://", "git://", "github.com/", "git@", "ssh://")):
        return source, dockerfile, b""
    if source == "-":
        if dockerfile == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(dockerfile)
    if not os.path.isdir(source):
        if not os.path.exists(source):
            raise Failure(f'unable to prepare context: path "{source}" not found')
        raise Failure(f"unable to prepare context: context must be a directory: {os.path.abspath(source)}")
    from dockyard.cli.archive import Packing

    root = os.path.realpath(source)
    name, extra = _dockerfile(root, dockerfile)
    packing = Packing(root, ".", owner=(0, 0), wanted=_wanted(root, name), extra=extra)
    return "", name, iter(packing)


def _dockerfile(root: str, given: str) -> tuple[str, dict[str, bytes]]:
    """The Dockerfile's name in the context, and the file itself when it comes from elsewhere."""
    outside = f".dockerfile.{os.urandom(10).hex()}"
    if given == "-":
        return outside, {outside: sys.stdin.buffer.read()}
    place = os.path.join(root, "Dockerfile")
    if given:
        place = os.path.abspath(given) if os.path.isabs(given) or os.path.exists(given) else os.path.join(root, given)
    elif not os.path.lexists(place) and os.path.lexists(os.path.join(root, "dockerfile")):
        place = os.path.join(root, "dockerfile")
    if not os.path.exists(place):
        raise Failure(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
            f"lstat {place}: no such file or directory"
        )
    real = os.path.realpath(place)
    if os.path.commonpath([real, root]) == root:
        inside = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
        return os.path.relpath(inside if os.path.commonpath([inside, root]) == root else real, root), {}
    with open(real, "rb") as file:
        return outside, {outside: file.read()}


def _wanted(root: str, dockerfile: str) -> Callable[[str, bool], bool]:
    """What .dockerignore lets through; the Dockerfile and itself always, for the engine needs them."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            with open(os.path.join(root, name), encoding="utf-8") as file:
                text = file.read()
            break
        except (FileNotFoundError, NotADirectoryError):
            continue
    else:
        return lambda _path, _is_folder: True
    from dockyard.build.dockerignore import IgnoreRules

    rules = IgnoreRules.parse(text)
    exceptions = any(line.strip().startswith("!") for line in text.split("\n"))

    def wanted(path: str, is_folder: bool) -> bool:
        if path in (dockerfile, ".dockerignore") or dockerfile.startswith(path + "/"):
            return True
        return not rules.excludes(path) or (is_folder and exceptions)

    return wanted


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
    return "", "", archive.getvalue()


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest
