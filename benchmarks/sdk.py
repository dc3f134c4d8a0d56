"""What a Python program waits for: our SDK and docker-py against the same engine, by turns.

usage (root): python -m benchmarks.sdk [--rounds 200] [--engine dockyard] [--json FILE]

Prints medians in milliseconds, the 95th percentiles, and the ratio of ours to docker-py's. docker-py is measured when
it is installed (`pip install docker`). Rounds are interleaved, so that a slow moment of the machine hits both alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dockyard
from benchmarks.engines import busybox_archive
from benchmarks.peers import Engine

IMAGE = "busybox"
Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--engine", default="dockyard")
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    engine = Engine(options.engine, 0)
    engine.start()
    try:
        results = measure(engine, options.rounds)
    finally:
        engine.stop()
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


def measure(engine: Engine, rounds: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds by workload and client."""
    client = dockyard.Client(engine.host)
    client.images.load(busybox_archive())
    sitting = client.run(IMAGE, "sleep 100000")
    ours = ours_of(client, sitting)
    theirs = theirs_of(engine.host, sitting.id)
    results: dict[str, dict[str, float]] = {}
    print(f"{'workload':<34}{'dockyard':>10}{'p95':>8}{'docker-py':>11}{'p95':>8}{'ratio':>8}", flush=True)
    for name, work in ours.items():
        samples: dict[str, list[float]] = {"dockyard": [], "docker-py": []}
        times = rounds if "parallel" not in name else max(3, rounds // 20)
        for number in range(times + 1):
            for who, act in (("dockyard", work), ("docker-py", theirs.get(name))):
                if act is not None:
                    begin = time.perf_counter()
                    act()
                    if number:  # the first round warms up
                        samples[who].append((time.perf_counter() - begin) * 1000)
        results[name] = _print_row(name, samples)
    sitting.remove(force=True)
    for name, codes in IMPORTS.items():
        samples = {who: [_import_time(code) for _ in range(15)] for who, code in codes.items() if who in _known(theirs)}
        results[name] = _print_row(name, samples)
    return results


def ours_of(client: dockyard.Client, sitting: dockyard.Container) -> dict[str, Work]:
    """The workloads in our words."""
    return {
        "run true": lambda: client.execute(IMAGE, "true"),
        "run true, no network": lambda: client.execute(IMAGE, "true", network_mode="none"),
        "exec true": lambda: sitting.exec("true"),
        "start a sandbox, exec, remove": lambda: _ours_sandbox(client),
        "20 runs in parallel": lambda: _parallel(lambda: client.execute(IMAGE, "true")),
        "inspect": lambda: client.containers.get(sitting.id),
        "list": lambda: client.containers.list(),
        "ping": lambda: client.ping(),
    }


def theirs_of(host: str, sitting_id: str) -> dict[str, Work]:
    """The same in docker-py's; empty when it is not installed."""
    try:
        import docker  # type: ignore[import-not-found,unused-ignore]  # not one of our dependencies
    except ImportError:
        print("docker-py is not installed: only ours is measured", file=sys.stderr)
        return {}
    client = docker.DockerClient(host)
    sitting = client.containers.get(sitting_id)
    return {
        "run true": lambda: client.containers.run(IMAGE, "true", remove=True),
        "run true, no network": lambda: client.containers.run(IMAGE, "true", remove=True, network_mode="none"),
        "exec true": lambda: sitting.exec_run("true", demux=True),
        "start a sandbox, exec, remove": lambda: _their_sandbox(client),
        "20 runs in parallel": lambda: _parallel(lambda: client.containers.run(IMAGE, "true", remove=True)),
        "inspect": lambda: client.containers.get(sitting_id),
        "list": lambda: client.containers.list(),
        "ping": lambda: client.ping(),
    }


IMPORTS = {
    "import and make a client (CPU)": {
        "dockyard": "import dockyard; dockyard.Client('unix:///x')",
        "docker-py": "import docker; docker.DockerClient('unix:///x', version='1.41')",
    }
}


def _known(theirs: dict[str, Work]) -> tuple[str, ...]:
    return ("dockyard", "docker-py") if theirs else ("dockyard",)


def _ours_sandbox(client: dockyard.Client) -> None:
    with client.run(IMAGE, "sleep 1000") as sandbox:
        sandbox.exec("true")


def _their_sandbox(client: Any) -> None:
    sandbox = client.containers.run(IMAGE, "sleep 1000", detach=True)
    sandbox.exec_run("true", demux=True)
    sandbox.remove(force=True)


def _parallel(work: Work) -> None:
    with ThreadPoolExecutor(20) as pool:
        for done in [pool.submit(work) for _ in range(20)]:
            done.result()


def _import_time(code: str) -> float:
    """Milliseconds of processor time beyond the interpreter's own."""
    return _processor_time(code) - _processor_time("pass")


def _processor_time(code: str) -> float:
    process = subprocess.Popen([sys.executable, "-c", code])
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return (used.ru_utime + used.ru_stime) * 1000


def _print_row(name: str, samples: dict[str, list[float]]) -> dict[str, float]:
    medians = {who: statistics.median(values) for who, values in samples.items() if values}
    columns = ""
    for who in ("dockyard", "docker-py"):
        values = sorted(samples.get(who) or ())
        columns += f"{medians[who]:>10.1f}{values[int(len(values) * 0.95)]:>8.1f} " if values else f"{'-':>10}{'-':>8} "
    ratio = f"{medians['dockyard'] / medians['docker-py']:>7.2f}" if len(medians) == 2 else f"{'-':>7}"
    print(f"{name:<34}{columns}{ratio}", flush=True)
    return medians


if __name__ == "__main__":
    main()
