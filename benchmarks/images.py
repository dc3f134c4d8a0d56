"""Images in and out of engines, and registries beside each other, by turns.

usage (root): python -m benchmarks.images [--engines dockyard,docker] [--megabytes 1024] [--files 20000] [--rounds 3]
              [--only WORD] [--json FILE]

Engines: import, load, save, push, and pull (with unpacking) of an image of one large layer and of one of 40 layers,
with gzip and with zstd, from and to Debian's docker-registry. Registries: ours, with one and two processes, beside
that one: manifests, large blobs, and the memory that those take. Prints medians and ratios to the first: of time
that passes and of the processor time that engines and their helpers take, which a busy machine changes little.
"""

import argparse
import gzip
import hashlib
import http.client
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import zstandard

from benchmarks import peers
from benchmarks.peers import Engine, Failed

# What is measured, for one of several: a number, or the ms that passed and those of processor time.
Work = Callable[[Any], Any]

FOLDER = Path("/var/lib/dybench-images")
LAYERS = 40
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+"
CONFIG = "application/vnd.oci.image.config.v1+json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="dockyard,docker")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only what has this word in its name")
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    engines = [peers.engine(name, number) for number, name in enumerate(options.engines.split(",")) if name]
    registries = [Ours("dockyard", 1), Ours("dockyard, 2 processes", 2), Debians("docker-registry")]
    table: dict[str, dict[str, float]] = {}
    try:
        for server in registries:
            server.start()
        bench = Bench(options.megabytes, options.files, registries[-1])
        for engine in engines:
            engine.plain_registries = [registries[-1].address, f"127.0.0.1:{bench.fresh_port}"]
            engine.start()
        for name, (work, who) in bench.all(engines, registries).items():
            if options.only in name:
                table |= measure(name, work, who, options.rounds)
    finally:
        for engine in engines:
            engine.stop()
        for server in registries:
            server.stop()
        shutil.rmtree(FOLDER, ignore_errors=True)
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=1))


def measure(name: str, work: Work, who: list[Any], rounds: int) -> dict[str, dict[str, float]]:
    """Let each do the work by turns; the medians by name, which are printed with their ratio to the first's."""
    samples: dict[str, list[Any]] = {one.name: [] for one in who}
    for number in range(rounds):
        for one in who if number % 2 else reversed(who):
            if one.name in samples:
                try:
                    found = work(one)
                    samples[one.name].append(found if isinstance(found, tuple) else (found,))
                except Failed as failure:
                    print(failure, file=sys.stderr)
                    del samples[one.name]
    table = {}
    for column, title in enumerate((name, f"{name} of processor")):
        medians = {
            one: statistics.median(sample[column] for sample in found)
            for one, found in samples.items()
            if len(found[0]) > column
        }
        if medians:
            table[title] = medians
            first = next(iter(medians.values()))
            shown = "  ".join(f"{one} {value:.1f} ({first / max(value, 0.001):.2f})" for one, value in medians.items())
            print(f"{title:<34} {shown}", flush=True)
    return table


# -- registries


class Registry:
    """A registry server on loopback."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.port = port or free_port()
        self.root = FOLDER / f"registry-{self.port}"
        self._mark = str(self.port).encode()  # is on its command line
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.root.mkdir(parents=True)
        self._process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"{self.name} did not start")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def put_blob(self, name: str, blob: bytes) -> str:
        """Send a blob; its digest."""
        digest = digest_of(blob)
        connection = http.client.HTTPConnection(self.address)
        connection.request("POST", f"/v2/{name}/blobs/uploads/", b"")
        answer = connection.getresponse()
        answer.read()
        place = answer.headers["Location"].removeprefix(f"http://{self.address}")
        connection.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", blob)
        answer = connection.getresponse()
        if answer.status != 201:
            raise Failed(f"{self.name}: {answer.status} {answer.read()!r}")
        connection.close()
        return digest

    def put_image(self, name: str, layers: list[bytes], packed: list[bytes], kind: str) -> None:
        """Send an image: `layers` are its tars, `packed` the same compressed as `kind` says."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]},
        }
        raw = json.dumps(config).encode()
        blobs = [(self.put_blob(name, one), len(one)) for one in packed]
        described = [{"mediaType": LAYER + kind, "digest": digest, "size": size} for digest, size in blobs]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.put_blob(name, raw), "size": len(raw)},
            "layers": described,
        }
        connection = http.client.HTTPConnection(self.address)
        connection.request("PUT", f"/v2/{name}/manifests/1", json.dumps(manifest), {"Content-Type": MANIFEST})
        answer = connection.getresponse()
        if answer.status != 201:
            raise Failed(f"{self.name}: {answer.status} {answer.read()!r}")

    def memory(self) -> float:
        """MB of RSS of its largest process."""
        assert self._process is not None
        found = 0
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and self._mark in Path(f"/proc/{entry}/cmdline").read_bytes():
                    lines = Path(f"/proc/{entry}/status").read_text().splitlines()
                    found = max([found, *(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))])
            except OSError:
                continue
        return found / 1024


