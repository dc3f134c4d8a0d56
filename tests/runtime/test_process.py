"""What config.json says of the process: ids, limits, capabilities, scheduling, its terminal."""

import os
import resource
from collections.abc import Callable

import pytest

from dockyard.oci.runtime_spec import (
    Box,
    Capabilities,
    Cpu,
    CPUAffinity,
    IOPriority,
    MemoryPolicy,
    Personality,
    Resources,
    Rlimit,
    Scheduler,
    Spec,
)
from dockyard.runtime.birth.scheduling import number_set
from dockyard.runtime.lifecycle.container import RuntimeFailure
from tests.runtime.bundle import Bundle, apart, execute, process, with_user_namespace


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: setattr(spec, "hostname", "h" * 65), "sethostname: invalid argument"),
        (lambda spec: setattr(spec, "domainname", "h" * 65), "setdomainname: invalid argument"),
        (
            lambda spec: setattr(spec.process, "oom_score_adj", 5000),
            "failed to update /proc/self/oom_score_adj: invalid argument",
        ),
        (
            lambda spec: spec.process.rlimits.append(Rlimit(type="RLIMIT_NOFILE", soft=1 << 40, hard=1 << 40)),
            "error setting rlimit type 7: operation not permitted",
        ),
        (
            lambda spec: spec.linux.sysctl.update({"net.ipv4.nope": "1"}),
            "open sysctl net.ipv4.nope file: no such file or directory",
        ),
        (
            lambda spec: spec.linux.sysctl.update({"net.ipv4.ip_forward": "abc"}),
            'failed to write sysctl net.ipv4.ip_forward = "abc": invalid argument',
        ),
        (lambda spec: setattr(spec.process, "cwd", "/bin/sh/below"), "mkdir /bin/sh/below: not a directory"),
        (
            lambda spec: setattr(spec.process, "scheduler", Scheduler(policy="SCHED_FIFO", priority=5000)),
            "error setting scheduler: invalid argument",
        ),
    ],
)
def test_an_error_says_what_was_being_done(bundle: Bundle, change: Callable[[Spec], None], said: str) -> None:
    spec = bundle.spec("true")
    change(spec)
    with pytest.raises(RuntimeFailure) as failure:
        bundle.run(spec)
    assert failure.value.message == said


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


def test_a_further_process_has_the_memory_policy_too(bundle: Bundle) -> None:
    spec = bundle.spec("sleep", "60")
    spec.linux.memory_policy = MemoryPolicy(mode="MPOL_PREFERRED", nodes="0", flags=["MPOL_F_RELATIVE_NODES"])

    def act() -> str:
        with bundle.running(spec) as (container, _):
            return execute(container, process("cat", "/proc/self/numa_maps")).output

    assert "prefer=relative:0" in apart(act)


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
    apparmor = os.path.exists("/sys/kernel/security/apparmor")
    for name, value, refusal in (
        ("apparmor_profile", "x", "unable to apply apparmor profile" if apparmor else "disabled or not supported"),
        ("selinux_label", "a:b:c:s0", "disabled or not supported"),
    ):
        spec = bundle.spec("true")
        setattr(spec.process, name, value)
        with pytest.raises(RuntimeFailure, match=refusal):
            bundle.run(spec)
