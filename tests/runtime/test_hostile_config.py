"""Whatever a config.json says: the runtime makes the container or says in one error why not, and leaves nothing."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from dockyard.oci import runtime_spec
from dockyard.runtime.lifecycle.container import RuntimeFailure
from tests.leaks import Census, take_census
from tests.runtime.bundle import Bundle, apart

WORDS = """
    / .. ../.. /.. // /proc /proc/self/fd/3 /proc/sys /dev /sys proc tmpfs bind none overlay cgroup devpts sysfs rbind
    idmap ridmap remount tmpcopyup shared rro size=-1 mode=99999 user mount time RLIMIT_NPROC SCMP_ACT_KILL
    SCMP_ACT_NOTIFY MPOL_BIND SCHED_DEADLINE LINUX32 net.ipv4.ip_forward a true
""".split()
TEXTS = some.one_of(some.text(max_size=8), some.sampled_from([*WORDS, "", "x" * 5000, "\0", "a\0b", "\ud7ff"]))
EDGES = [0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
NUMBERS = some.one_of(some.integers(min_value=-(2**70), max_value=2**70), some.sampled_from(EDGES))
VALUES = some.recursive(
    some.one_of(some.none(), some.booleans(), NUMBERS, TEXTS),
    lambda inner: some.one_of(some.lists(inner, max_size=3), some.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)


ARGUMENT = {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, as the keys that lead there."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def full_config(bundle: Bundle) -> dict[str, Any]:
    """A config.json that says something about everything."""
    spec = bundle.spec("true")
    config: dict[str, Any] = json.loads(runtime_spec.encode(spec))
    config["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
    config["linux"] |= {
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "timeOffsets": {"monotonic": {"secs": 5, "nanosecs": 6}},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "devices": [{"path": "/dev/fifo", "type": "p"}, {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {
                    "names": ["chmod"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        "personality": {"domain": "LINUX"},
        "memoryPolicy": {"mode": "MPOL_LOCAL"},
        "rootfsPropagation": "slave",
        "maskedPaths": ["/proc/keys", "/sys/firmware"],
        "readonlyPaths": ["/proc/sys"],
    }
    config["process"] |= {
        "cwd": "/tmp",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}],
        "oomScoreAdj": 500,
        "scheduler": {"policy": "SCHED_OTHER", "nice": 3},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]},
    }
    (bundle.root / "y").touch()
    config["mounts"].append({"destination": "/y", "source": "/etc/hostname", "options": ["bind", "ro", "rprivate"]})
    config["hooks"] = {"createRuntime": [{"path": "/bin/true", "args": ["true"], "timeout": 5}]}
    config |= {"hostname": "h", "domainname": "d", "annotations": {"a": "b"}}
    return config


def changed(config: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(config))
    inner: Any = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


# What a config may rightly ask for and a test must not do to the machine: other cgroups than ours, programs of the
# host's as hooks, files of the host's bound and then written to.
NOT_TRIED = ("cgroupsPath", "hooks", "resources")


def run(bundle: Bundle, config: dict[str, Any]) -> str:
    """What became of it: "made", or the error."""

    def act() -> str:
        signal.alarm(20)
        try:
            spec = runtime_spec.decode(json.dumps(config).encode())
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            return str(error)
        if not spec.linux.cgroups_path.startswith("/dockyard-test-"):
            return "not tried"
        if spec.process is not None:
            spec.process.terminal = False
        try:
            with bundle.created(spec):
                return "made"
        except RuntimeFailure as failure:
            return failure.message

    said = apart(act)
    assert said
    assert "Traceback" not in said
    return said


def test_the_config_that_is_changed_can_be_made(bundle: Bundle) -> None:
    assert run(bundle, full_config(bundle)) == "made"


# An engine beside this test makes and ends things all the time; a runtime starts none of these.
OF_ENGINES = ("dockyard.daemon", "dockyard.shim", "/run/dytest", "link: ", "table: ")


def left_since(before: Census) -> list[str]:
    """What a runtime may have left behind since then."""
    return [
        leak
        for leak in take_census().leaks_since(before)
        if not any(word in leak for word in OF_ENGINES) and ("cgroup" not in leak or "dockyard-test" in leak)
    ]


@pytest.mark.parametrize("times", [pytest.param(150), pytest.param(2500, marks=pytest.mark.slow)])
def test_any_change_is_made_or_refused_and_leaves_nothing(bundle: Bundle, tmp_path: Path, times: int) -> None:
    config = full_config(bundle)
    where = [place for place in places(config) if not any(key in NOT_TRIED for key in place)]
    before = take_census()
    outside = tmp_path / "canary"
    outside.write_text("untouched")

    @settings(
        max_examples=times, deadline=None, database=None, derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip
    @given(some.sampled_from(where), VALUES, some.sampled_from(where), VALUES, some.booleans())
    def try_it(place: tuple[Any, ...], value: Any, other: tuple[Any, ...], another: Any, both: bool) -> None:
        hostile = changed(config, place, value)
        if both:
            try:
                hostile = changed(hostile, other, another)
            except (KeyError, IndexError, TypeError):
                pass  # the first change took that place away
        run(bundle, hostile)
        state = Path(bundle.state)
        assert not state.is_dir() or os.listdir(state) == [], hostile

    try_it()
    assert left_since(before) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"ociVersion": 1}',
        b"\xff\xfe",
        b'{"mounts": [' + b"[" * 5000,
        b'{"linux": {"namespaces": [{}]}}',
    ],
)
def test_what_is_no_config_is_one_error(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        runtime_spec.decode(data)


def test_a_null_byte_is_refused_wherever_it_is() -> None:
    for text in ('{"mounts": [{"destination": "/proc\\u0000x"}]}', '{"linux": {"sysctl": {"net.a\\u0000b": "1"}}}'):
        with pytest.raises(msgspec.ValidationError, match="null byte"):
            runtime_spec.decode(text.encode())
    assert runtime_spec.decode(b'{"annotations": {"a": "\\\\u0000"}}').annotations == {"a": "\\u0000"}


def test_limits_that_the_kernel_refuses_leave_no_cgroup(bundle: Bundle) -> None:
    before = take_census()
    config = full_config(bundle)
    config["linux"]["resources"] = {"cpu": {"quota": 1}}  # the least is 1000 µs
    assert "invalid argument" in run(bundle, config)
    assert left_since(before) == []
