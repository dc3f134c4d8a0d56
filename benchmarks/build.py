"""The same builds by several builders, by turns: the stock buildx against engines, classic builders, Buildah.

usage (root): python -m benchmarks.build [--engines dockyard,docker28,docker28:classic,buildah] [--rounds 5]
              [--only WORD] [--processor] [--json FILE]

Prints, for each build, every builder's median in milliseconds and the ratio of the first one to each other, with and
without what a build of nothing takes (the client's own start and the daemon's smallest answer). Bases are busybox and,
for projects, a Debian with compilers (mmdebstrap), which all are given. "changed" is a project of which the one source
file was changed that is copied last. nan: this builder can't.
"""

import argparse
import itertools
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from benchmarks import peers, projects
from benchmarks.other_root import OtherRoot
from benchmarks.peers import Engine, Failed
from benchmarks.projects import Project

BUILD = Path(__file__).parent.parent / "build"
PLUGINS = BUILD / "buildx" / "cli-plugins"  # of packaging/newer-buildx
CACHED = BUILD / "bases"
FILES = 10_000
# What Buildah sets by itself may be above what this machine allows.
ULIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
SETTLE = 0.3  # what a builder does after it has answered is of its time too, s

Build = Callable[["Door"], float]


class Builds:
    """What is built; every cold one differs from all before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._large = folder / "large"
        for index in range(FILES):
            path = self._large / f"d{index % 100}" / f"f{index}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{index} " * 50)
        (self._large / "Dockerfile").write_text("FROM bench\nCOPY . /all\n")
        self.on_tools: set[str] = set()

    def all(self) -> dict[str, Build]:
        """Every build by its name."""
        found: dict[str, Build] = {
            "nothing (the client's own)": lambda door: self._time(door, "FROM bench\n"),
            "20 RUN": lambda door: self._time(door, self._runs(next(self._numbers))),
            "20 RUN, all cached": lambda door: self._time(door, self._runs(-1)),
            "50 COPY": lambda door: self._copies(door, next(self._numbers)),
            "12 stages": lambda door: self._time(door, self._stages(next(self._numbers))),
            "3 stages of one second": lambda door: self._time(door, self._sleeps(next(self._numbers))),
            "10 000 files": self._fresh,
            "10 000 files, unchanged": lambda door: door.build(self._large),
            "10 000 files, one changed": self._changed,
        }
        for name, project in projects.all_of_them(CACHED).items():
            self.on_tools |= {name, f"{name}, changed"}
            found[name], found[f"{name}, changed"] = self._of_project(project)
        return found

    def _of_project(self, project: Project) -> tuple[Build, Build]:
        """The whole project, and after a change of a source file."""
        folder = self._folder / "project"

        def write(number: int) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            project(folder, number)

        def cold(door: Door) -> float:
            write(next(self._numbers))
            return door.build(folder)

        def changed(door: Door) -> float:
            write(0)
            projects.change(folder, next(self._numbers))
            return door.build(folder)

        return cold, changed

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

    def _copies(self, door: "Door", number: int) -> float:
        files = {f"f{step}": f"{number} {step}" for step in range(50)}
        return self._time(door, "FROM bench\n" + "".join(f"COPY {name} /in/\n" for name in files), files)

    def _fresh(self, door: "Door") -> float:
        """A directory that the door has never seen."""
        folder = self._folder / f"fresh-{next(self._numbers)}"
        shutil.copytree(self._large, folder)
        (folder / "new").write_text(folder.name)
        try:
            return door.build(folder)
        finally:
            shutil.rmtree(folder)

    def _changed(self, door: "Door") -> float:
        (self._large / "d1" / "f1").write_text(f"changed {next(self._numbers)}")
        return door.build(self._large)

    def _time(self, door: "Door", dockerfile: str, files: dict[str, str] | None = None) -> float:
        folder = self._folder / "small"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "Dockerfile").write_text(dockerfile)
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        return door.build(folder)


class Door:
    """One way into an engine: `build` makes the image `built` of a folder."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine

    def prepare(self, archives: dict[str, Path]) -> None:
        """Start, and take the bases in."""
        self.engine.start()
        for image, archive in archives.items():
            self.engine.docker("import", str(archive), image)

    def version(self) -> str:
        """What it says it is."""
        return self.engine.version()

    def processor(self) -> float:
        """The processor time of all but the client until now, in ms."""
        return self.engine.processor()

    def stop(self) -> None:
        """End, and take everything away."""
        self.engine.stop()

    def build(self, folder: Path) -> float:
        """Build; ms. Raises Failed."""
        buildx = str(PLUGINS / "docker-buildx")
        return self._timed([buildx, "build", "--quiet", "--provenance=false", "-t", "built", str(folder)])

    def _timed(self, command: list[str]) -> float:
        environment = {**self.engine.environment, "DOCKER_CONFIG": str(self.engine.run / "config")}
        began = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)
        took = (time.perf_counter() - began) * 1000
        if done.returncode != 0:
            raise Failed(f"{self.name}: {done.stderr.decode()[-2000:]}")
        return took


class Classic(Door):
    """The builder of before BuildKit."""

    def build(self, folder: Path) -> float:
        """Build; ms. Raises Failed."""
        return self._timed(["docker", "build", "--quiet", "-t", "built", str(folder)])


