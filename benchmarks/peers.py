"""The engines that are measured against each other, each with roots, socket, bridge and cgroup parent of its own."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from benchmarks.other_root import OtherRoot

DOCKERD = "/usr/sbin/dockerd"  # of Debian's docker.io, here and in the other root
NEWER = Path(__file__).parent.parent / "build" / "engines" / "root"  # of packaging/newer-engines


VERSION_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
PROCESSOR_GROUPS = Path("/sys/fs/cgroup") if VERSION_2 else Path("/sys/fs/cgroup/cpuacct")


LOCK = Path("/run/dybench.lock")
_locked: list[BinaryIO] = []


def only_one() -> None:
    """Lock the names that engines have here, until this process ends. Raises SystemExit where another one has them."""
    if not _locked:
        file = LOCK.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another benchmark is running: both would disturb each other") from None
        _locked.append(file)


class Failed(Exception):
    """An engine did not do what it was asked."""


class Engine:
    """One running engine: `host` is its DOCKER_HOST, `group` a part of all its containers' cgroups."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.root = Path(f"/var/lib/dybench/{name}")
        self.run = Path(f"/run/dybench/{name}")
        self.bridge = f"dybench{number}"
        self.bip = f"10.{220 + number}.0.1/16"
        self.group = self.bridge
        self.host = f"unix://{self.run}/docker.sock"
        self.plain_registries: list[str] = []  # host:port of those without TLS, which Podman does not try by itself
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """How this engine's daemon is started."""
        own = [f"--bip={self.bip}", f"--cgroup-parent={self.group}"]
        return [sys.executable, "-m", "dockyard.daemon", *self._dockerd_flags(), *own]

    def _dockerd_flags(self) -> list[str]:
        return [
            f"--host={self.host}",
            f"--data-root={self.root}",
            f"--exec-root={self.run}/exec",
            f"--pidfile={self.run}/pid",
            f"--bridge={self.bridge}",
            "--storage-driver=overlay2",
        ]

    def start(self) -> None:
        """Start the daemon and wait for its socket."""
        only_one()
        self.stop_left_over()
        for folder in (self.root, self.run):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.prepare_host()
        with (self.run / "log").open("wb") as log:
            self._process = self.spawn(log)
        self._own_group.mkdir(exist_ok=True)
        (self._own_group / "cgroup.procs").write_text(str(self._process.pid))
        deadline = time.monotonic() + 60
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(f"{self.run}/docker.sock")
                    break
                except OSError:
                    pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start:\n{(self.run / 'log').read_text()[-4000:]}")
            time.sleep(0.05)
        self.docker("version")

    def prepare_host(self) -> None:
        """Make what the daemon wants to find."""

    def spawn(self, log: BinaryIO) -> "subprocess.Popen[bytes]":
        """Start the daemon's process."""
        return subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)

    def version(self) -> str:
        """What it says it is."""
        return self.docker("version", "--format", "{{.Server.Version}}").decode().strip()

    def stop_left_over(self) -> None:
        """End a daemon that an interrupted run left with this engine's pid file."""
        try:
            pid = int((self.run / "pid").read_text())
            if str(self.run) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGTERM)
                time.sleep(3)
        except (OSError, ValueError):
            pass

    def docker(self, *arguments: str, input: bytes | None = None, check: bool = True) -> bytes:
        """Run the stock client against this engine; its stdout."""
        done = subprocess.run(
            ["docker", *arguments], input=input or b"", capture_output=True, env=self.environment, check=False
        )
        if check and done.returncode != 0:
            raise Failed(f"{self.name}: docker {' '.join(arguments)}: {done.stderr.decode()}")
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """The stock client's environment."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.run), "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}

    def processes(self) -> list[int]:
        """The engine's own processes: daemon, helpers and shims, but not what runs inside containers."""
        assert self._process is not None
        marks = (str(self.run), str(self.root))
        found = {self._process.pid}
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
                    parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                    contained = self.group in Path(f"/proc/{entry}/cgroup").read_text()
                except OSError:
                    continue
                if any(mark in command for mark in marks) and not contained:
                    found.add(int(entry))
        grown = True
        while grown:
            grown = False
            for pid, parent in parents.items():
                if parent in found and pid not in found:
                    try:
                        if self.group not in Path(f"/proc/{pid}/cgroup").read_text():
                            found.add(pid)
                            grown = True
                    except OSError:
                        pass
        return sorted(found)

    def processor(self) -> float:
        """The processor time of the engine, its helpers and its containers since it was started, in ms."""
        total = 0.0
        for group in (self._own_group, PROCESSOR_GROUPS / self.group):
            with contextlib.suppress(OSError):
                if VERSION_2:
                    total += int((group / "cpu.stat").read_text().split()[1]) / 1e3  # usage_usec
                else:
                    total += int((group / "cpuacct.usage").read_text()) / 1e6
        return total

    @property
    def _own_group(self) -> Path:
        """The cgroup of the daemon and its helpers."""
        return PROCESSOR_GROUPS / f"dybench-{self.name}"

    def memory(self) -> float:
        """PSS of the engine's processes and of everything in its containers, in MB."""
        total = 0
        pids = set(self.processes())
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and self.group in Path(f"/proc/{entry}/cgroup").read_text():
                    pids.add(int(entry))
            except OSError:
                pass
        for pid in pids:
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(found[1]) if found else 0
        return total / 1024

    def stop(self) -> None:
        """Remove every container, stop the daemon, take its bridge and folders away."""
        if self._process is None:
            return
        containers = self.docker("ps", "-aq", check=False).decode().split()
        if containers:
            self.docker("rm", "-f", *containers, check=False)
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        for line in sorted(Path("/proc/self/mountinfo").read_text().splitlines(), reverse=True):
            place = line.split()[4]
            if place.startswith((f"{self.root}/", f"{self.run}/")):
                subprocess.run(["umount", "-l", place], check=False)
        for top in (self._own_group, PROCESSOR_GROUPS / self.group, *Path("/sys/fs/cgroup").glob(f"*/{self.group}")):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        for folder in (self.root, self.run):
            shutil.rmtree(folder, ignore_errors=True)


