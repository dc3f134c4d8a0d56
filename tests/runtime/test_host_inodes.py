"""What of the host's a container has by a mount of ours: it can change nothing about any of it."""

import json
import os
import stat
from pathlib import Path

import pytest

from dockyard.engine.containers.spec.container_spec import INIT_PATHS
from dockyard.oci.runtime_spec import IDMapping, Namespace, Spec
from tests.engine_process import EngineProcess
from tests.runtime.bundle import Bundle, host_python, python

# What of the container's is a file of the host's that is the container's own: the engine makes them for it.
OWN_FILES = {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
# Tried on every file of every mount that is the host's too, and on what procfs has of the whole machine.
TRY = """
import json, os, stat, sys
HOST, MOST = set(json.loads(os.environ["HOST"])), 300
changed, tried = [], 0

def attempt(path):
    global tried
    tried += 1
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return
    acts = {
        "chmod": lambda: os.chmod(path, stat.S_IMODE(found.st_mode)),
        "chown": lambda: os.chown(path, found.st_uid, found.st_gid),
        "utimes": lambda: os.utime(path, (found.st_atime, found.st_mtime)),
        "setxattr": lambda: os.setxattr(path, "trusted.dockyard-test", b"x"),
    }
    if stat.S_ISREG(found.st_mode):
        acts["write"] = lambda: os.close(os.open(path, os.O_WRONLY))
    if stat.S_ISDIR(found.st_mode):
        acts["create"] = lambda: os.mkdir(path + "/dockyard-test")
    for name, act in acts.items():
        try:
            act()
        except OSError:
            continue
        changed.append(f"{name} {path}")

def attempt_all(top):
    attempt(top)
    left = MOST
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            left -= 1
            if left < 0:
                return
            try:
                attempt(f"{folder}/{name}")
            except FileNotFoundError:
                pass

for row in open("/proc/self/mountinfo"):
    fields = row.split()
    if fields[4] != "/" and fields[2] in HOST:
        attempt_all(fields[4])
for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"):
    if os.path.exists("/proc/" + name):
        attempt_all("/proc/" + name)
print(json.dumps({"changed": changed, "tried": tried, "masks": [
    os.stat("/proc/keys").st_dev, stat.S_ISCHR(os.stat("/proc/keys").st_mode), open("/proc/keys").read()]}))
"""


def on_host() -> list[str]:
    """The device numbers of the file systems that the host has mounted."""
    return [row.split()[2] for row in Path("/proc/self/mountinfo").read_text().splitlines()]


def identical_user_namespace(spec: Spec) -> None:
    """A user namespace whose root is the host's: it owns what the host's owns."""
    spec.linux.namespaces.append(Namespace(type="user"))
    spec.linux.uid_mappings = spec.linux.gid_mappings = [IDMapping(container_id=0, host_id=0, size=65536)]


@pytest.mark.parametrize("userns", [False, True])
def test_nothing_of_the_hosts_can_be_changed(bundle: Bundle, userns: bool) -> None:
    spec = bundle.spec(*python(TRY))
    host_python(spec)
    assert spec.process is not None
    spec.process.env.append(f"HOST={json.dumps(on_host())}")
    if userns:
        identical_user_namespace(spec)
    result = bundle.run(spec)
    assert result.status == 0, result.output
    found = json.loads(result.output)
    assert found["changed"] == []
    assert found["tried"] > 100
    device, is_device, content = found["masks"]
    assert (is_device, content) == (True, "")
    assert userns or device != os.stat("/dev/null").st_dev, "the mask is the host's own device"


def test_a_mask_is_read_only_and_takes_what_is_written(bundle: Bundle) -> None:
    before = os.stat("/dev/null")
    change = "chmod 000 /proc/keys; chown 1:1 /proc/keys; touch /proc/keys; echo x >/proc/keys && echo written"
    try:
        lines = bundle.run(bundle.spec("sh", "-c", change)).lines
        assert lines[-1] == "written"
        after = os.stat("/dev/null")
        assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    finally:
        os.chmod("/dev/null", stat.S_IMODE(before.st_mode))
        os.chown("/dev/null", before.st_uid, before.st_gid)


@pytest.mark.parametrize("options", [(), ("--init", "-t"), ("--read-only", "--tmpfs=/tmp")])
def test_an_engine_gives_a_container_nothing_else_of_the_hosts(engine: EngineProcess, options: tuple[str, ...]) -> None:
    rows = engine.docker("run", "--rm", *options, "busybox", "cat", "/proc/self/mountinfo").splitlines()
    host = set(on_host())
    writable = {fields[4] for fields in map(str.split, rows) if fields[2] in host and "rw" in fields[5].split(",")}
    assert writable <= OWN_FILES


def test_an_init_that_is_remounted_is_not_the_hosts(engine: EngineProcess) -> None:
    """With CAP_SYS_ADMIN that a mount is read-only keeps nobody."""
    remount = "mount -o remount,rw,bind /sbin/docker-init; echo >>/sbin/docker-init; ls -i /sbin/docker-init"
    options = ("--init", "--cap-add=SYS_ADMIN", "--security-opt=apparmor=unconfined")
    said = engine.docker("run", "--rm", *options, "busybox", "sh", "-c", remount)
    inode = int(said.split()[0])
    found = [path for path in INIT_PATHS if os.path.exists(path)]
    assert found
    assert inode not in [os.stat(path).st_ino for path in found]
