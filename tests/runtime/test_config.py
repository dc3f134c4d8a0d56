"""What config.json can say, seen from inside the container that it makes."""

import contextlib
import json
import os
import resource
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import (
    Box,
    Capabilities,
    Cpu,
    CPUAffinity,
    Device,
    Hook,
    Hooks,
    IDMapping,
    IntelRdt,
    IOPriority,
    Linux,
    MemoryPolicy,
    Mount,
    Namespace,
    NetDevice,
    Personality,
    Resources,
    Rlimit,
    Scheduler,
    Seccomp,
    SeccompArg,
    SeccompRule,
    Spec,
    TimeOffset,
)
from dockyard.runtime import intel_rdt
from dockyard.runtime.container import RuntimeFailure
from dockyard.runtime.scheduling import number_set
from tests.runtime.bundle import Bundle, apart, bind, execute, host_python, process, python

MAPPING = [IDMapping(container_id=0, host_id=100000, size=1000), IDMapping(container_id=1000, host_id=200000, size=500)]


def with_user_namespace(spec: Spec) -> Spec:
    spec.linux.namespaces.append(Namespace(type="user"))
    spec.linux.uid_mappings = spec.linux.gid_mappings = MAPPING
    return spec


@contextlib.contextmanager
def namespaces_of_somebody(flags: int) -> Iterator[int]:
    """A process in new namespaces; its PID."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        syscalls.unshare(flags)
        os.write(tell, b"1")
        time.sleep(100)
        os._exit(0)
    try:
        os.read(ready, 1)
        yield pid
    finally:
        os.close(ready)
        os.close(tell)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


# -- namespaces


def test_each_namespace_named_is_new_and_each_other_is_the_runtime_s(bundle: Bundle) -> None:
    kinds = {
        "pid": "pid",
        "network": "net",
        "ipc": "ipc",
        "uts": "uts",
        "mount": "mnt",
        "cgroup": "cgroup",
        "time": "time",
    }
    look = "for kind in " + " ".join(kinds.values()) + "; do readlink /proc/self/ns/$kind; done"
    spec = bundle.spec("sh", "-c", look)
    spec.linux.namespaces.append(Namespace(type="time"))
    new = bundle.run(spec).lines
    spec = bundle.spec("sh", "-c", look)
    spec.linux.namespaces = [Namespace(type="mount"), Namespace(type="pid")]
    shared = bundle.run(spec).lines
    for number, kind in enumerate(kinds.values()):
        own = os.readlink(f"/proc/self/ns/{kind}")
        assert new[number] != own
        assert (shared[number] == own) == (kind not in ("mnt", "pid"))


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "time", "pid"])
def test_a_namespace_with_a_path_is_joined(bundle: Bundle, kind: str) -> None:
    names = {"network": "net"}
    flag = {
        "network": syscalls.CLONE_NEWNET,
        "ipc": syscalls.CLONE_NEWIPC,
        "uts": syscalls.CLONE_NEWUTS,
        "cgroup": syscalls.CLONE_NEWCGROUP,
        "time": syscalls.CLONE_NEWTIME,
        "pid": 0,
    }[kind]
    name = names.get(kind, kind)
    with namespaces_of_somebody(flag) as pid:
        path = f"/proc/{pid}/ns/" + ("time_for_children" if kind == "time" else name)
        spec = bundle.spec("readlink", f"/proc/self/ns/{name}")
        spec.linux.namespaces = [one for one in spec.linux.namespaces if one.type != kind]
        spec.linux.namespaces.append(Namespace(type=kind, path=path))
        assert bundle.run(spec).lines == [os.readlink(path)]


def test_a_namespace_of_another_kind_is_refused(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.linux.namespaces = [Namespace(type="mount"), Namespace(type="network", path="/proc/self/ns/ipc")]
    with pytest.raises(RuntimeFailure, match="not a namespace of type network"):
        bundle.run(spec)


def test_a_user_namespace_maps_several_ranges(bundle: Bundle) -> None:
    spec = with_user_namespace(bundle.spec("sh", "-c", "id -u; id -g; cat /proc/self/uid_map"))
    spec.process.user.uid, spec.process.user.gid = 1001, 7  # type: ignore[union-attr]
    lines = [line.split() for line in bundle.run(spec).lines]
    assert lines == [["1001"], ["7"], ["0", "100000", "1000"], ["1000", "200000", "500"]]


def test_an_id_that_is_not_mapped_is_a_clear_error(bundle: Bundle) -> None:
    spec = with_user_namespace(bundle.spec("true"))
    spec.process.user.uid = 5000  # type: ignore[union-attr]
    with pytest.raises(RuntimeFailure, match="not mapped in the user namespace"):
        bundle.run(spec)


def test_a_user_namespace_is_joined_and_owns_the_others(bundle: Bundle) -> None:
    first = with_user_namespace(bundle.spec("sleep", "100"))

    def act() -> list[str]:
        with bundle.running(first) as (container, _):
            path = f"/proc/{container.record.pid}/ns/user"
            second = bundle.spec(
                "sh", "-c", "readlink /proc/self/ns/user; id -u; mount -t tmpfs x /tmp && echo mounted"
            )
            second.linux.namespaces.append(Namespace(type="user", path=path))
            capabilities = second.process.capabilities  # type: ignore[union-attr]
            assert capabilities is not None
            for names in (capabilities.bounding, capabilities.effective, capabilities.permitted):
                names.append("CAP_SYS_ADMIN")
            with bundle.created(second) as (other, output):
                other.start()
                os.waitpid(other.record.pid, 0)
                return [os.readlink(path), *os.pread(output, 1000, 0).decode().splitlines()]

    namespace, *lines = apart(act)
    assert lines == [namespace, "0", "mounted"]


def test_a_later_process_is_in_the_user_namespace_too(bundle: Bundle) -> None:
    spec = with_user_namespace(bundle.spec("sleep", "100"))

    def act() -> list[str]:
        with bundle.running(spec) as (container, _):
            wanted = process("sh", "-c", "id; cat /proc/self/uid_map")
            wanted.user.uid, wanted.user.additional_gids = 1002, [8]
            return execute(container, wanted).lines

    lines = apart(act)
    assert lines[0].startswith("uid=1002 gid=0")
    assert "8" in lines[0]
    assert lines[1].split() == ["0", "100000", "1000"]


@pytest.mark.parametrize("userns", [False, True])
def test_a_time_namespace_has_clocks_of_its_own(bundle: Bundle, userns: bool) -> None:
    spec = bundle.spec("cat", "/proc/uptime")
    spec.linux.namespaces.append(Namespace(type="time"))
    spec.linux.time_offsets = {"boottime": TimeOffset(secs=1_000_000, nanosecs=5), "monotonic": TimeOffset(secs=77)}
    if userns:
        with_user_namespace(spec)
    with open("/proc/uptime") as own:
        before = float(own.read().split()[0])
    assert 1_000_000 <= float(bundle.run(spec).output.split()[0]) - before < 1_000_100


def test_hostname_and_domainname_are_the_container_s(bundle: Bundle) -> None:
    spec = bundle.spec("sh", "-c", "hostname; cat /proc/sys/kernel/domainname")
    spec.hostname, spec.domainname = "inside", "example.test"
    assert bundle.run(spec).lines == ["inside", "example.test"]


def test_sysctls_are_set_in_the_container_s_namespaces(bundle: Bundle) -> None:
    for userns in (False, True):
        spec = bundle.spec("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shm_rmid_forced")
        spec.linux.sysctl = {"net.ipv4.ip_forward": "1", "kernel/shm_rmid_forced": "1"}
        if userns:
            with_user_namespace(spec)
        assert bundle.run(spec).lines == ["1", "1"]


def test_the_loopback_of_a_new_network_namespace_is_up(bundle: Bundle) -> None:
    for userns in (False, True):
        spec = bundle.spec("cat", "/sys/class/net/lo/flags")
        if userns:
            with_user_namespace(spec)
        assert int(bundle.run(spec).output, 16) & 1


@pytest.fixture
def device() -> Iterator[str]:
    # a new name each time: that of a device which has died with its namespace is not free at once
    name = f"dyt{time.monotonic_ns() % 10**9}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    subprocess.run(["ip", "address", "add", "10.99.1.2/24", "dev", name], check=True)
    subprocess.run(["ip", "address", "add", "169.254.9.9/16", "scope", "link", "dev", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("wanted", ["", "renamed0", "eth%d"])
def test_a_network_device_moves_in_with_its_address_and_is_up(bundle: Bundle, device: str, wanted: str) -> None:
    (bundle.root / "bin/ip").symlink_to("busybox")
    name = {"": device, "eth%d": "eth0"}.get(wanted, wanted)
    spec = bundle.spec("ip", "address", "show", "dev", name)
    spec.linux.net_devices = {device: NetDevice(name=wanted)}
    output = bundle.run(spec).output
    assert "inet 10.99.1.2/24" in output
    assert "169.254.9.9" not in output
    assert ",UP" in output


def test_a_network_device_that_is_not_there_is_an_error(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.linux.net_devices = {"nosuchdev0": NetDevice()}
    with pytest.raises(RuntimeFailure, match="link not found for interface nosuchdev0"):
        bundle.run(spec)
    spec.linux.net_devices = {"a/b": NetDevice()}
    with pytest.raises(RuntimeFailure, match="invalid network device name"):
        bundle.run(spec)


# -- mounts


def mount_options(bundle: Bundle, mounts: list[Mount], place: str, *, userns: bool = False) -> list[set[str]]:
    """The options of every mount at or below `place`, seen from inside."""
    spec = bundle.spec("cat", "/proc/self/mountinfo")
    spec.mounts += mounts
    if userns:
        with_user_namespace(spec)
    rows = [line.split() for line in bundle.run(spec).lines]
    return [set(row[5].split(",")) for row in rows if row[4] == place or row[4].startswith(place + "/")]


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it."""
    outer = tmp_path / "outer"
    outer.mkdir()
    syscalls.mount("tmpfs", str(outer), "tmpfs", syscalls.MS_NODEV)
    (outer / "inner").mkdir()
    syscalls.mount("tmpfs", str(outer / "inner"), "tmpfs")
    (outer / "inner/file").write_text("x")
    try:
        yield outer
    finally:
        syscalls.umount2(str(outer / "inner"), syscalls.MNT_DETACH)
        syscalls.umount2(str(outer), syscalls.MNT_DETACH)


