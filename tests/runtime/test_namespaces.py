"""Namespaces, made and joined, and what is set in them: names, sysctls, clocks, network devices."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import (
    Namespace,
    NetDevice,
    TimeOffset,
)
from dockyard.runtime.lifecycle.container import RuntimeFailure
from tests.runtime.bundle import (
    Bundle,
    apart,
    execute,
    process,
    with_user_namespace,
)


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


@pytest.mark.parametrize("equal", [True, False])
def test_a_user_namespace_is_joined_together_with_its_own_mappings_only(bundle: Bundle, equal: bool) -> None:
    first = with_user_namespace(bundle.spec("sleep", "100"))

    def act() -> list[str]:
        with bundle.running(first) as (container, _):
            second = with_user_namespace(bundle.spec("cat", "/proc/self/uid_map"))
            second.linux.namespaces[-1].path = f"/proc/{container.record.pid}/ns/user"
            # in whatever order
            second.linux.uid_mappings = second.linux.uid_mappings[:: -1 if equal else 2]
            with bundle.created(second) as (other, output):
                other.start()
                os.waitpid(other.record.pid, 0)
                return os.pread(output, 1000, 0).decode().splitlines()

    if equal:
        assert [row.split() for row in apart(act)] == [["0", "100000", "1000"], ["1000", "200000", "500"]]
        return
    with pytest.raises(RuntimeFailure, match="both namespace path and non-matching mapping"):
        apart(act)


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
