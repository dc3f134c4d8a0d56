"""`run --rootfs DIR COMMAND`: a container of a plain directory, with what a bundle would say taken from flags."""

import os

from dockyard.oci.runtime_spec import Cpu, Memory, Mount, Pids, Seccomp, Spec
from dockyard.runtime.command_line.sizes import size_in_bytes
from dockyard.runtime.command_line.usage import Flags, UsageError
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.spec import defaults

PERIOD = 100_000  # µs, in which a quota of CPU time is counted


def spec_of(flags: Flags, container_id: str) -> Spec:
    """The container that the flags describe. Raises RuntimeFailure or UsageError."""
    root = os.path.abspath(flags.text("rootfs"))
    if not os.path.isdir(root):
        raise RuntimeFailure(f"--rootfs {root}: not a directory")
    if not flags.arguments:
        raise UsageError("run --rootfs needs a command")
    spec = defaults.default_spec()
    spec.root.path = root
    spec.root.readonly = flags.on("read-only")
    spec.hostname = flags.text("hostname") or container_id
    _set_process(spec, flags)
    _set_limits(spec, flags)
    for row in flags.all("volume"):
        spec.mounts.append(_volume(row))
    network = flags.text("network", "none")
    if network not in ("none", "host"):
        raise UsageError(f"--network {network}: only none (loopback alone) and host are possible without an engine")
    if network == "host":
        spec.linux.namespaces = [kind for kind in spec.linux.namespaces if kind.type != "network"]
    spec.linux.seccomp = _seccomp()
    return spec


def _seccomp() -> Seccomp:
    return defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)


def _set_process(spec: Spec, flags: Flags) -> None:
    process = spec.process
    assert process is not None
    process.args = flags.arguments
    process.terminal = flags.on("tty")
    process.cwd = flags.text("workdir") or "/"
    process.env = [f"PATH={defaults.DEFAULT_PATH.partition('=')[2]}", *_environment(flags)]
    if process.terminal:
        process.env.append(f"TERM={os.environ.get('TERM', 'xterm')}")
    if flags.text("user"):
        uid, _, gid = flags.text("user").partition(":")
        if not uid.isdigit() or not (gid or "0").isdigit():
            raise UsageError("--user takes numbers: UID[:GID]")
        process.user.uid, process.user.gid = int(uid), int(gid or 0)


def _environment(flags: Flags) -> list[str]:
    """A name alone takes the value that we have."""
    entries = []
    for entry in flags.all("env"):
        if "=" in entry:
            entries.append(entry)
        elif entry in os.environ:
            entries.append(f"{entry}={os.environ[entry]}")
    return entries


def _set_limits(spec: Spec, flags: Flags) -> None:
    limits = spec.linux.resources
    assert limits is not None
    memory, swap = _bytes(flags, "memory"), _bytes(flags, "memory-swap")
    if memory is not None or swap is not None:
        limits.memory = Memory(limit=memory, swap=swap)
    cpus = flags.text("cpus")
    quota = None
    if cpus:
        try:
            quota = round(float(cpus) * PERIOD)
        except ValueError:
            raise UsageError(f'invalid value "{cpus}" for flag -cpus: parse error') from None
        if quota < 1000:
            raise UsageError("--cpus must be at least 0.01")
    if quota is not None or flags.given("cpu-shares") or flags.given("cpuset-cpus"):
        limits.cpu = Cpu(
            quota=quota,
            period=PERIOD if quota is not None else None,
            shares=flags.number("cpu-shares") or None,
            cpus=flags.text("cpuset-cpus"),
        )
    if flags.given("pids-limit"):
        limits.pids = Pids(limit=flags.number("pids-limit"))


def _bytes(flags: Flags, name: str) -> int | None:
    text = flags.text(name)
    if not text:
        return None
    try:
        return -1 if text == "-1" else size_in_bytes(text)
    except ValueError:
        raise UsageError(f"invalid size for --{name}: {text!r}") from None


def _volume(row: str) -> Mount:
    source, colon, rest = row.partition(":")
    target, _, options = rest.partition(":")
    if not colon or not target.startswith("/"):
        raise UsageError(f"--volume {row}: SOURCE:TARGET[:ro] is wanted")
    wanted = [option for option in options.split(",") if option]
    return Mount(destination=target, type="bind", source=os.path.abspath(source), options=["rbind", *wanted])
