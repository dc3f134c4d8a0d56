"""What an operation opens, it closes, however it ends: counted before and after a hundred of each."""

import contextlib
import gzip
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.api_client import Api, ApiError
from tests.engine.test_images import tar
from tests.engine_process import EngineProcess
from tests.processes import children_of

ROUNDS = int(os.environ.get("LEAK_ROUNDS", "100"))
WARM_UP = 4
PATIENCE = 20.0
# What may come and go by itself: a connection to a shim that is being closed; threads of a pool that fills up.
SLACK = {"descriptors": 3, "files": 3, "threads": 20}


@dataclass(frozen=True)
class Count:
    """What the daemon and its helpers hold."""

    descriptors: int
    threads: int
    deleted_bytes: int
    files: int

    def growth(self, before: "Count") -> list[str]:
        found = []
        for name in SLACK:
            more = getattr(self, name) - getattr(before, name)
            if more > SLACK[name]:
                found.append(f"{more} more {name}")
        if self.deleted_bytes - before.deleted_bytes > 1 << 20:
            found.append(f"{self.deleted_bytes - before.deleted_bytes} more bytes of deleted files")
        return found


class Engine:
    """An engine with an image and a container that runs, and what is done to it."""

    def __init__(self, process: EngineProcess) -> None:
        self.process = process
        self.api = Api(process.socket)
        self.runs = self.api.run("sh", "-c", "while :; do echo line; sleep 0.05; done", name="runs")
        self.idle = self.api.create("true", name="idle")
        self.image = process.run_docker("save", "busybox").stdout
        self.tree = process.run_docker("export", "idle").stdout

    def count(self) -> Count:
        """Of the daemon and its processes; the files are those it keeps for a time."""
        assert self.process.process is not None
        daemon = self.process.process.pid
        descriptors = threads = deleted = 0
        for pid in (daemon, *children_of(daemon)):
            with contextlib.suppress(FileNotFoundError):
                threads += len(os.listdir(f"/proc/{pid}/task"))
            for fd in _listed(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    descriptors += 1
                    if target.startswith("/") and target.endswith(" (deleted)") and not target.startswith("/memfd:"):
                        deleted += os.stat(f"/proc/{pid}/fd/{fd}").st_blocks * 512
        root = self.process.data_root
        folders = [
            root / "tmp",
            root / "builder",
            root / "overlay2",
            root / "volumes",
            root / "containers",
            root / "tmp",
        ]
        files = sum(len(_listed(folder)) for folder in folders)
        return Count(descriptors, threads, deleted, files)

    def send(self, head: str, body: bytes = b"", *, length: int | None = None) -> socket.socket:
        """A request on a connection of its own, which stays."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(str(self.process.socket))
        size = len(body) if length is None else length
        client.sendall(
            f"{head} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(body)
        return client

    def done(self, head: str, body: bytes = b"") -> bytes:
        """All of the answer to a request."""
        with self.send(f"{head}", body) as client:
            client.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(1 << 16):
                    answer += piece
            return answer

    def cut(self, head: str, body: bytes = b"", *, length: int | None = None, after: float = 0.02) -> None:
        """A request whose client goes in the midst of it."""
        with self.send(head, body, length=length) as client:
            time.sleep(after)
            client.settimeout(0.05)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                client.recv(100)

    def refused(self, method: str, target: str, body: object = None, **query: object) -> None:
        with pytest.raises(ApiError):
            self.api.call(method, target, body, **query)


def _listed(folder: str | Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def _context(dockerfile: str, **files: bytes) -> bytes:
    return tar({"Dockerfile": dockerfile.encode(), **files})


BIG = b"x" * 300_000
COPY = _context("FROM busybox\nCOPY file /file\nADD inner.tar /\n", **{"file": BIG, "inner.tar": tar({"in": BIG})})
SLOW = _context("FROM busybox\nCOPY file /file\nRUN sleep 5\n", file=BIG)
TORN = gzip.compress(tar({"f": os.urandom(9999)}))[:5000]
PART = tar({"f": BIG})[:99_999]
EXEC = {"AttachStdout": True, "Cmd": ["echo", "hi"]}

OPERATIONS: dict[str, Callable[[Engine], object]] = {
    # good
    "build": lambda e: e.done("POST /build?nocache=1&rm=1", COPY),
    "build from the cache": lambda e: e.done("POST /build", COPY),
    "build from what is compressed": lambda e: e.done("POST /build", gzip.compress(COPY)),
    "run": lambda e: e.api.wait(e.api.run("true", host={"AutoRemove": True})),
    "create and remove": lambda e: e.api.remove(e.api.create("true", Volumes={"/v": {}})),
    "exec": lambda e: e.done(f"POST /exec/{e.api.post(f'/containers/{e.runs}/exec', EXEC)['Id']}/start"),
    "logs": lambda e: e.done(f"GET /containers/{e.runs}/logs?stdout=1&tail=5"),
    "save": lambda e: e.done("GET /images/busybox/get"),
    "load": lambda e: e.done("POST /images/load", e.image),
    "import": lambda e: e.done("POST /images/create?fromSrc=-&repo=imported", e.tree),
    "export": lambda e: e.done(f"GET /containers/{e.idle}/export"),
    "commit": lambda e: e.api.post("/commit", {}, container=e.idle, repo="committed"),
    "files out": lambda e: e.done(f"GET /containers/{e.idle}/archive?path=/bin/sh"),
    "files in": lambda e: e.done(f"PUT /containers/{e.idle}/archive?path=/tmp", tar({"f": BIG})),
    "changes": lambda e: e.api.get(f"/containers/{e.runs}/changes"),
    "statistics": lambda e: e.api.get(f"/containers/{e.runs}/stats", stream=0, **{"one-shot": 1}),
    "pause": lambda e: (e.api.post(f"/containers/{e.runs}/pause"), e.api.post(f"/containers/{e.runs}/unpause")),
    "volume": lambda e: e.api.delete(f"/volumes/{e.api.post('/volumes/create', {})['Name']}"),
    "network": lambda e: e.api.delete(f"/networks/{e.api.post('/networks/create', {'Name': 'leaky'})['Id']}"),
    "tag": lambda e: (e.api.post("/images/busybox/tag", repo="other", tag="1"), e.api.delete("/images/other:1")),
    "df": lambda e: e.api.get("/system/df"),
    "fsck": lambda e: e.api.get("/dockyard/fsck"),
    # failing
    "build of nothing known": lambda e: e.done("POST /build", _context("FROM busybox\nCOPY none /\n", f=BIG)),
    "build of nonsense": lambda e: e.done("POST /build", _context("NONSENSE\n", f=BIG)),
    "build that is no archive": lambda e: e.done("POST /build", BIG),
    "build of what is cut": lambda e: e.done("POST /build", COPY[:100_000]),
    "build of what is cut and compressed": lambda e: e.done("POST /build", gzip.compress(COPY)[:200]),
    "build that fails": lambda e: e.done("POST /build?forcerm=1", _context("FROM busybox\nRUN exit 3\n", f=BIG)),
    "build with a bad archive": lambda e: e.done(
        "POST /build", _context("FROM busybox\nADD a.tar.gz /\n", **{"a.tar.gz": TORN})
    ),
    "load of nonsense": lambda e: e.done("POST /images/load", BIG),
    "import of nonsense": lambda e: e.done("POST /images/create?fromSrc=-", BIG),
    "run of nothing": lambda e: _failing_run(e),
    "exec of nothing": lambda e: e.done(
        f"POST /exec/{e.api.post(f'/containers/{e.runs}/exec', {**EXEC, 'Cmd': ['/none']})['Id']}/start"
    ),
    "files of nothing": lambda e: e.refused("GET", f"/containers/{e.idle}/archive?path=/none"),
    "files into nothing": lambda e: e.done(f"PUT /containers/{e.idle}/archive?path=/none", tar({"f": BIG})),
    "create of nothing": lambda e: e.refused("POST", "/containers/create", {"Image": "none"}),
    "network in the way": lambda e: e.refused("POST", "/networks/create", {"Name": "bridge"}),
    # cancelled
    "build cut in its context": lambda e: e.cut("POST /build", COPY[:100_000], length=len(COPY)),
    "build cut in a step": lambda e: e.cut("POST /build?forcerm=1&nocache=1", SLOW, after=0.3),
    "build cut early": lambda e: e.cut("POST /build?nocache=1", COPY, after=0.005),
    "load cut": lambda e: e.cut("POST /images/load", e.image[:200_000], length=len(e.image)),
    "import cut": lambda e: e.cut("POST /images/create?fromSrc=-", e.tree[:200_000], length=len(e.tree)),
    "files in cut": lambda e: e.cut(
        f"PUT /containers/{e.idle}/archive?path=/tmp", tar({"f": BIG})[:99_999], length=300_000
    ),
    "save cut": lambda e: e.cut("GET /images/busybox/get"),
    "export cut": lambda e: e.cut(f"GET /containers/{e.idle}/export"),
    "logs cut": lambda e: e.cut(f"GET /containers/{e.runs}/logs?stdout=1&follow=1"),
    "events cut": lambda e: e.cut("GET /events"),
    "statistics cut": lambda e: e.cut(f"GET /containers/{e.runs}/stats"),
    "attach cut": lambda e: e.cut(f"POST /containers/{e.runs}/attach?stream=1&stdout=1&stdin=1"),
    "exec cut": lambda e: e.cut(
        f"POST /exec/{e.api.post(f'/containers/{e.runs}/exec', {**EXEC, 'Cmd': ['sleep', '0.2']})['Id']}/start"
    ),
    "wait cut": lambda e: e.cut(f"POST /containers/{e.runs}/wait"),
    "lease cut": lambda e: e.cut("POST /dockyard/leases"),
    "pull cut": lambda e: e.cut("POST /images/create?fromImage=busybox&tag=latest", after=0.001),
}


def _failing_run(engine: Engine) -> None:
    container = engine.api.create("/none")
    with pytest.raises(ApiError):
        engine.api.post(f"/containers/{container}/start")
    engine.api.remove(container)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("leaks"), number=19) as process:
        yield Engine(process)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_hundred_of_an_operation_leave_nothing_open(engine: Engine, operation: str) -> None:
    do = OPERATIONS[operation]
    for _ in range(WARM_UP):
        do(engine)
    _tidy(engine)
    before = engine.count()
    workers = [threading.Thread(target=lambda: [do(engine) for _ in range(ROUNDS // 2)]) for _ in range(2)]
    if operation in ("network", "tag", "pause"):  # of which only one can be at a time
        for _ in range(ROUNDS):
            do(engine)
    else:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    _tidy(engine)
    grown: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        grown = engine.count().growth(before)
        if not grown:
            return
        time.sleep(0.2)
    raise AssertionError(f"{operation}: {', '.join(grown)}")


def _tidy(engine: Engine) -> None:
    """Away with what the operations have made on purpose."""
    for entry in engine.api.get("/containers/json", all=1):
        if entry["Id"] not in (engine.runs, engine.idle):
            with contextlib.suppress(ApiError):
                engine.api.remove(entry["Id"])
    for entry in engine.api.get("/images/json", all=1):
        if "busybox:latest" not in (entry["RepoTags"] or []):
            with contextlib.suppress(ApiError):
                engine.api.delete(f"/images/{entry['Id']}", force=1)
