"""Containers frozen to files and brought back, by the command line. Needs a CRIU that works with this kernel."""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import criu

pytestmark = criu.needed()
RUNC = (sys.executable, "-c", "from dockyard.runtime.command_line.main import main; raise SystemExit(main())")
# a file of the host's as standard output is nothing that CRIU could find again
NOWHERE = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
COUNTING = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/number; sleep 0.05; done"


class Bundle:
    """A busybox bundle, and dockyard-runc with a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "rootfs"
        self.prefix: tuple[str, ...] = ()
        self.name = f"checkpoint-{uuid.uuid4().hex[:8]}"
        self.number = self.root / "tmp" / "number"
        (self.root / "bin").mkdir(parents=True)
        for name in ("proc", "dev", "sys", "tmp", "etc"):
            (self.root / name).mkdir()
        shutil.copy(shutil.which("busybox") or "", self.root / "bin" / "busybox")
        for name in ("sh", "sleep", "cat", "echo", "mv"):
            (self.root / "bin" / name).symlink_to("busybox")

    def runc(self, *words: str, check: bool = True, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        state = str(self.folder / "state")
        with open(self.folder / "said", "ab") as said:
            done = subprocess.run(
                [*self.prefix, *RUNC, "--root", state, *words],
                cwd=self.folder,
                **{"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said, **options},
                check=False,
            )
        assert not check or done.returncode == 0, (self.folder / "said").read_text() + self.log()
        return done

    def log(self) -> str:
        """The end of CRIU's."""
        logs = sorted((self.folder / "checkpoint").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(logs[-1].read_text().splitlines()[-15:]) if logs else ""

    def write(self, change: dict[str, Any] | None = None) -> None:
        self.runc("spec")
        path = self.folder / "config.json"
        spec = json.loads(path.read_text())
        spec["process"].update(terminal=False, args=["sh", "-c", COUNTING])
        spec["root"]["readonly"] = False
        spec["linux"]["cgroupsPath"] = f"/{self.name}"
        spec["linux"]["resources"]["memory"] = {"limit": 100 << 20}
        spec.setdefault("mounts", []).extend((change or {}).get("mounts", []))
        path.write_text(json.dumps(spec))

    def counts(self) -> bool:
        before = self.number.read_text()
        time.sleep(0.5)
        return before != self.number.read_text()


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    made = Bundle(tmp_path)
    yield made
    made.runc("delete", "--force", made.name, check=False)


@contextlib.contextmanager
def shared_mounts(folder: Path) -> Iterator[tuple[str, ...]]:
    """What has a command run in `folder`, in a mount namespace whose mounts are shared as systemd makes the host's."""
    script = "mount --make-rshared / && echo ready && exec sleep 1000"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        try:
            yield ("nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt", "sh", "-c", 'cd "$0" && exec "$@"', str(folder))
        finally:
            keeper.kill()


def _status(bundle: Bundle) -> str:
    with contextlib.suppress(ValueError):
        said = bundle.runc("state", bundle.name, stdout=subprocess.PIPE, check=False).stdout
        return str(json.loads(said)["status"])
    return ""


def test_a_container_goes_on_where_it_was(bundle: Bundle) -> None:
    outside = bundle.folder / "outside"
    outside.write_text("from outside")
    bundle.write(
        {"mounts": [{"destination": "/etc/bound", "source": str(outside), "type": "bind", "options": ["bind", "ro"]}]}
    )
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.5)
    bundle.runc("checkpoint", bundle.name)
    assert _status(bundle) == ""
    reached = int(bundle.number.read_text())
    assert not bundle.counts()
    bundle.runc("restore", "--detach", "--pid-file", "pid", bundle.name, **NOWHERE)
    assert bundle.counts()
    assert int(bundle.number.read_text()) > reached
    assert _status(bundle) == "running"
    pid = int((bundle.folder / "pid").read_text())
    assert f"/{bundle.name}" in Path(f"/proc/{pid}/cgroup").read_text()
    said = bundle.runc("exec", bundle.name, "cat", "/etc/bound", stdout=subprocess.PIPE).stdout
    assert said == b"from outside"
    bundle.runc("kill", bundle.name, "KILL")
    bundle.runc("delete", "--force", bundle.name)
    assert not os.path.exists(f"/proc/{pid}/root/bin/sh")


def test_a_checkpoint_may_leave_the_container_running(bundle: Bundle) -> None:
    bundle.write()
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.5)
    bundle.runc("checkpoint", "--leave-running", bundle.name)
    assert bundle.counts()
    assert _status(bundle) == "running"


