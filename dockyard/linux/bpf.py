"""Classic BPF as seccomp filters use it (seccomp(2)): the instructions by their names."""

# struct sock_filter: code, jump if true, jump if false, operand (include/uapi/linux/bpf_common.h)
Instruction = tuple[int, int, int, int]
LOAD, JUMP, EQUAL, GREATER, AT_LEAST, HAS_BIT, MASK, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
