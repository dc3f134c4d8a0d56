"""The same bundle through several OCI runtimes: create, start and delete of busybox `true`.

usage (root): python -m benchmarks.runtimes [--runtimes runc,crun,youki] [--rounds 30] [--json FILE]

Ours is measured as a command, `dockyard-runc`, and as the daemon uses it, through the zygote; the others, as far as
they are installed, as commands: three, as an engine gives them, and `run`, which is one. The container has every
namespace but the user's, a cgroup, Docker's capabilities and its seccomp filter. Prints medians in milliseconds and
their ratio to runc's; and what a shim keeps for itself of memory while its container sleeps. Rounds are interleaved, so
that a slow moment of the machine hits all alike.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks.other_root import OtherRoot
from benchmarks.peers import NEWER
from dockyard.linux import cgroups, seccomp
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Spec
from dockyard.runtime.spec import defaults
from dockyard.shim.client import Shims
from dockyard.shim.orders import LogConfig, StartRequest

FOLDER = Path("/run/dybench/runtimes")
GROUP = "/dockyard-bench"  # cgroup of the zygote's containers
PROGRAMS = ["true", "sleep"]
OWN = "dockyard-runc"
ZYGOTE = "dockyard's zygote"
# The version that every runtime knows.
COMMON_VERSION = "1.0.2"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default="runc,crun,youki")
    parser.add_argument("--newer", default="", help="those of packaging/newer-engines, such as runc,crun, beside these")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", default="", help="write the medians to this file too")
    options = parser.parse_args()
    own = shutil.which(OWN, path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if own is None:
        raise SystemExit(f"{OWN} is not installed")
    commands = {OWN: Runtime(own)}
    for name in options.runtimes.split(","):
        program = shutil.which(name)
        if program is None:
            print(f"{name} is not installed", file=sys.stderr)
        else:
            commands[name] = Runtime(program)
    newer = OtherRoot(NEWER)
    for name in filter(None, options.newer.split(",")):
        commands[f"newer {name}"] = Runtime(f"/usr/bin/{name}", newer.run)
    shutil.rmtree(FOLDER, ignore_errors=True)
    make_bundle(FOLDER / "bundle")
    try:
        results = asyncio.run(measure(commands, options.rounds))
        report(results)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))
    finally:
        newer.close()
        shutil.rmtree(FOLDER, ignore_errors=True)
        cgroups.Cgroup(GROUP).remove()


def make_bundle(bundle: Path) -> None:
    """A static busybox as root file system, and a config.json with all that Docker asks for."""
    (bundle / "rootfs" / "bin").mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("busybox is not installed")
    shutil.copy(busybox, bundle / "rootfs" / "bin" / "busybox")
    for name in PROGRAMS:
        (bundle / "rootfs" / "bin" / name).symlink_to("busybox")
    (bundle / "config.json").write_bytes(runtime_spec.encode(spec_of(["true"])))


def spec_of(arguments: list[str]) -> Spec:
    """The specification; `cgroups_path` is left to each container."""
    spec = defaults.default_spec()
    spec.oci_version = COMMON_VERSION
    assert spec.process is not None
    spec.process.args = arguments
    spec.process.no_new_privileges = True
    spec.linux.seccomp = defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)
    return spec


Work = Callable[[], Awaitable[None]]


async def measure(commands: "dict[str, Runtime]", rounds: int) -> dict[str, dict[str, float]]:
    """Medians in ms by row and runtime, and the memory row in kB."""
    shims = Shims(FOLDER / "exec")
    await shims.open()
    number = 0

    def fresh() -> str:
        nonlocal number
        number += 1
        return f"bench{number}"

    zygote = Zygote(shims)
    three: dict[str, Work] = {ZYGOTE: lambda: zygote.start_and_delete(fresh())}
    one: dict[str, Work] = {}
    for name, runtime in commands.items():
        try:
            await runtime.one(fresh())
        except SystemExit as failure:
            print(f"{name} does not work here: {str(failure).splitlines()[0][-200:]}", file=sys.stderr)
            continue
        three[name] = partial(_with_name, runtime.three, fresh)
        one[name] = partial(_with_name, runtime.one, fresh)
    rows = {"create + start + delete": three, "run": one}
    samples: dict[str, dict[str, list[float]]] = {row: {name: [] for name in works} for row, works in rows.items()}
    try:
        for round_ in range(rounds + 1):
            for row, works in rows.items():
                for name, work in works.items() if round_ % 2 else reversed(works.items()):
                    begun = time.perf_counter()
                    await work()
                    if round_:  # the first warms up
                        samples[row][name].append((time.perf_counter() - begun) * 1000)
        memory = await zygote.memory(fresh())
    finally:
        await shims.close()
    medians = {row: {name: statistics.median(values) for name, values in of.items()} for row, of in samples.items()}
    return {**medians, "a shim's own memory, kB": {ZYGOTE: memory}}


async def _with_name(work: Callable[[str], Awaitable[None]], fresh: Callable[[], str]) -> None:
    await work(fresh())


class Runtime:
    """A runtime as a command; `run` is subprocess.run, or another root's."""

    def __init__(self, program: str, run: "Callable[..., subprocess.CompletedProcess[bytes]]" = subprocess.run) -> None:
        self._program = program
        self._run = run
        self._root = f"{FOLDER}/root-{os.path.basename(program)}-{id(self)}"

    async def three(self, name: str) -> None:
        """A container's life by the commands that an engine gives."""
        pid_file = f"{FOLDER}/pid"
        self._command("create", "--bundle", str(FOLDER / "bundle"), "--pid-file", pid_file, name)
        pidfd = os.pidfd_open(int(Path(pid_file).read_text()))
        self._command("start", name)
        await asyncio.get_running_loop().run_in_executor(None, _await_end, pidfd)
        self._command("delete", name)

    async def one(self, name: str) -> None:
        """A container's life by one command."""
        self._command("run", "--bundle", str(FOLDER / "bundle"), name)

    def _command(self, *words: str) -> None:
        # a file and no pipe: the container inherits it, and its end would be waited for
        with open(FOLDER / "said", "w+b") as said:
            command = [self._program, "--root", self._root, *words]
            done = self._run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
            if done.returncode:
                said.seek(0)
                raise SystemExit(f"{' '.join(command)}: {said.read().decode()}")


