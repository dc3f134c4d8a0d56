"""Which platforms' programs run on this host: its own, and those that binfmt_misc has an emulator for.

Kernel: admin-guide/binfmt-misc. Emulators are registered by the host's administrator, usually as `qemu-aarch64` and its
like; the engine only looks.
"""

from __future__ import annotations

from pathlib import Path

from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import host, runs_on

BINFMT = Path("/proc/sys/fs/binfmt_misc")
PROCESSORS = Path("/proc/cpuinfo")
X86_32 = Path("/proc/sys/abi/vsyscall32")  # is there when the kernel runs programs of 32 bits too (sysctl/abi)
# The machine in an ELF header (elf.h, EM_*) as Go calls it; s390 and the MIPSes come in two orders of bytes.
_MACHINES = {
    (3, "little"): "386",
    (8, "big"): "mips64",
    (8, "little"): "mips64le",
    (21, "little"): "ppc64le",
    (22, "big"): "s390x",
    (40, "little"): "arm",
    (62, "little"): "amd64",
    (183, "little"): "arm64",
    (243, "little"): "riscv64",
    (258, "little"): "loong64",
}
_VARIANTS = {"arm": ("v7", "v6")}
# What /proc/cpuinfo calls what a level of x86-64 adds to the one below (System V ABI, AMD64 supplement, 3.1.1).
_LEVELS = {
    "v2": {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
    "v3": {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
    "v4": {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"},
}


def native(processors: Path = PROCESSORS) -> list[Platform]:
    """The platforms that this host's processor runs: its own, each level of it, and the 32 bits of before."""
    own = host()
    found = [own]
    if own.architecture != "amd64":
        return found
    try:
        lines = processors.read_text().splitlines()
    except OSError:
        lines = []
    features = set(next((line for line in lines if line.startswith("flags")), "").split())
    for level, added in _LEVELS.items():
        if not added <= features:
            break
        found.append(Platform(own.architecture, own.os, level))
    return [*found, Platform("386", own.os)] if X86_32.exists() else found


def emulated(folder: Path = BINFMT) -> list[Platform]:
    """The platforms that emulators are registered for."""
    found: set[str] = set()
    for path in sorted(folder.glob("*")):
        if path.name in ("register", "status"):
            continue
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        fields = dict(line.split(" ", 1) for line in lines if " " in line)
        if lines[:1] == ["enabled"] and fields.get("offset", "0") == "0":
            found.add(_architecture(fields.get("magic", "")))
    found -= {"", *(one.architecture for one in native())}
    return [Platform(name, "linux", variant) for name in sorted(found) for variant in _VARIANTS.get(name, ("",))]


def _architecture(magic: str) -> str:
    """What programs begin with these bytes, hexadecimal; "" for none that we know."""
    try:
        head = bytes.fromhex(magic)
    except ValueError:
        return ""
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return ""
    order = "big" if head[5] == 2 else "little"
    return _MACHINES.get((int.from_bytes(head[18:20], "big" if head[5] == 2 else "little"), order), "")


def missing_emulator(wanted: Platform) -> str:
    """Why programs of a platform don't run here; "" when they may."""
    here = host()
    if wanted.os != here.os or not wanted.architecture or runs_on(wanted, here):
        return ""
    if any(one.architecture == wanted.architecture for one in emulated()):
        return ""
    return f"this host ({here}) has no emulator for {wanted} registered with binfmt_misc"
