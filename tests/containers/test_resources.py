"""Limits, devices and rights of containers, on the real kernel: what is asked for is what the kernel enforces."""

import json
import os
import random
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.containers.config import HostConfig, ThrottleRate, Ulimit
from dockyard.engine.containers.spec import limits
from dockyard.engine.containers.spec.devices import devices_of, parse_rule
from dockyard.engine.containers.spec.runtime_spec import tmpfs_options
from dockyard.engine.containers.spec.security import granted_capabilities, seccomp_profile, security_options
from dockyard.engine.system.host_limits import HostLimits, host_limits, numbers_of
from dockyard.errors import Conflict, InvalidParameter
from dockyard.linux import cgroups
from dockyard.linux.cgroups import layout
from tests.engine_process import EngineProcess

EVERYTHING = HostLimits(*([True] * 12), cpus="0-3", mems="0")
NOTHING = HostLimits(*([False] * 12), cpus="0-3", mems="0")
version_1 = pytest.mark.skipif(cgroups.layout().version == 2, reason="looks at files of cgroup v1")


def group_file(engine: EngineProcess, name: str, controller: str, file: str) -> str:
    """What the kernel says of a container's limit."""
    container_id = engine.inspect(name)["Id"]
    top = cgroups.layout().tops[controller]
    return Path(f"{top}/{engine.bridge}/{container_id}/{file}").read_text().strip()


def create(engine: EngineProcess, **host: Any) -> tuple[int, Any]:
    return engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})


# -- what is refused, and in which words


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (HostConfig(memory=1 << 20), "Minimum memory limit allowed is 6MB"),
        (HostConfig(memory_swap=64 << 20), "You should always set the Memory limit when using Memoryswap limit"),
        (HostConfig(memory=64 << 20, memory_swap=32 << 20), "Minimum memoryswap limit should be larger than memory"),
        (HostConfig(memory_swappiness=101), "Invalid value: 101, valid memory swappiness range is 0-100"),
        (HostConfig(memory_reservation=1), "Minimum memory reservation allowed is 6MB"),
        (HostConfig(memory=8 << 20, memory_reservation=9 << 20), "can not be less than memory reservation limit"),
        (HostConfig(nano_cpus=10**9, cpu_period=5000), "Nano CPUs and CPU Period cannot both be set"),
        (HostConfig(nano_cpus=10**9, cpu_quota=5000), "Nano CPUs and CPU Quota cannot both be set"),
        (HostConfig(nano_cpus=10**15), "range of CPUs is from 0.01 to"),
        (HostConfig(cpu_period=10), "CPU cfs period can not be less than 1ms"),
        (HostConfig(cpu_quota=10), "CPU cfs quota can not be less than 1ms"),
        (HostConfig(cpuset_cpus="a-b"), "Invalid value a-b for cpuset cpus"),
        (HostConfig(cpuset_cpus="900"), "Requested CPUs are not available - requested 900, available: 0-3"),
        (HostConfig(cpuset_mems="7"), "Requested memory nodes are not available - requested 7, available: 0"),
        (HostConfig(blkio_weight=5), "Range of blkio weight is from 10 to 1000"),
        (HostConfig(io_maximum_iops=5), "Invalid QoS settings"),
        (HostConfig(oom_score_adj=2000), "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
        (HostConfig(shm_size=-1), "SHM size can not be less than 0"),
        (HostConfig(ulimits=[Ulimit("nofile", 1, 2)]), "soft limit must be less than or equal to hard limit: 2 > 1"),
        (HostConfig(ulimits=[Ulimit("files", 1, 1)]), "invalid ulimit type: files"),
    ],
)
def test_limits_that_cannot_be_are_refused(host: HostConfig, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message.replace("[", r"\[").replace("(", r"\(")):
        limits.verify(host, EVERYTHING)


