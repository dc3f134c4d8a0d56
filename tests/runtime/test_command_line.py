"""What the command line takes and says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import systemd
from dockyard.linux.cgroups import layout
from dockyard.runtime.command_line.main import COMMANDS, HELP
from dockyard.runtime.command_line.sizes import size_in_bytes
from dockyard.runtime.command_line.usage import UsageError, parse
from dockyard.runtime.commands import events
from tests.processes import cgroup_beside_ours
from tests.runtime.conftest import ROOT, Runtime, version_1

needs_systemd = pytest.mark.skipif(
    not systemd.is_running() or layout().version != 2, reason="no systemd with cgroup version 2 runs here"
)
KILL = "OPTIONS:\n   --all, -a  x\n   --format value, -f value  x\n"


def test_flags_have_one_dash_or_two_and_stand_anywhere() -> None:
    for words in (["-all", "one", "9"], ["one", "--all", "9"], ["one", "9", "-a"], ["--all=true", "one", "9"]):
        flags = parse(KILL, words)
        assert flags.on("all")
        assert flags.arguments == ["one", "9"]


def test_values_follow_or_are_joined_and_the_last_counts() -> None:
    flags = parse(KILL, ["-f", "table", "one", "--format=json"])
    assert flags.text("format") == "json"
    assert flags.arguments == ["one"]


def test_two_dashes_end_the_flags() -> None:
    assert parse(KILL, ["one", "--", "-a"]).arguments == ["one", "-a"]


def test_in_order_the_first_argument_ends_the_flags() -> None:
    flags = parse(KILL, ["-a", "one", "-a", "--nope"], in_order=True)
    assert flags.arguments == ["one", "-a", "--nope"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["--format"], "flag needs an argument: -format"),
        (["--all=maybe"], 'invalid boolean value "maybe" for -all: parse error'),
        (["---x"], "bad flag syntax: ---x"),
    ],
)
def test_a_wrong_flag_is_told_in_the_words_of_go(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match="^" + said.replace("(", r"\(")):
        parse(KILL, words)


def test_sizes_and_durations() -> None:
    assert size_in_bytes("512m") == 512 << 20
    assert size_in_bytes("1.5GiB") == 3 << 29
    assert size_in_bytes("100") == 100
    assert size_in_bytes("64kb") == 64 << 10
    assert events.duration("1m30s") == 90
    assert events.duration("100ms") == pytest.approx(0.1)
    for wrong in ("", "m", "x1", "1x"):
        with pytest.raises(ValueError):
            size_in_bytes(wrong)


def test_every_command_has_help_and_is_listed(runtime: Runtime) -> None:
    rows = HELP.partition("COMMANDS:")[2].splitlines()
    listed = {row.split()[0].rstrip(",") for row in rows if row[3:4].isalpha()}
    assert listed >= COMMANDS
    for name in sorted(COMMANDS):
        done = runtime(name, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"NAME:\n   dockyard-runc {name} - ")
    assert runtime().stdout == runtime("--help").stdout == HELP


def test_an_unknown_command_and_a_wrong_count_of_arguments(runtime: Runtime) -> None:
    done = runtime("nope")
    assert (done.returncode, done.stdout) == (3, "No help topic for 'nope'\n")
    done = runtime("state")
    assert done.returncode == 1
    assert "requires exactly 1 argument(s)" in done.stderr


def test_version_tells_ours_and_the_specifications(runtime: Runtime) -> None:
    lines = runtime("--version").stdout.splitlines()
    assert lines[0].startswith("dockyard-runc version ")
    assert lines[2].startswith("spec: 1.")


def test_errors_are_lines_of_logrus(runtime: Runtime) -> None:
    assert ' level=error msg="container does not exist"' in runtime("state", "x").stderr
    log = runtime.bundle / "log"
    done = runtime("--log", str(log), "--log-format", "json", "state", "x")
    assert done.stderr == "container does not exist\n"
    (line,) = log.read_text().splitlines()
    assert json.loads(line).items() >= {"level": "error", "msg": "container does not exist"}.items()
    assert "invalid log-format: xml" in runtime("--log-format", "xml", "list").stderr


def test_debug_tells_each_step(runtime: Runtime) -> None:
    runtime.command("true")
    said = runtime("--debug", "run", "one").stderr
    assert "level=debug" in said
    assert "new namespaces: " in said


def test_spec_writes_a_config_to_start_from_and_overwrites_none(runtime: Runtime) -> None:
    assert runtime("spec").returncode == 0
    config = json.loads((runtime.bundle / "config.json").read_text())
    assert config["process"]["args"] == ["sh"]
    done = runtime("spec")
    assert done.returncode == 1
    assert "File config.json exists. Remove it first" in done.stderr
    (runtime.bundle / "config.json").unlink()
    assert runtime("spec", "--rootless").returncode == 0
    config = json.loads((runtime.bundle / "config.json").read_text())
    assert {"type": "user"} in config["linux"]["namespaces"]
    assert "resources" not in config["linux"]


def test_list_in_three_forms(runtime: Runtime) -> None:
    assert runtime("list", "-q").returncode == 1  # a root that was asked for must be there
    runtime.started("one")
    assert runtime("list", "-q").stdout == "one\n"
    title, row = runtime("list").stdout.splitlines()
    assert title.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[0::2] == ["one", "running", row.split()[4]]
    (entry,) = json.loads(runtime("list", "--format", "json").stdout)
    assert (entry["id"], entry["status"], entry["owner"]) == ("one", "running", "root")


def test_ps_shows_the_containers_processes_alone(runtime: Runtime) -> None:
    runtime.started("one", "sleep", "998")
    title, row = runtime("ps", "one").stdout.splitlines()
    assert "PID" in title
    assert row.endswith("sleep 998")
    assert runtime("ps", "one", "-e", "-x").returncode == 0


@version_1
def test_update_sets_limits_and_leaves_the_others(runtime: Runtime) -> None:
    runtime.started("one")
    memory, pids = cgroup_beside_ours("memory", runtime.cgroup), cgroup_beside_ours("pids", runtime.cgroup)
    assert runtime("update", "--memory", "64m", "one").returncode == 0
    assert runtime("update", "--pids-limit", "0", "one").returncode == 0
    assert (pids / "pids.max").read_text() == "1\n"
    assert runtime("update", "--pids-limit", "21", "one").returncode == 0
    assert (memory / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    assert (pids / "pids.max").read_text() == "21\n"
    wanted = '{"memory": {"limit": 33554432}, "pids": {"limit": 11}}'
    assert runtime("update", "-r", "-", "one", input=wanted).returncode == 0
    assert (memory / "memory.limit_in_bytes").read_text() == "33554432\n"
    assert (pids / "pids.max").read_text() == "11\n"
    assert "invalid value for cpu-share" in runtime("update", "--cpu-share", "x", "one").stderr


@needs_systemd
def test_a_weight_that_systemd_is_not_told_is_said_when_the_container_is_made(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = f"system.slice:dockyard-test:{os.getpid()}"
        config["linux"].setdefault("resources", {})["cpu"] = {"shares": 200, "idle": 1}

    runtime.config(change)
    made = runtime("--systemd-cgroup", "create", "one")
    assert made.returncode == 0
    assert "unable to apply both CPUWeight and CpuIdle" in made.stderr
    assert runtime("--systemd-cgroup", "delete", "-f", "one").returncode == 0


def test_events_tell_what_is_used(runtime: Runtime) -> None:
    runtime.started("one")
    row = json.loads(runtime("events", "--stats", "one").stdout)
    assert (row["type"], row["id"]) == ("stats", "one")
    assert row["data"]["pids"]["current"] == 1
    assert row["data"]["memory"]["usage"]["usage"] > 0


@version_1
def test_events_tell_of_memory_that_ran_out_and_end_with_the_container(runtime: Runtime) -> None:
    runtime.started("one")
    runtime("update", "--memory", "16m", "one")
    watching = subprocess.Popen(
        [runtime.program, "--root", runtime.state, "events", "--interval", "100ms", "one"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None
    assert '"stats"' in watching.stdout.readline()
    runtime("exec", "one", "sh", "-c", "x=$(head -c 64m /dev/zero | tr '\\0' x)")
    kinds = set()
    while "oom" not in kinds:
        kinds.add(json.loads(watching.stdout.readline())["type"])
    runtime("delete", "-f", "one")
    watching.communicate(timeout=20)  # reads on: who prints into a full pipe does not end
    assert watching.returncode == 0


def test_features_are_those_of_the_specification(runtime: Runtime) -> None:
    features = json.loads(runtime("features").stdout)
    assert features["ociVersionMin"] == "1.0.0"
    assert "startContainer" in features["hooks"]
    assert {"rbind", "rro", "idmap"} <= set(features["mountOptions"])
    assert features["linux"]["seccomp"]["enabled"] is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "malformed"),
        ("null", "config"),
        ("[]", "config"),
        ('{"ociVersion": "1.0.2"}', "process property must not be empty"),
        ('{"ociVersion": "1.0.2", "process": {"args": [], "cwd": "/"}}', "args must not be empty"),
        ('{"ociVersion": "1.0.2", "process": {"args": ["a"], "cwd": "x"}}', "Cwd must be an absolute path"),
        ('{"ociVersion": "1.0.2", "process": {"args": "a", "cwd": "/"}}', "process.args"),
        ('{"ociVersion": "1.0.2", "process": {"args": ["a"], "cwd": "/"}, "root": {"path": "/no/such"}}', "rootfs"),
        ('{"process": {"args": ["a"]}, "linux": {"namespaces": [{"type": "nope"}]}}', "nope"),
        ("[" * 100000, "config"),
        ('{"a": ' * 100000, "config"),
    ],
)
def test_a_hostile_config_gives_one_clear_line(runtime: Runtime, text: str, said: str) -> None:
    (runtime.bundle / "config.json").write_text(text)
    for words in (("run", "one"), ("create", "one")):
        done = runtime(*words)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert " level=error " in line
        assert said in line
    assert not runtime.state.exists() or os.listdir(runtime.state) == []


@version_1
def test_a_command_in_a_plain_directory(runtime: Runtime, busybox: Path) -> None:
    done = runtime(
        "run", "-i", "-rootfs", str(busybox), "-cpus=1.5", "-m=64m", "--pids-limit", "50", "--name", "plain",
        "-e", "A=b", "sh", "-c", "cat; echo $A; hostname; cat /proc/sys/kernel/ns_last_pid >/dev/null; exit 6",
        input="typed\n",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (6, "typed\nb\nplain\n"), done.stderr
    assert runtime("run", "--rootfs", str(busybox), "-d", "--cpus", "0.5", "-m", "32m", "sleep", "99").returncode == 0
    (name,) = runtime("list", "-q").stdout.split()
    assert (cgroup_beside_ours("cpu", name) / "cpu.cfs_quota_us").read_text() == "50000\n"
    assert (cgroup_beside_ours("memory", name) / "memory.limit_in_bytes").read_text() == f"{32 << 20}\n"
    assert "not a directory" in runtime("run", "--rootfs", "/no/such", "sh").stderr
    assert runtime("run", "--rootfs", str(busybox), "no-such-program").returncode == 127


HEAVY = {"msgspec", "dataclasses", "typing", "re", "enum", "inspect", "subprocess", "json", "contextlib", "argparse"}


@pytest.mark.parametrize("command", ["state", "start", "kill", "delete", "create", "exec"])
def test_a_command_imports_nothing_that_takes_long(runtime: Runtime, command: str) -> None:
    runtime.command("true")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dockyard.runtime.startup import stand_ins; stand_ins.install()\n"
        "from dockyard.runtime.startup import protection; protection.protect = lambda: None\n"
        "from dockyard.runtime.command_line import main\n"
        "main.main(); print(*sys.modules.values(), sep='\\n')"
    )
    words = [sys.executable, "-ISEc", code, "--root", str(runtime.state), command, "nobody"]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=True)
    loaded = {line.split("'")[1] for line in done.stdout.splitlines() if " from " in line}
    assert not loaded & HEAVY
    assert f"dockyard.runtime.commands.{command}" in loaded


def test_unknown_capabilities_are_left_out_with_a_warning(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["args"] = ["true"]
        config["process"]["capabilities"]["bounding"].append("CAP_NOBODY_KNOWS")
        config["process"]["capabilities"]["effective"].append("CAP_ANY")

    runtime.config(change)
    done = runtime("run", "unknown")
    assert done.returncode == 0
    assert "ignoring unknown or unavailable capabilities: [CAP_ANY CAP_NOBODY_KNOWS]" in done.stderr
