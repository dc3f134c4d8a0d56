"""The config.json that `spec` writes to start from."""

from typing import Any

from dockyard.runtime.spec.defaults import DEFAULT_PATH, MASKED_PATHS, READONLY_PATHS

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def example_spec(*, own_cgroups: bool) -> dict[str, Any]:
    """A container that runs `sh` on a terminal; `own_cgroups`: in a cgroup namespace of its own."""
    namespaces = ["pid", "network", "ipc", "uts", "mount", *(["cgroup"] if own_cgroups else [])]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [DEFAULT_PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "dockyard",
        "mounts": [
            _mount("/proc", "proc", "proc"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount(
                "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
            ),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def rootless_spec(spec: dict[str, Any], uid: int, gid: int) -> dict[str, Any]:
    """`spec` for a user without privileges: who has one id, no network to set up and no cgroup to limit."""
    linux = spec["linux"]
    del linux["resources"]
    kept = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    linux["namespaces"] = [*kept, {"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    for mount in spec["mounts"]:
        if mount["destination"] == "/sys":
            # sysfs belongs to the network namespace, which is the host's
            mount.update(_mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"))
        elif "options" in mount:
            mount["options"] = [option for option in mount["options"] if not option.startswith(("gid=", "uid="))]
    return spec


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    row: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    return {**row, "options": list(options)} if options else row
