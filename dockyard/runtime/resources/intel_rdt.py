"""Intel's Resource Director Technology: shares of the last level cache and of memory bandwidth, by resctrl.

A class of service is a directory of the resctrl file system; a process is in it by its `tasks` file (runtime-spec
config-linux.md, "IntelRdt"; kernel: arch/x86/resctrl).
"""

import os

from dockyard.linux.mounts import mount_table
from dockyard.oci.runtime_spec import IntelRdt
from dockyard.runtime.errors import RuntimeFailure


def mount_point() -> str:
    """Where resctrl is mounted, "" when it is not."""
    return next((row.target for row in mount_table() if row.kind == "resctrl"), "")


def check(wanted: IntelRdt, top: str | None = None) -> None:
    """Raise RuntimeFailure when this host can't give it. `top`: where resctrl is, found when None."""
    top = mount_point() if top is None else top
    if not top:
        raise RuntimeFailure("intelRdt is specified in config, but Intel RDT is not enabled")
    name = wanted.clos_id
    if name in (".", "..") or (len(name) > 1 and "/" in name):
        raise RuntimeFailure(f'invalid intelRdt.ClosID "{name}"')
    for what, text, resource in (
        ("l3CacheSchema", wanted.l3_cache_schema, "L3"),
        ("memBwSchema", wanted.mem_bw_schema, "MB"),
    ):
        if text and not os.path.isdir(f"{top}/info/{resource}"):
            raise RuntimeFailure(f"intelRdt.{what} is specified in config, but Intel RDT/{resource} is not enabled")
    for line in (wanted.l3_cache_schema, wanted.mem_bw_schema, *wanted.schemata):
        if "\n" in line:
            raise RuntimeFailure("intelRdt: a schema must not contain newlines")


def join(wanted: IntelRdt, container_id: str, pid: int, top: str | None = None) -> list[str]:
    """Put the process into its class of service, made if need be; the directories to be removed with the container.

    Raises RuntimeFailure.
    """
    top = mount_point() if top is None else top
    group = top if wanted.clos_id == "/" else f"{top}/{wanted.clos_id or container_id}"
    schemata = [line for line in (wanted.l3_cache_schema, wanted.mem_bw_schema, *wanted.schemata) if line]
    made: list[str] = []
    try:
        if os.path.isdir(group):
            if wanted.clos_id and schemata:
                _compare(group, schemata)
        elif wanted.clos_id and not schemata:
            raise RuntimeFailure(f"intelRdt: the class of service {wanted.clos_id} does not exist")
        else:
            os.mkdir(group, 0o755)
            if not wanted.clos_id:
                made.append(group)
            _write(f"{group}/schemata", "".join(line + "\n" for line in schemata))
        tasks = f"{group}/tasks"
        if wanted.enable_monitoring:
            monitor = f"{group}/mon_groups/{container_id}"
            os.mkdir(monitor, 0o755)
            made.insert(0, monitor)
            _write(f"{monitor}/tasks", str(pid))
        _write(tasks, str(pid))
    except (OSError, RuntimeFailure) as error:
        leave(made)
        if isinstance(error, RuntimeFailure):
            raise
        raise RuntimeFailure(f"unable to apply Intel RDT configuration: {error.strerror}: {error.filename}") from error
    return made


def leave(made: list[str]) -> None:
    """Remove what `join` has made."""
    for directory in made:
        try:
            os.rmdir(directory)
        except OSError:
            pass  # removed by somebody else


def _write(path: str, text: str) -> None:
    if not text:
        return
    with open(path, "w") as file:
        file.write(text)


def _compare(group: str, schemata: list[str]) -> None:
    """A class that is there already must be what the spec says it is: others are in it."""
    with open(f"{group}/schemata") as file:
        present = {_normal(line) for line in file}
    for line in schemata:
        if _normal(line) not in present:
            raise RuntimeFailure(f"intelRdt: {os.path.basename(group)} exists and its schemata do not say {line}")


def _normal(line: str) -> tuple[str, tuple[str, ...]]:
    """`L3:0=7f0;1=01f` as (L3, (0=7f0, 1=1f)): spaces and leading zeros mean nothing."""
    name, _, rest = line.strip().partition(":")
    shares = sorted(
        "=".join(part.strip().lstrip("0") or "0" for part in share.split("=")) for share in rest.split(";") if share
    )
    return name.strip(), tuple(shares)
