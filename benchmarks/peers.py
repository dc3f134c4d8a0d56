"""The engines that are measured against each other, each with roots, socket, bridge and cgroup parent of its own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

DOCKERD = "/usr/sbin/dockerd"  # Debian's docker.io


class Engine:
    """One running engine: `host` is its DOCKER_HOST."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.root = Path(f"/var/lib/dybench/{name}")
        self.run = Path(f"/run/dybench/{name}")
        self.bridge = f"dybench{number}"
        self.bip = f"10.{220 + number}.0.1/16"
        self.host = f"unix://{self.run}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """How this engine's daemon is started."""
        common = [
            f"--host={self.host}",
            f"--data-root={self.root}",
            f"--exec-root={self.run}/exec",
            f"--pidfile={self.run}/pid",
            f"--bridge={self.bridge}",
            "--storage-driver=overlay2",
        ]
        if self.name == "docker":
            return [DOCKERD, *common, f"--cgroup-parent=/{self.bridge}"]
        return [sys.executable, "-m", "dockyard.daemon", *common, f"--bip={self.bip}", f"--cgroup-parent={self.bridge}"]

    def start(self) -> None:
        """Start the daemon and wait for its socket."""
        self.stop_left_over()
        for folder in (self.root, self.run):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        if self.name == "docker":
            # with --bridge, dockerd wants the bridge to be there already, with its address
            subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
            subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], check=True)
            subprocess.run(["ip", "address", "add", self.bip, "dev", self.bridge], check=True)
            subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True)
        log = (self.run / "log").open("wb")
        self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)
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
            raise SystemExit(f"{self.name}: docker {' '.join(arguments)}: {done.stderr.decode()}")
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
                    contained = self.bridge in Path(f"/proc/{entry}/cgroup").read_text()
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
                        if self.bridge not in Path(f"/proc/{pid}/cgroup").read_text():
                            found.add(pid)
                            grown = True
                    except OSError:
                        pass
        return sorted(found)

    def memory(self) -> float:
        """PSS of the engine's processes and of everything in its containers, in MB."""
        total = 0
        pids = set(self.processes())
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and self.bridge in Path(f"/proc/{entry}/cgroup").read_text():
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
        for top in Path("/sys/fs/cgroup").iterdir():
            for folder, _, _ in os.walk(top / self.bridge, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
        for folder in (self.root, self.run):
            shutil.rmtree(folder, ignore_errors=True)
