"""What each instruction comes to: another configuration, or a step of the graph that changes files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from dockyard.builder.arguments import Arguments
from dockyard.builder.doors.classic.images import Step
from dockyard.builder.doors.classic.vertices import ClassicCopy, ClassicDirectory, ClassicRun, ClassicStack, FreePlaces
from dockyard.builder.frontend.bases import copied, with_path
from dockyard.builder.frontend.copies import Surroundings, plan_copy
from dockyard.builder.graph.vertex import Vertex
from dockyard.dockerfile import instructions
from dockyard.dockerfile.file_mode import parse_mode
from dockyard.dockerfile.image_config import Configuring
from dockyard.dockerfile.instructions import Arg, Command, Copy, HealthCheck, Instruction, Pairs, Text, Words
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ContainerConfig, Healthcheck, ImageConfig

if TYPE_CHECKING:
    from dockyard.builder.doors.classic.stage import StageBuild
    from dockyard.engine.images.image import Image


@dataclass(slots=True)
class StageState:
    """A stage on its way: the image made by its latest step (None: nothing yet), and what its containers will run."""

    image: Image | None
    config: ContainerConfig
    arguments: Arguments
    maintainer: str = ""

    def environment(self) -> dict[str, str]:
        """What variables stand for: the image's ENV goes before arguments."""
        values = self.arguments.values()
        values.update(item.partition("=")[::2] for item in self.config.env or ())
        return values


def base_config(image: Image | None) -> ContainerConfig:
    """The configuration a stage starts from; a copy."""
    config = with_path(copied(image.config if image is not None else ImageConfig())).config
    assert config is not None
    config.open_stdin = config.stdin_once = False
    return config


class Steps:
    """Does the instructions of one stage."""

    def __init__(self, stage: StageBuild, state: StageState, escape: str) -> None:
        self._stage = stage
        self.state = state
        self._configuring = Configuring(state.config, state.environment, escape)
        self._handlers: dict[type[Instruction], Callable[[Any], Awaitable[Step]]] = {
            Arg: self._arg,
            Command: self._command,
            Copy: self._copy,
            HealthCheck: self._health_check,
            Pairs: self._configure,
            Text: self._text,
            Words: self._words,
        }

    async def do(self, instruction: Instruction) -> None:
        """Do one instruction. Raises what the user did wrong, or CommandFailed."""
        await self._stage.images.add(self.state, await self._handlers[type(instruction)](instruction))

    async def run_triggers(self) -> None:
        """Do what the base image asks of its children (ONBUILD)."""
        triggers = self.state.config.on_build or []
        if not triggers:
            return
        self.state.config.on_build = None
        self._stage.output.text(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        for trigger in triggers:
            await self.do(instructions.parse_trigger(trigger))

    def _files(self) -> Vertex:
        return self._stage.images.files(self.state.image)

    # -- configuration alone

    def _shell_text(self) -> str:
        return " ".join(self._configuring.shell())

    async def _configure(self, instruction: Instruction) -> Step:
        return self._configured(self._configuring.apply(instruction))

    def _configured(self, comment: str, vertex: Vertex | None = None) -> Step:
        return Step(f"{self._shell_text()} #(nop)  {comment}", vertex)

    async def _arg(self, instruction: Arg) -> Step:
        shown = []
        for name, value in instruction.arguments:
            name = self._configuring.expand(name)
            value = self._configuring.expand(value) if value is not None else None
            self.state.arguments.declare(name, value)
            shown.append(name if value is None else f"{name}={value}")
        return self._configured("ARG " + " ".join(shown))

    async def _health_check(self, instruction: HealthCheck) -> Step:
        before = self.state.config.healthcheck
        if before is not None and before.test and before.test[0] != "NONE":
            self._stage.output.text(f"Note: overriding previous HEALTHCHECK: [{' '.join(before.test)}]\n")
        return await self._configure(instruction)

    async def _text(self, instruction: Text) -> Step:
        if instruction.word == "WORKDIR":
            self._configuring.apply(instruction)
            folder = self.state.config.working_dir
            made = ClassicDirectory(instruction.shown, self._files(), folder)
            return Step(f"{self._shell_text()} #(nop) WORKDIR {folder}", made)
        if instruction.word == "MAINTAINER":
            self.state.maintainer = self._configuring.expand(instruction.text)
        return await self._configure(instruction)

    async def _words(self, instruction: Words) -> Step:
        comment = self._configuring.apply(instruction)
        if instruction.word != "VOLUME":
            return self._configured(comment)
        return self._configured(comment, FreePlaces(self._files(), list(self.state.config.volumes or ())))

    # -- commands

    async def _command(self, instruction: Command) -> Step:
        if instruction.word != "RUN":
            return await self._configure(instruction)
        words = list(instruction.words)
        return self._run([*self._configuring.shell(), *words] if instruction.shell else words)

    def _run(self, words: list[str]) -> Step:
        state = self.state
        if state.image is None:
            raise InvalidParameter("No command specified: there is nothing in an empty image to run")
        own = {item.partition("=")[0] for item in state.config.env or ()}
        arguments = {name: value for name, value in state.arguments.values().items() if name not in own}
        keyed = sorted(f"{name}={value}" for name, value in arguments.items() if state.arguments.counts_for_cache(name))
        config = msgspec.structs.replace(
            state.config,
            cmd=words or state.config.cmd,  # RUN [] runs what the image would
            entrypoint=[""] if words else state.config.entrypoint,  # "": none, whatever the image says
            env=[*(state.config.env or ()), *(f"{name}={value}" for name, value in sorted(arguments.items()))],
            healthcheck=Healthcheck(["NONE"]),
            on_build=None,
            image=state.image.id,
        )
        run = ClassicRun(self._files(), config, self._stage.options.host, self._stage.containers)
        return Step(" ".join([f"|{len(keyed)}", *keyed, *words] if keyed else words), run)

    # -- files

    async def _copy(self, instruction: Copy) -> Step:
        expand = self._configuring.expand
        parse_mode(expand(instruction.mode), symbolic=False)
        source = await self._stage.source(instruction.stage)

        async def tree(stage: str, words: Sequence[str]) -> Vertex:
            return source

        around = Surroundings(expand, self.state.environment, self.state.config.working_dir)
        try:
            plan = await plan_copy(instruction, self._files(), around, tree)
        except InvalidParameter as error:
            raise InvalidParameter(f"{instruction.word} failed: {error}") from None
        order = plan.order
        order = replace(order, keeps_owners=order.keeps_owners and not order.owner)
        copy = ClassicCopy(instruction.shown, plan.inputs, order, plan.destination)
        digest = await self._stage.images.solved(copy.checksum(self._stage.job, self._stage.mounted))
        if any(source.fetched for source in order.sources):
            self._stage.output.text("\n")
        flags = (f"--chown={order.owner} " if order.owner else "") + (f"--chmod={order.mode} " if order.mode else "")
        flags += "--link " if instruction.link else ""
        comment = f"{order.word} {flags}{digest} in {plan.destination} "
        return Step(f"{self._shell_text()} #(nop) {comment}", plan.stacked(copy, ClassicStack))