@pytest.mark.parametrize("userns", [False, True])
def test_an_option_with_an_r_holds_for_mounts_below_too(bundle: Bundle, nested: Path, userns: bool) -> None:
    wanted = Mount(destination="/x", source=str(nested), options=["rbind", "rro", "rnosuid", "rnoexec", "rnoatime"])
    found = mount_options(bundle, [wanted], "/x", userns=userns)
    assert len(found) == 2
    assert all({"ro", "nosuid", "noexec", "noatime"} <= options for options in found)
    wanted = Mount(destination="/x", source=str(nested), options=["rbind", "ro", "nosuid"])
    top, below = mount_options(bundle, [wanted], "/x", userns=userns)
    assert {"ro", "nosuid"} <= top
    assert not {"ro", "nosuid"} & below


@pytest.mark.parametrize("option", ["noatime", "nodev", "noexec", "nosuid", "nodiratime", "ro", "nosymfollow"])
def test_options_of_a_new_file_system_and_of_a_bind(bundle: Bundle, tmp_path: Path, option: str) -> None:
    (tmp_path / "source").mkdir()
    made = Mount(destination="/made", type="tmpfs", source="tmpfs", options=[option])
    mounts = [made, bind(tmp_path / "source", "/bound", option)]
    assert option in mount_options(bundle, mounts, "/made")[0]
    assert option in mount_options(bundle, mounts, "/bound")[0]


