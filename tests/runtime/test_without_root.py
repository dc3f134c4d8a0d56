"""dockyard-runc as an ordinary user: with its own id alone and no cgroup, or with those of the user's own systemd."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import cgroups

USER = 54321
NOBODY = 65534
RUNC = (sys.executable, "-c", "from dockyard.runtime.command_line.main import main; raise SystemExit(main())")


class Home:
    """A directory of the user's with a bundle in it."""

    def __init__(self, folder: Path, user: int = USER) -> None:
        self.folder = folder
        self.user = user
        self.runtime_directory = folder / "run"
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
            (folder / "rootfs" / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", folder / "rootfs" / "bin" / "busybox")
        for name in ("sh", "sleep", "cat", "id"):
            (folder / "rootfs" / "bin" / name).symlink_to("busybox")
        (folder / "run").mkdir()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)

    def environment(self) -> dict[str, str]:
        """Of its commands."""
        return {"XDG_RUNTIME_DIR": str(self.runtime_directory), "PATH": os.environ["PATH"]}

    def runc(self, *words: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        """dockyard-runc as the user."""
        return subprocess.run(
            [*RUNC, *words],
            **{"stdin": subprocess.DEVNULL, "capture_output": True, **options},
            cwd=self.folder,
            env=self.environment(),
            user=self.user,
            group=self.user,
            extra_groups=[],
            timeout=60,
            check=False,
        )

    def write(self, *arguments: str, **linux: Any) -> None:
        """A config.json of `spec --rootless`, with changes."""
        (self.folder / "config.json").unlink(missing_ok=True)
        done = self.runc("spec", "--rootless")
        assert done.returncode == 0, done.stderr
        spec = json.loads((self.folder / "config.json").read_text())
        spec["process"].update(terminal=False, args=list(arguments))
        spec["linux"].update(linux)
        (self.folder / "config.json").write_text(json.dumps(spec))


@contextmanager
def _home(user: int) -> Iterator[Home]:
    folder = Path(tempfile.mkdtemp(prefix="dockyard-user-", dir="/var/tmp"))
    trial = {"user": user, "group": user, "extra_groups": [], "capture_output": True, "check": False}
    readable = subprocess.run([sys.executable, "-c", "import dockyard"], **trial)
    try:
        if readable.returncode:
            pytest.skip("this tree is not for other users to read")
        yield Home(folder, user)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def home() -> Iterator[Home]:
    with _home(USER) as found:
        yield found


@pytest.fixture
def session() -> Iterator[Home]:
    """Of a user who has a systemd: nobody, whom every system knows."""
    if not Path("/run/systemd/system").is_dir() or cgroups.layout().version != 2:
        pytest.skip("wants systemd on cgroup version 2")
    unit = f"user@{NOBODY}.service"
    subprocess.run(["systemctl", "start", unit], check=True, timeout=120)
    try:
        with _home(NOBODY) as found:
            found.runtime_directory = Path(f"/run/user/{NOBODY}")
            yield found
    finally:
        subprocess.run(["systemctl", "stop", unit, f"user-runtime-dir@{NOBODY}.service"], check=True, timeout=120)


def test_a_user_is_root_inside(home: Home) -> None:
    home.write("sh", "-c", "id -u; cat /proc/self/uid_map; exit 3")
    done = home.runc("run", "mine")
    assert done.returncode == 3, done.stderr
    assert done.stdout.decode().split() == ["0", "0", str(USER), "1"]


def test_its_container_can_be_entered_listed_and_killed(home: Home) -> None:
    home.write("sleep", "60")
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "capture_output": False}
    assert home.runc("run", "--detach", "mine", **null).returncode == 0
    try:
        done = home.runc("exec", "mine", "sh", "-c", "id -u; cat /proc/1/comm")
        assert done.stdout.decode().split() == ["0", "sleep"], done.stderr
        assert len(json.loads(home.runc("ps", "--format", "json", "mine").stdout)) == 1
    finally:
        home.runc("kill", "mine", "KILL")
        assert home.runc("delete", "--force", "mine").returncode == 0