def _await_end(pidfd: int) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(10_000)
    os.close(pidfd)


class Zygote:
    """Ours, as the daemon uses it: the filter is compiled once, at its start."""

    def __init__(self, shims: Shims) -> None:
        self._shims = shims
        filter_ = spec_of([]).linux.seccomp
        assert filter_ is not None
        self._program = seccomp.compile_profile(filter_)
        # a specification is made by the engine, not by the runtime: here it is made once
        self._specs = {name: self._text(name, *arguments) for name, *arguments in (("true",), ("sleep", "100"))}

    def _text(self, *arguments: str) -> bytes:
        spec = spec_of(list(arguments))
        spec.linux.cgroups_path = f"{GROUP}/NAME"
        return runtime_spec.encode(spec)

    def _request(self, name: str, program: str) -> StartRequest:
        return StartRequest(
            name,
            str(FOLDER / "bundle"),
            self._specs[program].replace(b"NAME", name.encode()),
            seccomp_program=self._program,
            log=LogConfig(driver="none"),
        )

    async def start_and_delete(self, name: str) -> None:
        """One container's whole life."""
        shim = await self._shims.start(self._request(name, "true"))
        await shim.wait()
        await shim.delete()

    async def memory(self, name: str) -> float:
        """What a shim keeps for itself while its container sleeps, in kB."""
        shim = await self._shims.start(self._request(name, "sleep"))
        await asyncio.sleep(1)
        pid = int((FOLDER / "exec" / "shims" / name / "pid").read_text().split()[0])
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        private = sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean:", "Private_Dirty:")))
        await shim.signal(9)
        await shim.wait()
        await shim.delete()
        return private


def report(results: dict[str, dict[str, float]]) -> None:
    """A row for each runtime, with its ratio to runc's."""
    for row, medians in results.items():
        print(f"\n{row}")
        base = medians.get("runc", 0.0)
        for name, median in sorted(medians.items(), key=lambda item: item[1]):
            ratio = f"{median / base:>8.2f} of runc" if base else ""
            print(f"  {name:<20}{median:>9.1f}{ratio}")


if __name__ == "__main__":
    main()
