"""A Dockerfile as a graph: stages, the steps in each, and which stages each needs before it can begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dockyard.dockerfile import instructions
from dockyard.dockerfile.instructions import Arg, Command, Copy, From, Instruction
from dockyard.dockerfile.parser import AtLine, Dockerfile, Node
from dockyard.errors import InvalidParameter


@dataclass(slots=True)
class Stage:
    """FROM and what follows it; `needs` are the indices of the stages whose results it uses."""

    index: int
    start: From
    steps: list[Instruction] = field(default_factory=list)
    needs: set[int] = field(default_factory=set)
    line: int = 0
    end: int = 0
    lines: list[int] = field(default_factory=list)  # of the steps
    ends: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What AS calls it; empty for none."""
        return self.start.name


@dataclass(slots=True)
class Plan:
    """What to build: ARGs before the first FROM, and all stages in the order they are written."""

    arguments: list[Arg]
    stages: list[Stage]

    @property
    def several(self) -> bool:
        """Whether names of steps are to tell of which stage they are: there are others, also images that are read."""
        if len(self.stages) > 1:
            return True
        for step in self.stages[0].steps:
            if isinstance(step, Command) and step.mounts:
                return True
            if isinstance(step, Copy) and step.stage:
                return True
        return False

    def target(self, name: str) -> Stage:
        """The stage called `name` (or numbered so); the last one for no name. Raises InvalidParameter."""
        if not name:
            return self.stages[-1]
        for stage in self.stages[::-1]:
            if stage.name == name.lower():
                return stage
        if name.isdigit() and int(name) < len(self.stages):
            return self.stages[int(name)]
        raise InvalidParameter(f'target stage "{name}" could not be found')

    def check_circles(self) -> None:
        """Raise AtLine if stages read from each other in a circle, or one from itself."""
        reads = [list(_read(stage, self.stages)) for stage in self.stages]
        seen: set[int] = set()

        def visit(index: int, path: tuple[int, ...]) -> tuple[int, int] | None:
            if index in seen:
                return None
            seen.add(index)
            for other, line, end in reads[index]:
                if other in (*path, index):
                    return line, end
                if (found := visit(other, (*path, index))) is not None:
                    return found
            return None

        for stage in self.stages:
            if (found := visit(stage.index, ())) is not None:
                name = stage.name or f"stage-{stage.index}"
                raise AtLine(f"circular dependency detected on stage: {name}", *found)

    def needed(self, target: Stage) -> list[Stage]:
        """The stages that must be built for `target`, itself included, each after all it needs."""
        wanted: set[int] = set()
        waiting = [target.index]
        while waiting:
            index = waiting.pop()
            if index not in wanted:
                wanted.add(index)
                waiting.extend(self.stages[index].needs)
        return [self.stages[index] for index in sorted(wanted)]


def plan(file: Dockerfile, *, classic: bool = True, look: Callable[[Node], None] = lambda node: None) -> Plan:
    """The graph of a parsed Dockerfile. Raises InvalidParameter, naming the line.

    `classic`: what only BuildKit knows is refused. `look` sees every instruction before it is read.
    """
    arguments: list[Arg] = []
    stages: list[Stage] = []
    for node in file.nodes:
        look(node)
        instruction = instructions.parse(node, classic=classic)
        if isinstance(instruction, From):
            stages.append(_begin(instruction, stages, classic=classic))
            stages[-1].line, stages[-1].end = node.line, node.end
        elif stages:
            stages[-1].steps.append(instruction)
            stages[-1].lines.append(node.line)
            stages[-1].ends.append(node.end)
            if isinstance(instruction, Command):
                for mount in instruction.mounts:
                    earlier = find(stages[:-1], mount.stage) if mount.stage else None
                    if earlier is not None:
                        stages[-1].needs.add(earlier.index)
            if isinstance(instruction, Copy) and instruction.stage:
                earlier = find(stages[:-1], instruction.stage)
                if earlier is not None:
                    stages[-1].needs.add(earlier.index)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise AtLine("no build stage in current context", node.line, node.end)
    if not stages:
        raise InvalidParameter("dockerfile contains no stages to build")
    return Plan(arguments, stages)


def _read(stage: Stage, stages: list[Stage]) -> Iterator[tuple[int, int, int]]:
    """The stages that the steps of one name, wherever those are, with the lines of the step."""
    for step, line, end in zip(stage.steps, stage.lines, stage.ends, strict=True):
        names: list[str] = []
        if isinstance(step, Command):
            names = [mount.stage for mount in step.mounts if not mount.stage.isdigit()]
        elif isinstance(step, Copy):
            names = [step.stage]
        for name in names:
            found = find(stages, name) if name else None
            if found is not None:
                yield found.index, line, end


def _begin(start: From, stages: list[Stage], *, classic: bool) -> Stage:
    if classic and start.name and any(stage.name == start.name for stage in stages):
        raise InvalidParameter(f"{start.name} stage name already used")
    stage = Stage(len(stages), start)
    base = next((other for other in reversed(stages) if other.name and other.name == start.base.lower()), None)
    if base is not None:
        stage.needs.add(base.index)
    return stage


def find(stages: list[Stage], name: str) -> Stage | None:
    """The stage that COPY --from means, by name or number; None when it means an image."""
    for stage in reversed(stages):  # of two with one name the later one
        if stage.name and stage.name == name.lower():
            return stage
    if name.isdigit() and int(name) < len(stages):
        return stages[int(name)]
    return None
