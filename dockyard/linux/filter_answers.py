"""What a compiled seccomp filter would answer to a call, found without loading it (seccomp(2))."""

import struct

from dockyard.linux import bpf, seccomp, syscalls

_INSTRUCTION = struct.Struct("=HBBI")
_ACTION = 0xFFFF0000
_ALLOWING = (seccomp.ACTIONS["SCMP_ACT_ALLOW"], seccomp.ACTIONS["SCMP_ACT_LOG"])
_FIRST_ARGUMENT = 16  # in struct seccomp_data


def allows(program: bytes, calls: "dict[str, tuple[int, ...]]") -> bool:
    """Whether the calls of these names (syscalls.NUMBERS), each with its first arguments, would all simply be made."""
    names = seccomp.native_architectures()
    if not names:
        return False
    architecture = seccomp.AUDIT_ARCHITECTURES[names[0]]
    return all(
        _answer(program, architecture, syscalls.NUMBERS[call], arguments) in _ALLOWING
        for call, arguments in calls.items()
    )


def _answer(program: bytes, architecture: int, number: int, arguments: "tuple[int, ...]") -> "int | None":
    """The action, without its data; None for a program that does what none of libseccomp's does."""
    accumulator = at = 0
    while at * _INSTRUCTION.size < len(program):
        code, yes, no, operand = _INSTRUCTION.unpack_from(program, at * _INSTRUCTION.size)
        at += 1
        if code == bpf.LOAD:
            if operand == bpf.NUMBER:
                accumulator = number
            elif operand == bpf.ARCHITECTURE:
                accumulator = architecture
            else:
                index, high = divmod(operand - _FIRST_ARGUMENT, 8)
                if index < 0:
                    return None
                value = arguments[index] if index < len(arguments) else 0
                accumulator = value >> 32 if high else value & 0xFFFFFFFF
        elif code == bpf.JUMP:
            at += operand
        elif code == bpf.EQUAL:
            at += yes if accumulator == operand else no
        elif code == bpf.GREATER:
            at += yes if accumulator > operand else no
        elif code == bpf.AT_LEAST:
            at += yes if accumulator >= operand else no
        elif code == bpf.HAS_BIT:
            at += yes if accumulator & operand else no
        elif code == bpf.MASK:
            accumulator &= operand
        elif code == bpf.RETURN:
            return int(operand) & _ACTION
        else:
            return None
    return None
