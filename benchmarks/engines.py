"""The same work through the same stock docker client against several engines, by turns.

usage (root): python -m benchmarks.engines [--engines dockyard,docker] [--rounds 7] [--only WORD] [--processor]

Prints, for each workload, every engine's median in milliseconds (or MB) and the ratio of the first engine
to each other. Rounds are interleaved, so that a slow moment of the machine hits all engines alike.
"""

import argparse
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import peers, raw_api
from benchmarks.peers import Engine, Failed

Workload = Callable[[Engine], float]
SETTLE = 0.3  # what an engine does after it has answered is of its time too, s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="dockyard,docker")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only workloads whose name holds this word")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="the engine's processor time instead of the time that passes: a busy machine changes it little",
    )
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    engines = [peers.engine(name, number) for number, name in enumerate(options.engines.split(","))]
    bench = Workloads()
    try:
        for engine in engines:
            engine.start()
            bench.prepare(engine)
        results: dict[str, dict[str, float]] = {}
        print(", ".join(f"{engine.name}: {engine.version()}" for engine in engines))
        print(f"{'workload':<34}" + "".join(f"{engine.name:>12}" for engine in engines) + "       ratio", flush=True)
        for name, (workload, rounds) in bench.all().items():
            if options.only not in name:
                continue
            samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
            for number in range(min(rounds, options.rounds) + 1):
                for engine in engines if number % 2 else reversed(engines):
                    if engine.name not in samples:
                        continue
                    try:
                        sample = _processor_time(workload, engine) if options.processor else workload(engine)
                    except Failed as failure:
                        print(failure, file=sys.stderr)
                        del samples[engine.name]
                        continue
                    if number:  # the first round warms up
                        samples[engine.name].append(sample)
            medians = {engine: statistics.median(values) for engine, values in samples.items()}
            results[name] = {engine.name: medians.get(engine.name, math.nan) for engine in engines}
            _print_row(name, list(results[name].values()))
        if not options.only or options.only in "memory":
            for name, row in bench.memory(engines).items():
                results[name] = row
                _print_row(name, list(row.values()))
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))
    finally:
        for engine in engines:
            engine.stop()
        bench.close()


def _processor_time(workload: Workload, engine: Engine) -> float:
    before = engine.processor()
    workload(engine)
    time.sleep(SETTLE)
    return engine.processor() - before


def _print_row(name: str, medians: list[float]) -> None:
    ratios = "  ".join(f"{medians[0] / other:.3f}" for other in medians[1:] if other)
    print(f"{name:<34}" + "".join(f"{median:>12.1f}" for median in medians) + f"       {ratios}", flush=True)