def test_what_the_kernel_lacks_is_left_out_with_a_warning() -> None:
    host = HostConfig(
        memory=64 << 20,
        cpu_shares=512,
        cpuset_cpus="0",
        blkio_weight=100,
        pids_limit=5,
        oom_kill_disable=True,
        blkio_device_read_bps=[ThrottleRate("/dev/null", 1)],
    )
    warnings = limits.verify(host, NOTHING)
    assert limits.resources(host).cpu is None
    assert limits.resources(host).memory is None
    assert len(warnings) == 7
    assert (
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
    ) in warnings


def test_an_update_that_contradicts_what_is_set_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="CPU Quota cannot be updated as NanoCPUs has already been set"):
        limits.updated(HostConfig(nano_cpus=10**9), HostConfig(cpu_quota=50000))
    with pytest.raises(Conflict, match="update the memoryswap at the same time"):
        limits.updated(HostConfig(memory=32 << 20, memory_swap=64 << 20), HostConfig(memory=128 << 20))


def test_numbers_are_read_as_the_kernel_writes_them() -> None:
    assert numbers_of("0-2,5") == {0, 1, 2, 5}
    for malformed in ("x", "2-1", "1-", "-1"):
        with pytest.raises(InvalidParameter):
            numbers_of(malformed)


def test_device_rules_are_dockers() -> None:
    assert parse_rule("c 7:* rmw").major == 7
    for malformed in ("x 1:1 r", "c 1:1", "c 1 r", "c 1:1 rwmx"):
        with pytest.raises(InvalidParameter, match="invalid device cgroup rule format"):
            parse_rule(malformed)
    with pytest.raises(InvalidParameter, match='adding custom device "/dev/nope": no such file or directory'):
        devices_of(HostConfig(devices=[_mapping("/dev/nope")]))


def _mapping(path: str, permissions: str = "") -> Any:
    from dockyard.engine.containers.config import DeviceMapping

    return DeviceMapping(path, path, permissions)


def test_security_options_are_dockers() -> None:
    assert security_options(["no-new-privileges"]).no_new_privileges
    assert security_options(["no-new-privileges=false"]).no_new_privileges is False
    assert security_options(["seccomp:unconfined"]).seccomp == "unconfined"
    assert security_options(["writable-cgroups=true"]).writable_cgroups
    assert security_options(["label=disable", "label=type:x", "disable"]).seccomp == ""
    with pytest.raises(InvalidParameter, match='invalid --security-opt 1: "nonsense"'):
        security_options(["nonsense"])
    with pytest.raises(InvalidParameter, match='invalid --security-opt 2: "no-new-privileges=perhaps"'):
        security_options(["no-new-privileges=perhaps"])


def test_conditions_of_a_seccomp_profile_are_kept() -> None:
    rules = [
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["pdp11"]}},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "2.6"}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"name": "close", "action": "SCMP_ACT_ALLOW", "args": None, "excludes": {"caps": ["CAP_CHOWN"]}},
    ]
    profile = seccomp_profile(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}), ["CAP_CHOWN"])
    assert [rule.names for rule in profile.syscalls] == [["write"]]


def test_capabilities_are_added_and_dropped_by_any_of_their_names() -> None:
    assert "CAP_SYS_ADMIN" in granted_capabilities(["sys_admin"], None, False)
    assert granted_capabilities(["NET_RAW"], ["all"], False) == ["CAP_NET_RAW"]
    assert "CAP_CHOWN" not in granted_capabilities(["ALL"], ["CHOWN"], False)
    with pytest.raises(InvalidParameter, match='invalid CapDrop: unknown capability: "CAP_NOPE"'):
        granted_capabilities(None, ["nope"], False)
    with pytest.raises(InvalidParameter, match='invalid CapAdd: unknown capability: "CAP_ALL"'):
        granted_capabilities(["cap_all"], None, False)


def test_tmpfs_options_override_their_opposites() -> None:
    assert tmpfs_options("exec,size=1m,size=2m,rw") == ["nosuid", "nodev", "exec", "size=2m", "rw"]
    with pytest.raises(InvalidParameter, match='invalid tmpfs option "colour"'):
        tmpfs_options("colour=blue")


