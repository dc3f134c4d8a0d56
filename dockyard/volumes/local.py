"""The local driver: a volume is the directory `<root>/<name>/_data`, or something mounted there.

A volume appears and disappears by one rename, so a crash leaves a whole volume, none, or a leftover whose name
tells it from any volume (volume names begin with a letter or digit).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from dockyard.errors import Conflict, InvalidParameter, SystemFailure
from dockyard.folders import own_folder
from dockyard.linux import mounts, syscalls
from dockyard.linux.durability import sync_names
from dockyard.volumes import options as local_options

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
DATA = "_data"


class LocalDriver:
    """Volumes in directories of this host."""

    name = "local"
    scope = "local"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """`root` is `<data root>/volumes`."""
        self._root = own_folder(root, 0o701)

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Raise InvalidParameter when the name or an option will not do."""
        if len(name) == 1:
            raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
        if not NAME.fullmatch(name) or len(name) > 255:
            raise InvalidParameter(
                f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
                "allowed. If you intended to pass a host directory, use absolute path"
            )
        local_options.check(options)

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make the volume's directory."""
        if self.exists(name):
            return
        new = self._root / f".new-{secrets.token_hex(8)}"
        new.mkdir(mode=0o701)
        (new / DATA).mkdir(mode=0o755)
        os.chmod(new / DATA, 0o755)
        new.rename(self._root / name)

    def remove(self, name: str) -> None:
        """Remove the volume and all its data."""
        removed = self._root / f".removed-{secrets.token_hex(8)}"
        try:
            (self._root / name).rename(removed)
            sync_names(str(self._root))  # a power cut must not give it its name back: it would be a volume again
        except FileNotFoundError:
            return
        except OSError as error:
            raise SystemFailure(f"cannot remove volume {name}: {error}") from error
        self._clear(removed)

    @staticmethod
    def _clear(folder: Path) -> None:
        """Remove a leftover; what is still mounted in it is let go first, or the data behind it would be lost."""
        for mount in reversed(mounts.mount_table()):
            if mount.target == str(folder) or mount.target.startswith(f"{folder}/"):
                mounts.unmount(mount.target, syscalls.MNT_DETACH)
        shutil.rmtree(folder, ignore_errors=True)

    def path(self, name: str) -> str:
        """The data directory."""
        return str(self._root / name / DATA)

    def mount(self, name: str, options: Mapping[str, str]) -> str:
        """Mount the volume's device, if it has one and it is not mounted; returns the data directory."""
        target = self.path(name)
        plan = local_options.plan(options)
        if plan is None:
            if not os.path.isdir(target):
                raise Conflict(f"the data of volume {name} are gone: {target} is not a directory; remove the volume")
            return target
        if self._mounted(target):
            return target
        try:
            mounts.mount(plan.device, target, plan.kind or None, plan.flags, plan.data or None)
            if plan.remount is not None:
                mounts.mount(None, target, None, plan.remount)
            if plan.propagation is not None:
                mounts.mount(None, target, None, plan.propagation)
        except OSError as error:
            if self._mounted(target):
                mounts.unmount(target, syscalls.MNT_DETACH)
            asked = f":{plan.device}" if plan.device.startswith(":") else plan.device
            raise SystemFailure(
                f"failed to mount local volume: mount {asked}:{target}, flags: {plan.flags:#x}"
                f"{_without_secrets(plan.data)}: {error.strerror}"
            ) from error
        return target

    def unmount(self, name: str, options: Mapping[str, str]) -> None:
        """Unmount the volume's device, if it has one."""
        if not options.get("device"):
            return
        target = self.path(name)
        if self._mounted(target):
            try:
                mounts.unmount(target)
            except OSError as error:
                raise SystemFailure(f"cannot unmount volume {name}: {error.strerror}") from error

    @staticmethod
    def _mounted(target: str) -> bool:
        return any(mount.target == target for mount in mounts.mount_table())

    def exists(self, name: str) -> bool:
        """Whether the volume's directory is there."""
        return (self._root / name / DATA).is_dir()

    def created_ns(self, name: str) -> int:
        """When the volume's directory was made."""
        return os.stat(self._root / name).st_mtime_ns

    def size(self, name: str) -> int:
        """Bytes in the volume's files, each inode once."""
        total = 0
        seen = set()
        for folder, _, files in os.walk(self.path(name)):
            for file in files:
                try:
                    status = os.lstat(os.path.join(folder, file))
                except OSError:
                    continue  # gone since it was listed
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_size
        return total

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove half-made and half-removed volumes; return those that are whole but not in `known`."""
        unknown = []
        for entry in self._root.iterdir():
            if entry.name.startswith((".new-", ".removed-")):
                self._clear(entry)
            elif entry.name not in known and NAME.fullmatch(entry.name) and (entry / DATA).is_dir():
                unknown.append(entry.name)
        return sorted(unknown)


def _without_secrets(data: str) -> str:
    shown = re.sub(r"(password|pass)=[^,]*", r"\1=********", data)
    return f", data: {shown}" if shown else ""