class Workloads:
    """What is measured; each workload takes an engine and returns milliseconds."""

    def __init__(self) -> None:
        self._folder = Path("/run/dybench/work")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tree = self._folder / "tree.tar"
        self._saved = self._folder / "saved.tar"
        self._fresh = 0
        self._null = open(os.devnull, "wb")  # noqa: SIM115  # kept for the life of the object
        _write_tree(self._tree, megabytes=200)
        self._files = self._folder / "files"
        for number in range(300):
            file = self._files / str(number % 30) / f"file{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(os.urandom((1 + number % 16) << 10))
        for name, text in (
            ("cold", "FROM busybox\n" + "".join(f"RUN echo {n} > /f{n}\n" for n in range(10))),
            ("mixed", 'FROM busybox\nENV A=1\nWORKDIR /w\nCOPY data data\nLABEL x=y\nCMD ["sh"]\n'),
        ):
            context = self._folder / name
            context.mkdir(exist_ok=True)
            (context / "Dockerfile").write_text(text)
            (context / "data").write_bytes(b"d" * 100_000)

    def close(self) -> None:
        """Give back the files."""
        self._null.close()
        subprocess.run(["rm", "-rf", str(self._folder)], check=False)

    def prepare(self, engine: Engine) -> None:
        """Give `engine` a busybox image and the containers that the workloads talk to."""
        engine.docker("load", input=busybox_archive())
        engine.docker("run", "-d", "--name", "idle", "busybox", "sleep", "100000")
        engine.docker("cp", str(self._files), "idle:/files")
        engine.docker("run", "-d", "--name", "talker", "busybox", "sh", "-c", "yes 0123456789 | head -c 20000000")
        engine.docker("wait", "talker")
        engine.docker("build", "-q", "-t", "cached", str(self._folder / "mixed"))

    def all(self) -> dict[str, tuple[Workload, int]]:
        """Workloads by name, with how many rounds they are worth at most."""
        return {
            "run --rm true (bridge)": (self._command("run", "--rm", "busybox", "true"), 15),
            "run --rm true (none)": (self._command("run", "--rm", "--net=none", "busybox", "true"), 15),
            "run --rm true (published port)": (self._command("run", "--rm", "-p", "0:80", "busybox", "true"), 15),
            "exec true": (self._command("exec", "idle", "true"), 15),
            "ps": (self._command("ps"), 15),
            "create + rm": (self._create_remove, 15),
            "20 runs in parallel": (self._parallel, 5),
            "20 MB of output": (self._command("run", "--rm", "busybox", "head", "-c", "20000000", "/dev/zero"), 5),
            "20 MB of lines": (
                self._command("run", "--rm", "busybox", "sh", "-c", "yes 0123456789 | head -c 20000000"),
                5,
            ),
            "logs, 20 MB": (self._command("logs", "talker"), 5),
            "cp out, 300 files": (self._copy_out, 5),
            "cp in, 300 files": (self._copy_in, 5),
            "build, 10 RUN, no cache": (
                self._command("build", "-q", "--no-cache", str(self._folder / "cold")),
                3,
            ),
            "build, cached": (self._command("build", "-q", "-t", "cached", str(self._folder / "mixed")), 7),
            "import 200 MB": (self._import, 5),
            "save 200 MB": (self._save, 3),
            "load 200 MB": (self._load, 5),
            "API: 100 _ping": (raw_api.pings, 15),
            "API: 100 inspect": (raw_api.inspects, 15),
            "API: exec true": (raw_api.exec_true, 15),
            "API: run true (none)": (raw_api.run_true, 15),
        }

    def _time(self, engine: Engine, *arguments: str) -> float:
        begin = time.perf_counter()
        done = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._null,
            stderr=subprocess.PIPE,
            env=engine.environment,
            check=False,
        )
        elapsed = (time.perf_counter() - begin) * 1000
        if done.returncode != 0:
            raise Failed(f"{engine.name}: docker {' '.join(arguments)}: {done.stderr.decode().strip()[-300:]}")
        return elapsed

    def _command(self, *arguments: str) -> Workload:
        return lambda engine: self._time(engine, *arguments)

    def _create_remove(self, engine: Engine) -> float:
        self._fresh += 1
        name = f"made{self._fresh}"
        return self._time(engine, "create", "--name", name, "busybox") + self._time(engine, "rm", name)

    def _parallel(self, engine: Engine) -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda _: self._time(engine, "run", "--rm", "busybox", "true"), range(20)))
        return (time.perf_counter() - begin) * 1000

    def _copy_out(self, engine: Engine) -> float:
        target = self._folder / f"copied-{engine.name}"
        shutil.rmtree(target, ignore_errors=True)
        return self._time(engine, "cp", "idle:/files", str(target))

    def _copy_in(self, engine: Engine) -> float:
        self._fresh += 1
        return self._time(engine, "cp", str(self._files), f"idle:/tmp/files{self._fresh}")

    def _import(self, engine: Engine) -> float:
        elapsed = self._time(engine, "import", str(self._tree), "imported")
        if not self._saved.exists():
            engine.docker("save", "-o", str(self._saved), "imported")
        return elapsed

    def _save(self, engine: Engine) -> float:
        return self._time(engine, "save", "-o", str(self._folder / "out.tar"), "imported")

    def _load(self, engine: Engine) -> float:
        images = engine.docker("images", "-q", "--no-trunc", "imported").decode().split()
        engine.docker("rmi", "-f", *set(images))
        engine.docker("image", "prune", "-f")
        return self._time(engine, "load", "-i", str(self._saved))

    def memory(self, engines: list[Engine]) -> dict[str, dict[str, float]]:
        """PSS in MB with 0, 10 and 100 idle containers, and what one of them adds."""
        rows: dict[str, dict[str, float]] = {}
        for engine in engines:
            engine.docker("rm", "-f", *engine.docker("ps", "-aq").decode().split())
            running = 0
            for count in (0, 10, 100):
                while running < count:
                    engine.docker("run", "-d", "busybox", "sleep", "100000")
                    running += 1
                time.sleep(3)
                rows.setdefault(f"memory, {count} idle, MB", {})[engine.name] = engine.memory()
            added = (rows["memory, 100 idle, MB"][engine.name] - rows["memory, 0 idle, MB"][engine.name]) / 100
            rows.setdefault("memory added by one, MB", {})[engine.name] = added
            engine.docker("rm", "-f", *engine.docker("ps", "-aq").decode().split())
        return rows


def busybox_archive() -> bytes:
    """A docker archive of the distribution's static busybox, that every engine can load."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "etc", "root", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
    import hashlib

    diff_id = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, name, config)
        _add(tar, "layer.tar", layer.getvalue())
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return archive.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def _write_tree(path: Path, megabytes: int) -> None:
    """A root file system tar of `megabytes` in files of several sizes, half of it compressible."""
    with tarfile.open(path, "w") as tar:
        left, number = megabytes << 20, 0
        while left > 0:
            size = (4 << 10, 64 << 10, 1 << 20)[number % 3]
            data = os.urandom(size // 2) + b"abcdefgh" * (size // 16)
            _add(tar, f"data/{number % 100}/file{number}", data)
            left -= size
            number += 1


if __name__ == "__main__":
    main()
