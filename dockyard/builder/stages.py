"""A Dockerfile as a graph: stages, the steps in each, and which stages each needs before it can begin."""

from __future__ import annotations

from dataclasses import dataclass, field

from dockyard.dockerfile import instructions
from dockyard.dockerfile.instructions import Arg, Command, Copy, From, Instruction
from dockyard.dockerfile.parser import Dockerfile
from dockyard.errors import InvalidParameter


@dataclass(slots=True)
class Stage:
    """FROM and what follows it; `needs` are the indices of the stages whose results it uses."""

    index: int
    start: From
    steps: list[Instruction] = field(default_factory=list)
    needs: set[int] = field(default_factory=set)
    line: int = 0
    lines: list[int] = field(default_factory=list)  # of the steps

    @property
    def name(self) -> str:
        """What AS calls it; empty for none."""
        return self.start.name


@dataclass(slots=True)
class Plan:
    """What to build: ARGs before the first FROM, and all stages in the order they are written."""

    arguments: list[Arg]
    stages: list[Stage]

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


def plan(file: Dockerfile, *, classic: bool = True) -> Plan:
    """The graph of a parsed Dockerfile. Raises InvalidParameter, naming the line.

    `classic`: what only BuildKit knows is refused.
    """
    arguments: list[Arg] = []
    stages: list[Stage] = []
    for node in file.nodes:
        instruction = instructions.parse(node, classic=classic)
        if isinstance(instruction, From):
            stages.append(_begin(instruction, stages, classic=classic))
            stages[-1].line = node.line
        elif stages:
            stages[-1].steps.append(instruction)
            stages[-1].lines.append(node.line)
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
            raise InvalidParameter(f"dockerfile parse error on line {node.line}: no build stage in current context")
    if not stages:
        raise InvalidParameter("dockerfile contains no stages to build")
    return Plan(arguments, stages)


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
