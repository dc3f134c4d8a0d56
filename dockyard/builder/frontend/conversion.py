"""From a Dockerfile to a graph: every stage that the target needs, with all variables replaced, and nothing done yet.

Only the configurations of base images are looked at, for they decide what the instructions mean.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

import msgspec

from dockyard.builder import stages
from dockyard.builder.arguments import Arguments
from dockyard.builder.frontend.bases import DEFAULT_PATH, copied, with_path
from dockyard.builder.frontend.contexts import ContextResolver
from dockyard.builder.frontend.linting import BaseChecks, StageChecks
from dockyard.builder.frontend.platforms import platform_arguments
from dockyard.builder.frontend.stage import StageBuild, Steps
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.request import BuildRequest, Built
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.stages import Plan, Stage
from dockyard.dockerfile import instructions
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.checks import CheckOptions, Findings, Violation, default_arguments, options_of
from dockyard.dockerfile.instructions import Command, Copy, Instruction
from dockyard.dockerfile.parser import AtLine, at_line
from dockyard.dockerfile.substitution import expand, expansion, go_quoted
from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import ContainerConfig, ImageConfig
from dockyard.oci.manifest import host, normalized, parse_platform
from dockyard.oci.reference import Reference

SCRATCH = "scratch"


class Conversion:
    """One Dockerfile's way into a graph."""

    def __init__(self, job: Job, request: BuildRequest, contexts: ContextResolver) -> None:
        self.job = job
        self.request = request
        self.contexts = contexts
        self.images = ImageResolver(job, pull=request.pull, several=request.several_platforms, exact=True)
        self._file = dockerfile.Dockerfile()
        self._plan = Plan([], [])
        self._arguments = Arguments({}, {})
        self._done: dict[int, StageBuild] = {}
        self._bases: list[tuple[str, str]] = []  # of each stage the name, and the platform if it says one
        self.findings = Findings(CheckOptions())

    @property
    def violations(self) -> list[Violation]:
        """What the build checks have found."""
        return self.findings.violations

    async def run(self) -> Built:
        """The graph of the target. Raises AtLine, InvalidParameter, and what resolving images raises."""
        request = self.request
        options = options_of(request.check or dockerfile.check_directive(request.dockerfile))
        self.findings = findings = Findings(options)
        self._file = dockerfile.parse(request.dockerfile)
        findings.check_continuations(self._file)
        self._plan = stages.plan(self._file, classic=False, look=findings.check_node)
        findings.check_stages(self._file)
        target = self._plan.target("") if not request.target else None
        platform = platform_arguments(request.platform)
        name = target.name if target is not None else request.target
        self._check_defaults({**platform, "TARGETSTAGE": name or "default"})
        self._arguments = Arguments(request.arguments, platform)
        self._declare_globals(name)
        self._bases = [self._base(stage) for stage in self._plan.stages]
        target = target or self._target(request.target)
        self._plan.check_circles()
        self._find_needs()
        for stage in self._plan.stages if request.all_stages else self._plan.needed(target):
            self._done[stage.index] = await self._located(stage.line, stage.end, self._stage(stage))
        if findings.failure:
            first = findings.violations[0]
            raise AtLine(findings.failure, first.line, first.end)
        return self._built(self._done[target.index])

    def _check_defaults(self, predefined: dict[str, str]) -> None:
        """See whether bases have names without arguments from the command line."""
        known = default_arguments(self._file, predefined)
        checks = BaseChecks(self.findings)
        for stage in self._plan.stages if known is not None else ():
            try:
                worth = expand(stage.start.base, known or {}, self._file.escape)
            except InvalidParameter:
                return
            checks.default(stage.start.base, worth, stage.line, stage.end)

    def _target(self, name: str) -> Stage:
        try:
            return self._plan.target(name)
        except InvalidParameter:
            near = suggestion(name, [stage.name for stage in self._plan.stages if stage.name])
            raise InvalidParameter(f'target stage "{name}" could not be found{near}') from None

    def _declare_globals(self, target: str) -> None:
        arguments = self._arguments
        arguments.declare_global("TARGETSTAGE", target or "default")
        nodes = [node for node in self._file.nodes if node.word == "ARG"]
        for argument, node in zip(self._plan.arguments, nodes, strict=False):
            for name, default in argument.arguments:
                if default is not None and not arguments.given(name):  # (else it need not make sense)
                    try:
                        default = expand(default, arguments.global_values(), self._file.escape)
                    except InvalidParameter as error:
                        raise AtLine(str(error), node.line, node.end) from None
                arguments.declare_global(name, default)
                if name == "SOURCE_DATE_EPOCH" and self.request.epoch is None:
                    self.request.epoch = parsed_epoch(arguments.global_values().get(name, ""))

    async def _located(self, line: int, end: int, work: Awaitable[StageBuild]) -> StageBuild:
        try:
            return await work
        except DockyardError as error:
            raise at_line(error, line, end) from error.__cause__

    def _base(self, stage: Stage) -> tuple[str, str]:
        """What FROM and its --platform name, variables replaced. Raises AtLine."""
        start, line, end = stage.start, stage.line, stage.end
        values, checks = self._arguments.global_values(), BaseChecks(self.findings)
        known = [*values, *self._arguments.global_names()]
        try:
            name = expansion(start.base, values, self._file.escape)
            checks.arguments(name, known, line, end)
            if not name.text:
                raise InvalidParameter(f"base name ({start.base}) should not be blank")
            if not start.platform:
                return name.text, ""
            platform = expansion(start.platform, values, self._file.escape)
            checks.arguments(platform, known, line, end)
            checks.platform(start.platform, platform, values, start.name, line, end)
            near = next(filter(None, (suggestion(one, values) for one in platform.unknown)), "")
            if not platform.text:
                raise InvalidParameter(f"empty platform value from expression {start.platform}{near}")
            try:
                parse_platform(platform.text)
            except InvalidParameter as error:
                raise InvalidParameter(f"failed to parse platform {start.platform}: {error}{near}") from None
        except InvalidParameter as error:
            raise AtLine(str(error), line, end) from None
        return name.text, platform.text

    def _find_needs(self) -> None:
        """See which stages need which, now that variables in FROM are known."""
        for stage in self._plan.stages:
            if stage.name and stage.name in self.request.contexts:
                stage.needs.clear()
                continue
            base = stages.find(self._plan.stages[: stage.index], self._bases[stage.index][0])
            if base is not None and base.name:
                stage.needs.add(base.index)

    async def _stage(self, stage: Stage) -> StageBuild:
        named = await self.contexts.named(stage.name, self.images, self.request) if stage.name else None
        if named is not None:
            own = self._arguments.stage()
            return StageBuild(stage, named.vertex, copied(named.config), list(named.history), own, 0, "")
        begun = await self._begin(stage)
        begun.known_checks = begun.known_checks or StageChecks(self.findings)
        steps = Steps(self, begun, self._file.escape)
        triggers = begun.take_triggers()
        begun.total += len(triggers)
        begun.prefix = "ONBUILD "
        for trigger in triggers:
            await self._do(steps, instructions.parse_trigger(trigger, classic=False), stage.line, stage.end)
        begun.prefix = ""
        for step, line, end in zip(stage.steps, stage.lines, stage.ends, strict=True):
            await self._do(steps, step, line, end)
        return begun

    @staticmethod
    async def _do(steps: Steps, step: Instruction, line: int, end: int) -> None:
        try:
            await steps.do(step, line, end)
        except DockyardError as error:
            raise at_line(error, line, end) from error.__cause__

    async def _begin(self, stage: Stage) -> StageBuild:
        name, platform = self._bases[stage.index]
        total = sum(_counts(step) for step in stage.steps)
        called = (stage.name or f"stage-{stage.index}") if self._plan.several else ""
        shown = f"{called} " if called else ""
        where = self._shown_platform(platform)
        base = stages.find(self._plan.stages[: stage.index], name)
        if base is not None and base.name == name.lower():
            found = self._done[base.index]
            vertex, known = self.contexts.as_base(found.vertex), self._arguments.stage(found.arguments)
            begun = StageBuild(stage, vertex, copied(found.config), list(found.history), known, total, shown)
            return begun.take_over(found, self.findings)
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
        check_name(name)
        image = await self.images.resolve(name, platform or self.request.platform)
        begun = StageBuild(stage, Scratch(), with_path(copied(image.config)), [], arguments, total + 1, shown, where)
        shown = begun.next_name(f"FROM {Reference.parse(name).or_latest().full()}")
        begun.vertex = self.images.files(name, image, shown=shown, line=stage.line)
        wanted = platform or self.request.platform
        made_for = Platform(image.config.architecture, image.config.os, image.config.variant)
        asked = parse_platform(wanted) if wanted else host()
        BaseChecks(self.findings).image(name, asked, made_for, stage.line, stage.end)
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
                self._done[earlier.index] = await self._located(earlier.line, earlier.end, self._stage(earlier))
            return self._done[earlier.index].vertex
        if name.isdigit():
            raise InvalidParameter(f"invalid stage index {name}")
        if name == SCRATCH:
            return Scratch()
        named = await self.contexts.named(name, self.images, self.request)
        if named is not None:
            return named.vertex
        if stages.find(self._plan.stages[current.index + 1 :], name) is not None and not name.isdigit():
            reason = "it needs to be defined before current stage"
            here = current.name or f"stage-{current.index}"
            raise InvalidParameter(f'cannot copy from stage "{name}", {reason} "{here}"')
        check_name(name)
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
        return Built(stage.vertex, config, stage.history, platform, self.request.epoch, self.request.epoch)


def check_name(name: str) -> None:
    """Raise InvalidParameter for what no image can be called."""
    try:
        Reference.parse(name)
    except InvalidParameter as error:
        raise InvalidParameter(f"failed to parse stage name {go_quoted(name)}: {error}") from None


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
