"""What one waits for Compose: ours and Docker's against the same engine, and Docker's against Docker, by turns.

usage (root): python -m benchmarks.compose [--stock PROGRAM] [--docker docker28] [--rounds 5] [--engine dockyard]
                                           [--services 1,10,50] [--json FILE]

--stock is Docker Compose as a program (docker-compose 2.x); without it only ours is measured. --docker also has it work
on another engine (benchmarks/peers.py). Prints medians in milliseconds of wall clock, of processor time of the command
itself, and the ratio of ours to each of the others. Rounds are interleaved, so that a slow moment of the machine hits
all alike.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dockyard
from benchmarks import peers
from benchmarks.engines import busybox_archive
from benchmarks.peers import Engine

OURS = str(Path(__file__).parent.parent / ".venv" / "bin" / "dockyard-compose")
Sample = tuple[float, float]  # milliseconds: wall clock, processor
Program = tuple[str, str]  # what is run, and the engine's address


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", default="", help="Docker Compose to measure beside ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="dockyard")
    parser.add_argument("--docker", default="", help="another engine for --stock")
    parser.add_argument("--services", default="1,10,50")
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dybench-compose-"))
    engines = [Engine(options.engine, 0)]
    if options.docker and options.stock:
        engines.append(peers.engine(options.docker, 1))
    try:
        for engine in engines:
            engine.start()
            with dockyard.Client(engine.host) as client:
                client.images.load(busybox_archive())
        programs = {"dockyard": (OURS, engines[0].host)}
        if options.stock:
            programs["compose"] = (options.stock, engines[0].host)
        if len(engines) > 1:
            programs[f"on {options.docker}"] = (options.stock, engines[1].host)
        results = measure(folder, programs, options.rounds, [int(n) for n in options.services.split(",")])
    finally:
        for engine in engines:
            engine.stop()
        shutil.rmtree(folder)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


def project(count: int) -> str:
    """A file of `count` services, none of which depends on another."""
    service = "{{image: busybox, command: sleep 100000, init: true, environment: {{NUMBER: '{n}', ALL: {n}}}}}"
    return "services:\n" + "".join(f"  s{n}: {service.format(n=n)}\n" for n in range(count))


def large(count: int) -> str:
    """A file with much in it, to be read and written."""
    service = """
  service{n}:
    image: registry.example/team/image:${{TAG:-1.2.3}}
    command: ["serve", "--port", "80{n:03}"]
    environment: {{A: "1", B: "${{HOME}}", C: three, D: "4"}}
    ports: ["10{n:03}:80", "127.0.0.1:20{n:03}:81/udp"]
    volumes: ["data{n}:/var/lib/data", "./conf:/etc/conf:ro"]
    labels: {{traefik.enable: "true", traefik.port: "80"}}
    healthcheck: {{test: curl -f localhost, interval: 10s, retries: 5}}
    deploy: {{resources: {{limits: {{cpus: "0.5", memory: 256M}}}}}}
    restart: unless-stopped"""
    services = "".join(service.format(n=n) for n in range(count))
    return f"services:{services}\nvolumes:\n" + "".join(f"  data{n}:\n" for n in range(count))


def measure(folder: Path, programs: dict[str, Program], rounds: int, counts: list[int]) -> dict[str, dict[str, float]]:
    """Medians of wall clock by workload and program."""
    results: dict[str, dict[str, float]] = {}
    heads = "".join(f"{who:>12}{'cpu':>8}" for who in programs) + "".join(f"{'ratio':>8}" for _ in [*programs][1:])
    print(f"{'workload':<28}{heads}", flush=True)
    samples: dict[str, dict[str, list[Sample]]] = {}
    (folder / "large").mkdir()
    (folder / "large" / "compose.yaml").write_text(large(100))
    for number in range(rounds + 1):  # the first warms up
        for who, program in programs.items():
            _take(samples, "config of 100 services", who, _run(folder / "large", program, "config"), number)
    for count in counts:
        place = folder / f"n{count}"
        place.mkdir()
        (place / "compose.yaml").write_text(project(count))
        for number in range(rounds + 1):
            for who, program in programs.items():
                for name, words in (
                    (f"up -d of {count}", ["up", "-d"]),
                    (f"up -d of {count}, nothing to do", ["up", "-d"]),
                    (f"ps of {count}", ["ps"]),
                    (f"down of {count}", ["down"]),
                ):
                    _take(samples, name, who, _run(place, program, *words), number)
    for name, by_program in samples.items():
        results[name] = _print_row(name, by_program)
    return results


def _run(folder: Path, on: Program, *words: str) -> Sample:
    """Run a command to its end. Raises CalledProcessError when it fails."""
    program, host = on
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCKER_HOST": host}
    with tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [program, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.stderr.write(errors.read())
            raise subprocess.CalledProcessError(process.returncode, [program, *words])
    return took * 1000, (used.ru_utime + used.ru_stime) * 1000


def _take(samples: dict[str, dict[str, list[Sample]]], name: str, who: str, sample: Sample, number: int) -> None:
    if number:
        samples.setdefault(name, {}).setdefault(who, []).append(sample)


def _print_row(name: str, samples: dict[str, list[Sample]]) -> dict[str, float]:
    medians = {who: statistics.median(wall for wall, _ in found) for who, found in samples.items()}
    columns = "".join(
        f"{medians[who]:>12.0f}{statistics.median(cpu for _, cpu in found):>8.0f}" for who, found in samples.items()
    )
    ratios = "".join(f"{medians['dockyard'] / median:>8.2f}" for who, median in medians.items() if who != "dockyard")
    print(f"{name:<28}{columns}{ratios}", flush=True)
    return medians


if __name__ == "__main__":
    main()