class Buildah(Door):
    """Buildah of today, which has no daemon."""

    def prepare(self, archives: dict[str, Path]) -> None:
        """Take the bases in."""
        peers.only_one()
        self.stop()
        self._inside = OtherRoot(peers.NEWER)
        for folder in (self.engine.root, self.engine.run):
            folder.mkdir(parents=True)
        for image, archive in archives.items():
            with archive.open("rb") as file:
                self._run(["podman", *self._store()], "import", "-", f"localhost/{image}", stdin=file)

    def version(self) -> str:
        """What it says it is."""
        return self._run(["buildah"], "--version").split()[2]

    def processor(self) -> float:
        """The processor time of what it started until now, in ms."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (used.ru_utime + used.ru_stime) * 1000

    def stop(self) -> None:
        """Take everything away."""
        for line in sorted(Path("/proc/self/mountinfo").read_text().splitlines(), reverse=True):
            place = line.split()[4]
            if place.startswith((f"{self.engine.root}/", f"{self.engine.run}/")):
                subprocess.run(["umount", "-l", place], check=False)
        for folder in (self.engine.root, self.engine.run):
            shutil.rmtree(folder, ignore_errors=True)

    def build(self, folder: Path) -> float:
        """Build; ms. Raises Failed."""
        began = time.perf_counter()
        runtime = [] if peers.VERSION_2 else ["--runtime=runc"]  # crun wants version 2 of cgroups
        self._run(
            ["buildah", *self._store()],
            "build",
            "--quiet",
            "--layers",
            *runtime,
            "--isolation=oci",
            *ULIMITS,
            "-t",
            "built",
            str(folder),
        )
        return (time.perf_counter() - began) * 1000

    def _store(self) -> list[str]:
        return [f"--root={self.engine.root}/storage", f"--runroot={self.engine.run}/run", "--storage-driver=overlay"]

    def _run(self, program: list[str], *arguments: str, stdin: BinaryIO | int = subprocess.DEVNULL) -> str:
        done = self._inside.run([*program, *arguments], stdin=stdin, capture_output=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{self.name}: {done.stderr.decode()[-2000:]}")
        return str(done.stdout.decode())


def door(name: str, number: int) -> Door:
    """The builder of that name, not yet started."""
    if name == "buildah":
        return Buildah(name, peers.engine(name, number))
    engine, _, way = name.partition(":")
    one = peers.engine(engine, number)
    if way:  # may stand beside the same engine's other door
        one.root, one.run = Path(f"{one.root}-{way}"), Path(f"{one.run}-{way}")
        one.host = f"unix://{one.run}/docker.sock"
    return Classic(name, one) if way == "classic" else Door(name, one)


def _busybox(archive: Path) -> Path:
    with tarfile.open(archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "echo", "sleep", "cat"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="dockyard,docker28")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only builds whose name holds this word")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="the processor time of all but the client instead of the time that passes",
    )
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    doors = [door(name, number) for number, name in enumerate(options.engines.split(","))]
    work = Path("/run/dybench/build")  # is the same for a builder with a root of its own
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    results: dict[str, dict[str, float]] = {}
    try:
        builds = Builds(work)
        chosen = {name: one for name, one in builds.all().items() if options.only in name or "nothing" in name}
        archives = {"bench": _busybox(work / "bench.tar")}
        if any(name in chosen for name in builds.on_tools):
            archives["bench-tools"] = projects.tools(CACHED)
        for one in doors:
            one.prepare(archives)
        print(", ".join(f"{one.name}: {one.version()}" for one in doors))
        print(f"{'build':<42}" + "".join(f"{one.name:>18}" for one in doors) + "   ratio  less the client")
        for name, build in chosen.items():
            results[name] = _measure(doors, build, options.rounds, options.processor)
            _print_row(name, list(results[name].values()), list(next(iter(results.values())).values()))
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))
    except Failed as failure:
        print(failure, file=sys.stderr)
    finally:
        for one in doors:
            one.stop()
        shutil.rmtree(work)


def _measure(doors: list[Door], build: Build, rounds: int, processor: bool) -> dict[str, float]:
    """Each builder's median, ms; nan when it can't."""
    samples: dict[str, list[float]] = {one.name: [] for one in doors}
    for number in range(rounds + 1):
        for one in doors if number % 2 else reversed(doors):
            if one.name not in samples:
                continue
            before = one.processor()
            try:
                took = build(one)
            except Failed as failure:
                print(failure, file=sys.stderr)
                del samples[one.name]
                continue
            if processor:
                time.sleep(SETTLE)
                took = one.processor() - before
            if number:  # the first round warms up
                samples[one.name].append(took)
    return {one.name: statistics.median(samples.get(one.name, [math.nan])) for one in doors}


def _print_row(name: str, medians: list[float], own: list[float]) -> None:
    ratios = "  ".join(f"{medians[0] / other:.3f}" for other in medians[1:])
    less = [max(median - client, 0.1) for median, client in zip(medians, own, strict=True)]
    bare = "" if "nothing" in name else "  ".join(f"{less[0] / other:.3f}" for other in less[1:])
    print(f"{name:<42}" + "".join(f"{median:>18.1f}" for median in medians) + f"   {ratios}  | {bare}", flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    main()