@pytest.mark.parametrize(
    ("option", "seen"), [("private", ""), ("shared", "shared:"), ("slave", "master:"), ("unbindable", "unbindable")]
)
def test_propagation_of_a_mount(bundle: Bundle, tmp_path: Path, option: str, seen: str) -> None:
    (tmp_path / "source").mkdir()
    syscalls.mount("tmpfs", str(tmp_path / "source"), "tmpfs")
    syscalls.mount(None, str(tmp_path / "source"), None, syscalls.MS_SHARED)
    try:
        spec = bundle.spec("grep", " /x ", "/proc/self/mountinfo")
        spec.mounts.append(bind(tmp_path / "source", "/x", option))
        optional = bundle.run(spec).output.split(" - ")[0].split()[6:]
    finally:
        syscalls.umount2(str(tmp_path / "source"), syscalls.MNT_DETACH)
    assert any(field.startswith(seen) for field in optional) if seen else optional == []


def test_rootfs_propagation_shared_tells_nobody_outside(bundle: Bundle) -> None:
    for propagation, seen in (("shared", "shared:"), ("unbindable", "unbindable"), ("slave", ""), ("private", "")):
        spec = bundle.spec("grep", " / / \\| /.*rootfs / ", "/proc/self/mountinfo")
        spec.linux.rootfs_propagation = propagation
        assert seen in bundle.run(spec).output.split(" - ")[0]
    with open("/proc/self/mountinfo") as own:
        assert str(bundle.root) not in own.read()


def test_a_tmpfs_takes_over_what_it_covers(bundle: Bundle) -> None:
    data = bundle.root / "data"
    (data / "folder").mkdir(parents=True)
    (data / "folder/file").write_text("content")
    (data / "folder/file").chmod(0o640)
    os.chown(data / "folder/file", 12, 34)
    (data / "link").symlink_to("folder/file")
    os.link(data / "folder/file", data / "again")
    data.chmod(0o1750)
    look = "cat /data/link; stat -c ' %a %u %g %h' /data/folder/file; stat -c %a /data; echo y >/data/new"
    spec = bundle.spec("sh", "-c", look)
    spec.mounts.append(Mount(destination="/data", type="tmpfs", source="tmpfs", options=["tmpcopyup", "nosuid"]))
    assert bundle.run(spec).lines == ["content 640 12 34 2", "1750"]
    assert not (data / "new").exists()


