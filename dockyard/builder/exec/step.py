"""The vertex of a RUN."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from dockyard.builder.copying import find_sources, source_checksum
from dockyard.builder.exec.emulation import missing_emulator
from dockyard.builder.exec.mounts import Mount, Mounts, Stubs
from dockyard.builder.graph.vertex import Result, Rootfs, Vertex, key_of
from dockyard.builder.graph.work import step_facts
from dockyard.engine.containers.config import ContainerConfig, DeviceRequest, HostConfig
from dockyard.engine.containers.creation import Origin
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import Healthcheck

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work


NOT_EXECUTED = 255  # what a container ends with whose program execve refuses
ROOT = -1  # which of a command's results is its root file system; others are counted as its mounts are
HOST_NAME = "buildkitsandbox"  # the same for every step, or it would get into what they make


class ProcessFailed(DockyardError):
    """A RUN ended with a code other than 0; `exit_code` is that."""

    def __init__(self, words: Sequence[str], exit_code: int, reason: str = "") -> None:
        shown = " ".join(json.dumps(word, ensure_ascii=False) if not word or " " in word else word for word in words)
        if len(words) > 1 and words[-2] == "-c":
            shown = " ".join(words)
        because = f": {reason}" if reason else ""
        super().__init__(f'process "{shown}" did not complete successfully: exit code: {exit_code}{because}')
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Command:
    """What a RUN runs. `keyed`: the arguments that make it another step; `platform`: what its image is made for.

    `codes`: what it may end with. `keeps_root`: its root file system can be written to, and is a result.
    """

    words: tuple[str, ...]
    env: tuple[str, ...]
    folder: str
    user: str
    keyed: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = ""
    host: HostConfig = field(default_factory=HostConfig)
    platform: Platform = field(default_factory=Platform)
    hostname: str = ""  # "": the same one for all steps
    codes: tuple[int, ...] = (0,)
    keeps_root: bool = True
    devices: tuple[str, ...] = ()  # of the host, by their qualified names


class Run(Vertex):
    """Runs a command on its first input; the others are what is mounted."""

    def __init__(self, name: str, inputs: Sequence[Vertex], command: Command, *, line: int = 0) -> None:
        super().__init__(name, inputs, line=line)
        self.command = command
        self._lock = asyncio.Lock()
        self._results: dict[int, Rootfs] | None = None

    def definition(self) -> str:
        command = self.command
        mounts = [mount.facts() for mount in command.mounts]
        facts: tuple[object, ...] = (command.words, command.keyed, command.folder, command.user, command.network)
        facts = (*facts, mounts, command.hostname) if command.hostname else (*facts, mounts)
        if command.codes != (0,) or not command.keeps_root:
            facts = (*facts, command.codes, "own")
        return repr((*facts, "devices", command.devices) if command.devices else facts)

    def key(self, inputs: Sequence[Result]) -> str:
        return key_of("run", self.definition(), *(_chain(one) for one in inputs))

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        """By what is in the mounted files: the same although the stage that they come from was built anew."""
        shown = [mount for mount in self.command.mounts if mount.kind == "bind" and mount.input is not None]
        if not shown:
            return ""
        found = []
        for mount in shown:
            assert mount.input is not None
            rootfs = inputs[mount.input]
            assert isinstance(rootfs, Rootfs)
            async with work.tree(rootfs) as tree:
                if tree is None:
                    found.append("")
                    continue
                sources = await asyncio.to_thread(
                    find_sources,
                    tree,
                    ["." if mount.keep else mount.source.lstrip("/") or "."],
                    context=False,
                    unpack=False,
                )
                found.append(await asyncio.to_thread(source_checksum, sources, owners=True))
        return key_of("run-content", self.definition(), _chain(inputs[0]), *found)

    def facts(self, inputs: Sequence[Result]) -> dict[str, str]:
        command = self.command
        facts = {"base": _chain(inputs[0]), "command": " ".join(command.words), "user": command.user}
        facts["folder"] = command.folder
        facts.update((f"variable {item.partition('=')[0]}", item.partition("=")[2]) for item in command.keyed)
        for mount in command.mounts:
            if mount.input is not None:
                facts[f"mount {mount.target}"] = _chain(inputs[mount.input])
        return facts

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        return (await self.run(work, inputs))[ROOT]

    async def run(self, work: Work, inputs: Sequence[Result]) -> dict[int, Rootfs]:
        """What the command leaves: in its root file system (ROOT), and in those of its mounts that are kept.

        Whoever asks for which of them first, it is run once in a build.
        """
        if not any(mount.keep for mount in self.command.mounts):
            return await self._run_mounted(work, inputs)
        async with self._lock:
            if self._results is None:
                self._results = await self._run_mounted(work, inputs)
                self._keep(work, inputs, self._results)
            return self._results

    def _keep(self, work: Work, inputs: Sequence[Result], results: Mapping[int, Rootfs]) -> None:
        """Have all results for the time of the build and in the cache: they belong together."""
        facts = step_facts(self, inputs)
        for number, made in results.items():
            if made.chain_id is None:
                continue
            work.job.hold(made.chain_id)
            key = Run.key(self, inputs) if number == ROOT else self._output_key(inputs, number)
            below, top = made.diff_ids[:-1], made.diff_ids[-1]
            work.solver.cache.put(key, Rootfs(below).chain_id, top, name=self.name, created=made.created, facts=facts)

    def _output_key(self, inputs: Sequence[Result], mount: int) -> str:
        return key_of("run-output", str(mount), Run.key(self, inputs))

    async def _run_mounted(self, work: Work, inputs: Sequence[Result]) -> dict[int, Rootfs]:
        command, base = self.command, inputs[0]
        assert isinstance(base, Rootfs)
        if base.chain_id is None and not any(mount.kind == "bind" for mount in command.mounts):
            raise InvalidParameter("there is nothing in an empty image to run")
        shown = [one if isinstance(one, Rootfs) else None for one in inputs]
        async with work.solver.turns, Mounts(work, command.mounts, shown) as mounts:
            made = await self._run(work, base, mounts)
            return {ROOT: made, **await mounts.results()}

    async def _run(self, work: Work, base: Rootfs, mounts: Mounts) -> Rootfs:
        runner, layers = work.solver.runner, work.solver.container_layers
        container = await self._container(work, base, mounts)
        try:
            stubs = None
            if mounts.specs:
                async with layers.mounted(container) as tree:
                    targets = [spec.target for spec in mounts.specs]
                    stubs = await asyncio.to_thread(Stubs, tree.path, targets)
            code = await runner.run(container, work.say)
            if code not in self.command.codes:
                await self._let_look(work, container, code)
                raise self._failure(code)
            if stubs is not None:
                async with layers.mounted(container) as tree:
                    await asyncio.to_thread(stubs.remove, tree.path)
            made = work.keep(await layers.commit(container), base) if self.command.keeps_root else base
        except BaseException as failure:
            await self._failed(work, container, failure)
            raise
        self._done(work, container)
        return made

    async def _container(self, work: Work, base: Rootfs, mounts: Mounts) -> str:
        """Make the container; its ID."""
        command = self.command
        host = msgspec.json.decode(msgspec.json.encode(command.host), type=HostConfig)
        host.mounts = [*(host.mounts or []), *mounts.specs]
        host.readonly_rootfs = not command.keeps_root
        if command.network:
            host.network_mode = command.network
        if command.devices:
            host.device_requests = [DeviceRequest(driver="cdi", device_ids=list(command.devices))]
        config = ContainerConfig(
            hostname=command.hostname or HOST_NAME,
            user=command.user,
            env=["HOSTNAME", *command.env],  # not set, unless the image does: it would be in what env prints
            cmd=list(command.words),
            working_dir=command.folder,
            healthcheck=Healthcheck(["NONE"]),
        )
        return await work.solver.runner.create(config, host, Origin("", base.chain_id), mounts.environment)

    def _failure(self, code: int) -> DockyardError:
        """What is wrong when the command has ended so."""
        reason = missing_emulator(self.command.platform) if code == NOT_EXECUTED else ""
        return ProcessFailed(self.command.words, code, reason)

    async def _failed(self, work: Work, container: str, failure: BaseException) -> None:
        """Leave nothing of the container."""
        await asyncio.shield(work.solver.remove_container(container))

    def _done(self, work: Work, container: str) -> None:
        """Leave nothing of the container; meanwhile the next step begins."""
        work.solver.remove_container(container)

    async def _let_look(self, work: Work, container: str, code: int) -> None:
        """Give a client that wants it a shell in the container that has failed, with its mounts and variables."""
        words = self.command.words
        shell = words[0] if "-c" in words[:-1] else "/bin/sh"
        about = f"\n{self.name} ended with {code}. This is a shell in its container; leave it with `exit`.\n"
        terminal = await work.job.client.shell(about)
        if terminal is None:
            return
        try:
            await work.solver.runner.look(container, [shell], terminal)
        except DockyardError as error:
            with suppress(DockyardError):
                await terminal.show(f"there is no shell: {error}\r\n".encode())
        finally:
            terminal.close()


class RunOutput(Run):
    """What a command leaves in one of its mounts, on top of what was there."""

    def __init__(self, run: Run, mount: int) -> None:
        """`run`: the step that leaves its root file system, whom clients do not tell this one from."""
        super().__init__(run.name, run.inputs, run.command, line=run.line)
        self._root = run
        self._mount = mount
        self.ignore_cache = run.ignore_cache
        self.base = run.command.mounts[mount].input or 0
        self.call(run.digest)

    def key(self, inputs: Sequence[Result]) -> str:
        return self._output_key(inputs, self._mount)

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        known = await super().content_key(work, inputs)
        return known and key_of("run-output", str(self._mount), known)

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        return (await self._root.run(work, inputs))[self._mount]


def _chain(result: Result) -> str:
    return (result.chain_id or "scratch") if isinstance(result, Rootfs) else ""
