"""What is mounted while a RUN runs: prepared before, taken away after, and nothing of it in the layer."""

from __future__ import annotations

import asyncio
import os
import posixpath
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dockyard.builder.graph.vertex import Rootfs
from dockyard.engine.containers.config import MountSpec, TmpfsOptions
from dockyard.errors import InvalidParameter, NotFound, SystemFailure
from dockyard.linux.rooted import Root

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work


@dataclass(frozen=True, slots=True)
class Mount:
    """One `--mount` as it is to be done; `input`: which of the step's inputs it shows (bind, and a cache's content).

    `keep`: what the command leaves there is a result of the step. `anew`: a cache begins anew.
    """

    kind: str
    target: str
    source: str = "/"
    input: int | None = None
    writable: bool = False
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size: int = 0
    env: str = ""
    keep: bool = False
    anew: bool = False

    def facts(self) -> str:
        """What of it decides about the step's result: secrets and agents do not."""
        if self.kind in ("secret", "ssh"):
            return repr((self.kind, self.target, self.id, self.env, self.mode, self.uid, self.gid))
        if self.kind == "cache":
            return repr((self.kind, self.target, self.id, self.source))
        facts = (self.kind, self.target, self.source, self.writable, self.size)
        return repr((*facts, "kept") if self.keep else facts)


class Mounts:
    """The mounts of one RUN; `async with` it for as long as they are needed."""

    def __init__(self, work: Work, mounts: tuple[Mount, ...], inputs: list[Rootfs | None]) -> None:
        self.specs: list[MountSpec] = []
        self.environment: list[str] = []
        self._work = work
        self._mounts = mounts
        self._inputs = inputs
        self._stack = AsyncExitStack()
        self._folder: Path | None = None
        self._caches: dict[str, Path] = {}  # by their IDs: a step may show one at several places
        self._kept: dict[int, str] = {}  # of mounts that results come from: the names of their layers

    async def __aenter__(self) -> Mounts:
        try:
            # caches in one order for all steps, of which none then waits for another that waits for it
            for number, mount in sorted(
                enumerate(self._mounts), key=lambda item: (item[1].kind != "cache", item[1].id)
            ):
                await getattr(self, f"_{mount.kind}")(number, mount)
            self.specs.sort(key=lambda spec: spec.target.count("/"))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def results(self) -> dict[int, Rootfs]:
        """What the command has left in the mounts whose content is to be kept, by their numbers."""
        layers = self._work.solver.container_layers
        return {number: self._work.keep(await layers.commit(name)) for number, name in self._kept.items()}

    def _bind_path(self, path: str, target: str, *, writable: bool) -> None:
        self.specs.append(MountSpec(type="bind", source=path, target=target, read_only=not writable))

    async def _bind(self, number: int, mount: Mount) -> None:
        assert mount.input is not None
        rootfs = self._inputs[mount.input] or Rootfs()
        layers = self._work.solver.container_layers
        name = f"build-{secrets.token_hex(16)}"
        await layers.create(name, rootfs.chain_id, volatile=True, bare=True)
        self._stack.push_async_callback(layers.release, name)
        tree = await self._stack.enter_async_context(layers.mounted(name))
        if mount.keep:
            self._kept[number] = name
        path = await asyncio.to_thread(_inside, tree.path, mount.source or _only(tree.path, mount.id))
        self._bind_path(path, mount.target, writable=mount.writable)

    async def _cache(self, number: int, mount: Mount) -> None:
        name = mount.id or mount.target
        if name not in self._caches:
            self._caches[name] = await self._cache_folder(mount)
        self._bind_path(str(self._caches[name]), mount.target, writable=mount.writable)

    async def _cache_folder(self, mount: Mount) -> Path:
        use = self._work.solver.cache_mounts.use(
            mount.id or mount.target,
            mount.sharing,
            mode=0o755 if mount.mode is None else mount.mode,
            uid=mount.uid,
            gid=mount.gid,
            anew=mount.anew and self._work.job.first(f"cache {mount.id}"),
        )
        folder, fresh = await self._stack.enter_async_context(use)
        if fresh and mount.input is not None:
            await self._seed(folder, mount)
        return folder

    async def _seed(self, folder: Path, mount: Mount) -> None:
        """Let a new cache begin with what another stage or an image has."""
        assert mount.input is not None
        rootfs = self._inputs[mount.input]
        if rootfs is None or rootfs.chain_id is None:
            return
        async with self._work.solver.mounted(rootfs.chain_id) as root:
            source = await asyncio.to_thread(_inside, root, mount.source)
            if not os.path.isdir(source):
                raise InvalidParameter(f"{mount.source} is no directory, with which a cache could begin")
            copy = await asyncio.create_subprocess_exec("cp", "-a", "--", f"{source}/.", str(folder))
            if await copy.wait() != 0:
                raise SystemFailure(f"cannot copy {mount.source} into the cache {mount.id}")

    async def _tmpfs(self, number: int, mount: Mount) -> None:
        # what was built there may be run there, other than on a container's own tmpfs (BuildKit, too, mounts it so)
        options = TmpfsOptions(size_bytes=mount.size, options=[["exec"]])
        self.specs.append(MountSpec(type="tmpfs", target=mount.target, tmpfs_options=options))

    def _own_folder(self) -> Path:
        """A folder on a tmpfs that goes with the mounts."""
        if self._folder is None:
            self._folder = self._work.solver.exec_folder / secrets.token_hex(16)
            self._folder.mkdir(mode=0o711, parents=True)
            self._stack.callback(self._folder.rmdir)
        return self._folder

    async def _secret(self, number: int, mount: Mount) -> None:
        value = await self._work.job.client.secret(mount.id)
        if value is None:
            if mount.required:
                raise NotFound(f"secret {mount.id}: not found")
            return
        if mount.env:
            if b"\0" in value:
                raise InvalidParameter(f"secret {mount.id}: a NUL can't be in an environment variable")
            self.environment.append(f"{mount.env}={value.decode(errors='surrogateescape')}")
        if not mount.target:
            return
        path = self._own_folder() / f"secret-{len(self.specs)}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._stack.callback(path.unlink)
        with open(fd, "wb") as file:
            file.write(value)
            os.fchown(fd, mount.uid, mount.gid)
            os.fchmod(fd, 0o400 if mount.mode is None else mount.mode)
        self._bind_path(str(path), mount.target, writable=False)

    async def _ssh(self, number: int, mount: Mount) -> None:
        path = self._own_folder() / f"agent-{len(self.specs)}"
        try:
            close = await self._work.job.client.ssh_agent(mount.id or "default", path)
        except NotFound:
            if mount.required:
                raise
            return
        self._stack.callback(lambda: path.unlink(missing_ok=True))
        self._stack.callback(close)
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, 0o600 if mount.mode is None else mount.mode)
        self._bind_path(str(path), mount.target, writable=True)
        if not any(item.startswith("SSH_AUTH_SOCK=") for item in self.environment):
            self.environment.append(f"SSH_AUTH_SOCK={mount.target}")