def test_mounts_go_below_a_read_only_tmpfs(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    spec = bundle.spec("sh", "-c", "echo x >/t/below/file; touch /t/y || echo read-only")
    spec.mounts += [
        Mount(destination="/t", type="tmpfs", source="tmpfs", options=["ro"]),
        bind(tmp_path / "source", "/t/below"),
    ]
    assert bundle.run(spec).lines[-1] == "read-only"
    assert (tmp_path / "source/file").read_text() == "x\n"


def test_the_kernel_s_reason_is_in_the_error(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.mounts.append(Mount(destination="/x", type="tmpfs", source="tmpfs", options=["rprivate", "size=nonsense"]))
    with pytest.raises(RuntimeFailure, match="ad value for 'size'"):
        bundle.run(spec)


@pytest.mark.parametrize("userns", [False, True])
def test_a_mount_with_an_id_mapping(bundle: Bundle, nested: Path, userns: bool) -> None:
    os.chown(nested, 0, 0)
    os.chown(nested / "inner", 3, 4)
    mapping = [IDMapping(container_id=0, host_id=100000 if userns else 5000, size=100)]
    spec = bundle.spec("stat", "-c", "%u %g", "/x", "/x/inner")
    for option, below in (("ridmap", "3 4" if userns else "5003 5004"), ("idmap", "65534 65534" if userns else "3 4")):
        spec = bundle.spec("stat", "-c", "%u %g", "/x", "/x/inner")
        wanted = Mount(
            destination="/x", source=str(nested), options=["rbind", option], uid_mappings=mapping, gid_mappings=mapping
        )
        spec.mounts.append(wanted)
        if userns:
            with_user_namespace(spec)
        assert bundle.run(spec).lines == ["0 0" if userns else "5000 5000", below]


def test_a_mount_can_have_the_container_s_own_mapping(bundle: Bundle, nested: Path) -> None:
    spec = with_user_namespace(bundle.spec("sh", "-c", "stat -c %u /x; echo new >/x/new"))
    spec.mounts.append(Mount(destination="/x", source=str(nested), options=["bind", "idmap"]))
    nested.chmod(0o700)
    assert bundle.run(spec).lines == ["0"]
    assert (nested / "new").stat().st_uid == 0


def test_a_mapped_mount_of_an_earlier_mount(bundle: Bundle) -> None:
    """Done by the container's first process, which calls the mapping's process by another number than the host does."""
    mapping = [IDMapping(container_id=0, host_id=5000, size=100)]
    spec = bundle.spec("stat", "-c", "%u", "/b")
    for name in ("a", "b"):
        (bundle.root / name).mkdir()
    spec.mounts.append(Mount(destination="/a", type="tmpfs", source="tmpfs"))
    wanted = bind(bundle.root / "a", "/b", "idmap")
    wanted.uid_mappings = wanted.gid_mappings = mapping
    spec.mounts.append(wanted)
    assert bundle.run(spec).lines == ["5000"]


def test_a_mapped_mount_of_an_earlier_mount_in_a_user_namespace(bundle: Bundle, nested: Path) -> None:
    """Its clone can be made by the container alone, and mapped by the runtime alone."""
    spec = with_user_namespace(bundle.spec("stat", "-c", "%u %g", "/b"))
    for name in ("a", "b"):
        (bundle.root / name).mkdir()
    os.chown(nested, 3, 4)
    spec.mounts += [bind(nested, "/a"), bind(bundle.root / "a", "/b", "idmap")]
    assert bundle.run(spec).lines == ["3 4"]


def test_a_mapped_mount_without_mappings_is_refused(bundle: Bundle, nested: Path) -> None:
    spec = bundle.spec("true")
    spec.mounts.append(Mount(destination="/x", source=str(nested), options=["bind", "idmap"]))
    with pytest.raises(RuntimeFailure, match="must have both uid and gid mappings"):
        bundle.run(spec)


def test_binds_of_what_the_container_s_root_may_not_see(bundle: Bundle, tmp_path: Path) -> None:
    secret = tmp_path / "closed/secret"
    secret.mkdir(parents=True)
    (secret / "file").write_text("seen")
    secret.parent.chmod(0o700)
    spec = with_user_namespace(bundle.spec("cat", "/x/file"))
    spec.mounts.append(bind(secret, "/x"))
    assert bundle.run(spec).output == "seen"


def test_a_relative_source_is_of_the_bundle(bundle: Bundle) -> None:
    (bundle.path / "beside").write_text("beside")
    spec = bundle.spec("cat", "/y")
    spec.mounts.append(bind("beside", "/y"))
    assert bundle.run(spec).output == "beside"


# -- devices


@pytest.mark.parametrize("userns", [False, True])
def test_devices_are_made(bundle: Bundle, userns: bool) -> None:
    spec = bundle.spec("stat", "-c", "%F %t:%T", "/dev/null", "/dev/fifo", "/dev/sub/zero")
    spec.linux.devices = [
        Device(type="p", path="/dev/fifo", file_mode=0o600),
        Device(type="c", path="/dev/zero", major=1, minor=5, uid=0, gid=0),
    ]
    lines = ["character special file 1:3", "fifo 0:0"]
    if userns:
        with_user_namespace(spec)
        spec.process.args.pop()  # type: ignore[union-attr]
    else:
        spec.linux.devices.append(Device(type="b", path="/dev/sub/zero", major=7, minor=99, file_mode=0o640))
        lines.append("block special file 7:63")
    assert bundle.run(spec).lines == lines


def test_a_device_where_another_file_is_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.root / "node").write_text("a file")
    spec = bundle.spec("true")
    spec.linux.devices = [Device(type="c", path="/node", major=1, minor=3)]
    with pytest.raises(RuntimeFailure, match="is there and is another file"):
        bundle.run(spec)
    assert (bundle.root / "node").read_text() == "a file"


# -- the process


def test_ids_groups_and_umask(bundle: Bundle) -> None:
    spec = bundle.spec("sh", "-c", "id; umask; pwd; echo $HOME")
    user = spec.process.user  # type: ignore[union-attr]
    user.uid, user.gid, user.additional_gids, user.umask = 1000, 50, [60, 70], 0o077
    spec.process.cwd = "/made/on/the/way"  # type: ignore[union-attr]
    lines = bundle.run(spec).lines
    assert lines[0].startswith("uid=1000")
    assert "groups=60,70" in lines[0].replace("(user)", "").replace("(root)", "")
    assert lines[1:] == ["0077", "/made/on/the/way", "/home/user"]


def test_rlimits(bundle: Bundle) -> None:
    for userns in (False, True):
        spec = bundle.spec("cat", "/proc/self/limits")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        spec.process.rlimits = [  # type: ignore[union-attr]
            Rlimit(type="RLIMIT_NOFILE", soft=77, hard=min(hard, 88)),
            Rlimit(type="RLIMIT_RTTIME", soft=5, hard=6),
            Rlimit(type="RLIMIT_CORE", soft=0, hard=0),
        ]
        if userns:
            with_user_namespace(spec)
        rows = {line[:25].strip(): line[25:].split()[:2] for line in bundle.run(spec).lines}
        assert rows["Max open files"] == ["77", "88"]
        assert rows["Max realtime timeout"] == ["5", "6"]
        assert rows["Max core file size"] == ["0", "0"]


@pytest.mark.parametrize("kind", ["RLIMIT_NONE", "RUSAGE_SELF", "setrlimit"])
def test_an_unknown_rlimit_is_refused(bundle: Bundle, kind: str) -> None:
    spec = bundle.spec("true")
    spec.process.rlimits = [Rlimit(type=kind, soft=1, hard=1)]  # type: ignore[union-attr]
    with pytest.raises(RuntimeFailure, match="wrong rlimit value"):
        bundle.run(spec)


def test_capabilities_in_all_five_sets(bundle: Bundle) -> None:
    spec = bundle.spec("grep", "Cap", "/proc/self/status")
    spec.process.user.uid = 1000  # type: ignore[union-attr]
    spec.process.capabilities = Capabilities(  # type: ignore[union-attr]
        bounding=["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        permitted=["CAP_CHOWN", "CAP_KILL"],
        inheritable=["CAP_KILL"],
        effective=["CAP_KILL"],
        ambient=["CAP_KILL"],
    )
    rows = dict(line.split() for line in bundle.run(spec).lines)
    assert rows == {
        "CapInh:": f"{1 << 5:016x}",
        "CapPrm:": f"{1 << 5:016x}",
        "CapEff:": f"{1 << 5:016x}",
        "CapBnd:": f"{1 << 0 | 1 << 5 | 1 << 7:016x}",
        "CapAmb:": f"{1 << 5:016x}",
    }


def test_no_new_privileges(bundle: Bundle) -> None:
    spec = bundle.spec("grep", "NoNewPrivs", "/proc/self/status")
    spec.process.no_new_privileges = True  # type: ignore[union-attr]
    assert bundle.run(spec).output.split()[1] == "1"


def test_scheduler_io_priority_and_oom_score(bundle: Bundle) -> None:
    look = "cat /proc/self/oom_score_adj; cut -d' ' -f19,41 /proc/self/stat"
    (bundle.root / "bin/cut").symlink_to("busybox")
    (bundle.root / "bin/ionice").symlink_to("busybox")
    spec = bundle.spec("sh", "-c", look + "; ionice -p $$")
    wanted = spec.process
    assert wanted is not None
    wanted.oom_score_adj = 321
    wanted.scheduler = Scheduler(policy="SCHED_BATCH", nice=7, flags=["SCHED_FLAG_RESET_ON_FORK"])
    wanted.io_priority = IOPriority(class_="IOPRIO_CLASS_BE", priority=6)
    wanted.scheduler.flags = []
    assert bundle.run(spec).lines == ["321", "7 3", "best-effort: prio 6"]


def test_a_deadline_and_a_choice_of_cpus_exclude_each_other(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    assert spec.process is not None
    spec.process.scheduler = Scheduler(policy="SCHED_DEADLINE", runtime=42000, deadline=100_000, period=1_000_000)
    spec.linux.resources = Resources(cpu=Cpu(cpus="0"))
    with pytest.raises(RuntimeFailure, match="process scheduler can't be used together with AllowedCPUs"):
        bundle.run(spec)


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (Scheduler(policy="SCHED_NONE"), "invalid scheduler policy"),
        (Scheduler(policy="SCHED_OTHER", nice=30), "invalid scheduler.nice"),
        (Scheduler(policy="SCHED_OTHER", priority=3), "SchedFIFO or SchedRR"),
        (Scheduler(policy="SCHED_FIFO", runtime=3), "SchedDeadline"),
    ],
)
def test_a_scheduler_that_can_t_be_is_refused(bundle: Bundle, wanted: Scheduler, complaint: str) -> None:
    spec = bundle.spec("true")
    spec.process.scheduler = wanted  # type: ignore[union-attr]
    with pytest.raises(RuntimeFailure, match=complaint):
        bundle.run(spec)


def test_cpu_affinity_of_a_later_process(bundle: Bundle) -> None:
    last = max(os.sched_getaffinity(0))

    def act() -> str:
        with bundle.running(bundle.spec("sleep", "100")) as (container, _):
            affinity = CPUAffinity(initial="0", final=f"{last}")
            wanted = process("grep", "Cpus_allowed_list", "/proc/self/status", exec_cpu_affinity=affinity)
            return execute(container, wanted).output.split()[1]

    assert apart(act) == str(last)


def test_a_container_is_not_bound_to_the_runtime_s_cpus(bundle: Bundle) -> None:
    every = os.sched_getaffinity(0)

    def act() -> list[str]:
        os.sched_setaffinity(0, {min(every)})
        look = ("grep", "Cpus_allowed_list", "/proc/self/status")
        with bundle.running(bundle.spec("sh", "-c", " ".join(look) + "; sleep 100")) as (container, output):
            later = execute(container, process(*look)).output.split()[1]
            return [os.pread(output, 100, 0).decode().split()[1], later]

    assert [set(number_set(answer, "CPUs")) for answer in apart(act)] == [every, every]


def test_personality_and_memory_policy(bundle: Bundle) -> None:
    spec = bundle.spec(
        "sh", "-c", "uname -m; grep -c prefer= /proc/self/numa_maps; grep -c bind:0 /proc/self/numa_maps"
    )
    spec.linux.personality = Personality(domain="LINUX32")
    spec.linux.memory_policy = MemoryPolicy(mode="MPOL_BIND", nodes="0")
    machine, _, bound = bundle.run(spec).lines
    assert machine == "i686"
    assert int(bound) > 0


def test_a_terminal_in_the_size_asked_for(bundle: Bundle) -> None:
    (bundle.root / "bin/stty").symlink_to("busybox")
    spec = bundle.spec("sh", "-c", "stty size; stat -c %t:%T /dev/console; test -t 0 && readlink /proc/self/fd/1")
    spec.process.terminal, spec.process.console_size = True, Box(height=33, width=99)  # type: ignore[union-attr]
    lines = bundle.run(spec).lines
    assert lines[0] == "33 99"
    assert lines[1].startswith("88:")
    assert lines[2].startswith("/dev/pts/")


@pytest.mark.parametrize(
    ("args", "complaint", "code"),
    [
        (["nothing-of-this-name"], 'exec: "nothing-of-this-name": executable file not found in \\$PATH', 127),
        (["/no/such"], 'exec: "/no/such": stat /no/such: no such file or directory', 127),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied', 126),
        (["/etc"], 'exec: "/etc": is a directory', 126),
    ],
)
def test_a_program_that_can_t_be_executed(bundle: Bundle, args: list[str], complaint: str, code: int) -> None:
    with pytest.raises(RuntimeFailure, match=complaint) as caught:
        bundle.run(bundle.spec(*args))
    assert caught.value.exit_code == code


def test_labels_that_this_kernel_has_not_are_refused(bundle: Bundle) -> None:
    for name, value in (("apparmor_profile", "x"), ("selinux_label", "a:b:c:s0")):
        spec = bundle.spec("true")
        setattr(spec.process, name, value)
        with pytest.raises(RuntimeFailure, match="disabled or not supported"):
            bundle.run(spec)


# -- seccomp


def filtered(bundle: Bundle, rule: SeccompRule, *args: str, default: str = "SCMP_ACT_ALLOW", **others: Any) -> Spec:
    spec = bundle.spec(*args)
    spec.linux.seccomp = Seccomp(default_action=default, syscalls=[rule], **others)
    return spec


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("uid", [0, 1000])
def test_seccomp_actions(bundle: Bundle, no_new_privileges: bool, uid: int) -> None:
    for action, errno_ret, expected in (
        ("SCMP_ACT_ERRNO", 38, "mkdir: can't create directory '/tmp/x': Function not implemented"),
        ("SCMP_ACT_ERRNO", None, "mkdir: can't create directory '/tmp/x': Operation not permitted"),
        ("SCMP_ACT_KILL_PROCESS", None, "Bad system call"),
        ("SCMP_ACT_TRAP", None, "Bad system call"),
        ("SCMP_ACT_LOG", None, ""),
        ("SCMP_ACT_TRACE", None, "mkdir: can't create directory '/tmp/x': Function not implemented"),
    ):
        rule = SeccompRule(names=["mkdir", "mkdirat"], action=action, errno_ret=errno_ret)
        spec = filtered(bundle, rule, "sh", "-c", "mkdir /tmp/x; true")
        spec.mounts.append(Mount(destination="/tmp", type="tmpfs", source="tmpfs", options=["mode=1777"]))
        assert spec.process is not None
        spec.process.no_new_privileges = no_new_privileges
        spec.process.user.uid = uid
        output = bundle.run(spec).output
        assert expected in output if expected else output == ""


def test_a_filter_need_not_allow_what_the_runtime_does(bundle: Bundle) -> None:
    """Only what follows it: setting capabilities, and the program."""
    never = ["setresuid", "setresgid", "setgroups", "chdir", "recvmsg", "sendmsg", "close_range", "openat2"]
    for uid in (0, 1000):
        spec = filtered(bundle, SeccompRule(names=never, action="SCMP_ACT_KILL_PROCESS"), "true")
        assert spec.process is not None
        assert spec.process.capabilities is not None
        spec.process.user.uid = uid
        spec.process.no_new_privileges = True
        assert bundle.run(spec).status == 0


def test_arguments_of_calls_are_compared(bundle: Bundle) -> None:
    for operator, value, two, refused in (
        ("SCMP_CMP_EQ", 0o700, 0, True),
        ("SCMP_CMP_NE", 0o700, 0, False),
        ("SCMP_CMP_LT", 0o701, 0, True),
        ("SCMP_CMP_LE", 0o677, 0, False),
        ("SCMP_CMP_GT", 0o700, 0, False),
        ("SCMP_CMP_GE", 0o700, 0, True),
        ("SCMP_CMP_MASKED_EQ", 0o070, 0, True),
        ("SCMP_CMP_MASKED_EQ", 0o700, 0o600, False),
    ):
        argument = SeccompArg(index=1, value=value, value_two=two, op=operator)
        rule = SeccompRule(names=["chmod"], action="SCMP_ACT_ERRNO", args=[argument])
        result = bundle.run(filtered(bundle, rule, "chmod", "700", "/root"))
        assert (result.status != 0) == refused, (operator, value)


def test_a_call_newer_than_the_profile_does_not_exist(bundle: Bundle) -> None:
    ask = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.syscall({}); print(ctypes.get_errno())"
    for number, expected in ((600, "38"), (246, "1")):
        spec = bundle.spec(*python(ask.format(number)))
        host_python(spec)
        profile = bundle_profile()
        spec.linux.seccomp = profile
        assert bundle.run(spec).output.strip() == expected


def bundle_profile() -> Seccomp:
    from dockyard.runtime import defaults

    return defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        (Seccomp(default_action="SCMP_ACT_NONE"), "invalid seccomp action"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", flags=["NONE"]), "is not known"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_NONE"]), "invalid seccomp architecture"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", listener_metadata="x"), "listenerPath is not"),
        (Seccomp(default_action="SCMP_ACT_KILL", default_errno_ret=1), "does not take an errnoRet"),
        (
            Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[SeccompRule(names=["mkdir"], action="SCMP_ACT_NOTIFY")]),
            "listenerPath is not set",
        ),
    ],
)
def test_a_profile_that_can_t_be_kept_is_refused(bundle: Bundle, profile: Seccomp, complaint: str) -> None:
    spec = bundle.spec("true")
    spec.linux.seccomp = profile
    with pytest.raises(RuntimeFailure, match=complaint):
        bundle.run(spec)


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_an_agent_gets_the_listener_of_the_container_and_of_a_later_process(
    bundle: Bundle, no_new_privileges: bool
) -> None:
    told: list[dict[str, Any]] = []

    def act() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as agent:
            agent.bind(f"{folder}/agent.sock")
            agent.listen()

            rule = SeccompRule(names=["mkdir"], action="SCMP_ACT_NOTIFY")
            spec = filtered(
                bundle, rule, "sleep", "100", listener_path=f"{folder}/agent.sock", listener_metadata="for the agent"
            )
            assert spec.process is not None
            spec.process.no_new_privileges = no_new_privileges
            spec.annotations = {"key": "value"}

            def take() -> None:
                peer, _ = agent.accept()
                data, fds, _, _ = socket.recv_fds(peer, 1 << 16, 4)
                peer.close()
                told.append(json.loads(data) | {"descriptors": [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]})
                for fd in fds:
                    os.close(fd)

            taking = threading.Thread(target=take)
            taking.start()
            with bundle.running(spec) as (container, _):
                taking.join()
                taking = threading.Thread(target=take)
                taking.start()
                # nobody is there any more to decide: the call does not exist
                wanted = process("mkdir", "/tmp/y")
                wanted.no_new_privileges = no_new_privileges
                result = execute(container, wanted)
                taking.join()
                assert "Function not implemented" in result.output
                told.append({"pid": container.record.pid})
        return told

    first, second, container = apart(act)
    assert first["fds"] == second["fds"] == ["seccompFd"]
    assert first["descriptors"] == second["descriptors"] == ["anon_inode:seccomp notify"]
    assert first["metadata"] == "for the agent"
    assert first["pid"] == first["state"]["pid"] == second["state"]["pid"] == container["pid"] != second["pid"]
    assert (first["state"]["status"], second["state"]["status"]) == ("creating", "running")
    assert first["state"]["annotations"] == {"key": "value"}