class Docker(Engine):
    """This machine's Docker."""

    def command(self) -> list[str]:
        """How dockerd is started."""
        return [DOCKERD, *self._dockerd_flags(), f"--cgroup-parent=/{self.group}"]

    def prepare_host(self) -> None:
        """With --bridge, dockerd wants the bridge to be there already, with its address."""
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "address", "add", self.bip, "dev", self.bridge], check=True)
        subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True)


class NewerDocker(Docker):
    """Docker of today, with its containerd and runc, in a root of its own."""

    def spawn(self, log: BinaryIO) -> "subprocess.Popen[bytes]":
        """Start the daemon's process inside."""
        inside = OtherRoot(NEWER)
        try:
            return inside.popen(self.command(), stdout=log, stderr=log, start_new_session=True)
        finally:
            inside.close()


class NewerPodman(NewerDocker):
    """Podman of today behind its Docker-compatible socket, in a root of its own."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, number)
        self.group = "libpod_parent"

    def command(self) -> list[str]:
        """How `podman system service` is started; with an idle container it is that and one conmon for each."""
        return [
            "/usr/bin/podman",
            f"--root={self.root}/storage",
            f"--runroot={self.run}/exec",
            f"--network-config-dir={self.root}/networks",
            f"--tmpdir={self.run}/libpod",
            "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs",
            *([] if VERSION_2 else ["--runtime=runc"]),  # crun wants version 2
            "system",
            "service",
            "--time=0",
            self.host,
        ]

    def prepare_host(self) -> None:
        """Let names without a registry be the images that are here, as they are for Docker."""
        folder = NEWER / "etc" / "containers" / "registries.conf.d"
        folder.mkdir(parents=True, exist_ok=True)
        plain = "".join(f'[[registry]]\nlocation = "{one}"\ninsecure = true\n' for one in self.plain_registries)
        (folder / "dybench.conf").write_text(f'unqualified-search-registries = ["docker.io"]\n{plain}')


KINDS = {"docker": Docker, "docker28": NewerDocker, "podman5": NewerPodman}


def engine(name: str, number: int) -> Engine:
    """The engine of that name, not yet started."""
    return KINDS.get(name, Engine)(name, number)
