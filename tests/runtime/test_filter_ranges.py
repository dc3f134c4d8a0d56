"""A filter decided by ranges answers each call as the one that it is made of: both are run here, step by step."""

import random
import struct
from itertools import product

import pytest

from dockyard.linux import bpf, filter_ranges, newer_calls, seccomp
from dockyard.oci.runtime_spec import Seccomp, SeccompArg, SeccompRule
from dockyard.runtime.spec import defaults

NAMES = "read write open close stat poll mmap brk ioctl clone socket personality execve kill umask prctl".split()
OPERATORS = [f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]
ACTIONS = [f"SCMP_ACT_{name}" for name in ("ALLOW", "ERRNO", "KILL_PROCESS", "LOG", "TRAP")]


def run(program: bytes, number: int, architecture: int, arguments: list[int]) -> int:
    """What the kernel would answer (Documentation/networking/filter.rst)."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments)
    code = list(struct.iter_unpack("=HBBI", program))
    at = loaded = 0
    while True:
        kind, yes, no, operand = code[at]
        at += 1
        if kind == bpf.LOAD:
            loaded = struct.unpack_from("=I", data, operand)[0]
        elif kind == bpf.MASK:
            loaded &= operand
        elif kind == bpf.JUMP:
            at += operand
        elif kind == bpf.RETURN:
            return int(operand)
        else:
            true = {
                bpf.EQUAL: loaded == operand,
                bpf.GREATER: loaded > operand,
                bpf.AT_LEAST: loaded >= operand,
                bpf.HAS_BIT: bool(loaded & operand),
            }[kind]
            at += yes if true else no


def check_alike(monkeypatch: pytest.MonkeyPatch, profile: Seccomp, chance: random.Random) -> tuple[int, int]:
    """Compare at each number that either program tells from its neighbours; the lengths of both."""
    with monkeypatch.context() as patch:
        patch.setattr(filter_ranges, "by_ranges", lambda program: program)
        plain = seccomp.compile_profile(profile)
    shorter = seccomp.compile_profile(profile)
    operands = {at[3] for program in (plain, shorter) for at in struct.iter_unpack("=HBBI", program)}
    edges = {value for operand in operands for value in (operand - 1, operand, operand + 1) if 0 <= value < 1 << 32}
    words = sorted(operands)
    for architecture, number in product((*set(seccomp.AUDIT_ARCHITECTURES.values()), 7), {0, *edges, (1 << 32) - 1}):
        arguments = [chance.choice(words) | chance.choice((0, 0, 1, chance.choice(words))) << 32 for _ in range(6)]
        answers = [run(program, number, architecture, arguments) for program in (plain, shorter)]
        assert answers[0] == answers[1], (architecture, number, arguments)
    return len(plain) // 8, len(shorter) // 8


def test_the_default_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)
    before, after = check_alike(monkeypatch, profile, random.Random(1))
    assert after < before / 2


@pytest.mark.parametrize("seed", range(12))
def test_profiles_by_chance(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)

    def condition(index: int) -> SeccompArg:
        value = chance.choice((0, 1, 2, 0xFFFFFFFF, 1 << 32, (1 << 40) + 3))
        return SeccompArg(index=index, value=value, value_two=chance.choice((0, 1)), op=chance.choice(OPERATORS))

    # libseccomp itself is at it for hours when many rules look at the same call's arguments
    names = chance.sample(NAMES, len(NAMES))
    rules = [[names.pop() for _ in range(chance.randrange(1, 4))] for _ in range(5)]
    profile = Seccomp(
        default_action=chance.choice(("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")),
        architectures=chance.choice((["SCMP_ARCH_X86_64"], ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], [])),
        syscalls=[
            SeccompRule(
                names=names,
                action=chance.choice(ACTIONS),
                args=[condition(index) for index in chance.sample(range(6), chance.randrange(4))],
            )
            for names in rules * 2
        ],
    )
    check_alike(monkeypatch, profile, chance)


def test_more_ranges_than_branches_reach() -> None:
    ret = [(bpf.RETURN, 0, 0, answer) for answer in (1, 2)]
    code = [(bpf.LOAD, 0, 0, bpf.NUMBER)]
    for number in range(0, 2000, 3):  # two of three
        code += [(bpf.EQUAL, 0, 1, number), ret[0], (bpf.EQUAL, 0, 1, number + 1), ret[0]]
    plain = b"".join(struct.pack("=HBBI", *instruction) for instruction in [*code, ret[1]])
    shorter = filter_ranges.by_ranges(plain)
    assert len(shorter) < len(plain)
    for number in (*range(2003), (1 << 32) - 1):
        assert run(shorter, number, 0, [0] * 6) == run(plain, number, 0, [0] * 6)


@pytest.mark.parametrize(
    "odd",
    [
        (0x87, 0, 0, 0),  # misc: to the other register
        (bpf.GREATER, 0, 0, 3),  # an order of architectures
        (bpf.MASK, 0, 0, 3),
    ],
)
def test_what_is_not_foreseen_stays_as_it_is(odd: bpf.Instruction) -> None:
    code = [(bpf.LOAD, 0, 0, bpf.ARCHITECTURE), odd, (bpf.EQUAL, 0, 0, 5), (bpf.RETURN, 0, 0, 1)]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    assert filter_ranges.by_ranges(program) == program


ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


@pytest.mark.parametrize(
    ("architecture", "bit"), [("SCMP_ARCH_X86_64", 0), ("SCMP_ARCH_X32", seccomp.X32_BIT), ("SCMP_ARCH_X86", 0)]
)
def test_the_default_profile_knows_calls_that_libseccomp_does_not(architecture: str, bit: int) -> None:
    """Whatever libseccomp the host has: Debian 12's ends with Linux 5.17."""
    audit = seccomp.AUDIT_ARCHITECTURES[architecture]
    guarded = {"set_mempolicy_home_node", "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "quotactl_fd"}
    later = {"open_tree_attr", "file_getattr", "file_setattr"}  # than all that the profile names
    unknown = EPERM if bit else ENOSYS  # x32 has calls of its own that the profile names, with higher numbers
    for capabilities, special in (
        (defaults.DEFAULT_CAPABILITIES, EPERM),
        ([*defaults.DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYS_NICE"], ALLOW),
    ):
        program = seccomp.compile_profile(defaults.default_seccomp(capabilities))
        for name, (place, number) in newer_calls.NUMBERS.items():
            if place == newer_calls.EVERYWHERE and name != "map_shadow_stack":  # which x32 has not
                expected = special if name in guarded else unknown if name in later else ALLOW
                assert run(program, number | bit, audit, [0] * 6) == expected, name
    assert run(program, 999 | bit, audit, [0] * 6) == ENOSYS
    if architecture == "SCMP_ARCH_X86_64":
        assert run(program, newer_calls.NUMBERS["uretprobe"][1], audit, [0] * 6) == ALLOW


def test_a_newer_call_gets_what_its_rule_says() -> None:
    for default, action, expected in (("ERRNO", "LOG", 0x7FFC0000), ("ALLOW", "KILL_PROCESS", 0x80000000)):
        rule = SeccompRule(names=["mseal"], action=f"SCMP_ACT_{action}")
        program = seccomp.compile_profile(Seccomp(default_action=f"SCMP_ACT_{default}", syscalls=[rule]))
        assert run(program, 462, seccomp.AUDIT_ARCHITECTURES["SCMP_ARCH_X86_64"], [0] * 6) == expected
