"""Our daemon, with its defaults, on a host where others are at work: another engine's containers, an administrator.

Everything happens in a network namespace of its own, so that both engines can have what names and subnets they like.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine_process import EngineProcess

ADDRESS = "192.0.2.1"  # the host's own, in its namespace
SERVE = "mkdir -p /w; echo {word} > /w/index.html; exec httpd -f -p 80 -h /w"
# Asks each URL named by "URL WORD" again and again, by a connection of its own, and writes down every wrong answer.
WATCH = """
import sys, time, urllib.request
while True:
    for line in sys.argv[1:]:
        url, word = line.split()
        try:
            said = urllib.request.urlopen(url, timeout=3).read().decode().strip()
        except OSError as error:
            said = repr(error)
        print("right" if said == word else f"{url}: {said}", flush=True)
    time.sleep(0.02)
"""
SETTLE = """
ip link set lo up
ip link add uplink type veth peer name cable
ip address add ADDRESS/24 dev uplink
ip link set uplink up
ip link set cable up
mount --rbind /sys/fs/cgroup "$0" && mount -t sysfs none /sys && mount --rbind "$0" /sys/fs/cgroup
echo ready
exec sleep infinity
"""


class Place:
    """A network namespace, with the file systems that show it, in which programs are run."""

    def __init__(self, folder: Path) -> None:
        aside = folder / "cgroup"
        aside.mkdir()
        command = ["unshare", "-n", "-m", "--propagation", "private", "sh", "-ec", SETTLE.replace("ADDRESS", ADDRESS)]
        self._holder = subprocess.Popen([*command, str(aside)], stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.prefix = ("nsenter", "-t", str(self._holder.pid), "-n", "-m", "--")

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()

    def run(self, *command: str) -> str:
        """The output of a command that must succeed."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def fetch(self, url: str) -> str:
        """GET, retried while the server comes up."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return self.run("busybox", "wget", "-q", "-O", "-", url).strip()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture
def ours(place: Place, tmp_path: Path) -> Iterator[EngineProcess]:
    """Our engine in that place, not yet started, with default bridge and subnet."""
    process = EngineProcess(tmp_path / "ours", number=3)
    chosen = ("--bridge=", "--bip=", "--cgroup-parent=")
    process.arguments = [argument for argument in process.arguments if not argument.startswith(chosen)]
    process.prefix = place.prefix
    yield process
    if process.process is not None:
        process.clean_up()


class OtherDocker:
    """A real dockerd, with its own default bridge."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place, self._folder = place, folder
        self._run = Path(f"/run/dyother-{os.getpid()}")
        self._run.mkdir()
        self.host = f"unix://{self._run}/d.sock"
        paths = [f"--data-root={folder}/data", f"--exec-root={self._run}/x", f"--pidfile={self._run}/pid"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*place.prefix, "dockerd", *paths, "-H", self.host], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while not (self._run / "d.sock").exists() or "Version" not in self._said("version"):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)

    def _said(self, *arguments: str) -> str:
        command = [*self._place.prefix, "docker", "-H", self.host, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()

    def load(self, archive: Path) -> None:
        self._said("load", "-i", str(archive))

    def serve(self, port: int, word: str) -> str:
        """Run a web server published on `port`; its id."""
        command = ("busybox", "sh", "-c", SERVE.format(word=word))
        made = self._said("run", "-d", "-p", f"{port}:80", *command)
        assert made, (self._folder / "log").read_text()[-2000:]
        return made

    def state(self, container: str) -> Any:
        """What the engine says of it, but for what changes by itself."""
        found = json.loads(self._said("inspect", container))[0]
        return found["State"], found["NetworkSettings"]

    def address(self, container: str) -> str:
        return str(self.state(container)[1]["IPAddress"])

    def pid(self, container: str) -> int:
        return int(self.state(container)[0]["Pid"])

    def close(self) -> None:
        for container in self._said("ps", "-aq").split():
            self._said("rm", "-f", container)
        self.stop()

    def stop(self) -> None:
        """End it; what it has stays."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        shutil.rmtree(self._run, ignore_errors=True)


class OtherPodman(OtherDocker):
    """A real podman, as root."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place, self._folder = place, folder
        self._run = Path(f"/run/dyother-{os.getpid()}")
        (folder / "log").write_text("")
        self._said("version")

    def _said(self, *arguments: str) -> str:
        roots = (f"--root={self._folder}/data", f"--runroot={self._run}", f"--tmpdir={self._run}/tmp")
        roots += (f"--network-config-dir={self._folder}/networks", "--cgroup-manager=cgroupfs")
        roots += ("--events-backend=file", "--runtime=runc")
        command = [*self._place.prefix, "podman", *roots, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        with (self._folder / "log").open("a") as log:
            log.write(done.stderr)
        return done.stdout.strip()

    def close(self) -> None:
        self._said("rm", "-fa", "-t", "0")
        shutil.rmtree(self._run, ignore_errors=True)


@pytest.fixture(params=["dockerd", "podman"])
def other(request: pytest.FixtureRequest, place: Place, tmp_path: Path) -> Iterator[OtherDocker]:
    """Another engine at work in that place."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param}")
    folder = tmp_path / "other"
    folder.mkdir()
    made = (OtherDocker if request.param == "dockerd" else OtherPodman)(place, folder)
    yield made
    made.close()


def settings(place: Place) -> dict[str, str]:
    """Every sysctl of networks (in that place), and of the kernel what engines are known to change."""
    script = "cd /proc/sys && grep -rs . net kernel/keys kernel/pid_max fs/inotify fs/file-max vm/overcommit_memory"
    lines = place.run("sh", "-c", f"{script} || :").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def rules(place: Place) -> set[str]:
    """Every iptables rule and chain, without counters."""
    found: set[str] = set()
    for program in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "raw", "mangle"):
            found |= {f"{program} {table} {line}" for line in place.run(program, "-t", table, "-S").splitlines()}
    return found


def links(place: Place) -> Any:
    """Every link with its addresses and master, by name."""
    shown = json.loads(place.run("ip", "-j", "address"))
    return {
        link["ifname"]: (link.get("master"), link["address"], [entry["local"] for entry in link["addr_info"]])
        for link in shown
    }


def test_another_engines_containers_never_notice(
    ours: EngineProcess, other: OtherDocker, place: Place, tmp_path: Path, engine: EngineProcess
) -> None:
    archive = tmp_path / "busybox.tar"
    engine.docker("pull", "busybox")
    engine.docker("save", "-o", str(archive), "busybox")
    other.load(archive)
    web = other.serve(18181, "theirs")
    urls = [f"http://{where}/" for where in ("127.0.0.1:18181", f"{ADDRESS}:18181", f"{other.address(web)}:80")]
    for url in urls:
        assert place.fetch(url) == "theirs"
    groups = Path(f"/proc/{other.pid(web)}/cgroup").read_text()
    state, had, ruled = other.state(web), links(place), rules(place)
    watching = [*place.prefix, sys.executable, "-c", WATCH, *(f"{url} theirs" for url in urls)]
    with (tmp_path / "seen").open("wb") as seen:
        watcher = subprocess.Popen(watching, stdout=seen)
    try:
        ours.start()
        assert Path(f"/proc/{other.pid(web)}/cgroup").read_text() == groups
        ours.docker("pull", "busybox")
        started = ("run", "-d", "-p", "18282:80")
        ours.docker(*started, "--name", "web", "busybox", "sh", "-c", SERVE.format(word="ours"))
        ours.docker("network", "create", "lan")
        ours.docker("run", "-d", "--name", "more", "--network", "lan", "busybox", "sleep", "1000")
        for where in ("127.0.0.1:18282", f"{ADDRESS}:18282"):
            assert place.fetch(f"http://{where}/") == "ours"
        taken = ours.run_docker(*started[:3], "18181:80", "busybox", "true")
        assert taken.returncode == 125
        for _ in range(2):
            ours.kill()
            ours.start()
            assert place.fetch(f"http://{ADDRESS}:18282/") == "ours"
        assert place.fetch(f"http://{ours.inspect('web')['NetworkSettings']['IPAddress']}/") == "ours"
        # what has been made while ours is at work is left alone, too
        assert place.fetch(f"http://{other.address(other.serve(18383, 'later'))}/") == "later"
        ours.stop()
        ours.start()
        ours.docker("rm", "-f", "web", "more")
        ours.docker("network", "rm", "lan")
        ours.stop()
    finally:
        watcher.kill()
        watcher.wait()
    answers = (tmp_path / "seen").read_text().splitlines()
    assert len(answers) > 50
    assert set(answers) == {"right"}
    assert other.state(web) == state
    assert had.items() <= links(place).items()
    assert ruled <= rules(place)
    assert Path(f"/proc/{other.pid(web)}/cgroup").read_text() == groups


def test_what_an_administrator_has_made_is_left_alone(ours: EngineProcess, place: Place, tmp_path: Path) -> None:
    place.run("ip", "link", "add", "vm0", "type", "veth", "peer", "name", "vm1")
    place.run("ip", "address", "add", "172.17.0.1/16", "dev", "vm0")  # down: no route says that it is taken
    place.run("iptables", "-N", "MINE")
    place.run("iptables", "-A", "FORWARD", "-i", "vm0", "-j", "MINE")
    place.run("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "81", "-j", "REDIRECT")
    top = Path("/sys/fs/cgroup")
    if not (top / "cgroup.procs").exists():  # version 1
        top = next(top.glob("*/cgroup.procs")).parent
    group = top / "docker" / f"foreign-{os.getpid()}"
    group.mkdir(parents=True)
    member = subprocess.Popen(["sleep", "infinity"])
    (group / "cgroup.procs").write_text(str(member.pid))
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    place.run("mount", "-t", "tmpfs", "none", str(mounted))
    (tmp_path / "netns").touch()
    place.run("unshare", f"--net={tmp_path}/netns", "true")
    had, ruled, set_to = links(place), rules(place), settings(place)
    host_groups = Path("/proc/self/cgroup").read_text()
    try:
        ours.start()
        assert Path("/proc/self/cgroup").read_text() == host_groups
        ours.docker("pull", "busybox")
        ours.docker("network", "create", "lan")
        assert not ours.inspect("bridge")["IPAM"]["Config"][0]["Subnet"].startswith("172.17.")
        ours.docker("run", "-d", "--name", "one", "-p", "18484:80", "--network", "lan", "busybox", "sleep", "1000")
        place.run("ip", "link", "set", "vm1", "master", ours.inspect("lan")["Options"].get("name", "docker0"))
        ours.kill()
        ours.start()
        ours.docker("rm", "-f", "one")
        ours.docker("network", "rm", "lan")
        ours.stop()
        assert "link vm1 on our bridge docker0 is somebody else's" in ours.log()
        found = links(place)
        assert found.pop("vm1")[0] == "docker0"
        had.pop("vm1")
        assert had.items() <= found.items()
        assert ruled - {"iptables filter -P FORWARD ACCEPT", "ip6tables filter -P FORWARD ACCEPT"} <= rules(place)
        assert (group / "cgroup.procs").read_text().split() == [str(member.pid)]
        assert str(mounted) in place.run("cat", "/proc/self/mounts")
        place.run("nsenter", f"--net={tmp_path}/netns", "true")
        changed = {
            name: (value, now)
            for name, value in set_to.items()
            if (now := settings(place).get(name)) != value and not _moves_by_itself(name)
        }
        # docs/networks.md says so: the host is made to route
        assert {name for name in changed if "forwarding" not in name} <= {"net/ipv4/ip_forward"}, changed
    finally:
        member.kill()
        member.wait()
        group.rmdir()


def _moves_by_itself(name: str) -> bool:
    return "conntrack_count" in name or "random" in name or "nf_log" in name
