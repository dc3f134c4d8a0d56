"""What this runtime can do, as the features document of the runtime specification (features.md)."""

from typing import Any

from dockyard.linux import capabilities, namespaces, seccomp
from dockyard.oci.runtime_spec import VERSION
from dockyard.runtime.rootfs.mount_options import FLAGS, OTHERS, PROPAGATION, RECURSIVE
from dockyard.version import VERSION as OWN_VERSION

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def document() -> dict[str, Any]:
    """The features, of this runtime on this host."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted({*FLAGS, *PROPAGATION, *RECURSIVE, *OTHERS}),
        "linux": {
            "namespaces": sorted(namespaces.CLONE_FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(f"SCMP_ARCH_{name}" for name in ARCHITECTURES),
                "knownFlags": list(seccomp.FLAGS),
                "supportedFlags": list(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {
            "io.dockyard.version": OWN_VERSION,
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": ["bundle", "org.systemd.property.", "org.criu.config"],
    }


ARCHITECTURES = (
    "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE RISCV64 S390 S390X"
).split()
