"""A session of all that a client can have acknowledged, and for each act what holds from then on, whatever happens.

An act is done through the stock client or the API and returns promises by what they are about: one of the same name
replaces the earlier one, None takes it back. A promise is checked on an engine that began with the disk of a power cut.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.engine_process import EngineProcess

Promise = Callable[[EngineProcess], None]
Promises = Mapping[str, Promise | None]
Act = Callable[[EngineProcess], Promises]

SLEEP = "trap exit TERM; while :; do sleep 1; done"


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# -- what is promised


def absent(path: str) -> Promise:
    """Nothing is at this path of the API."""

    def check(engine: EngineProcess) -> None:
        status, answer = engine.api("GET", path)
        assert status == 404, (path, status, answer)

    return check


def says(path: str, **fields: Any) -> Promise:
    """The API's document at `path` has these values; `State__Status` is a field in a field."""

    def check(engine: EngineProcess) -> None:
        status, found = engine.api("GET", path)
        assert status == 200, (path, status, found)
        for name, wanted in fields.items():
            value = found
            for key in name.split("__"):
                value = value[key]
            assert value == wanted, (path, name, value, wanted)

    return check


def runs(image: str, command: str, output: str) -> Promise:
    """A new container of that image says this."""

    def check(engine: EngineProcess) -> None:
        assert engine.docker("run", "--rm", image, "sh", "-c", command) == output

    return check


def holds(container: str, path: str, content: bytes) -> Promise:
    """The container has this file."""

    def check(engine: EngineProcess) -> None:
        found = engine.run_docker("cp", f"{container}:{path}", "-")
        assert found.returncode == 0, found.stderr
        with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            assert file is not None
            assert file.read() == content

    return check


def starts(container: str, output: str) -> Promise:
    """The container, which has not run, can be started, and says this in the end."""

    def check(engine: EngineProcess) -> None:
        assert engine.docker("start", "-a", container).endswith(output)

    return check


def restarted(container: str) -> Promise:
    """The container runs: its restart policy has started it with the daemon."""

    def check(engine: EngineProcess) -> None:
        for _ in range(50):
            if engine.inspect(container)["State"]["Running"]:
                return
            engine.run_docker("exec", container, "true", timeout=5)
        raise AssertionError(engine.inspect(container)["State"])

    return check


def all_of(*promises: Promise) -> Promise:
    """Each of them holds."""

    def check(engine: EngineProcess) -> None:
        for promise in promises:
            promise(engine)

    return check


# -- the acts


def _pull(engine: EngineProcess) -> Promises:
    engine.docker("pull", "busybox")
    return {"image busybox": runs("busybox", "echo here", "here\n")}


def _volume(engine: EngineProcess) -> Promises:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    given = [part for key, value in options.items() for part in ("--opt", f"{key}={value}")]
    engine.docker("volume", "create", "--label", "kept=yes", "--label", "also=this", *given, "labelled")
    return {"volume labelled": says("/volumes/labelled", Labels={"kept": "yes", "also": "this"}, Options=options)}


def _network(engine: EngineProcess) -> Promises:
    engine.docker("network", "create", "--label", "kept=yes", "--subnet", "10.199.7.0/24", "net7")
    subnet = [{"Subnet": "10.199.7.0/24"}]  # as it was asked for
    return {"network net7": says("/networks/net7", Labels={"kept": "yes"}, IPAM__Config=subnet)}


def _create(engine: EngineProcess) -> Promises:
    command = ("sh", "-c", "cat /named/file /given; echo made")
    engine.docker("create", "--name", "made", "-v", "named:/named", "-v", "/nameless", "busybox", *command)
    volume = engine.inspect("made")["Mounts"]
    nameless = next(point["Name"] for point in volume if point["Destination"] == "/nameless")
    return {
        "container made": all_of(says("/containers/made/json", State__Status="created"), starts("made", "made\n")),
        "volume named": says("/volumes/named", Name="named"),
        "volume nameless": says(f"/volumes/{nameless}", Name=nameless),
    }


def _copy_in(engine: EngineProcess) -> Promises:
    engine.docker("cp", "-", "made:/", input=tar({"given": b"given\n", "named/file": b"in a volume\n"}))
    holding = all_of(holds("made", "/given", b"given\n"), holds("made", "/named/file", b"in a volume\n"))
    return {"container made": all_of(holding, starts("made", "in a volume\ngiven\nmade\n"))}


