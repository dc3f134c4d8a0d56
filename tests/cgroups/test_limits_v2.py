"""The spec's resources, which are version 1's, on cgroup version 2."""

import pytest

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import Cpu, DeviceRule, Memory, Pids, Resources
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import device_filter
from dockyard.runtime.resources import limits as resources
from dockyard.runtime.resources import v2 as resources_v2
from tests.cgroups.conftest import Spawn

MIB = 1 << 20
DENY_ALL = DeviceRule(allow=False, type="a", access="rwm")
OPEN = (
    "import os\n"
    "while True:\n"
    "    path, flags = input().split()\n"
    "    try:\n"
    "        os.close(os.open(path, int(flags)))\n"
    "        print('ok')\n"
    "    except OSError as error:\n"
    "        print(error.errno)\n"
)
READ, WRITE, BOTH = 0, 1, 2


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1, 1), (1024, 100), (262_144, 10_000), (999_999, 10_000)])
def test_usual_shares_are_the_usual_weight(shares: int, weight: int) -> None:
    assert resources_v2.shares_to_weight(shares) == weight


@pytest.mark.parametrize(
    ("limit", "swap", "alone"),
    [(64, 96, 32), (64, -1, -1), (-1, 0, -1), (-1, 50, 50), (64, 0, None), (64, 64, 0), (0, 0, None)],
)
def test_swap_is_what_is_left_of_both(limit: int, swap: int, alone: int | None) -> None:
    assert resources_v2.swap_only(Memory(limit=limit, swap=swap)) == alone


@pytest.mark.parametrize(("limit", "swap"), [(0, 64), (64, 32)])
def test_swap_that_makes_no_sense_with_memory_is_refused(limit: int, swap: int) -> None:
    with pytest.raises(RuntimeFailure):
        resources_v2.swap_only(Memory(limit=limit, swap=swap))


def _answers(v2: Cgroup, spawn: Spawn, rules: list[DeviceRule], *asked: tuple[str, int]) -> list[bool]:
    device_filter.attach(v2.directories[0], rules)
    process = spawn(v2, OPEN)
    assert process.stdin is not None
    assert process.stdout is not None
    found = []
    for path, flags in asked:
        process.stdin.write(f"{path} {flags}\n")
        answer = process.stdout.readline().strip()
        assert answer in ("ok", "1")
        found.append(answer == "ok")
    return found


def test_only_listed_devices_open(v2: Cgroup, spawn: Spawn) -> None:
    rules = [DENY_ALL, DeviceRule(allow=True, type="c", major=1, minor=3, access="rw")]
    assert _answers(v2, spawn, rules, ("/dev/null", BOTH), ("/dev/zero", READ)) == [True, False]


def test_each_access_is_settled_by_the_last_rule_that_names_it(v2: Cgroup, spawn: Spawn) -> None:
    rules = [
        DENY_ALL,
        DeviceRule(allow=True, type="c", major=1, access="rwm"),
        DeviceRule(allow=False, type="c", major=1, minor=5, access="w"),
    ]
    asked = (("/dev/zero", READ), ("/dev/zero", WRITE), ("/dev/zero", BOTH), ("/dev/null", BOTH))
    assert _answers(v2, spawn, rules, *asked) == [True, False, False, True]


def test_accesses_may_be_allowed_by_two_rules(v2: Cgroup, spawn: Spawn) -> None:
    rules = [DENY_ALL, *(DeviceRule(allow=True, type="c", major=1, minor=3, access=letter) for letter in "rw")]
    assert _answers(v2, spawn, rules, ("/dev/null", BOTH), ("/dev/full", READ)) == [True, False]


def test_new_rules_take_the_place_of_the_old(v2: Cgroup, spawn: Spawn) -> None:
    assert _answers(v2, spawn, [DENY_ALL], ("/dev/zero", READ)) == [False]
    assert _answers(v2, spawn, [DeviceRule(allow=True, type="a")], ("/dev/zero", READ)) == [True]


def test_limits_reach_their_files(v2: Cgroup) -> None:
    if "memory" not in (v2.read("", "cgroup.controllers") or ""):
        pytest.skip("version 2 has no controllers on this host")
    resources.apply(
        v2,
        Resources(
            memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
            cpu=Cpu(shares=1024, quota=50_000, period=200_000, cpus="0"),
            pids=Pids(limit=33),
            unified={"memory.high": str(48 * MIB)},
        ),
    )
    assert v2.number("", "memory.max") == 64 * MIB
    assert v2.number("", "memory.swap.max") in (32 * MIB, 0)  # 0: no swap accounting
    assert v2.number("", "memory.low") == 32 * MIB
    assert v2.number("", "memory.high") == 48 * MIB
    assert v2.number("", "cpu.weight") == 100
    assert v2.read("", "cpu.max") == "50000 200000\n"
    assert v2.read("", "cpuset.cpus") == "0\n"
    assert v2.number("", "pids.max") == 33


def test_a_limit_below_what_is_used_is_refused_when_that_is_asked_for(v2: Cgroup, spawn: Spawn) -> None:
    if "memory" not in (v2.read("", "cgroup.controllers") or ""):
        pytest.skip("version 2 has no controllers on this host")
    process = spawn(v2, "x = bytearray(32 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint('ok')\ninput()")
    assert process.stdout is not None
    assert process.stdout.readline() == "ok\n"
    with pytest.raises(RuntimeFailure, match="rejecting memory limit"):
        resources.apply(v2, Resources(memory=Memory(limit=MIB, check_before_update=True)))
    assert process.poll() is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nonsense", "must be in the form CONTROLLER.PARAMETER"),
        ("nonsense.max", 'controller "nonsense" not available'),
        ("../evil", "must be a file name"),
    ],
)
def test_unified_resources_that_do_not_exist_are_refused(v2: Cgroup, name: str, said: str) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        resources.apply(v2, Resources(unified={name: "1"}))
