"""What `state` and `list` tell of a container."""

import time

from dockyard.runtime.lifecycle.handle import ContainerHandle


def report(container: ContainerHandle) -> dict[str, object]:
    """The runtime specification's state, and the root, the time of creation and the owner."""
    record = container.record
    status = container.status()
    rows: dict[str, object] = {
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": 0 if status == "stopped" else record.pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": when(record.created_ns),
    }
    if record.annotations:
        rows["annotations"] = record.annotations
    rows["owner"] = ""
    return rows


def when(moment: int) -> str:
    """Nanoseconds since 1970 as RFC 3339, as short as they allow."""
    seconds, fraction = divmod(moment, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f".{fraction:09}".rstrip("0").rstrip(".")
    return f"{text}{digits}Z"
