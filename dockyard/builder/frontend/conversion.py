"""From a Dockerfile to a graph: every stage that the target needs, with all variables replaced, and nothing done yet.

Only the configurations of base images are looked at, for they decide what the instructions mean.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping

import msgspec

from dockyard.builder import stages
from dockyard.builder.arguments import Arguments
from dockyard.builder.frontend.bases import DEFAULT_PATH, copied, with_path
from dockyard.builder.frontend.contexts import ContextResolver
from dockyard.builder.frontend.platforms import platform_arguments
from dockyard.builder.frontend.stage import StageBuild, Steps
from dockyard.builder.graph.request import BuildRequest, Built
from dockyard.builder.graph.solver import Job
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.stages import Plan, Stage
from dockyard.dockerfile import instructions
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.checks import Violation, check, options_of, variables
from dockyard.dockerfile.instructions import Command, Copy, Instruction
from dockyard.dockerfile.substitution import expand
from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import ContainerConfig, ImageConfig
from dockyard.oci.manifest import host, normalized, parse_platform
from dockyard.oci.reference import Reference

SCRATCH = "scratch"


class AtLine(InvalidParameter):
    """Something is wrong with a line of the Dockerfile; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class Conversion:
    """One Dockerfile's way into a graph."""

    def __init__(self, job: Job, request: BuildRequest, contexts: ContextResolver) -> None:
        self.job = job
        self.request = request
        self.contexts = contexts
        self.images = ImageResolver(job, pull=request.pull, several=request.several_platforms)
        self._file = dockerfile.Dockerfile()
        self._plan = Plan([], [])
        self._arguments = Arguments({}, {})
        self._done: dict[int, StageBuild] = {}
        self.violations: list[Violation] = []

    async def run(self) -> Built:
        """The graph of the target. Raises AtLine, InvalidParameter, and what resolving images raises."""
        request = self.request
        self._file = dockerfile.parse(request.dockerfile, request.file_name)
        options = options_of(request.check or self._file.check)
        try:
            self._plan = stages.plan(self._file, classic=False)
        finally:  # what the checks find is told of a file that makes no sense, too
            self.violations = check(self._file, options)
        target = self._target(request.target)
        self._arguments = Arguments(request.arguments, platform_arguments(request.platform))
        self._declare_globals(target)
        self._find_needs()
        for stage in self._plan.needed(target):
            self._done[stage.index] = await self._located(stage.line, self._stage(stage))
        self.violations = [one for one in self.violations if one.rule not in options.skip and "all" not in options.skip]
        if options.error and self.violations:
            rules = ", ".join(dict.fromkeys(one.rule for one in self.violations))
            raise AtLine(f"lint violation found for rules: {rules}", self.violations[0].line)
        return self._built(self._done[target.index])

    def undefined(self, name: str, known: Mapping[str, str], line: int) -> None:
        """Note that an instruction uses a variable that nothing has defined."""
        near = suggestion(name, known).replace("did you mean ", "did you mean $")
        message = f"Usage of undefined variable '${name}'{near}"
        violation = Violation("UndefinedVar", message, line)
        if violation not in self.violations:
            self.violations.append(violation)

    def _target(self, name: str) -> Stage:
        try:
            return self._plan.target(name)
        except InvalidParameter:
            near = suggestion(name, [stage.name for stage in self._plan.stages if stage.name])
            raise InvalidParameter(f'target stage "{name}" could not be found{near}') from None

    def _declare_globals(self, target: Stage) -> None:
        arguments = self._arguments
        arguments.declare_global("TARGETSTAGE", target.name or "default")
        for argument in self._plan.arguments:
            for name, default in argument.arguments:
                if default is not None and not arguments.given(name):  # (else it need not make sense)
                    default = expand(default, arguments.global_values(), self._file.escape)
                arguments.declare_global(name, default)
                if name == "SOURCE_DATE_EPOCH" and self.request.epoch is None:
                    self.request.epoch = parsed_epoch(arguments.global_values().get(name, ""))

    async def _located(self, line: int, work: Awaitable[StageBuild]) -> StageBuild:
        try:
            return await work
        except AtLine:
            raise
        except InvalidParameter as error:
            raise AtLine(str(error), line) from error

    def base_name(self, stage: Stage) -> str:
        """What FROM names, variables replaced. Raises InvalidParameter."""
        name = expand(stage.start.base, self._arguments.global_values(), self._file.escape)
        if not name:
            raise AtLine(f"base name ({stage.start.base}) should not be blank", stage.line)
        return name

    def _platform(self, stage: Stage) -> str:
        """What --platform of FROM names, variables replaced. Raises InvalidParameter."""
        given, known = stage.start.platform, self._arguments.global_values()
        found = expand(given, known, self._file.escape)
        missing = [name for name in variables(given) if name not in known]
        near = suggestion(missing[0], known) if missing else ""
        if given and not found:
            raise AtLine(f"empty platform value from expression {given}{near}", stage.line)
        if found:
            try:
                parse_platform(found)
            except InvalidParameter as error:
                if given == found:
                    raise
                raise AtLine(f"failed to parse platform {given}: {error}{near}", stage.line) from None
        return found

    def _find_needs(self) -> None:
        """See which stages need which, now that variables in FROM are known."""
        for stage in self._plan.stages:
            if stage.name and stage.name in self.request.contexts:
                stage.needs.clear()
                continue
            base = stages.find(self._plan.stages[: stage.index], self.base_name(stage))
            if base is not None and base.name:
                stage.needs.add(base.index)

    async def _stage(self, stage: Stage) -> StageBuild:
        named = await self.contexts.named(stage.name, self.images, self.request) if stage.name else None
        if named is not None:
            own = self._arguments.stage()
            return StageBuild(stage, named.vertex, copied(named.config), list(named.history), own, 0, "")
        begun = await self._begin(stage)
        steps = Steps(self, begun, self._file.escape)
        triggers = begun.take_triggers()
        begun.total += len(triggers)
        begun.prefix = "ONBUILD "
        for trigger in triggers:
            await steps.do(instructions.parse_trigger(trigger, classic=False), stage.line)
        begun.prefix = ""
        for step, line in zip(stage.steps, stage.lines, strict=True):
            try:
                await steps.do(step, line)
            except AtLine:
                raise
            except InvalidParameter as error:
                raise AtLine(str(error), line) from error
        return begun

    async def _begin(self, stage: Stage) -> StageBuild:
        name = self.base_name(stage)
        platform = self._platform(stage)
        total = sum(_counts(step) for step in stage.steps)
        called = stage.name or (f"stage-{stage.index}" if len(self._plan.stages) > 1 else "")
        shown = f"{called} " if called else ""
        where = self._shown_platform(platform)
        base = stages.find(self._plan.stages[: stage.index], name)
        if base is not None and base.name == name.lower():
            found = self._done[base.index]
            vertex, known = self.contexts.as_base(found.vertex), self._arguments.stage(found.arguments)
            begun = StageBuild(stage, vertex, copied(found.config), list(found.history), known, total, shown)
            return begun.take_over(found)
        arguments = self._arguments.stage()
        if name == SCRATCH:
            empty = ImageConfig(
                architecture="", os=self._system(), config=ContainerConfig(env=[DEFAULT_PATH], working_dir="/")
            )
            return StageBuild(stage, Scratch(), empty, [], arguments, total, shown, where)
        named = await self.contexts.named(name, self.images, self.request)
        if named is not None:
            vertex = self.contexts.as_base(named.vertex)
            return StageBuild(
                stage, vertex, with_path(copied(named.config)), list(named.history), arguments, total, shown, where
            )
        image = await self.images.resolve(name, platform or self.request.platform)
        begun = StageBuild(stage, Scratch(), with_path(copied(image.config)), [], arguments, total + 1, shown, where)
        shown = begun.next_name(f"FROM {Reference.parse(name).or_latest().full()}")
        begun.vertex = self.images.files(name, image, shown=shown, line=stage.line)
        return begun

    def _shown_platform(self, own: str) -> Platform | None:
        """What the names of a stage's steps have as its platform: nothing in a build for one."""
        if not self.request.several_platforms:
            return None
        asked = own or self.request.platform
        return normalized(parse_platform(asked)) if asked else host()

    def _system(self) -> str:
        """What is built for: Windows and others can be, out of nothing."""
        return parse_platform(self.request.platform).os if self.request.platform else host().os

    async def source(self, name: str, current: Stage) -> Vertex:
        """What `--from` or a mount's `from` names: a stage, a named context, an image. Raises InvalidParameter."""
        earlier = stages.find(self._plan.stages[: current.index], name)
        if earlier is not None:
            if earlier.index not in self._done:  # only a build trigger of the base has named it
                self._done[earlier.index] = await self._located(earlier.line, self._stage(earlier))
            return self._done[earlier.index].vertex
        if name.isdigit():
            raise InvalidParameter(f"invalid from flag value {name}: index out of bounds")
        if name.lower() == current.name and name:
            raise InvalidParameter(f"circular dependency detected on stage: {name}")
        if name == SCRATCH:
            return Scratch()
        named = await self.contexts.named(name, self.images, self.request)
        if named is not None:
            return named.vertex
        if stages.find(self._plan.stages[current.index + 1 :], name) is not None and not name.isdigit():
            reason = "it needs to be defined before current stage"
            raise InvalidParameter(f'cannot copy from stage "{name}", {reason} "{current.name or current.index}"')
        try:
            image = await self.images.resolve(name, self.request.platform)
        except DockyardError as error:
            raise type(error)(f"{name}: {error}") if type(error) is not InvalidParameter else error from None
        return self.images.files(name, image)

    def _built(self, stage: StageBuild) -> Built:
        config = stage.config
        assert config.config is not None
        if self.request.labels:
            config.config.labels = {**(config.config.labels or {}), **self.request.labels}
        where = parse_platform(self.request.platform) if self.request.platform else host()
        config = msgspec.structs.replace(
            config,
            architecture=config.architecture or where.architecture,
            os=config.os or where.os,
            variant=config.variant or (where.variant if not config.architecture else ""),
        )
        platform = "/".join(part for part in (config.os, config.architecture, config.variant) if part)
        return Built(stage.vertex, config, stage.history, platform, self.request.epoch)


def parsed_epoch(text: str) -> int | None:
    """A SOURCE_DATE_EPOCH; None for none. Raises InvalidParameter."""
    if text and not re.fullmatch(r"\d{1,12}", text):
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text) if text else None


def _counts(step: Instruction) -> int:
    """Whether a step is counted where the steps of a stage are numbered."""
    if isinstance(step, Copy):
        return 1
    if isinstance(step, Command):
        return int(step.word == "RUN")
    return int(getattr(step, "word", "") == "WORKDIR")
