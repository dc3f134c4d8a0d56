"""Containers under AppArmor: the default profile, others, none, and what the default one keeps from the host.

Most needs a kernel that has AppArmor: `conformance/vm` boots one.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine.system.apparmor import DEFAULT_PROFILE, rules
from dockyard.linux import apparmor
from tests.engine_process import EngineProcess
from tests.processes import eventually

needs_apparmor = pytest.mark.skipif(not apparmor.is_enabled(), reason="this kernel has no AppArmor")
needs_parser = pytest.mark.skipif(not apparmor.parser(), reason="apparmor_parser is not installed")

CURRENT = "/proc/self/attr/current"
# All that keeps a container from the host but AppArmor is off; it could do these things to any host without it.
BARE = ("--cap-add=ALL", "--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("apparmor"), number=33) as engine:
        yield engine


def _forget(name: str) -> None:
    """Have the kernel drop a profile."""
    text = f"profile {name} {{ file, }}"
    subprocess.run([apparmor.parser(), "--remove"], input=text, text=True, capture_output=True, check=True)


# -- the rules, read as text


def _denied(path: str, permission: str) -> bool:
    """Whether a rule of the default profile's text denies the access."""
    for glob, permissions in re.findall(r"deny (/\S+) (\w+),", rules(DEFAULT_PROFILE, "unconfined")):
        pattern = glob.replace("{,**}", "**").replace("**", "\0").replace("*", "[^/]*").replace("\0", ".*")
        if permission in permissions and re.fullmatch(pattern, path):
            return True
    return False


@pytest.mark.parametrize(
    "path",
    [
        "/proc/kcore",
        "/proc/sysrq-trigger",
        "/proc/scsi/scsi",
        "/proc/sysvipc/shm",
        "/proc/s/x",
        "/proc/irq/1/smp_affinity",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/sched_rt_runtime_us",
        "/proc/sys/kernel/domainname",
        "/proc/sys/fs/binfmt_misc/register",
        "/sys/kernel/uevent_helper",
        "/sys/class/net/eth0/mtu",
        "/sys/fs/bpf/x",
        "/sys/fs/c",
        "/sys/fs/cgroups/x",
        "/sys/firmware/efi/vars/x",
    ],
)
def test_the_default_profile_denies_writing(path: str) -> None:
    assert _denied(path, "w")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/attr/exec",
        "/proc/12/oom_score_adj",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/shm_rmid_forced",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/etc/passwd",
        "/dev/null",
    ],
)
def test_the_default_profile_allows_writing(path: str) -> None:
    assert not _denied(path, "w")