def test_memory_may_be_written_ahead(bundle: Bundle) -> None:
    bundle.write()
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.5)
    first = bundle.runc("checkpoint", "--pre-dump", "--image-path", "before", bundle.name, check=False)
    assert bundle.counts()
    if first.returncode:
        assert "this kernel does not track which pages are written to" in (bundle.folder / "said").read_text()
        return
    bundle.runc("checkpoint", "--parent-path", "../before", bundle.name)
    assert (bundle.folder / "checkpoint" / "parent").exists()
    bundle.runc("restore", "--detach", bundle.name, **NOWHERE)
    assert bundle.counts()


def test_pages_may_come_when_they_are_touched(bundle: Bundle) -> None:
    bundle.write()
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.5)
    bundle.runc("checkpoint", "--work-path", "work", bundle.name)
    words = ["criu", "lazy-pages", "--images-dir", "checkpoint", "--work-dir", "work", "--log-file", "lazy.log"]
    with subprocess.Popen(words, cwd=bundle.folder, **NOWHERE) as pages:
        deadline = time.monotonic() + 20
        while not (bundle.folder / "work" / "lazy-pages.socket").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        bundle.runc("restore", "--detach", "--lazy-pages", "--work-path", "work", bundle.name, **NOWHERE)
        assert bundle.counts()
        assert pages.wait(60) == 0  # all are there


def test_a_terminal_is_given_anew(bundle: Bundle) -> None:
    bundle.write()
    path = bundle.folder / "config.json"
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=True, args=["sh", "-c", "tty; while read word; do echo got $word; done"])
    path.write_text(json.dumps(spec))
    with _console_socket(bundle) as listener:
        words = ("--detach", "--console-socket", "console")
        bundle.runc("run", *words, bundle.name, **NOWHERE)
        with _console(listener) as first:
            _talk(first, b"one\n", b"got one")
            bundle.runc("checkpoint", bundle.name)
        bundle.runc("restore", *words, bundle.name, **NOWHERE)
        with _console(listener) as second:
            _talk(second, b"two\n", b"got two")
            words = ("busybox", "readlink", "/proc/1/fd/0")
            assert bundle.runc("exec", bundle.name, *words, stdout=subprocess.PIPE).stdout == b"/dev/pts/0\n"


@contextlib.contextmanager
def _console_socket(bundle: Bundle) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20)
        with contextlib.chdir(bundle.folder):  # a socket's path must be short
            listener.bind("console")
        listener.listen()
        yield listener


@contextlib.contextmanager
def _console(listener: socket.socket) -> Iterator[int]:
    peer, _ = listener.accept()
    with peer:
        _, descriptors, _, _ = socket.recv_fds(peer, 4096, 1)
    try:
        yield descriptors[0]
    finally:
        os.close(descriptors[0])


def _talk(console: int, say: bytes, hear: bytes) -> None:
    os.write(console, say)
    heard = b""
    while hear not in heard:
        assert select.select([console], [], [], 10)[0], heard
        heard += os.read(console, 4096)


def test_places_to_mount_on_are_made_again(bundle: Bundle) -> None:
    for name in ("outer", "inner"):
        (bundle.folder / name).mkdir()
    (bundle.folder / "inner" / "file").write_text("within")
    binds = (("outer", "/link"), ("inner", "/link/in"))
    mounts = [
        {"destination": place, "source": str(bundle.folder / name), "type": "bind", "options": ["bind"]}
        for name, place in binds
    ]
    (bundle.root / "real").mkdir()
    (bundle.root / "link").symlink_to("/real")
    bundle.write({"mounts": mounts})
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.3)
    bundle.runc("checkpoint", bundle.name)
    (bundle.folder / "outer" / "in").rmdir()
    bundle.runc("restore", "--detach", bundle.name, **NOWHERE)
    assert bundle.runc("exec", bundle.name, "cat", "/real/in/file", stdout=subprocess.PIPE).stdout == b"within"


def test_links_of_the_tree_give_no_mount_the_source_of_another(bundle: Bundle) -> None:
    """runc CVE-2026-119101: what is read-only must not come back where the container may write."""
    for name in ("secret", "own"):
        (bundle.folder / name).mkdir()
        (bundle.root / f"at-{name}").mkdir()
        (bundle.root / name).symlink_to(f"/at-{name}")
    mounts = [
        {"destination": f"/{name}", "source": str(bundle.folder / name), "type": "bind", "options": ["bind", *options]}
        for name, options in (("secret", ["ro"]), ("own", []))
    ]
    bundle.write({"mounts": mounts})
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.3)
    bundle.runc("checkpoint", bundle.name)
    for name, other in (("secret", "own"), ("own", "secret")):
        (bundle.root / name).unlink()
        (bundle.root / name).symlink_to(f"/at-{other}")
    bundle.runc("restore", "--detach", bundle.name, **NOWHERE)
    bundle.runc("exec", bundle.name, "sh", "-c", "echo > /at-own/file")
    assert os.listdir(bundle.folder / "own") == ["file"]
    assert os.listdir(bundle.folder / "secret") == []