# -- what the kernel then has


@version_1
def test_every_limit_reaches_the_kernel(engine: EngineProcess) -> None:
    cpu = numbers_of(host_limits().cpus).pop()
    engine.docker(
        "run", "-d", "--name", "limited", "--memory=64m", "--memory-swap=128m", "--memory-reservation=32m",
        "--memory-swappiness=10", "--cpus=0.5", "--cpu-shares=512", f"--cpuset-cpus={cpu}", "--cpuset-mems=0",
        "--pids-limit=33", "--oom-score-adj=123", "--shm-size=8m", "--ulimit=nofile=100:200", "--ulimit=core=0",
        "--tmpfs=/scratch:size=1m,mode=700,exec", "busybox", "sleep", "1000",
    )  # fmt: skip
    try:
        wanted = {
            ("memory", "memory.limit_in_bytes"): 64 << 20,
            ("memory", "memory.memsw.limit_in_bytes"): 128 << 20,
            ("memory", "memory.soft_limit_in_bytes"): 32 << 20,
            ("memory", "memory.swappiness"): 10,
            ("cpu", "cpu.cfs_quota_us"): 50_000,
            ("cpu", "cpu.shares"): 512,
            ("cpuset", "cpuset.cpus"): cpu,
            ("cpuset", "cpuset.mems"): 0,
            ("pids", "pids.max"): 33,
        }
        for (controller, file), value in wanted.items():
            assert group_file(engine, "limited", controller, file) == str(value), file
        inside = engine.docker(
            "exec", "limited", "sh", "-c",
            "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/1/oom_score_adj; df -k /dev/shm /scratch | awk '{print $2}';"
            "grep ' /scratch ' /proc/mounts",
        ).split("\n")  # fmt: skip
        assert inside[:7] == ["100", "200", "0", "123", "1K-blocks", "8192", "1024"]
        assert "noexec" not in inside[7]
        assert engine.inspect("limited")["HostConfig"]["MemorySwap"] == 128 << 20
    finally:
        engine.docker("rm", "-f", "limited")


@version_1
def test_update_changes_a_running_container(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "grows", "--memory=32m", "--cpu-quota=20000", "busybox", "sleep", "1000")
    try:
        engine.docker(
            "update", "--memory=64m", "--memory-swap=-1", "--memory-reservation=16m", "--cpu-quota=30000",
            "--cpu-period=50000", "--cpu-shares=300", "--pids-limit=44", "--restart=on-failure:3", "grows",
        )  # fmt: skip
        assert group_file(engine, "grows", "memory", "memory.limit_in_bytes") == str(64 << 20)
        assert int(group_file(engine, "grows", "memory", "memory.memsw.limit_in_bytes")) > 1 << 60
        assert group_file(engine, "grows", "cpu", "cpu.cfs_quota_us") == "30000"
        assert group_file(engine, "grows", "cpu", "cpu.cfs_period_us") == "50000"
        assert group_file(engine, "grows", "cpu", "cpu.shares") == "300"
        assert group_file(engine, "grows", "pids", "pids.max") == "44"
        engine.docker("update", "--pids-limit=-1", "grows")
        assert group_file(engine, "grows", "pids", "pids.max") == "max"
        shown = engine.inspect("grows")["HostConfig"]
        assert shown["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
        assert (shown["Memory"], shown["MemorySwap"], shown["CpuShares"]) == (64 << 20, -1, 300)
        done = engine.run_docker("update", "--cpus=1", "grows")
        assert b"Nano CPUs cannot be updated as CPU Period has already been set" in done.stderr
        # what was refused has changed nothing
        assert engine.inspect("grows")["HostConfig"]["NanoCpus"] == 0
    finally:
        engine.docker("rm", "-f", "grows")


@version_1
def test_block_devices_are_throttled(engine: EngineProcess, tmp_path: Path) -> None:
    device = _block_device(tmp_path)
    try:
        engine.docker(
            "run", "-d", "--name", "slow", f"--device-read-bps={device}:1mb", f"--device-write-bps={device}:2mb",
            f"--device-read-iops={device}:100", f"--device-write-iops={device}:200", "busybox", "sleep", "1000",
        )  # fmt: skip
        number = os.stat(device).st_rdev
        name = f"{os.major(number)}:{os.minor(number)}"
        for file, value in (("read_bps", 1 << 20), ("write_bps", 2 << 20), ("read_iops", 100), ("write_iops", 200)):
            assert group_file(engine, "slow", "blkio", f"blkio.throttle.{file}_device") == f"{name} {value}"
    finally:
        engine.run_docker("rm", "-f", "slow")
        subprocess.run(["losetup", "-d", device], check=True)
    status, answer = create(engine, BlkioDeviceReadBps=[{"Path": "/dev/nope", "Rate": 1}])
    assert status == 201
    failed = engine.api("POST", f"/containers/{answer['Id']}/start")
    assert failed[0] == 400
    assert "stat /dev/nope: no such file or directory" in failed[1]["message"]
    engine.api("DELETE", f"/containers/{answer['Id']}")


def _block_device(folder: Path) -> str:
    image = folder / "disk"
    image.write_bytes(b"")
    os.truncate(image, 1 << 20)
    made = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr}")
    return made.stdout.strip()


