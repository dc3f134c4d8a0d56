"""Which platforms' programs run on this host: its own, and those that binfmt_misc has an emulator for.

Kernel: admin-guide/binfmt-misc. Emulators are registered by the host's administrator, usually as `qemu-aarch64` and its
like; the engine only looks.
"""

from __future__ import annotations

from pathlib import Path

from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import host, runs_on

BINFMT = Path("/proc/sys/fs/binfmt_misc")
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
    found -= {"", host().architecture}
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
