"""One stage on its way into the graph: what each instruction adds to it."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from dockyard.builder.arguments import Arguments
from dockyard.builder.exec.devices import resolved
from dockyard.builder.exec.mounts import Mount
from dockyard.builder.exec.step import Command as RunOrder
from dockyard.builder.exec.step import Run
from dockyard.builder.files import Copy as CopyVertex
from dockyard.builder.files import MakeDirectory, Selection
from dockyard.builder.frontend.copies import Surroundings, plan_copy
from dockyard.builder.frontend.history import quoted_check
from dockyard.builder.frontend.linting import NO_VARIABLES, StageChecks
from dockyard.builder.frontend.platforms import crossing
from dockyard.builder.graph.request import Line
from dockyard.builder.graph.vertex import Vertex
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.memory import Document
from dockyard.builder.sources.remote import Download, Inside, RemoteContext, Repository
from dockyard.builder.stages import Stage
from dockyard.dockerfile.checks import Findings
from dockyard.dockerfile.image_config import Configuring, cleaned, moved, ports_of
from dockyard.dockerfile.instructions import Arg, Command, Copy, HealthCheck, Instruction, Pairs, Text, Words
from dockyard.dockerfile.mounts import RunMount, settled
from dockyard.dockerfile.substitution import expand, shown_command
from dockyard.engine.containers.config import HostConfig
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import ImageConfig
from dockyard.oci.manifest import host, parse_platform

if TYPE_CHECKING:
    from dockyard.builder.frontend.conversion import Conversion

SCRIPT_FOLDER = "/dev/pipes/"
HIDDEN = "****"  # a secret in a step's name


@dataclass(slots=True)
class StageBuild:
    """A stage so far: the step whose result are its files, its configuration, and the lines of its history."""

    stage: Stage
    vertex: Vertex
    config: ImageConfig
    history: list[Line]
    arguments: Arguments
    total: int
    shown: str
    platform: Platform | None = None  # where its steps run, if that is said with their names
    # ARG and ENV, whichever came last
    variables: dict[str, str] = field(default_factory=dict)
    count: int = 0
    prefix: str = ""  # of the names of steps at the moment
    lines: list[str] = field(default_factory=list)
    known_checks: StageChecks | None = None  # None before its steps are looked at

    def __post_init__(self) -> None:
        assert self.config.config is not None
        self.variables.update(item.partition("=")[::2] for item in self.config.config.env or ())

    def take_over(self, base: StageBuild, findings: Findings) -> StageBuild:
        """Itself, with what it has from the stage that it is based on."""
        self.known_checks = StageChecks(findings, base.known_checks)
        self.platform = base.platform
        self.variables = {**base.variables, **self.variables}
        return self

    @property
    def checks(self) -> StageChecks:
        """What looks for violations in its steps."""
        assert self.known_checks is not None
        return self.known_checks

    def next_name(self, text: str) -> str:
        """The name of the next step that is counted."""
        self.count += 1
        where = "" if self.platform is None else crossing(self.platform, self.environment())
        return f"[{where}{self.shown}{self.count:>{len(str(self.total))}}/{self.total}] {self.prefix}{text}"

    def environment(self) -> dict[str, str]:
        """What variables stand for."""
        return dict(self.variables)

    def declared(self) -> list[str]:
        """The arguments declared up to here, with what their names stand for."""
        worth = {**self.arguments.values(), **self.variables}
        return [f"{name}={worth.get(name, '')}" for name in self.arguments.declared()]

    def take_triggers(self) -> list[str]:
        """What the base image asks of its children (ONBUILD); it is asked once."""
        assert self.config.config is not None
        triggers = self.config.config.on_build or []
        self.config.config.on_build = None
        return triggers


class Steps:
    """Adds the instructions of one stage to the graph."""

    def __init__(self, conversion: Conversion, state: StageBuild, escape: str) -> None:
        self._conversion = conversion
        self._request = conversion.request
        self._state = state
        self._escape = escape
        assert state.config.config is not None
        self._config = state.config.config
        self._configuring = Configuring(self._config, state.environment, escape)
        names = conversion.request.no_cache
        self._no_cache = names is not None and (not names or (state.stage.name or "") in [n.lower() for n in names])
        self._handlers: dict[type[Instruction], Callable[[Any, int], Any]] = {
            Arg: self._arg,
            Command: self._command,
            Copy: self._copy,
            HealthCheck: self._configure,
            Pairs: self._pairs,
            Text: self._text,
            Words: self._configure,
        }

    async def do(self, instruction: Instruction, line: int, end: int) -> None:
        """Add the instruction of these lines. Raises InvalidParameter."""
        checks = self._state.checks
        checks.line, checks.end = line, end
        try:
            await self._handlers[type(instruction)](instruction, line)
        finally:
            self._tell_unknown()

    def _expand(self, word: str) -> str:
        try:
            return self._configuring.expand(word)
        finally:
            self._tell_unknown()

    def _unknown(self, names: Sequence[str]) -> None:
        self._configuring.unknown += names
        self._tell_unknown()

    def _tell_unknown(self) -> None:
        """Have the checks know of variables that stand for nothing."""
        unknown = self._configuring.unknown
        if unknown:
            self._state.checks.unknown(unknown, self._state.variables, self._state.arguments.declared())
            unknown.clear()

    def _note(self, created_by: str, vertex: Vertex | None = None) -> None:
        self._state.history.append(Line(created_by, vertex))

    def _add(self, vertex: Vertex, created_by: str) -> None:
        vertex.ignore_cache = self._no_cache
        self._state.vertex = vertex
        self._note(f"{created_by} # buildkit", vertex)

    # -- configuration alone

    async def _configure(self, step: Instruction, line: int) -> None:
        created_by = self._configuring.apply(step)
        if isinstance(step, HealthCheck):
            self._state.checks.command(step, "HEALTHCHECK", shell=True)
            created_by = f"HEALTHCHECK {quoted_check(step.check)}"
        if isinstance(step, Words) and step.word == "EXPOSE":
            words = self._configuring.expand_words(sorted(step.values))
            self._state.checks.ports(words)
            created_by = f"EXPOSE [{' '.join(ports_of(words))}]"
        if not (isinstance(step, Text) and step.word == "ONBUILD"):
            self._note(created_by)

    async def _pairs(self, step: Pairs, line: int) -> None:
        await self._configure(step, line)
        names = [expand(name, self._state.variables, self._escape) for name, _ in step.pairs]
        self._state.checks.pairs(step, names)
        if step.word == "ENV":
            known = dict(item.partition("=")[::2] for item in self._config.env or ())
            self._state.variables.update({name: known[name] for name in names if name in known})

    async def _arg(self, step: Arg, line: int) -> None:
        shown = []
        for name, value in step.arguments:
            self._state.checks.secret("ARG", name)
            if value is not None and not self._state.arguments.given(name):  # (else it need not make sense)
                value = self._expand(value)
            self._state.arguments.declare(name, value)
            worth = self._state.arguments.worth(name)
            if worth is not None and name not in NO_VARIABLES:
                self._state.variables[name] = worth
            shown.append(name if worth is None else f"{name}={worth}")
        self._note("ARG " + " ".join(shown))

    async def _text(self, step: Text, line: int) -> None:
        if step.word == "MAINTAINER":
            self._state.config.author = step.text
            self._note(f"MAINTAINER {step.text}")
        elif step.word == "WORKDIR":
            self._folder(step, line)
        else:
            await self._configure(step, line)

    def _folder(self, step: Text, line: int) -> None:
        state = self._state
        text = self._expand(step.text)
        state.checks.folder(text)
        self._config.working_dir = written = moved(self._config.working_dir, text)
        folder = cleaned("/", written)
        if folder == "/":  # it is there
            self._note(f"WORKDIR {written}")
            return
        name = state.next_name(self._with_values(step.shown))
        vertex = MakeDirectory(
            name, state.vertex, folder, owner=self._config.user, line=line, epoch=self._request.epoch
        )
        vertex.ignore_cache = self._no_cache
        state.vertex = vertex
        self._note(f"WORKDIR {written}", vertex)

    # -- commands

    async def _command(self, step: Command, line: int) -> None:
        if step.word != "RUN":
            self._config.args_escaped = self._config.args_escaped or step.word == "CMD"
            self._state.checks.command(step, step.word, shell=bool(self._config.shell))
            await self._configure(step, line)
            return
        state = self._state
        proxies = state.arguments.predefined()
        for name, value in [*proxies.items()]:  # programs look for either
            proxies.setdefault(name.swapcase(), value)
        variables = [f"{name}={value}" for name, value in state.variables.items()]
        environment = [f"{name}={value}" for name, value in {**state.variables, **proxies}.items()]
        inputs, mounts = [state.vertex], []
        words = self._words(step)
        if not words:
            raise InvalidParameter("arguments are required")
        if step.script is not None and step.script.interpreter:
            words = (*self._configuring.shell(), f"{SCRIPT_FOLDER}{step.script.name}")
            mounts.append(self._script(step, inputs))
        for flag in step.mounts:
            agents = sum(other.kind == "ssh" for other in mounts)
            mounts.append(await self._mount(settled(flag, self._expand), inputs, agents))
        if step.security == "insecure" and "security.insecure" not in self._request.entitlements:
            raise InvalidParameter("security.insecure is not allowed")
        network = "" if step.network in ("", "default") else step.network
        if network == "host" and "network.host" not in self._request.entitlements:
            raise InvalidParameter("network.host is not allowed")
        order = RunOrder(
            words,
            tuple(environment),
            cleaned("/", self._config.working_dir),
            self._config.user,
            tuple(variables),
            tuple(mounts),
            network or self._request.network,
            self._host(privileged=step.security == "insecure"),
            self._platform(),
            self._request.hostname,
            devices=await self._devices(step),
        )
        shown = f"{step.shown} ({step.script.summary})" if step.script is not None else step.shown
        secret = {mount.env: HIDDEN for mount in mounts if mount.kind == "secret" and mount.env}
        shown = shown_command(shown, {**state.variables, **secret}, self._escape)
        vertex = Run(state.next_name(shown), inputs, order, line=line)
        vertex.text = step.shown
        declared = state.declared()
        counted = f"|{len(declared)} {' '.join(declared)} " if declared else ""
        self._add(vertex, f"RUN {counted}{' '.join(words)}")

    async def _devices(self, step: Command) -> tuple[str, ...]:
        if not step.devices:
            return ()
        directories = self._conversion.job.solver.runner.device_directories
        return await asyncio.to_thread(resolved, step.devices, directories, self._request.entitlements)

    def _platform(self) -> Platform:
        """What the stage's programs are made for: its image's platform, or the one that is built for."""
        config = self._state.config
        if config.architecture:
            return Platform(config.architecture, config.os, config.variant)
        return parse_platform(self._request.platform) if self._request.platform else host()

    def _host(self, *, privileged: bool) -> HostConfig:
        return msgspec.structs.replace(self._request.host, privileged=privileged) if privileged else self._request.host

    def _words(self, step: Command) -> tuple[str, ...]:
        return (*self._configuring.shell(), *step.words) if step.shell else step.words

    def _with_values(self, text: str) -> str:
        """A step's name, with its variables replaced."""
        try:
            return expand(text, self._state.variables, self._escape)
        except InvalidParameter:
            return text

    def _script(self, step: Command, inputs: list[Vertex]) -> Mount:
        """A script with an interpreter of its own, mounted to be run."""
        assert step.script is not None
        name = step.script.name
        if "/" in name or name in (".", ".."):
            raise InvalidParameter(f"a document that is run can't be called {name}")
        inputs.append(Selection(Document("script", step.words[0]), "script"))
        return Mount("bind", f"{SCRIPT_FOLDER}{name}", "/script", len(inputs) - 1)

    async def _mount(self, mount: RunMount, inputs: list[Vertex], number: int) -> Mount:
        target = mount.target
        if target or mount.kind in ("bind", "cache", "tmpfs"):  # without one it is where the command runs
            target = cleaned(self._config.working_dir, target)
            if target == "/":
                raise InvalidParameter('invalid mount target "/"')
        if mount.kind == "ssh":
            target = target or f"/run/buildkit/ssh_agent.{number}"
        return await getattr(self, f"_{mount.kind}_mount")(mount, target, inputs)  # type: ignore[no-any-return]

    async def _bind_mount(self, mount: RunMount, target: str, inputs: list[Vertex]) -> Mount:
        place = cleaned("/", mount.source)
        if mount.stage:
            vertex = await self._conversion.source(mount.stage, self._state.stage)
        else:
            vertex = self._conversion.contexts.main()
        if isinstance(vertex, LocalDirectory | Download | RemoteContext | Repository | Inside):
            self._conversion.contexts.want(vertex, place)
            vertex = Selection(vertex, place.lstrip("/") or ".")
            inputs.append(vertex)
            return Mount("bind", target, "", len(inputs) - 1, writable=mount.writable, id=place)
        inputs.append(vertex)
        return Mount("bind", target, place, len(inputs) - 1, writable=mount.writable)

    async def _cache_mount(self, mount: RunMount, target: str, inputs: list[Vertex]) -> Mount:
        found = Mount(
            "cache",
            target,
            cleaned("/", mount.source),
            writable=mount.writable,
            id=f"{self._request.cache_namespace}/{mount.id or posixpath.normpath(mount.target)}",
            sharing=mount.sharing or "shared",
            mode=mount.mode,
            uid=mount.uid,
            gid=mount.gid,
            anew=self._no_cache,
        )
        if mount.stage:
            inputs.append(await self._conversion.source(mount.stage, self._state.stage))
            found = replace(found, input=len(inputs) - 1)
        return found

    async def _tmpfs_mount(self, mount: RunMount, target: str, inputs: list[Vertex]) -> Mount:
        return Mount("tmpfs", target, size=mount.size, writable=True)

    async def _secret_mount(self, mount: RunMount, target: str, inputs: list[Vertex]) -> Mount:
        name = mount.id or mount.source or posixpath.basename(target)
        if not target and not mount.env:
            target = posixpath.join("/run/secrets", posixpath.basename(name))
        return Mount(
            "secret", target, id=name, env=mount.env, required=mount.required,
            mode=mount.mode, uid=mount.uid, gid=mount.gid,
        )  # fmt: skip

    async def _ssh_mount(self, mount: RunMount, target: str, inputs: list[Vertex]) -> Mount:
        return Mount("ssh", target, id=mount.id, required=mount.required, mode=mount.mode, uid=mount.uid, gid=mount.gid)

    # -- files

    async def _copy(self, step: Copy, line: int) -> None:
        state = self._state
        around = Surroundings(self._expand, state.environment, self._config.working_dir, self._unknown)
        plan = await plan_copy(step, state.vertex, around, self._tree)
        order = plan.order
        for word in plan.words if not step.stage else ():
            state.checks.copied(step.word, word, self._conversion.contexts.ignored)
        shown = self._with_values(step.shown)
        flags = "--parents " if order.parents else ""
        for flag, value in (("chown", order.owner), ("chmod", order.mode)):
            flags += f"--{flag}={value} " if value else ""
        names = [*plan.words, *(f"<<{name}" for name, _ in order.documents)]
        vertex = CopyVertex(state.next_name(shown), plan.inputs, order, line=line)
        vertex.text = step.shown
        vertex.ignore_cache = self._no_cache
        self._add(plan.stacked(vertex), f"{step.word} {flags}{' '.join(names)} {plan.destination}")

    async def _tree(self, stage: str, words: Sequence[str]) -> Vertex:
        """Where files of the context, a stage or an image come from."""
        if expand(stage, {}) != stage:
            raise InvalidParameter(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global "
                "scope as a workaround"
            )
        vertex = await self._conversion.source(stage, self._state.stage) if stage else self._conversion.contexts.main()
        for word in words:
            self._conversion.contexts.want(vertex, word)
        return vertex
