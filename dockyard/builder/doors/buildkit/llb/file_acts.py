"""Acts on files of LLB (FileOp): as many of them in one layer as follow each other without another one's looking on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from dockyard.builder.file_actions import Act, CopyFiles, FileActions, MakeFile, MakeFolder, MakeLink, Ownership, Remove
from dockyard.builder.graph.vertex import Vertex
from dockyard.builder.sources.remote import Download
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter

MOST_ACTS = 1000


class FileActs:
    """The acts of one step."""

    def __init__(
        self, op: wire.Op, name: str, given: Sequence[Vertex], scratch: Vertex, as_layer: Callable[[Vertex], Vertex]
    ) -> None:
        if len(op.file.actions) > MOST_ACTS:
            raise InvalidParameter("the LLB definition is too large")
        self._acts = list(op.file.actions)
        self._name = name
        self._given = given
        self._scratch = scratch
        self._as_layer = as_layer
        self._results: dict[int, Vertex] = {}
        self._uses = Counter(number for act in self._acts for number in _looked_at(act))

    def outputs(self) -> dict[int, Vertex]:
        """The vertices, by the number of the output that each makes. Raises InvalidParameter."""
        made: dict[int, Vertex] = {}
        group: list[int] = []
        for number, act in enumerate(self._acts):
            group.append(number)
            following = len(self._given) + number
            last = number + 1 == len(self._acts)
            if last or act.output >= 0 or self._acts[number + 1].input != following or self._uses[following] > 1:
                self._results[following] = self._vertex(group)
                group = []
            if act.output >= 0:
                made[act.output] = self._results[following]
        return made

    def _at(self, number: int) -> Vertex:
        if number < 0:
            return self._scratch
        if number < len(self._given):
            return self._given[number]
        if number in self._results:
            return self._results[number]
        raise InvalidParameter(f"invalid LLB definition: there is no input {number}")

    def _vertex(self, group: Sequence[int]) -> Vertex:
        inputs = [self._as_layer(self._at(self._acts[group[0]].input))]
        seen: dict[int, int] = {}

        def input_of(number: int) -> int:
            if number not in seen:
                inputs.append(self._at(number))
                seen[number] = len(inputs) - 1
            return seen[number]

        acts = [self._act(self._acts[number], input_of) for number in group]
        return FileActions(self._name or _shown(self._acts[group[0]]), inputs, acts)

    def _act(self, act: wire.FileAction, input_of: Callable[[int], int]) -> Act:
        match act.WhichOneof("action"):
            case "copy":
                return self._copy(act, input_of)
            case "make_file":
                file = act.make_file
                owner = _ownership(file.owner, input_of) if file.HasField("owner") else None
                return MakeFile(file.path, file.data, file.mode, owner, _time(file.timestamp))
            case "make_dir":
                folder = act.make_dir
                owner = _ownership(folder.owner, input_of) if folder.HasField("owner") else None
                return MakeFolder(folder.path, folder.mode, folder.parents, owner, _time(folder.timestamp))
            case "symlink":
                link = act.symlink
                owner = _ownership(link.owner, input_of) if link.HasField("owner") else None
                return MakeLink(link.path, link.target, owner, _time(link.timestamp))
            case "remove":
                return Remove(act.remove.path, act.remove.allow_missing, act.remove.allow_wildcard)
        raise InvalidParameter("invalid LLB definition: an unknown act on files")

    def _copy(self, act: wire.FileAction, input_of: Callable[[int], int]) -> Act:
        copy, source = act.copy, self._at(act.secondary_input)
        return CopyFiles(
            input_of(act.secondary_input),
            copy.source,
            copy.destination,
            _ownership(copy.owner, input_of) if copy.HasField("owner") else None,
            copy.mode_text or (f"{copy.mode & 0o7777:o}" if copy.mode >= 0 else ""),
            contents=copy.contents_only,
            unpack=copy.unpack,
            follow=copy.follow_symlink,
            ways=copy.make_destination,
            wildcard=copy.allow_wildcard,
            nothing=copy.allow_empty_wildcard,
            time_ns=_time(copy.timestamp),
            include=tuple(copy.include),
            exclude=tuple(copy.exclude),
            replace=copy.replace,
            fetched=isinstance(source, Download),
        )


def _looked_at(act: wire.FileAction) -> list[int]:
    """The inputs and results that an act needs."""
    found = [act.input]
    kind = act.WhichOneof("action")
    if kind == "copy":
        found.append(act.secondary_input)
    about = getattr(act, kind) if kind not in (None, "remove") else None
    if about is not None and about.HasField("owner"):
        for one in (about.owner.user, about.owner.group):
            if one.WhichOneof("owner") == "by_name":
                found.append(one.by_name.input)
    return found


def _ownership(given: wire.Ownership, input_of: Callable[[int], int]) -> Ownership:
    user, user_input = _owner(given.user, input_of)
    group, group_input = _owner(given.group, input_of)
    return Ownership(user, user_input, group, group_input)


def _owner(given: wire.Owner, input_of: Callable[[int], int]) -> tuple[int | str | None, int]:
    match given.WhichOneof("owner"):
        case "by_name":
            return given.by_name.name, input_of(given.by_name.input)
        case "by_id":
            return given.by_id, 0
    return None, 0


def _time(given: int) -> int | None:
    return None if given == -1 else given


def _shown(act: wire.FileAction) -> str:
    match act.WhichOneof("action"):
        case "copy":
            return f"copy {act.copy.source} {act.copy.destination}"
        case "make_file":
            return f"mkfile {act.make_file.path}"
        case "make_dir":
            return f"mkdir {act.make_dir.path}"
        case "symlink":
            return f"symlink {act.symlink.path} -> {act.symlink.target}"
    return f"rm {act.remove.path}"
