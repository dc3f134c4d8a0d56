"""The same builds through the stock buildx against several engines, by turns.

usage (root): python -m benchmarks.build [--engines dockyard,docker28] [--rounds 5] [--only WORD] [--json FILE]

Prints, for each build, every engine's median in milliseconds and the ratio of the first engine to each other, with and
without what is the client's own (a build of nothing). Bases are busybox, which both are given.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import peers
from benchmarks.peers import Engine, Failed

PLUGINS = Path(__file__).parent.parent / "build" / "buildx" / "cli-plugins"  # of packaging/newer-buildx
FILES = 10_000

Build = Callable[[Engine], float]


class Builds:
    """What is built; every cold one differs from all before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._large = folder / "large"
        for index in range(FILES):
            path = self._large / f"d{index % 100}" / f"f{index}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{index} " * 50)
        (self._large / "Dockerfile").write_text("FROM bench\nCOPY . /all\n")

    def all(self) -> dict[str, Build]:
        """Every build by its name."""
        return {
            "nothing (the client's own)": lambda engine: self._time(engine, "FROM bench\n"),
            "20 RUN": lambda engine: self._time(engine, self._runs(next(self._numbers))),
            "20 RUN, all cached": lambda engine: self._time(engine, self._runs(-1)),
            "50 COPY": lambda engine: self._copies(engine, next(self._numbers)),
            "12 stages": lambda engine: self._time(engine, self._stages(next(self._numbers))),
            "3 stages of one second": lambda engine: self._time(engine, self._sleeps(next(self._numbers))),
            "10 000 files": self._fresh,
            "10 000 files, unchanged": lambda engine: self._build(engine, self._large),
            "10 000 files, one changed": self._changed,
        }

    @staticmethod
    def _runs(number: int) -> str:
        return "FROM bench\n" + "".join(f"RUN echo {number} {step} > /{step}\n" for step in range(20))

    @staticmethod
    def _stages(number: int) -> str:
        stages = "".join(f"FROM bench AS s{step}\nRUN echo {number} > /{step}\n" for step in range(11))
        return stages + "FROM bench\n" + "".join(f"COPY --from=s{step} /{step} /\n" for step in range(11))

    @staticmethod
    def _sleeps(number: int) -> str:
        stages = "".join(f"FROM bench AS s{step}\nRUN sleep 1; echo {number} > /{step}\n" for step in range(3))
        return stages + "FROM bench\n" + "".join(f"COPY --from=s{step} /{step} /\n" for step in range(3))

    def _copies(self, engine: Engine, number: int) -> float:
        files = {f"f{step}": f"{number} {step}" for step in range(50)}
        return self._time(engine, "FROM bench\n" + "".join(f"COPY {name} /in/\n" for name in files), files)

    def _fresh(self, engine: Engine) -> float:
        """A directory that the engine has never seen."""
        folder = self._folder / f"fresh-{next(self._numbers)}"
        shutil.copytree(self._large, folder)
        (folder / "new").write_text(folder.name)
        try:
            return self._build(engine, folder)
        finally:
            shutil.rmtree(folder)

    def _changed(self, engine: Engine) -> float:
        (self._large / "d1" / "f1").write_text(f"changed {next(self._numbers)}")
        return self._build(engine, self._large)

    def _time(self, engine: Engine, dockerfile: str, files: dict[str, str] | None = None) -> float:
        folder = self._folder / "small"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "Dockerfile").write_text(dockerfile)
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        return self._build(engine, folder)

    @staticmethod
    def _build(engine: Engine, folder: Path) -> float:
        environment = {**engine.environment, "DOCKER_CONFIG": str(engine.run / "config")}
        began = time.perf_counter()
        done = subprocess.run(
            [PLUGINS / "docker-buildx", "build", "--quiet", "--provenance=false", "-t", "built", folder],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            check=False,
        )
        took = (time.perf_counter() - began) * 1000
        if done.returncode != 0:
            raise Failed(f"{engine.name}: {done.stderr.decode()}")
        return took


def prepare(engine: Engine) -> None:
    """Give the engine the image `bench`."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "echo", "sleep", "cat"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    engine.docker("import", "-", "bench", input=archive.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="dockyard,docker28")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only builds whose name holds this word")
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    engines = [peers.engine(name, number) for number, name in enumerate(options.engines.split(","))]
    folder = Path(tempfile.mkdtemp(prefix="dybench-build-"))
    results: dict[str, dict[str, float]] = {}
    try:
        builds = Builds(folder)
        for engine in engines:
            engine.start()
            prepare(engine)
        print(", ".join(f"{engine.name}: {engine.version()}" for engine in engines))
        print(f"{'build':<30}" + "".join(f"{engine.name:>12}" for engine in engines) + "       ratio  less the client")
        for name, build in builds.all().items():
            if options.only and options.only not in name and "nothing" not in name:
                continue
            samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
            for number in range(options.rounds + 1):
                for engine in engines if number % 2 else reversed(engines):
                    took = build(engine)
                    if number:  # the first round warms up
                        samples[engine.name].append(took)
            results[name] = {engine: statistics.median(values) for engine, values in samples.items()}
            _print_row(name, list(results[name].values()), list(next(iter(results.values())).values()))
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))
    except Failed as failure:
        print(failure, file=sys.stderr)
    finally:
        for engine in engines:
            engine.stop()
        shutil.rmtree(folder)


def _print_row(name: str, medians: list[float], own: list[float]) -> None:
    ratios = "  ".join(f"{medians[0] / other:.3f}" for other in medians[1:])
    less = [max(median - client, 0.1) for median, client in zip(medians, own, strict=True)]
    bare = "" if "nothing" in name else "  ".join(f"{less[0] / other:.3f}" for other in less[1:])
    print(f"{name:<30}" + "".join(f"{median:>12.1f}" for median in medians) + f"       {ratios}  {bare}", flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    main()
