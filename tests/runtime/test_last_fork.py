"""Processes that join a PID namespace where others are: they come by a last fork, and miss nothing for it."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import capabilities, filter_answers, seccomp, syscalls
from dockyard.oci.runtime_spec import (
    Hook,
    Hooks,
    Namespace,
    Pids,
    Resources,
    Rlimit,
    Scheduler,
    Seccomp,
    SeccompRule,
    Spec,
)
from dockyard.runtime.checkpoint import external_resources
from dockyard.runtime.lifecycle.container import Container, RuntimeFailure
from dockyard.runtime.lifecycle.handle import ContainerHandle
from dockyard.runtime.rootfs import file_systems
from dockyard.runtime.security import seccomp as seccomp_filter
from dockyard.runtime.spec import defaults
from tests.processes import children_of, eventually, gone
from tests.runtime.bundle import Bundle, Result, apart, bind, execute, process, with_user_namespace
from tests.runtime.conftest import ROOT, Runtime

BIRTHS = 12
SECRET = "of-the-engines-environment"


def joining(bundle: Bundle, container: Container, *args: str) -> Spec:
    """A container's spec that shares another's PID namespace."""
    spec = bundle.spec(*args)
    spec.linux.namespaces = [kind for kind in spec.linux.namespaces if kind.type != "pid"]
    spec.linux.namespaces.append(Namespace(type="pid", path=f"/proc/{container.record.pid}/ns/pid"))
    return spec


@contextlib.contextmanager
def host(bundle: Bundle, spec: Spec | None = None) -> Iterator[Container]:
    """A container that others join."""
    with bundle.running(spec or bundle.spec("sleep", "100")) as (container, _):
        yield container


def run(bundle: Bundle, spec: Spec, **options: bool) -> Result:
    """Run a second container to its end, in the process of the first."""
    with bundle.created(spec, **options) as (container, output):
        container.start()
        status = os.waitstatus_to_exitcode(os.waitpid(container.record.pid, 0)[1])
        return Result(status, os.pread(output, 1 << 16, 0).decode())


@pytest.mark.parametrize("exec_fifo", [False, True])
@pytest.mark.parametrize("users", ["none", "new", "joined"])
def test_a_container_that_joins_has_the_others_processes_in_its_proc(
    bundle: Bundle, exec_fifo: bool, users: str
) -> None:
    def act() -> Result:
        first = bundle.spec("sleep", "100")
        with host(bundle, with_user_namespace(first) if users == "joined" else first) as container:
            spec = joining(bundle, container, "sh", "-c", "cat /proc/1/cmdline; echo; id -u; echo $$")
            if users == "new":
                with_user_namespace(spec)
            elif users == "joined":
                spec.linux.namespaces.append(Namespace(type="user", path=f"/proc/{container.record.pid}/ns/user"))
            return run(bundle, spec, exec_fifo=exec_fifo)

    command, user, number = apart(act).lines
    assert (command, user) == ("sleep\x00100\x00", "0")
    assert int(number) > 1


def test_a_program_that_can_not_run_is_told_whoever_waits_at_the_gate(bundle: Bundle) -> None:
    def act() -> None:
        with host(bundle) as first:
            spec = joining(bundle, first, "true", "a\0b")
            with bundle.created(spec, exec_fifo=True) as (container, _):
                ContainerHandle.load(bundle.state, container.record.id).start()

    with pytest.raises(RuntimeFailure, match="embedded null byte") as failure:
        apart(act)
    assert failure.value.exit_code == 126


def test_who_waits_at_the_gate_and_the_process_end_with_each_other(bundle: Bundle) -> None:
    def act() -> list[bool]:
        ended = []
        with host(bundle) as first:
            for victim in ("keeper", "process"):
                with bundle.created(joining(bundle, first, "true"), exec_fifo=True) as (container, _):
                    assert container.status() == "created"
                    others = {first.record.pid, container.record.pid}
                    (keeper,) = [pid for pid in children_of(os.getpid()) if pid not in others and not gone(pid)]
                    dies, follows = keeper, container.record.pid
                    if victim == "process":
                        dies, follows = follows, dies
                    os.kill(dies, signal.SIGKILL)
                    ended.append(eventually(lambda pid=follows: gone(pid)))
                    assert container.status() == "stopped"
        return ended

    assert apart(act) == [True, True]


def test_hooks_that_have_the_hosts_files_are_not_seen_by_the_others(bundle: Bundle, tmp_path: Path) -> None:
    def act() -> tuple[int, str]:
        with host(bundle) as first:
            spec = joining(bundle, first, "true")
            look = ["sh", "-c", f"readlink /proc/self/ns/pid >{tmp_path}/seen"]
            spec.hooks = Hooks(create_container=[Hook(path="/bin/sh", args=look, env=["PATH=/bin:/usr/bin"])])
            return run(bundle, spec).status, os.readlink(f"/proc/{first.record.pid}/ns/pid")

    status, namespace = apart(act)
    assert status == 0
    assert (tmp_path / "seen").read_text().strip() not in ("", namespace)


@pytest.mark.parametrize("users", ["none", "new"])
def test_hooks_of_the_start_are_run_by_a_container_that_joins(bundle: Bundle, users: str) -> None:
    def act() -> Result:
        with host(bundle) as first:
            spec = joining(bundle, first, "cat", "/seen")
            (bundle.root / "seen").touch()
            (bundle.root / "seen").chmod(0o666)
            hook = Hook(path="/bin/sh", args=["sh", "-c", "grep Seccomp: /proc/self/status >/seen"], env=["PATH=/bin"])
            spec.hooks = Hooks(start_container=[hook])
            spec.linux.seccomp = profile("mkdir")
            return run(bundle, with_user_namespace(spec) if users == "new" else spec)

    result = apart(act)
    assert (result.status, result.output.split()) == (0, ["Seccomp:", "2"])


def test_a_container_that_joins_may_be_debugged(runtime: Runtime) -> None:
    runtime.started("host")
    pid = json.loads(runtime("state", "host").stdout)["pid"]

    def change(config: dict[str, Any]) -> None:
        kinds = [kind for kind in config["linux"]["namespaces"] if kind["type"] != "pid"]
        config["linux"]["namespaces"] = [*kinds, {"type": "pid", "path": f"/proc/{pid}/ns/pid"}]
        config["process"]["args"] = ["sleep", "100"]

    runtime.config(change)
    log = str(runtime.state.parent / "log")
    for words in (("create", "two"), ("start", "two"), ("exec", "two", "ls", "-l", "/proc/self/fd")):
        done = runtime("--debug", "--log", log, *words)
        assert done.returncode == 0, done.stderr
    assert log not in done.stdout
    assert "about to exec" in Path(log).read_text()


def test_an_exec_finds_room_in_a_full_cgroup_and_is_counted_there(bundle: Bundle) -> None:
    def act() -> list[str]:
        spec = bundle.spec("sleep", "100")
        spec.linux.resources = Resources(pids=Pids(limit=1))
        with host(bundle, spec) as container:
            look = execute(container, process("grep", "pids\\|^0:", "/proc/self/cgroup"))
            return look.lines

    assert [row.partition(":")[2] for row in apart(act)] in (["pids:/", ":/"], [":/"])  # of its own cgroup namespace


def test_the_limit_of_a_user_is_his_to_use_up(bundle: Bundle) -> None:
    def act() -> Result:
        with host(bundle) as container:
            wanted = process("cat", "/proc/self/limits")
            wanted.user.uid = 4321
            wanted.rlimits = [Rlimit(type="RLIMIT_NPROC", soft=1, hard=2)]
            return execute(container, wanted)

    (row,) = [row for row in apart(act).lines if row.startswith("Max processes")]
    assert row.split()[2:4] == ["1", "2"]


@pytest.mark.parametrize("policy", ["SCHED_BATCH", "SCHED_DEADLINE"])
def test_a_scheduler_that_a_fork_would_lose_is_there(bundle: Bundle, policy: str) -> None:
    scheduler = Scheduler(policy=policy)
    if policy == "SCHED_BATCH":
        scheduler.flags = ["SCHED_FLAG_RESET_ON_FORK"]
    else:
        scheduler.runtime, scheduler.deadline, scheduler.period = 10_000_000, 30_000_000, 30_000_000

    def act() -> Result:
        with host(bundle) as container:
            wanted = process("cat", "/proc/self/stat")
            wanted.scheduler = scheduler
            return execute(container, wanted)

    fields = apart(act).output.rpartition(")")[2].split()
    assert int(fields[38]) == {"SCHED_BATCH": 3, "SCHED_DEADLINE": 6}[policy]


@pytest.mark.parametrize("granted", [["CAP_SYS_PTRACE"], sorted(capabilities.NUMBERS)], ids=["ptrace", "all"])
def test_an_exec_by_the_command_line_shows_nothing(
    runtime: Runtime, prober: Path, tmp_path: Path, granted: list[str]
) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    shutil.copy(prober, folder / "prober")
    (folder / "file").write_text("of the host's")

    def change(config: dict[str, Any]) -> None:
        words = f"exec /p/prober {SECRET[::-1]} {folder}/file mnt:{os.readlink('/proc/self/ns/mnt')[4:]} >/p/found"
        config["process"]["args"] = ["sh", "-c", words]
        for names in config["process"]["capabilities"].values():
            names += granted
        config["mounts"].append({"destination": "/p", "type": "bind", "source": str(folder), "options": ["bind"]})

    runtime.config(change)
    environment = {**os.environ, "DOCKYARD_TEST_SECRET": SECRET}
    assert runtime("run", "-d", "one", env=environment).returncode == 0
    eventually(lambda: (folder / "found").exists() and (folder / "found").read_text())
    for _ in range(BIRTHS):
        assert runtime("exec", "one", "true", env=environment).returncode == 0
    (folder / "stop").touch()
    eventually(lambda: runtime.status("one") == "stopped")
    _, *found, count = (folder / "found").read_text().splitlines()
    assert not found, "\n".join(found)
    assert int(count.split()[-2]), "none was seen on its way"


@pytest.mark.parametrize("pids", ["own", "the host's"])
def test_nothing_is_shown_to_who_is_root_of_a_user_namespace(
    bundle: Bundle, prober: Path, tmp_path: Path, pids: str
) -> None:
    """Also where it sees all of the host's: what comes in is closed to it before it is in its user namespace."""
    folder = tmp_path / "p"
    for made in (folder, bundle.root / "p"):
        made.mkdir()
        made.chmod(0o777)
    shutil.copy(prober, folder / "prober")
    (folder / "file").write_text("of the host's")
    words = f"exec /p/prober {SECRET[::-1]} {folder}/file mnt:{os.readlink('/proc/self/ns/mnt')[4:]} >/p/found"

    def act() -> None:
        os.environ["DOCKYARD_TEST_SECRET"] = SECRET
        spec = with_user_namespace(bundle.spec("sh", "-c", words))
        spec.process.capabilities = defaults.capability_sets(  # type: ignore[union-attr]
            [*defaults.DEFAULT_CAPABILITIES, "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]
        )
        spec.mounts.append(bind(folder, "/p"))
        if pids == "the host's":
            spec.linux.namespaces = [kind for kind in spec.linux.namespaces if kind.type != "pid"]
            spec.mounts[0] = bind("/proc", "/proc", "rbind")
        with host(bundle, spec) as container:
            eventually(lambda: (folder / "found").exists() and (folder / "found").read_text())
            for _ in range(BIRTHS):
                execute(container, process("true"))
                other = bundle.spec("true")
                if pids == "the host's":
                    other.linux.namespaces = [kind for kind in other.linux.namespaces if kind.type != "pid"]
                    other.mounts[0] = bind("/proc", "/proc", "rbind")
                else:
                    other = joining(bundle, container, "true")
                other.linux.namespaces.append(Namespace(type="user", path=f"/proc/{container.record.pid}/ns/user"))
                run(bundle, other)
            (folder / "stop").touch()
            os.waitpid(container.record.pid, 0)

    apart(act)
    _, *found, count = (folder / "found").read_text().splitlines()
    if pids == "the host's":  # many of its processes have more
        found = [row for row in found if not row.startswith("more capabilities")]
    assert not found, "\n".join(found)
    assert int(count.split()[2].rstrip(",")) >= BIRTHS


def test_a_restore_does_not_show_criu_to_who_can_look_into_it(bundle: Bundle) -> None:
    def act() -> list[str]:
        refused = []
        for granted in ([], ["CAP_SYS_PTRACE"]):
            spec = bundle.spec("sleep", "100")
            names = [*defaults.DEFAULT_CAPABILITIES, *granted]
            spec.process.capabilities = defaults.capability_sets(names)  # type: ignore[union-attr]
            with host(bundle, spec) as container:
                try:
                    external_resources.check_joined_pids(joining(bundle, container, "true"))
                except RuntimeFailure as failure:
                    refused.append(failure.message)
        return refused

    (refused,) = apart(act)
    assert "is there with CAP_SYS_PTRACE" in refused


def test_a_proc_is_had_of_a_kernel_that_makes_none_for_others(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    new_file_system = file_systems.new_file_system

    def as_before_6_17(*given: Any) -> int:
        if given[3:]:
            raise OSError(errno.EINVAL, "Unknown parameter 'pidns'")
        return new_file_system(*given)

    monkeypatch.setattr(file_systems, "new_file_system", as_before_6_17)

    def act() -> Result:
        with host(bundle) as first:
            return run(bundle, joining(bundle, first, "cat", "/proc/1/cmdline"))

    assert apart(act).output == "sleep\x00100\x00"


# The command line as it is on such a kernel, with the few modules that it has loaded.
AS_BEFORE_6_17 = """
import sys
sys.path[:0] = {paths!r}
from dockyard.runtime.startup import stand_ins
stand_ins.install()
from dockyard.runtime.rootfs import file_systems
new_file_system = file_systems.new_file_system
def as_before_6_17(*given):
    if given[3:]:
        raise OSError(22, "Unknown parameter 'pidns'")
    return new_file_system(*given)
file_systems.new_file_system = as_before_6_17
from dockyard.runtime.command_line.main import main
raise SystemExit(main())
"""


def test_no_module_comes_from_the_container_whose_proc_is_shared(runtime: Runtime) -> None:
    """It would run with the rights of the host's root."""
    library = runtime.bundle / "rootfs" / os.path.dirname(os.__file__).lstrip("/")
    for name in ("array", "collections", "socket", "encodings"):
        (library / name).mkdir(parents=True)
        (library / name / "__init__.py").write_text("import posix; posix.write(2, b'a module of the container')")
    runtime.started("host")
    joined = {"type": "pid", "path": f"/proc/{json.loads(runtime('state', 'host').stdout)['pid']}/ns/pid"}

    def change(config: dict[str, Any]) -> None:
        kinds = [kind for kind in config["linux"]["namespaces"] if kind["type"] != "pid"]
        config["linux"]["namespaces"] = [*kinds, joined]
        config["process"]["args"] = ["cat", "/proc/1/cmdline"]

    runtime.config(change)
    program = AS_BEFORE_6_17.format(paths=[str(ROOT), *(path for path in sys.path if "packages" in path)])
    words = [sys.executable, "-ISEc", program, "--root", str(runtime.state), "run", "two"]
    done = subprocess.run(words, cwd=runtime.bundle, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "sleep\x001000\x00")


# -- filters


def profile(*names: str, action: str = "SCMP_ACT_ERRNO") -> Seccomp:
    return Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[SeccompRule(names=list(names), action=action)])


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("name", ["clone", "setsid", "recvmsg", "mkdir"])
def test_a_filter_need_not_allow_what_the_runtime_does(bundle: Bundle, name: str, no_new_privileges: bool) -> None:
    def act() -> list[Result]:
        spec = bundle.spec("sleep", "100")
        spec.linux.seccomp = profile(name, action="SCMP_ACT_KILL_PROCESS")
        with host(bundle, spec) as container:
            wanted = process("grep", "Seccomp:\\|CapPrm\\|CapBnd", "/proc/self/status")
            wanted.no_new_privileges = no_new_privileges
            other = joining(bundle, container, *wanted.args)
            other.linux.seccomp = spec.linux.seccomp
            other.process.no_new_privileges = no_new_privileges  # type: ignore[union-attr]
            return [execute(container, wanted), run(bundle, other)]

    for result in apart(act):
        permitted, bounding, filters = (row.split()[1] for row in result.lines)
        assert permitted == bounding
        assert filters == "2"


def test_the_answers_of_a_filter_are_known_without_loading_it() -> None:
    def allows(wanted: Seccomp) -> bool:
        return filter_answers.allows(seccomp.compile_profile(wanted), seccomp_filter.CALLS)

    assert allows(profile("mkdir"))
    assert allows(profile("setsid", action="SCMP_ACT_LOG"))
    assert not any(allows(profile(name)) for name in syscalls.NUMBERS)