class Ours(Registry):
    """`dockyard.registry`."""

    def __init__(self, name: str, workers: int) -> None:
        super().__init__(name)
        self._workers = workers

    def command(self) -> list[str]:
        settings = (
            f"http.addr={self.address}",
            f"storage.filesystem.rootdirectory={self.root}",
            f"workers={self._workers}",
            "log.level=error",
            "log.accesslog.disabled=true",
        )
        words = [word for one in settings for word in ("--set", one)]
        return [sys.executable, "-m", "dockyard.registry", "serve", *words]


class Debians(Registry):
    """The distribution project's, as Debian packages it."""

    def command(self) -> list[str]:
        config = FOLDER / f"config-{self.port}.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.root}}}, cache: {{blobdescriptor: inmemory}}}}\n"
            f"http: {{addr: '{self.address}'}}\n"
        )
        return ["docker-registry", "serve", str(config)]


# -- what is measured


class Bench:
    """The images, and what is done with them."""

    def __init__(self, megabytes: int, files: int, server: Debians) -> None:
        self._server = server
        self.fresh_port = free_port()
        source = random.Random(1)
        # as compressible as programs are: half noise, half words
        words = b" ".join(source.randbytes(4).hex().encode() for _ in range(1 << 15))
        noise = source.randbytes(1 << 20)

        def content(size: int) -> bytes:
            start = source.randrange(1 << 17)
            half = size // 2
            told = (words[start:] * (half // (1 << 14) + 2))[: size - half]
            return (noise[start:] * (half // (1 << 18) + 2))[:half] + told

        one = tar({f"d{number % 97}/f{number}": content((megabytes << 20) // files) for number in range(files)})
        many = [
            tar({f"l{layer}/f{number}": content((megabytes << 20) // LAYERS // 50) for number in range(50)})
            for layer in range(LAYERS)
        ]
        self._images = {"one": [one], "many": many}
        for name, layers in self._images.items():
            with ThreadPoolExecutor(2) as threads:
                zipped = list(threads.map(lambda layer: gzip.compress(layer, 1), layers))
                other = list(threads.map(lambda layer: zstandard.ZstdCompressor(3).compress(layer), layers))
            server.put_image(f"{name}-gzip", layers, zipped, "gzip")
            server.put_image(f"{name}-zstd", layers, other, "zstd")
            (FOLDER / f"{name}.tar").write_bytes(archive(f"bench-{name}:1", layers))
        (FOLDER / "rootfs.tar").write_bytes(one)
        self._blob = random.Random(2).randbytes(1 << 20) * min(megabytes, 512)

    def all(self, engines: list[Engine], registries: list[Registry]) -> dict[str, tuple[Work, list[Any]]]:
        """Each by its name: the work, and who does it."""
        found: dict[str, tuple[Work, list[Any]]] = {}
        if engines:
            found["import, ms"] = (self._import, engines)
            for name in self._images:
                found[f"load {name}, ms"] = (partial(self._load, name), engines)
                found[f"save {name}, ms"] = (partial(self._save, name), engines)
                found[f"push {name}, ms"] = (partial(self._push, name), engines)
                for kind in ("gzip", "zstd"):
                    found[f"pull {name} {kind}, ms"] = (partial(self._pull, f"{name}-{kind}"), engines)
        found["manifests, ms for 4000"] = (self._manifests, registries)
        found["push of a blob, ms"] = (self._put, registries)
        found["pull of a blob, ms"] = (self._get, registries)
        found["memory afterwards, MB"] = (Registry.memory, registries)
        return found

    # engines

    def _time(self, engine: Engine, *arguments: str, output: Any = subprocess.DEVNULL) -> tuple[float, float]:
        at_rest(engine)
        before = engine.processor()
        begin = time.perf_counter()
        done = subprocess.run(
            ["docker", *arguments], stdout=output, stderr=subprocess.PIPE, env=engine.environment, check=False
        )
        took = (time.perf_counter() - begin) * 1000
        if done.returncode != 0:
            raise Failed(f"{engine.name}: docker {' '.join(arguments)}: {done.stderr.decode()}")
        return took, engine.processor() - before

    def _import(self, engine: Engine) -> tuple[float, float]:
        took = self._time(engine, "import", f"{FOLDER}/rootfs.tar", "imported:1")
        engine.docker("rmi", "-f", "imported:1")
        return took

    def _load(self, name: str, engine: Engine) -> tuple[float, float]:
        engine.docker("rmi", "-f", f"bench-{name}:1", check=False)
        return self._time(engine, "load", "-i", f"{FOLDER}/{name}.tar")

    def _save(self, name: str, engine: Engine) -> tuple[float, float]:
        return self._time(engine, "save", "-o", f"{FOLDER}/saved.tar", f"bench-{name}:1")

    def _push(self, name: str, engine: Engine) -> tuple[float, float]:
        fresh = Debians("fresh", self.fresh_port)  # which has none of it
        fresh.start()
        try:
            place = f"{fresh.address}/{name}:1"
            engine.docker("tag", f"bench-{name}:1", place)
            took = self._time(engine, "push", place)
            engine.docker("rmi", place)
        finally:
            fresh.stop()
            shutil.rmtree(fresh.root)
        return took

    def _pull(self, name: str, engine: Engine) -> tuple[float, float]:
        engine.docker("rmi", "-f", f"bench-{name.partition('-')[0]}:1", check=False)  # or it has the layers
        place = f"{self._server.address}/{name}:1"
        took = self._time(engine, "pull", place)
        engine.docker("rmi", "-f", place)
        return took

    # registries

    def _manifests(self, registry: Registry) -> float:
        if registry is not self._server:
            registry.put_image("m", [b"x" * 1024], [gzip.compress(b"x" * 1024)], "gzip")
        name = "m" if registry is not self._server else "one-gzip"
        with ThreadPoolExecutor(4) as threads:
            begin = time.perf_counter()
            list(threads.map(lambda _: ask_often(registry.port, f"/v2/{name}/manifests/1", 1000), range(4)))
            return (time.perf_counter() - begin) * 1000

    def _put(self, registry: Registry) -> float:
        os.sync()
        blob = self._blob + os.urandom(16)
        begin = time.perf_counter()
        registry.put_blob("b", blob)
        return (time.perf_counter() - begin) * 1000

    def _get(self, registry: Registry) -> float:
        digest = registry.put_blob("b", self._blob)
        buffer = bytearray(1 << 20)
        begin = time.perf_counter()
        with socket.create_connection(("127.0.0.1", registry.port)) as connection:
            connection.sendall(f"GET /v2/b/blobs/{digest} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
            received = 0
            while count := connection.recv_into(buffer):
                received += count
        if received < len(self._blob):
            raise Failed(f"{registry.name}: {received} bytes came")
        return (time.perf_counter() - begin) * 1000


def at_rest(engine: Engine) -> None:
    """Wait until an engine has done what it does behind an answer, such as to remove the files of the image before."""
    for _ in range(100):
        before = engine.processor()
        time.sleep(0.2)
        if engine.processor() - before < 10:
            return


def free_port() -> int:
    """A port on loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask_often(port: int, path: str, times: int) -> None:
    """GET `path` again and again on one connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: r\r\nAccept: {MANIFEST}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(times):
            connection.sendall(request)
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
            if b" 200 " not in head[:20]:
                raise Failed(head.decode())


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(files: dict[str, bytes]) -> bytes:
    """An uncompressed tar."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def archive(name: str, layers: list[bytes]) -> bytes:
    """What `docker save` writes."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]},
    }
    files = {f"{number}/layer.tar": layer for number, layer in enumerate(layers)}
    listed = [{"Config": "config.json", "RepoTags": [name], "Layers": list(files)}]
    return tar({"config.json": json.dumps(config).encode(), **files, "manifest.json": json.dumps(listed).encode()})


if __name__ == "__main__":
    main()