# -- hooks


def test_hooks_run_in_their_order_with_the_state_and_in_their_namespaces(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    note = 'read state; echo "$0 $(readlink /proc/self/ns/mnt) $state" >>{}'
    spec = bundle.spec("sh", "-c", "echo program - >>/log")
    spec.mounts.append(bind(log, "/log"))

    def hook(kind: str, path: Path | str) -> list[Hook]:
        args = ["sh", "-c", note.format(path), kind]
        return [Hook(path="/bin/sh", args=args, env=["PATH=/bin:/usr/bin"])]

    spec.hooks = Hooks(
        prestart=hook("prestart", log),
        create_runtime=hook("createRuntime", log),
        create_container=hook("createContainer", log),
        start_container=hook("startContainer", "/log"),
        poststart=hook("poststart", log),
        poststop=hook("poststop", log),
    )
    bundle.run(spec)
    rows = [line.split(" ", 2) for line in log.read_text().splitlines()]
    order = [row[0] for row in rows]
    assert order[:4] == ["prestart", "createRuntime", "createContainer", "startContainer"]
    assert sorted(order[4:6]) == ["poststart", "program"]
    assert order[6:] == ["poststop"]
    own = os.readlink("/proc/self/ns/mnt")
    by_kind = {row[0]: row for row in rows}
    for kind, here in (
        ("prestart", True),
        ("createRuntime", True),
        ("createContainer", False),
        ("startContainer", False),
    ):
        assert (by_kind[kind][1] == own) == here
    statuses = {kind: json.loads(by_kind[kind][2])["status"] for kind in order if kind != "program"}
    assert statuses == {
        "prestart": "creating",
        "createRuntime": "creating",
        "createContainer": "creating",
        "startContainer": "created",
        "poststart": "running",
        "poststop": "stopped",
    }


@pytest.mark.parametrize("kind", ["prestart", "create_runtime", "create_container", "start_container", "poststart"])
def test_a_failing_hook_ends_the_container_and_poststop_runs(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    after = tmp_path / "after"
    spec = bundle.spec("sleep", "100")
    hooks = Hooks(poststop=[Hook(path="/bin/sh", args=["sh", "-c", f"echo end >>{after}"])])
    setattr(hooks, kind, [Hook(path="/bin/sh", args=["sh", "-c", "echo why >&2; exit 3"])])
    spec.hooks = hooks
    with pytest.raises(RuntimeFailure, match=r"hook #0: exit status 3.*why"):
        bundle.run(spec)
    assert after.read_text() == "end\n"
    assert os.listdir(bundle.state) == []


def test_a_hook_that_takes_too_long_is_ended(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.hooks = Hooks(create_runtime=[Hook(path="/bin/sleep", args=["sleep", "60"], timeout=1)])
    began = time.monotonic()
    with pytest.raises(RuntimeFailure, match=r"ran past specified timeout of 1\.0s"):
        bundle.run(spec)
    assert time.monotonic() - began < 20


# -- Intel RDT, on directories that look like resctrl: no machine here has it


@pytest.fixture
def resctrl(tmp_path: Path) -> Path:
    for folder in ("info/L3", "info/MB", "shared", "mon_groups"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "shared/schemata").write_text("    L3:0=7f0;1=1f\n    MB:0=20;1=70\n")
    return tmp_path


def test_a_class_of_service_is_joined_only_as_it_is(resctrl: Path) -> None:
    wanted = IntelRdt(clos_id="shared", l3_cache_schema="L3:1=01f;0=7f0")
    intel_rdt.check(wanted, str(resctrl))
    assert intel_rdt.join(wanted, "c1", 42, str(resctrl)) == []
    assert (resctrl / "shared/tasks").read_text() == "42"
    with pytest.raises(RuntimeFailure, match="do not say"):
        intel_rdt.join(IntelRdt(clos_id="shared", l3_cache_schema="L3:0=1;1=1f"), "c1", 42, str(resctrl))
    with pytest.raises(RuntimeFailure, match="does not exist"):
        intel_rdt.join(IntelRdt(clos_id="missing"), "c1", 42, str(resctrl))


def test_a_class_of_service_of_the_container_s_own_goes_with_it(resctrl: Path) -> None:
    wanted = IntelRdt(l3_cache_schema="L3:0=1", mem_bw_schema="MB:0=10", schemata=["L2:0=f"])
    made = intel_rdt.join(wanted, "c1", 42, str(resctrl))
    assert made == [f"{resctrl}/c1"]
    assert (resctrl / "c1/schemata").read_text() == "L3:0=1\nMB:0=10\nL2:0=f\n"
    assert (resctrl / "c1/tasks").read_text() == "42"


def test_rdt_on_a_machine_without_it_is_refused(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.linux.intel_rdt = IntelRdt(clos_id="x")
    with pytest.raises(RuntimeFailure, match="Intel RDT is not enabled"):
        bundle.run(spec)


# -- the rest


def test_a_container_without_a_mount_namespace_leaves_no_mounts(bundle: Bundle) -> None:
    spec = bundle.spec("sh", "-c", "cat /proc/self/comm; ls /")
    spec.linux = Linux(
        namespaces=[Namespace(type=kind) for kind in ("pid", "network", "ipc", "uts")],
        cgroups_path=spec.linux.cgroups_path,
    )
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    result = bundle.run(spec)
    assert result.lines[0] == "cat"
    assert "bin" in result.lines
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before


def test_a_read_only_root(bundle: Bundle) -> None:
    spec = bundle.spec("sh", "-c", "touch /x || echo no; touch /dev/x && echo yes")
    spec.root.readonly = True
    assert bundle.run(spec).lines[-2:] == ["no", "yes"]


def test_the_way_in_without_pivot_root(bundle: Bundle) -> None:
    capable = bundle.spec("sh", "-c", "ls /; mount -t proc x /tmp && ls /tmp/sys/kernel/core_pattern; echo end")
    capabilities = capable.process.capabilities  # type: ignore[union-attr]
    assert capabilities is not None
    for names in (capabilities.bounding, capabilities.effective, capabilities.permitted):
        names.append("CAP_SYS_ADMIN")
    result = bundle.run(capable, pivot=False)
    assert "bin" in result.lines
    assert result.lines[-1] == "end"
    assert stat.S_ISDIR((bundle.root / "tmp").stat().st_mode)
