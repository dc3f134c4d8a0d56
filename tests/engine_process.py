"""A dockyardd process for tests, with everything it keeps in a folder of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, ClassVar, Self

from dockyard.linux.nftables import Nftables, NftablesError


class EngineProcess:
    """Starts, drives, kills and cleans up one daemon."""

    _by_bridge: ClassVar[dict[str, "EngineProcess"]] = {}  # started, and not taken away yet

    def __init__(self, folder: Path, *, number: int, arguments: tuple[str, ...] = ()) -> None:
        """`number` tells the engines of one test run apart; runs side by side are told apart by their PID."""
        self.folder = folder
        bridge = f"dyt{number}-{os.getpid()}"
        self.subnet = f"10.{200 + number}.{os.getpid() % 250}"
        # A UNIX socket's path may hold 107 bytes and pytest's folders are long.
        self.run = Path(f"/run/dytest-{os.getpid()}-{bridge}")
        self.socket = self.run / "docker.sock"
        self.data_root = folder / "data"
        self.bridge = bridge
        self.arguments = [
            f"--host=unix://{self.socket}",
            f"--data-root={self.data_root}",
            f"--exec-root={self.run}",
            f"--pidfile={self.run}/pid",
            f"--bridge={bridge}",
            f"--bip={self.subnet}.1/24",
            f"--cgroup-parent={bridge}",
            *arguments,
        ]
        self.prefix: tuple[str, ...] = ()  # a command that the daemon is started by
        self.program: tuple[str, ...] = (sys.executable, "-m", "dockyard.daemon")
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def with_busybox(cls, folder: Path, *, number: int) -> Iterator[Self]:
        """An engine that has the image busybox, for the time of the block."""
        process = cls(folder, number=number)
        process.start()
        process.docker("pull", "busybox")
        try:
            yield process
        finally:
            process.clean_up()

    @property
    def host(self) -> str:
        """What DOCKER_HOST must be."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        other = self._by_bridge.get(self.bridge, self)
        running = other.process is not None and other.process.poll() is None
        assert other is self or not running, f"two engines at one time have the number of {self.bridge}"
        self._by_bridge[self.bridge] = self
        self.run.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.program, "--debug", *self.arguments],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 120
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                    return
                except OSError:
                    pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon did not start:\n{self.log()}")
            time.sleep(0.02)

    def listener(self) -> int:
        """The PID of the process that listens on the daemon's socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.socket))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)

    def once(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the daemon's program until it ends by itself: refused a start, or asked for something else than one."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "dockyard.daemon", *self.arguments, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def refusal(self) -> str:
        """The one line in which the daemon says why it does not start."""
        refused = self.once()
        lines = [line for line in refused.stderr.splitlines() if not line.startswith("time=")]
        assert (refused.returncode, len(lines)) == (1, 1), f"exit {refused.returncode}:\n{refused.stderr}"
        assert lines[0].startswith("dockyardd: ")
        return lines[0]

    def log(self) -> str:
        """What the daemon has said."""
        return (self.folder / "daemon.log").read_text()

    def stop(self) -> None:
        """Ask the daemon to stop and wait for it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def kill(self) -> None:
        """kill -9, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=60)

    def docker(self, *arguments: str, input: bytes | None = None, check: bool = True, timeout: float = 60) -> str:
        """Run the stock docker client; its stdout. Fails the test with stderr when it fails and `check` is set."""
        done = self.run_docker(*arguments, input=input, timeout=timeout)
        if check and done.returncode != 0:
            said = f"{done.stderr.decode()}\n{done.stdout.decode()}"
            raise AssertionError(f"docker {' '.join(arguments)}: exit {done.returncode}: {said}")
        return done.stdout.decode()

    def run_docker(
        self, *arguments: str, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the stock docker client; everything it gave back."""
        return subprocess.run(
            ["docker", *arguments],
            input=input if input is not None else b"",
            capture_output=True,
            timeout=timeout,
            check=False,
            # what a client that has BuildKit would build is tested in tests/builder/
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "DOCKER_HOST": self.host,
                "DOCKER_BUILDKIT": "0",
            },
        )

    def dockyard(
        self, *arguments: str, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run our own client; everything it gave back."""
        return subprocess.run(
            [sys.executable, "-m", "dockyard.cli.main", *arguments],
            input=input if input is not None else b"",
            capture_output=True,
            timeout=timeout,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "DOCKER_HOST": self.host},
        )

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request of the Engine API: (status, decoded JSON, or text when it is none)."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.socket))
            data = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            wire.sendall(head.encode() + data)
            response = HTTPResponse(wire, method=method)
            response.begin()
            text = response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text.decode()

    def inspect(self, name: str) -> Any:
        """`docker inspect` of one object."""
        return json.loads(self.docker("inspect", name))[0]

    def clean_up(self) -> None:
        """Remove every container and network, stop the daemon, and take away its bridge and folders.

        Fails the test when the daemon has logged a traceback: whatever a client did, none is due.
        """
        if self.process is not None and self.process.poll() is not None:
            self.start()
        containers = self.docker("ps", "-aq").split()
        if containers:
            self.docker("rm", "-f", *containers)
        self.docker("network", "prune", "-f")
        self.stop()
        log = self.log()
        self._take_away()
        before, traceback, after = log.partition("Traceback (most recent call last)")
        if traceback:
            raise AssertionError(f"the daemon has logged a traceback:\n{before[-500:]}{traceback}{after[:5000]}")

    def abandon(self) -> None:
        """Kill the daemon and its containers, whose data may be on a disk that fails, and take away what they had."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for shim in (self.run / "shims").glob("*/pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(shim.read_text().split()[0]), signal.SIGKILL)
        self._take_rules_away()
        self._take_away()

    def _take_rules_away(self) -> None:
        """What a daemon that could not stop leaves in the packet filter."""
        with contextlib.suppress(NftablesError):
            rules = Nftables()
            for family in ("ip", "ip6"):
                table = f"table {family} dockyard-{self.bridge}"
                rules.run(f"add {table}\ndelete {table}\n")
            rules.close()
        chain = f"DOCKYARD-{self.bridge}"
        for program in ("iptables", "ip6tables"):
            for act in (("-D", "FORWARD", "-j", chain), ("-F", chain), ("-X", chain)):
                with contextlib.suppress(FileNotFoundError):
                    subprocess.run([program, "-w", "5", *act], check=False, capture_output=True)

    def _take_away(self) -> None:
        for namespace in (self.run / "netns").glob("*"):
            subprocess.run(["umount", namespace], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        _remove_cgroups(self.bridge)
        self._by_bridge.pop(self.bridge, None)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_cgroups(parent: str) -> None:
    """rmdir the (empty) cgroup parent in every hierarchy."""
    root = Path("/sys/fs/cgroup")
    for top in (root, *root.iterdir()):
        group = top / parent
        if group.is_dir():
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
