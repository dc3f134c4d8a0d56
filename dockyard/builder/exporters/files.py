"""A build's result as files on the client's side: in a directory, or in a tar archive."""

from __future__ import annotations

from collections.abc import Mapping

from dockyard.builder.graph.request import Built
from dockyard.builder.graph.solver import Job
from dockyard.builder.trees import ArchiveFile, ArchiveTree, File
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.generators import closing


async def export_directory(job: Job, found: Mapping[str, Built], number: int, *, split: bool) -> dict[str, str]:
    """Write the files of every platform; with `split` each into a directory of its name. What the client is told."""
    async with job.shown("exporting to client directory") as part:
        for platform, built in found.items():
            async with job.solver.tree(await job.rootfs(built.vertex)) as tree:
                root: File = ArchiveTree().root
                if tree is not None:
                    whole = tree.find("")
                    assert whole is not None
                    root = whole
                if split:
                    root = _Within(platform.replace("/", "_"), root)
                epoch = built.epoch
                await job.client.directory_to(number, root, epoch * 10**9 if epoch is not None else None)
        part("copying files", 0, 0, True)
    return {}


class _Within(ArchiveFile):
    """A directory that holds another one."""

    def __init__(self, name: str, inner: File) -> None:
        super().__init__(Entry("", tar_format.DIRECTORY, 0o755))
        self._name = name
        self._inner = inner

    def children(self) -> Mapping[str, ArchiveFile]:
        return {self._name: self._inner}  # type: ignore[dict-item]  # (a File, which is all that walking needs)


async def export_tar(job: Job, built: Built, number: int) -> dict[str, str]:
    """Write the files as one archive. What the client is told."""
    solver = job.solver
    async with job.shown("exporting to client tarball") as part, job.client.file_to(number, {}) as write:
        sent = 0
        rootfs = await job.rootfs(built.vertex)
        if rootfs.chain_id is None:
            await write(tar_format.END)
        else:
            pack = solver.layers.archives.pack_tree
            async with solver.mounted(rootfs.chain_id) as path, closing(pack(path)) as pieces:
                async for piece in pieces:
                    await write(piece)
                    sent += len(piece)
        part("sending tarball", sent, sent, True)
    return {}