def test_a_container_gets_the_devices_it_asks_for_and_no_others(engine: EngineProcess) -> None:
    script = "cat /dev/mine/net/tun 2>&1; [ -c /dev/mine/net/tun ] && echo made; head -c 1 /dev/kmsg 2>&1; true"
    if not Path("/dev/net/tun").exists():
        pytest.skip("no /dev/net/tun here")
    said = engine.docker("run", "--rm", "--device=/dev/net:/dev/mine/net:r", "busybox", "sh", "-c", script)
    assert "made" in said
    assert "File descriptor in bad state" in said  # opened: it is only not configured
    assert "can't open '/dev/kmsg'" in said or "/dev/kmsg: No such file" in said


def test_a_device_rule_lets_nodes_made_inside_be_opened(engine: EngineProcess) -> None:
    script = "mknod /tmp/fuse c 10 229; : < /tmp/fuse && echo opened"
    assert "opened" not in engine.run_docker("run", "--rm", "busybox", "sh", "-c", script).stdout.decode()
    allowed = engine.run_docker("run", "--rm", "--device-cgroup-rule=c 10:229 r", "busybox", "sh", "-c", script)
    assert "opened" in allowed.stdout.decode(), allowed.stderr


def test_a_vpn_program_may_make_and_open_its_tun_device(engine: EngineProcess) -> None:
    script = "mkdir -p /dev/net; mknod /dev/net/tun c 10 200; : <>/dev/net/tun && echo opened"
    assert engine.docker("run", "--rm", "--cap-add=NET_ADMIN", "busybox", "sh", "-c", script) == "opened\n"


