"""Commands of LLB (ExecOp): what is run, on what, with what mounted; each mount may be a result of its own."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from dockyard.builder.exec.devices import resolved
from dockyard.builder.exec.mounts import Mount
from dockyard.builder.exec.step import Command, Run, RunOutput
from dockyard.builder.frontend.bases import DEFAULT_PATH
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.buildkit import wire_pb2 as wire
from dockyard.dockerfile.devices import DeviceFlag
from dockyard.engine.containers.config import HostConfig, Ulimit
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import host

BIND, SECRET, SSH, CACHE, TMPFS = range(5)
NETWORKS = ("", "host", "none")
SHARING = ("shared", "private", "locked")
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


class Commands:
    """Translates commands of a build with `entitlements`."""

    def __init__(self, entitlements: Sequence[str], device_directories: Sequence[str]) -> None:
        """`device_directories`: where devices are described that commands may want by name."""
        self._entitlements = entitlements
        self._device_directories = device_directories

    def outputs(self, op: wire.Op, name: str, given: Sequence[Vertex], *, anew: bool = False) -> dict[int, Vertex]:
        """The vertices of a command, by the number of the output that each makes. `anew`: its caches are.

        Raises InvalidParameter.
        """
        exec_op = op.exec
        if not exec_op.meta.args:
            raise InvalidParameter("invalid LLB definition: a command without arguments")
        layout = _Layout(given, exec_op.meta.cwd, anew=anew)
        for mount in exec_op.mounts:
            layout.add(mount)
        for secret in exec_op.secret_env:
            layout.mounts.append(Mount("secret", "", id=secret.id, env=secret.name, required=not secret.optional))
        command = self._command(op, layout)
        run = Run(name or _shown(command.words), layout.inputs, command)
        made: dict[int, Vertex] = {layout.root_output: run} if layout.root_output >= 0 else {}
        for output, number in layout.outputs.items():
            made[output] = RunOutput(run, number)
        return made

    def _command(self, op: wire.Op, layout: _Layout) -> Command:
        exec_op, meta = op.exec, op.exec.meta
        if exec_op.network not in range(len(NETWORKS)):
            raise InvalidParameter(f"invalid netmode {exec_op.network}")
        network = NETWORKS[exec_op.network]
        for wanted, needed in ((network == "host", "network.host"), (exec_op.security == 1, "security.insecure")):
            if wanted and needed not in self._entitlements:
                raise InvalidParameter(f"{needed} is not allowed")
        here = host()
        platform = Platform(op.platform.architecture, op.platform.os, op.platform.variant)
        return Command(
            tuple(meta.args),
            tuple(_environment(meta)),
            meta.cwd or "/",
            meta.user,
            tuple(meta.env),
            tuple(layout.mounts),
            network,
            _host(meta, privileged=exec_op.security == 1),
            platform if platform.architecture else here,
            meta.hostname,
            tuple(meta.valid_exit_codes) or (0,),
            not layout.read_only,
            resolved(
                [DeviceFlag(device.name, not device.optional) for device in exec_op.devices],
                self._device_directories,
                self._entitlements,
            ),
        )


class _Layout:
    """The mounts of one command, and the inputs of its vertex: the root file system first."""

    def __init__(self, given: Sequence[Vertex], folder: str, *, anew: bool) -> None:
        """`folder`: where the command is run, which relative mount points are relative to."""
        self._given = given
        self._folder = folder
        self._anew = anew
        self.inputs: list[Vertex] = [Scratch()]
        self.mounts: list[Mount] = []
        self.outputs: dict[int, int] = {}  # output: the mount's number
        self.root_output = -1
        self.read_only = False

    def add(self, mount: wire.Mount) -> None:
        """Take up a mount. Raises InvalidParameter."""
        target = posixpath.normpath(posixpath.join("/", self._folder, mount.destination))
        if target == "/":
            if mount.kind != BIND:
                raise InvalidParameter("invalid mount for root: it has to be a bind mount")
            self.inputs[0] = self._input(mount.input)
            self.root_output, self.read_only = mount.output, mount.readonly
            return
        kinds = {BIND: self._bind, SECRET: self._secret, SSH: self._ssh, CACHE: self._cache, TMPFS: self._tmpfs}
        if mount.kind not in kinds:
            raise InvalidParameter(f"mount type {mount.kind} not implemented")
        self.mounts.append(kinds[mount.kind](mount, target))

    def _input(self, number: int) -> Vertex:
        if number < 0:
            return Scratch()
        if number >= len(self._given):
            raise InvalidParameter(f"missing input {number}")
        return self._given[number]

    def _bind(self, mount: wire.Mount, target: str) -> Mount:
        self.inputs.append(self._input(mount.input))
        keep = mount.output >= 0 and not mount.readonly
        if mount.output >= 0:
            self.outputs[mount.output] = len(self.mounts)
        return Mount(
            "bind",
            target,
            posixpath.join("/", mount.selector),
            len(self.inputs) - 1,
            writable=not mount.readonly,
            keep=keep,
        )

    def _secret(self, mount: wire.Mount, target: str) -> Mount:
        about = mount.secret
        needed = not about.optional
        return Mount("secret", target, id=about.id, required=needed, mode=about.mode, uid=about.uid, gid=about.gid)

    def _ssh(self, mount: wire.Mount, target: str) -> Mount:
        about = mount.ssh
        needed = not about.optional
        return Mount("ssh", target, id=about.id, required=needed, mode=about.mode, uid=about.uid, gid=about.gid)

    def _cache(self, mount: wire.Mount, target: str) -> Mount:
        if mount.cache.sharing not in range(len(SHARING)):
            raise InvalidParameter(f"invalid cache sharing option: {mount.cache.sharing}")
        number = None
        if mount.input >= 0:
            self.inputs.append(self._input(mount.input))
            number = len(self.inputs) - 1
        return Mount(
            "cache",
            target,
            posixpath.join("/", mount.selector),
            number,
            writable=not mount.readonly,
            id=f"/{mount.cache.id}",
            sharing=SHARING[mount.cache.sharing],
            anew=self._anew,
        )

    def _tmpfs(self, mount: wire.Mount, target: str) -> Mount:
        return Mount("tmpfs", target, size=mount.tmpfs.size, writable=True)


def _environment(meta: wire.ExecMeta) -> list[str]:
    """The command's variables, with a PATH whatever the client says, and the proxies that it has."""
    found = list(meta.env)
    known = {one.partition("=")[0] for one in found}
    for name in PROXIES:
        value = getattr(meta.proxy_env, name)
        found += [f"{one}={value}" for one in (name, name.upper()) if value and one not in known]
    return found if "PATH" in known else [*found, DEFAULT_PATH]


def _host(meta: wire.ExecMeta, *, privileged: bool) -> HostConfig:
    limits = [Ulimit(name=one.name, soft=one.soft, hard=one.hard) for one in meta.ulimit]
    hosts = [f"{one.host}:{one.address}" for one in meta.extra_hosts]
    return HostConfig(
        extra_hosts=hosts or None, ulimits=limits or None, cgroup_parent=meta.cgroup_parent, privileged=privileged
    )


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)