@needs_parser
def test_the_parser_takes_the_default_profile() -> None:
    command = [apparmor.parser(), "--skip-kernel-load", "--skip-cache", "--stdout"]
    features = "/usr/share/apparmor-features/features"  # of a kernel, where this one may have none
    if os.path.exists(features):
        command.append(f"--features-file={features}")
    for daemon in ("unconfined", "/usr/bin/dockyardd"):
        done = subprocess.run(command, input=rules("a-name", daemon).encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"a-name" in done.stdout


# -- on a kernel that has it


@needs_apparmor
def test_everything_that_runs_in_a_container_is_under_the_default_profile(engine: EngineProcess) -> None:
    under = f"{DEFAULT_PROFILE} (enforce)\n"
    assert engine.docker("run", "--rm", "busybox", "cat", CURRENT) == under
    engine.docker("run", "-d", "--name=aa", "--health-cmd", f"cat {CURRENT}", "--health-interval=1s", "busybox", "top")
    try:
        assert engine.inspect("aa")["AppArmorProfile"] == DEFAULT_PROFILE
        assert engine.docker("exec", "aa", "cat", CURRENT) == under
        assert engine.docker("exec", "--privileged", "aa", "cat", CURRENT) == under
        eventually(lambda: engine.inspect("aa")["State"]["Health"]["Log"])
        assert engine.inspect("aa")["State"]["Health"]["Log"][-1]["Output"] == under
    finally:
        engine.docker("rm", "-f", "aa")
    said = engine.docker(
        "build", "--no-cache", "-q", "-", input=f"FROM busybox\nRUN cat {CURRENT} > /under\n".encode(), timeout=120
    )
    assert engine.docker("run", "--rm", said.strip(), "cat", "/under") == under
    assert "name=apparmor" in json.loads(engine.docker("info", "--format", "{{json .SecurityOptions}}"))


@needs_apparmor
@pytest.mark.parametrize(
    "options", [("--privileged",), ("--security-opt=apparmor=unconfined",), ("--security-opt=apparmor:unconfined",)]
)
def test_an_unconfined_container_is_told_so(engine: EngineProcess, options: tuple[str, ...]) -> None:
    engine.docker("run", "-d", "--name=aa", *options, "busybox", "top")
    try:
        assert engine.inspect("aa")["AppArmorProfile"] == "unconfined"
        for command in (("cat", CURRENT), ("cat", "/proc/1/attr/current")):
            assert engine.docker("exec", "aa", *command) == "unconfined\n"
    finally:
        engine.docker("rm", "-f", "aa")


@needs_apparmor
def test_a_container_may_have_a_profile_of_the_administrators(engine: EngineProcess) -> None:
    apparmor.load("profile dockyard-test flags=(attach_disconnected) { file, signal, deny /etc/shadow r, }")
    option = "--security-opt=apparmor=dockyard-test"
    try:
        engine.docker("run", "-d", "--name=aa", option, "busybox", "top")
        assert engine.inspect("aa")["AppArmorProfile"] == "dockyard-test"
        assert engine.docker("exec", "aa", "cat", CURRENT) == "dockyard-test (enforce)\n"
        assert b"Permission denied" in engine.run_docker("exec", "aa", "cat", "/etc/shadow").stderr
    finally:
        engine.docker("rm", "-f", "aa", check=False)
        _forget("dockyard-test")
    refused = engine.run_docker("run", "--rm", option, "busybox", "true")
    assert refused.returncode == 125
    assert b"unable to apply apparmor profile" in refused.stderr


@needs_apparmor
@pytest.mark.parametrize(
    "act",
    [
        "mount -t tmpfs none /etc",
        "mount -o bind /bin /etc",
        "mount -o remount,rw /sys",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 0 > /proc/sys/kernel/sched_rt_runtime_us",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo h > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore",
        "ls /sys/firmware/",
        f"echo changeprofile unconfined > {CURRENT}",
        "echo exec unconfined > /proc/self/attr/exec",
    ],
)
def test_what_reaches_past_the_container_is_denied_whatever_its_capabilities(engine: EngineProcess, act: str) -> None:
    done = engine.run_docker("run", "--rm", *BARE, "busybox", "sh", "-c", act)
    assert done.returncode != 0
    assert b"ermission denied" in done.stderr, done


@needs_apparmor
def test_what_is_the_containers_own_is_allowed(engine: EngineProcess) -> None:
    script = (
        "echo 4096 > /proc/sys/kernel/shmmni && echo 100 > /proc/self/oom_score_adj && touch /etc/x /dev/shm/x /x"
        " && (sleep 9 & kill $!) && ps > /dev/null && ping -c 1 127.0.0.1 > /dev/null && ls /proc/1/root/ > /dev/null"
    )
    engine.docker("run", "--rm", "--security-opt=systempaths=unconfined", "busybox", "sh", "-c", script)


@needs_apparmor
def test_the_default_profile_is_loaded_again_when_something_has_unloaded_it(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name=aa", "busybox", "top")
    try:
        for command in (("run", "--rm", "busybox"), ("exec", "aa")):
            _forget(DEFAULT_PROFILE)
            assert not apparmor.entry(DEFAULT_PROFILE)
            assert engine.docker(*command, "cat", CURRENT) == f"{DEFAULT_PROFILE} (enforce)\n"
    finally:
        engine.docker("rm", "-f", "aa")


@needs_apparmor
def test_a_profile_of_an_earlier_release_is_replaced_and_one_of_another_engine_is_not(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=34)
    other = f"profile {DEFAULT_PROFILE} flags=(attach_disconnected) {{ file, network, capability, signal, mount, }}"
    mounting = ("run", "--rm", *BARE, "busybox", "mount", "-t", "tmpfs", "none", "/etc")
    apparmor.load(other)
    engine.start()
    try:
        engine.docker("pull", "busybox")
        engine.docker(*mounting)
        engine.stop()
        # as if we had loaded it
        (engine.run / "apparmor-profile").write_text(f"{apparmor.entry(DEFAULT_PROFILE)}\n{other}")
        engine.start()
        assert b"ermission denied" in engine.run_docker(*mounting).stderr
    finally:
        engine.clean_up()