def _run(engine: EngineProcess) -> Promises:
    engine.docker(
        "run", "-d", "--name", "web", "--restart", "always", "--network", "net7", "busybox", "sh", "-c", SLEEP
    )
    return {"container web": restarted("web")}


def _write(engine: EngineProcess) -> Promises:
    engine.docker("exec", "web", "sh", "-c", "mkdir -p /a/b && echo data | dd of=/a/b/file conv=fsync")
    return {"files of web": holds("web", "/a/b/file", b"data\n")}


def _exit_code(engine: EngineProcess) -> Promises:
    engine.docker("run", "-d", "--name", "seven", "busybox", "sh", "-c", "exit 7")
    assert engine.docker("wait", "seven") == "7\n"
    return {"container seven": says("/containers/seven/json", State__Status="exited", State__ExitCode=7)}


def _rename(engine: EngineProcess) -> Promises:
    engine.docker("rename", "seven", "eight")
    return {
        "container seven": absent("/containers/seven/json"),
        "container eight": says("/containers/eight/json", Name="/eight", State__ExitCode=7),
    }


def _update(engine: EngineProcess) -> Promises:
    engine.docker("update", "--restart", "no", "eight")
    return {"policy of eight": says("/containers/eight/json", HostConfig__RestartPolicy__Name="no")}


def _connect(engine: EngineProcess) -> Promises:
    engine.docker("network", "connect", "--alias", "octo", "net7", "eight")

    def check(engine: EngineProcess) -> None:
        assert "net7" in engine.inspect("eight")["NetworkSettings"]["Networks"]

    return {"networks of eight": check}


def _stop(engine: EngineProcess) -> Promises:
    engine.docker("stop", "web")

    def stays_stopped(engine: EngineProcess) -> None:
        # it is not started with the daemon if it was not to be; whether it has been is known by now
        state = engine.inspect("web")["State"]
        assert state["Status"] == "exited", state

    engine.docker("update", "--restart", "unless-stopped", "web")
    return {"container web": stays_stopped}


def _build(engine: EngineProcess) -> Promises:
    lines = (
        "FROM busybox",
        "LABEL built=yes",
        "COPY file /copied",
        "RUN echo run > /run-file && mkdir -p /deep/er && cp /copied /deep/er/",
        'CMD ["cat", "/copied"]',
    )
    context = tar({"Dockerfile": "\n".join(lines).encode(), "file": b"context\n" * 1000})
    engine.docker("build", "-t", "built:1", "-", input=context)
    return {
        "image built:1": all_of(
            runs("built:1", "cat /run-file", "run\n"),
            runs("built:1", "cat /copied /deep/er/copied", "context\n" * 2000),
            says("/images/built:1/json", Config__Labels={"built": "yes"}),
        )
    }


def _run_built(engine: EngineProcess) -> Promises:
    engine.docker("run", "-d", "--name", "onbuilt", "--restart", "always", "built:1", "sh", "-c", SLEEP)
    return {"container onbuilt": all_of(restarted("onbuilt"), holds("onbuilt", "/run-file", b"run\n"))}


def _tag(engine: EngineProcess) -> Promises:
    engine.docker("tag", "built:1", "tagged:2")
    found = json.loads(engine.docker("image", "inspect", "built:1"))[0]["Id"]
    return {"image tagged:2": says("/images/tagged:2/json", Id=found)}


def _commit(engine: EngineProcess) -> Promises:
    engine.docker("commit", "web", "committed")
    return {"image committed": runs("committed", "cat /a/b/file", "data\n")}


def _commit_passing(engine: EngineProcess) -> Promises:
    engine.docker("run", "-d", "--rm", "--name", "passing", "busybox", "sh", "-c", f"echo lasting > /lasting; {SLEEP}")
    for _ in range(100):
        if engine.run_docker("exec", "passing", "cat", "/lasting").stdout == b"lasting\n":
            break
    engine.docker("commit", "passing", "lasting")
    return {"image lasting": runs("lasting", "cat /lasting", "lasting\n")}