def test_a_seccomp_profile_of_ones_own_is_kept(engine: EngineProcess, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    done = engine.run_docker("run", "--rm", f"--security-opt=seccomp={profile}", "busybox", "mkdir", "/x")
    assert b"Function not implemented" in done.stderr
    assert engine.docker("run", "--rm", "--security-opt=seccomp=unconfined", "busybox", "mkdir", "/x") == ""
    unconfined = engine.docker(
        "run", "--rm", "--security-opt", "seccomp=unconfined", "busybox", "grep", "Seccomp:", "/proc/self/status"
    )
    assert unconfined.split() == ["Seccomp:", "0"]


def test_a_seccomp_profile_that_is_hard_to_compile_holds_nobody_up(engine: EngineProcess, tmp_path: Path) -> None:
    chance = random.Random(0)
    calls = "read write open close stat poll mmap brk ioctl clone socket personality execve kill umask prctl".split()
    operators = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT")

    def condition(index: int) -> dict[str, object]:
        return {"index": index, "value": chance.choice((0, 1, 2, 1 << 40)), "op": chance.choice(operators)}

    rules = [
        {"names": chance.sample(calls, 5), "action": "SCMP_ACT_LOG", "args": [condition(at) for at in places]}
        for places in (chance.sample(range(6), 3) for _ in range(60))
    ]
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    container = engine.docker("create", f"--security-opt=seccomp={profile}", "busybox", "true")
    with ThreadPoolExecutor(1) as starter:
        start = starter.submit(engine.run_docker, "start", container)
        while not start.done():
            begun = time.monotonic()
            engine.docker("ps")
            assert time.monotonic() - begun < 5
            time.sleep(0.2)
    assert "it takes libseccomp more than" in start.result().stderr.decode()
    engine.docker("rm", container)


def test_a_seccomp_agent_is_told_of_the_container(engine: EngineProcess, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    told: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent.sock"))
        agent.listen()

        def take() -> None:
            peer, _ = agent.accept()
            with peer:
                data, descriptors, _, _ = socket.recv_fds(peer, 1 << 16, 4)
            told.append(json.loads(data))
            for fd in descriptors:
                os.close(fd)  # nobody decides any more: the calls do not exist

        taking = threading.Thread(target=take)
        taking.start()
        profile.write_text(
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                    "listenerPath": str(tmp_path / "agent.sock"),
                    "listenerMetadata": "for the agent",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
                }
            )
        )
        done = engine.run_docker("run", "--rm", f"--security-opt=seccomp={profile}", "busybox", "mkdir", "/x")
        taking.join(10)
    assert b"Function not implemented" in done.stderr
    assert told[0]["metadata"] == "for the agent"


def test_paths_are_masked_unless_systempaths_are_unconfined(engine: EngineProcess) -> None:
    script = "grep -c ' /proc/sys ' /proc/mounts"
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", script).strip() == "1"
    done = engine.run_docker("run", "--rm", "--security-opt=systempaths=unconfined", "busybox", "sh", "-c", script)
    assert done.stdout == b"0\n"


def test_writable_cgroups_are_writable(engine: EngineProcess) -> None:
    script = "grep ' /sys/fs/cgroup' /proc/mounts | head -1 | cut -d' ' -f4 | cut -d, -f1"
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", script) == "ro\n"
    given = ("run", "--rm", "--security-opt=writable-cgroups=true", "busybox", "sh", "-c", script)
    assert engine.docker(*given) == "rw\n"


def test_a_privileged_container_may_do_what_the_host_may(engine: EngineProcess) -> None:
    script = (
        "grep CapEff /proc/self/status; grep -c Seccomp:.0 /proc/self/status; ls /dev | wc -l; mount -t tmpfs t /tmp"
    )
    capabilities, filters, nodes = engine.docker("run", "--rm", "--privileged", "busybox", "sh", "-c", script).split(
        "\n"
    )[:3]
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    assert capabilities == own
    assert filters == "1"
    assert int(nodes) > 15


def test_sysctls_must_be_a_namespace_of_the_containers_own(engine: EngineProcess) -> None:
    said = engine.docker(
        "run", "--rm", "--sysctl=net.ipv4.ip_forward=1", "--sysctl=kernel.msgmax=4096", "busybox",
        "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax",
    )  # fmt: skip
    assert said == "1\n4096\n"
    for arguments, words in (
        (["--net=host", "--sysctl=net.ipv4.ip_forward=1"], b"not allowed in host network namespace"),
        (["--ipc=host", "--sysctl=kernel.msgmax=4096"], b"not allowed in the hosts ipc namespace"),
    ):
        done = engine.run_docker("run", "--rm", *arguments, "busybox", "true")
        assert words in done.stderr
        assert done.returncode == 125
    container = create(engine, Sysctls={"kernel.panic": "1"})[1]["Id"]
    status, answer = engine.api("POST", f"/containers/{container}/start")
    assert (status, answer["message"]) == (400, 'sysctl "kernel.panic" is not in a separate kernel namespace')
    engine.api("DELETE", f"/containers/{container}")


