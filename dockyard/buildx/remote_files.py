"""Files at an address, read through the engine: a git repository's, an archive's, or the one file that is there.

The engine is given an LLB definition of the source and asked for files of its result (docker/buildx, bake/remote.go).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.solve import Ask
from dockyard.dockerfile.git_source import is_git
from dockyard.grpc import status
from dockyard.grpc.status import CallFailed

LARGEST = 512 << 10  # bytes of a definition (buildx)
HEAD = 1024
ARCHIVES = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
NOTHING = "no such file or directory"


@dataclass
class Found:
    """The files, as (name, content). `tree`: what their paths are in, None when the address was the file itself."""

    files: list[tuple[str, bytes]]
    tree: wire.Definition | None = None


class Source:
    """What is at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.git = is_git(address)

    def definition(self) -> tuple[list[bytes], str]:
        """The operations of the source itself, and the digest of the last."""
        if self.git:
            place, _, fragment = self.address.partition("#")
            shown = re.sub(r"^(?:[a-z]+://)?(?:[^@/]*@)?", "", place).replace(":", "/", 1)
            url = f"https://{place}" if place.startswith("github.com/") else place
            source = wire.SourceOp(
                identifier=f"git://{shown}" + (f"#{fragment}" if fragment else ""), attrs={"git.fullurl": url}
            )
        else:
            source = wire.SourceOp(identifier=self.address, attrs={"http.filename": "context"})
        encoded = wire.Op(source=source).SerializeToString()
        return [encoded], _digest(encoded)

    def named(self, ops: list[bytes], last: str) -> wire.Definition:
        """A definition that ends with `last`; the source has its name in it."""
        name = f"[internal] load git source {self.address}" if self.git else "[internal] load remote build context"
        about = {_digest(ops[0]): wire.OpMetadata(description={"llb.customname": name})}
        end = wire.Op(inputs=[wire.Input(digest=last)]).SerializeToString()
        return wire.Definition(ops=[*ops, end], metadata=about)

    def unpacked(self, path: str = "") -> wire.Definition:
        """What is in the archive at the address, or in the directory `path` of that."""
        ops, last = self.definition()
        copies = [wire.FileCopy(source="/context", destination="/", mode=-1, unpack=True)]
        copies += [wire.FileCopy(source=f"/{path}", destination="/", mode=-1, contents_only=True)] if path else []
        for copy in copies:
            action = wire.FileAction(input=-1, secondary_input=0, output=0, copy=copy)
            encoded = wire.Op(inputs=[wire.Input(digest=last)], file=wire.FileOp(actions=[action])).SerializeToString()
            ops.append(encoded)
            last = _digest(encoded)
        return self.named(ops, last)

    async def read(self, ask: Ask, names: Sequence[str], *, optional: bool) -> Found:
        """Read the files; those that are not there are left out where they are `optional`. Raises CallFailed."""
        definition = self.named(*self.definition())
        ref = await _solved(ask, definition)
        if not self.git:
            listed = await ask("ReadDir", wire.ReadDirRequest(ref=ref, path="/").SerializeToString())
            (file,) = [entry.path for entry in wire.ReadDirResponse.FromString(listed).entries]
            if not is_archive(await _read(ask, ref, file, HEAD)):
                return Found([(self.address, await _read(ask, ref, file, LARGEST + 1))])
            definition = self.unpacked()
            ref = await _solved(ask, definition)
        found = []
        for name in names:
            try:
                found.append((name, await _read(ask, ref, name, LARGEST + 1)))
            except CallFailed as failure:
                absent = failure.code == status.NOT_FOUND or NOTHING in failure.message
                if not optional or not absent:
                    raise
        return Found(found, definition)


def is_archive(head: bytes) -> bool:
    """Whether something that begins so is an archive."""
    return head.startswith(ARCHIVES) or head[257:262] == b"ustar"


async def _solved(ask: Ask, definition: wire.Definition) -> str:
    request = wire.SolveRequest(definition=definition, allow_result_return=True, allow_result_array_ref=True)
    return wire.SolveResponse.FromString(await ask("Solve", request.SerializeToString())).result.ref.id


async def _read(ask: Ask, ref: str, path: str, most: int) -> bytes:
    request = wire.ReadFileRequest(ref=ref, path=path, range=wire.FileRange(length=most))
    data = wire.ReadFileResponse.FromString(await ask("ReadFile", request.SerializeToString())).data
    if len(data) > LARGEST:
        raise CallFailed(status.INVALID_ARGUMENT, f"{path} is larger than the {LARGEST} bytes that it may be")
    return data


def _digest(op: bytes) -> str:
    return f"sha256:{hashlib.sha256(op).hexdigest()}"