def test_a_link_whose_target_reads_like_two_options_is_refused(bundle: Bundle) -> None:
    (bundle.folder / "source").mkdir()
    (bundle.root / "x]:" / "etc").mkdir(parents=True)
    (bundle.root / "data").symlink_to("/x]:/etc")
    mount = {"destination": "/data", "source": str(bundle.folder / "source"), "type": "bind", "options": ["bind"]}
    bundle.write({"mounts": [mount]})
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    done = bundle.runc("checkpoint", bundle.name, check=False, stderr=subprocess.PIPE)
    assert b"there is a ] in its name" in done.stderr
    bundle.runc("exec", bundle.name, "sh", "-c", "exit 0")


@pytest.mark.parametrize("shared", [False, True])
def test_a_container_with_a_user_namespace_goes_on(tmp_path: Path, shared: bool) -> None:
    """Its devices and masks are the host's, whose file system is shared with nobody or with all namespaces."""
    bundle = Bundle(tmp_path)
    with contextlib.ExitStack() as undo:
        if shared:
            bundle.prefix = undo.enter_context(shared_mounts(bundle.folder))
        undo.callback(bundle.runc, "delete", "--force", bundle.name, check=False)
        _goes_on_in_a_user_namespace(bundle)


def _goes_on_in_a_user_namespace(bundle: Bundle) -> None:
    bundle.write()
    path = bundle.folder / "config.json"
    spec = json.loads(path.read_text())
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        spec["linux"][kind] = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    path.write_text(json.dumps(spec))
    temporary = Path(tempfile.gettempdir())
    for folder in (bundle.folder, *bundle.folder.parents):
        if temporary in folder.parents:
            folder.chmod(0o755)  # its root must reach its tree
    for place in (bundle.root, *bundle.root.rglob("*")):
        os.chown(place, 100_000, 100_000, follow_symlinks=False)
    bundle.runc("run", "--detach", bundle.name, **NOWHERE)
    time.sleep(0.5)
    for _ in range(2):
        bundle.runc("checkpoint", bundle.name)
        bundle.runc("restore", "--detach", bundle.name, **NOWHERE)
    assert bundle.counts()
    said = bundle.runc("exec", bundle.name, "cat", "/proc/self/uid_map", stdout=subprocess.PIPE).stdout
    assert said.split() == [b"0", b"100000", b"65536"]
    mounts = bundle.runc("exec", bundle.name, "cat", "/proc/self/mountinfo", stdout=subprocess.PIPE).stdout.decode()
    device = os.stat("/dev/null").st_dev
    of_the_host = {
        row.split()[4]: row.split()[5].split(",")[0]
        for row in mounts.splitlines()
        if row.split()[2] == f"{os.major(device)}:{os.minor(device)}"
    }
    assert {"/dev/null", "/dev/zero", "/dev/tty", "/proc/keys", "/proc/timer_list"} <= of_the_host.keys()
    assert set(of_the_host.values()) == {"ro"}  # its times are not the container's to change


def test_pipes_are_the_new_callers(bundle: Bundle) -> None:
    bundle.write()
    path = bundle.folder / "config.json"
    spec = json.loads(path.read_text())
    spec["process"]["args"] = ["sh", "-c", "while read word; do echo got $word; done"]
    path.write_text(json.dumps(spec))
    words = [*RUNC, "--root", str(bundle.folder / "state")]
    pipe = subprocess.PIPE
    first = subprocess.Popen([*words, "run", bundle.name], cwd=bundle.folder, stdin=pipe, stdout=pipe)
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdin.write(b"one\n")
    first.stdin.flush()
    assert first.stdout.readline() == b"got one\n"
    bundle.runc("checkpoint", bundle.name)
    first.wait(20)
    second = subprocess.run(
        [*words, "restore", bundle.name],
        cwd=bundle.folder,
        input=b"two\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert second.stdout == b"got two\n", second.stderr.decode() + bundle.log()
    assert second.returncode == 0


def test_what_cannot_be_restored_is_told_and_leaves_nothing(bundle: Bundle) -> None:
    bundle.write()
    said = bundle.runc("restore", "--detach", bundle.name, stderr=subprocess.PIPE, check=False)
    assert said.returncode == 1
    assert b"no checkpoint at" in said.stderr
    assert _status(bundle) == ""