def test_gpus_without_a_driver_are_refused_in_dockers_words(engine: EngineProcess) -> None:
    done = engine.run_docker("run", "--rm", "--gpus", "all", "busybox", "true")
    assert b'could not select device driver "" with capabilities: [[gpu]]' in done.stderr
    assert done.returncode == 125


def test_warnings_come_with_the_created_container(engine: EngineProcess) -> None:
    host = {"OomKillDisable": True, "KernelMemory": 8 << 20}  # the second is ignored from API 1.42 on
    status, answer = engine.api(
        "POST", "/v1.41/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
    )
    assert status == 201
    of_oom = "OOM killer is disabled for the container" if layout().version == 1 else "OomKillDisable discarded"
    assert any(of_oom in warning for warning in answer["Warnings"])
    assert any("Kernel memory limits are not supported" in warning for warning in answer["Warnings"])
    engine.api("DELETE", f"/containers/{answer['Id']}")
    status, answer = create(engine)
    assert engine.inspect(answer["Id"])["HostConfig"]["OomKillDisable"] is (False if layout().version == 1 else None)
    engine.api("DELETE", f"/containers/{answer['Id']}")
    assert create(engine, Memory=1)[0] == 400
    assert create(engine, Annotations={"": "x"})[0] == 400
    assert create(engine, RestartPolicy={"Name": "sometimes"})[0] == 400


def test_groups_are_added_by_name_and_number(engine: EngineProcess) -> None:
    said = engine.docker(
        "run", "--rm", "--user=1000:1000", "--group-add=daemon", "--group-add=777", "busybox", "id", "-G"
    )
    assert set(said.split()) == {"1000", "1", "777"}


def test_processors_that_have_come_or_gone_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers_of(host_limits().cpus)
    assert numbers_of(host_limits().mems)
    monkeypatch.setattr("dockyard.engine.system.host_limits._read", lambda path: "0-511")
    assert host_limits().cpus == host_limits().mems == "0-511"


def test_containers_have_the_limit_that_the_daemon_was_started_with(tmp_path: Path) -> None:
    """The daemon raises its own to what is allowed; programs that look through all descriptors would take for ever."""
    engine = EngineProcess(tmp_path / "limited", number=6)
    engine.prefix = ("prlimit", "--nofile=777:5555")
    engine.start()
    try:
        engine.docker("pull", "busybox")
        show = "ulimit -Sn; ulimit -Hn"
        assert engine.docker("run", "--rm", "busybox", "sh", "-c", show) == "777\n5555\n"
        assert engine.docker("run", "--rm", "--ulimit", "core=0", "busybox", "sh", "-c", show) == "777\n5555\n"
        engine.docker("run", "-d", "--name", "asks", "--ulimit", "nofile=99:100", "busybox", "sleep", "100")
        engine.docker("run", "-d", "--name", "plain", "--ulimit", "core=0", "busybox", "sleep", "100")
        assert engine.docker("exec", "asks", "sh", "-c", show) == "99\n100\n"
        assert engine.docker("exec", "plain", "sh", "-c", f"{show}; ulimit -c") == "777\n5555\n0\n"
        assert "5555" in Path(f"/proc/{engine.process.pid}/limits").read_text().split("Max open files")[1].split()[0]  # type: ignore[union-attr]  # it runs
    finally:
        engine.clean_up()


def test_a_limit_above_the_kernels_is_refused_in_runcs_words(engine: EngineProcess) -> None:
    # more than fs.nr_open, which nobody may
    refused = engine.run_docker("run", "--rm", "--ulimit", "nofile=1073741817", "busybox", "true")
    assert refused.returncode == 125
    assert b"error setting rlimit type 7: operation not permitted" in refused.stderr