def test_what_needs_a_cgroup_is_refused(home: Home) -> None:
    home.write("sh", resources={"pids": {"limit": 20}})
    done = home.runc("run", "mine")
    assert done.returncode == 1
    assert b"container could not join or create cgroup" in done.stderr or b"no permission is granted" in done.stderr
    home.write("sh", cgroupsPath="/dockyard-test/not-for-users")
    done = home.runc("run", "mine")
    assert done.returncode == 1
    assert b"unable to apply cgroup configuration: mkdir" in done.stderr
    assert b"permission denied" in done.stderr


# Commands as the user of a machine whose /etc knows it and gives it further ids: newuidmap(1) asks there.
KNOWN = """
mount -t overlay -o lowerdir="$1:/etc" overlay /etc
user=$2
shift 2
exec setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
"""


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="newuidmap is not installed")
def test_a_user_has_the_ranges_of_ids_that_the_system_gives_it(home: Home) -> None:
    known = home.folder / "known"
    known.mkdir()
    (known / "passwd").write_text(f"{Path('/etc/passwd').read_text()}someone:x:{USER}:{USER}::/nowhere:/bin/sh\n")
    (known / "group").write_text(f"{Path('/etc/group').read_text()}someone:x:{USER}:\n")
    for name in ("subuid", "subgid"):
        (known / name).write_text("someone:700000:5000\n")

    def mapping(more: int) -> list[dict[str, int]]:
        own = {"containerID": 0, "hostID": USER, "size": 1}
        return [own, {"containerID": 1, "hostID": 700000, "size": more}]

    def run(more: int) -> "subprocess.CompletedProcess[bytes]":
        home.write(
            "sh", "-c", "id -u; id -g; cat /proc/self/uid_map", uidMappings=mapping(more), gidMappings=mapping(more)
        )
        config = json.loads((home.folder / "config.json").read_text())
        config["process"]["user"] = {"uid": 1000, "gid": 2000}
        (home.folder / "config.json").write_text(json.dumps(config))
        command = ["unshare", "-m", "--propagation", "private", "sh", "-ec", KNOWN, "sh", str(known), str(USER)]
        return subprocess.run(
            [*command, *RUNC, "run", "ranges"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=home.folder,
            env=home.environment(),
            timeout=60,
            check=False,
        )

    done = run(5000)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == b"1000 2000 0 54321 1 1 700000 5000".split()
    refused = run(5001)
    assert refused.returncode != 0
    assert b"newuidmap" in refused.stderr


def test_the_users_own_systemd_gives_it_a_cgroup_with_limits(session: Home) -> None:
    pids, memory = {"limit": 20}, {"limit": 64 << 20}
    session.write("sleep", "60", resources={"pids": pids, "memory": memory}, cgroupsPath="user.slice:dockyard:session")
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "capture_output": False}
    started = session.runc("--systemd-cgroup", "run", "--detach", "session", **null)
    assert started.returncode == 0, session.runc("--systemd-cgroup", "run", "again").stderr
    try:
        state = json.loads(session.runc("state", "session").stdout)
        place = Path(f"/proc/{state['pid']}/cgroup").read_text().strip().partition("::")[2]
        assert place.startswith(f"/user.slice/user-{NOBODY}.slice/user@{NOBODY}.service/")
        assert place.endswith("/user.slice/dockyard-session.scope")
        group = Path("/sys/fs/cgroup" + place)
        assert (group / "pids.max").read_text() == "20\n"
        assert (group / "memory.max").read_text() == f"{64 << 20}\n"
        done = session.runc("exec", "session", "cat", "/proc/self/cgroup")
        assert done.returncode == 0, done.stderr
        changed = session.runc("update", "--pids-limit", "30", "session")
        assert changed.returncode == 0, changed.stderr
        assert (group / "pids.max").read_text() == "30\n"
        assert session.runc("pause", "session").returncode == 0
        assert (group / "cgroup.freeze").read_text() == "1\n"
        assert session.runc("resume", "session").returncode == 0
        stats = json.loads(session.runc("events", "--stats", "session").stdout)
        assert stats["data"]["pids"]["limit"] == 30
    finally:
        session.runc("kill", "session", "KILL")
        assert session.runc("delete", "--force", "session").returncode == 0
    assert not group.exists()