def _only(root: str, selected: str) -> str:
    """Where in a selection of a context (graph/files.py) the thing lies that was selected: a directory is its root."""
    name = posixpath.basename(selected)
    return f"/{name}" if name and os.listdir(root) == [name] and not os.path.isdir(os.path.join(root, name)) else "/"


def _inside(root: str, path: str) -> str:
    """Where `path` of a tree is on the host, no link leading out of the tree. Raises NotFound."""
    tree = Root(root)
    try:
        place = tree.resolve(path or "/")
        os.close(tree.open(place, os.O_PATH))
    except FileNotFoundError:
        raise NotFound(f"failed to calculate checksum of ref: {path}: not found") from None
    finally:
        tree.close()
    return posixpath.join(root, place.lstrip("/")).rstrip("/")


AT_ONE_TIME = 50 * 10**6  # ns between the making of a mount point and what that does to its folder


class Stubs:
    """The mount points that were made for a RUN in its root file system, and that must not stay there.

    moby/buildkit executor, "MountStubsCleaner": they go if they are empty, and their folder's time stays what it was.
    """

    def __init__(self, root: str, targets: list[str]) -> None:
        """Look at the root before anything is mounted."""
        self._missing: list[str] = []
        self._times: dict[str, int] = {}
        self._begun = time.time_ns()
        tree = Root(root)
        try:
            for target in targets:
                place = tree.resolve(target)
                while place != "/" and place not in self._missing:
                    try:
                        os.close(tree.open(place, os.O_PATH | os.O_NOFOLLOW))
                        break
                    except FileNotFoundError:
                        self._missing.append(place)
                        place = posixpath.dirname(place)
                if place not in self._missing:
                    self._times.setdefault(place, tree.lstat(place).st_mtime_ns)
        finally:
            tree.close()

    def remove(self, root: str) -> None:
        """Take them away; `root` is mounted, and nothing below it any more."""
        tree = Root(root)
        try:
            times = {place: self._time(tree, place, before) for place, before in self._times.items()}
            for place in sorted(self._missing, key=len, reverse=True):
                _remove_if_empty(tree, place)
            for place, time_ns in times.items():
                if any(posixpath.dirname(missing) == place for missing in self._missing):
                    _set_time(tree, place, time_ns)
        finally:
            tree.close()

    def _time(self, tree: Root, place: str, before: int) -> int:
        """What the folder is to be dated: as before, unless the command has changed it, too."""
        try:
            now = tree.lstat(place).st_mtime_ns
            own = [tree.lstat(one).st_mtime_ns for one in self._missing if posixpath.dirname(one) == place]
        except OSError:
            return before  # the command has taken something away
        ours = now > self._begun - AT_ONE_TIME and any(abs(now - made) < AT_ONE_TIME for made in own)
        return before if ours else now


def _remove_if_empty(tree: Root, place: str) -> None:
    try:
        folder = tree.open(posixpath.dirname(place), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    name = posixpath.basename(place)
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if status.st_mode & 0o170000 == 0o040000:
            os.rmdir(name, dir_fd=folder)
        elif status.st_size == 0 and status.st_mode & 0o170000 == 0o100000:
            os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # the command has put something there, or has taken it away
    finally:
        os.close(folder)


def _set_time(tree: Root, place: str, time_ns: int) -> None:
    try:
        fd = tree.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.utime(fd, ns=(time_ns, time_ns))
    finally:
        os.close(fd)