def _import(engine: EngineProcess) -> Promises:
    engine.docker("import", "-", "imported", input=tar({"imported": b"imported\n"}))
    found = engine.docker("create", "--name", "probe", "imported", "none")

    def check(engine: EngineProcess) -> None:
        engine.docker("create", "--name", "look", "imported", "none")
        holds("look", "/imported", b"imported\n")(engine)

    engine.docker("rm", found.strip())
    return {"image imported": check}


def _load(engine: EngineProcess) -> Promises:
    saved = engine.run_docker("save", "tagged:2")
    engine.docker("rmi", "tagged:2")
    engine.docker("rmi", "-f", "imported")
    loaded = io.BytesIO()
    # the same image under another name: its configuration differs, so that it is not here already
    with tarfile.open(fileobj=io.BytesIO(saved.stdout)) as archive, tarfile.open(fileobj=loaded, mode="w") as copy:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            content = file.read() if file is not None else b""
            if member.name == "manifest.json":
                content = content.replace(b"tagged:2", b"loaded:3")
            member.size = len(content)
            copy.addfile(member, io.BytesIO(content) if file is not None else None)
    engine.docker("load", input=loaded.getvalue())
    return {
        "image loaded:3": runs("loaded:3", "cat /run-file", "run\n"),
        "image tagged:2": absent("/images/tagged:2/json"),
        "image imported": absent("/images/imported/json"),
    }


def _remove(engine: EngineProcess) -> Promises:
    engine.docker("rm", "-v", "made")
    engine.docker("volume", "rm", "named")
    return {
        "container made": absent("/containers/made/json"),
        "volume named": absent("/volumes/named"),
        "volume nameless": None,
    }


def _remove_image(engine: EngineProcess) -> Promises:
    engine.docker("rmi", "lasting")
    return {"image lasting": absent("/images/lasting/json")}


def _remove_by_force(engine: EngineProcess) -> Promises:
    engine.docker("rm", "-f", "onbuilt")
    return {"container onbuilt": absent("/containers/onbuilt/json")}


def _remove_network(engine: EngineProcess) -> Promises:
    engine.docker("rm", "eight", "web")
    engine.docker("network", "rm", "net7")
    return {
        "network net7": absent("/networks/net7"),
        **dict.fromkeys(("policy of eight", "networks of eight", "files of web"), None),
        "container eight": absent("/containers/eight/json"),
        "container web": absent("/containers/web/json"),
    }


def _prune(engine: EngineProcess) -> Promises:
    engine.docker("volume", "prune", "-af")
    engine.docker("image", "prune", "-af")
    return {
        "volume labelled": absent("/volumes/labelled"),
        "image built:1": absent("/images/built:1/json"),
        "image committed": absent("/images/committed/json"),
        "image loaded:3": absent("/images/loaded:3/json"),
    }


ACTS: tuple[Act, ...] = (
    _pull,
    _volume,
    _network,
    _create,
    _copy_in,
    _run,
    _write,
    _exit_code,
    _rename,
    _update,
    _connect,
    _stop,
    _build,
    _run_built,
    _tag,
    _commit,
    _commit_passing,
    _import,
    _load,
    _remove,
    _remove_image,
    _remove_by_force,
    _remove_network,
    _prune,
)


def play(engine: EngineProcess, acts: tuple[Act, ...] = ACTS) -> Iterator[tuple[str, Promises]]:
    """Do one act after the other; after each, its name and what it promises."""
    for act in acts:
        yield act.__name__.strip("_"), act(engine)


def faults(engine: EngineProcess) -> list[str]:
    """What the engine fails at (status 500) when everything that it lists is looked at, and every container started."""
    found = []

    def get(path: str) -> Any:
        status, answer = engine.api("GET", path)
        if status >= 500:
            found.append(f"GET {path}: {answer}")
        return answer if status == 200 else []

    for container in get("/containers/json?all=1&size=1"):
        get(f"/containers/{container['Id']}/json?size=1")
        status, answer = engine.api("POST", f"/containers/{container['Id']}/start")
        if status >= 500:
            found.append(f"start of {container['Names']}: {answer}")
    for image in get("/images/json?all=1&shared-size=1"):
        get(f"/images/{image['Id']}/json")
        get(f"/images/{image['Id']}/history")
    get("/volumes")
    get("/networks")
    get("/system/df")
    return found
