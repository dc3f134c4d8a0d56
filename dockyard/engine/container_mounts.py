"""From `-v`, `--mount`, `--volumes-from` and an image's VOLUMEs to the mounts of one container."""

import os
import posixpath
from collections.abc import Callable, Iterable

from dockyard.engine.container import Container, MountPoint
from dockyard.engine.container_config import ContainerConfig, HostConfig, MountSpec
from dockyard.engine.id_ranges import EVERY_ID, IdRange, mount_rows
from dockyard.engine.volumes import VolumeService
from dockyard.errors import InvalidParameter, NotFound, NotImplementedHere
from dockyard.oci.runtime_spec import Mount
from dockyard.snapshots.mapped import mapped_tree

PROPAGATIONS = frozenset("private rprivate shared rshared slave rslave".split())
# The words of a bind's mode, by kind.
MODES = (
    frozenset({"rw", "ro", "rro"}),
    frozenset({"z", "Z"}),
    frozenset({"copy", "nocopy", "volume-nocopy"}),
    frozenset({"cached", "delegated", "consistent"}),
    frozenset({"idmap"}),
    PROPAGATIONS,
)


class MountResolver:
    """Finds out every mount of a container, making the volumes that are named but not there."""

    def __init__(self, volumes: VolumeService, find: Callable[[str], Container]) -> None:
        self._volumes = volumes
        self._find = find

    async def resolve(self, config: ContainerConfig, host: HostConfig, owner: str) -> list[MountPoint]:
        """The mounts by destination; what is asked for explicitly wins over what comes from elsewhere.

        The volumes are held, and those made for nobody else marked, for the container `owner`, which is not there yet.
        Raises InvalidParameter for a malformed one or two for one place.
        """
        found: dict[str, MountPoint] = {}
        for source in host.volumes_from or []:
            for mount in self._from_container(source):
                found[mount.destination] = mount
        explicit: dict[str, MountPoint] = {}
        for text in host.binds or []:
            mount = await self._bind(text, host.volume_driver, owner)
            _enter(explicit, mount)
        for wanted in host.mounts or []:
            _enter(explicit, await self._mount(wanted, host.volume_driver, owner))
        for destination in host.tmpfs or {}:
            if not destination.startswith("/"):
                raise InvalidParameter(f"invalid mount path: '{destination}' mount path must be absolute")
            if posixpath.normpath(destination) in explicit:
                raise InvalidParameter(f"Duplicate mount point: {destination}")
        found.update(explicit)
        tmpfs = {posixpath.normpath(destination) for destination in host.tmpfs or {}}
        for destination in config.volumes or {}:
            place = posixpath.normpath(destination)
            _check_destination(destination)
            if place not in found and place not in tmpfs:
                found[place] = await self._volume("", place, host.volume_driver, owner)
        return list(found.values())

    def _from_container(self, text: str) -> Iterable[MountPoint]:
        name, _, mode = text.partition(":")
        if not text:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        _check_mode(mode)
        try:
            other = self._find(name)
        except NotFound as missing:  # a client takes that for the image's absence
            raise InvalidParameter(str(missing)) from None
        for mount in other.record.mounts:
            yield MountPoint(
                type=mount.type,
                name=mount.name,
                source=mount.source,
                destination=mount.destination,
                driver=mount.driver,
                mode=mode,
                rw=mount.rw and "ro" not in mode.split(","),
                propagation=mount.propagation,
                options=mount.options,
                subpath=mount.subpath,
            )

    async def _bind(self, text: str, driver: str, owner: str) -> MountPoint:
        """`[SOURCE:]DESTINATION[:MODE]`."""
        parts = text.split(":")
        if len(parts) > 3 or not all(parts) or (len(parts) == 1):
            if len(parts) == 1 and parts[0].startswith("/"):
                return await self._volume("", posixpath.normpath(parts[0]), driver, owner)
            raise InvalidParameter(f"invalid volume specification: '{text}'")
        if len(parts) == 2 and not parts[1].startswith("/"):
            # `/data:ro`: an anonymous volume with a mode
            parts = ["", *parts]
        source, destination, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
        words = mode.split(",") if mode else []
        _check_mode(mode)
        _check_destination(destination, text)
        destination = posixpath.normpath(destination)
        writable = not {"ro", "rro"} & set(words)
        propagation = next((word for word in words if word in PROPAGATIONS), "")
        if source.startswith("/"):
            if "nocopy" in words:
                raise InvalidParameter(
                    f"invalid volume specification: '{text}': "
                    'invalid mount config for type "bind": field VolumeOptions must not be specified'
                )
            # `-v` makes a missing directory, `--mount` does not
            if not os.path.lexists(source):
                os.makedirs(source, 0o755, exist_ok=True)
            return MountPoint(
                type="bind",
                source=source,
                destination=destination,
                mode=mode,
                rw=writable,
                propagation=propagation or "rprivate",
                options=["idmap"] if "idmap" in words else [],
            )
        mount = await self._volume(source, destination, driver, owner)
        mount.mode, mount.rw, mount.copy = mode, writable, not {"nocopy", "volume-nocopy"} & set(words)
        mount.options = ["idmap"] if "idmap" in words else []
        return mount

    async def _mount(self, wanted: MountSpec, driver: str, owner: str) -> MountPoint:
        if not wanted.target:
            raise InvalidParameter(f'invalid mount config for type "{wanted.type}": field Target must not be empty')
        _check_target(wanted)
        destination = posixpath.normpath(wanted.target)
        if wanted.type == "bind":
            return self._bind_mount(wanted, destination)
        if wanted.type == "volume":
            told = wanted.volume_options
            config = told.driver_config if told else None
            mount = await self._volume(
                wanted.source,
                destination,
                (config.name if config else "") or driver,
                owner,
                (config.options if config else None) or {},
                (told.labels if told else None) or {},
            )
            mount.rw, mount.copy = not wanted.read_only, not (told and told.no_copy)
            mount.mode = "z"
            mount.subpath = told.subpath if told else ""
            return mount
        if wanted.type == "tmpfs":
            if wanted.source:
                raise InvalidParameter('invalid mount config for type "tmpfs": field Source must not be specified')
            size = wanted.tmpfs_options
            data = [f"size={size.size_bytes}"] if size and size.size_bytes else []
            data += [f"mode={size.mode:o}"] if size and size.mode else []
            return MountPoint(type="tmpfs", destination=destination, rw=not wanted.read_only, options=data)
        raise InvalidParameter(f'invalid mount config for type "{wanted.type}": mount type unknown: "{wanted.type}"')

    @staticmethod
    def _bind_mount(wanted: MountSpec, destination: str) -> MountPoint:
        if not wanted.source:
            raise InvalidParameter('invalid mount config for type "bind": field Source must not be empty')
        if not wanted.source.startswith("/"):
            raise InvalidParameter(
                'invalid mount config for type "bind": '
                f"invalid mount path: '{wanted.source}' mount path must be absolute"
            )
        options = wanted.bind_options
        if not os.path.lexists(wanted.source):
            if options is None or not options.create_mountpoint:
                raise InvalidParameter(
                    'invalid mount config for type "bind": bind source path does not exist: ' + wanted.source
                )
            os.makedirs(wanted.source, 0o755, exist_ok=True)
        propagation = options.propagation if options else ""
        if propagation and propagation not in PROPAGATIONS:
            raise InvalidParameter(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
        return MountPoint(
            type="bind",
            source=wanted.source,
            destination=destination,
            rw=not wanted.read_only,
            propagation=propagation or "rprivate",
            options=["bind"] if options and options.non_recursive else [],
        )

    async def _volume(
        self,
        name: str,
        destination: str,
        driver: str,
        owner: str,
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> MountPoint:
        volume = await self._volumes.create(name or None, driver or None, options or {}, labels or {}, owner=owner)
        return MountPoint(
            type="volume",
            name=volume.name,
            source=volume.mountpoint,
            destination=destination,
            driver=volume.driver,
            copy=True,
        )


def _enter(found: dict[str, MountPoint], mount: MountPoint) -> None:
    if mount.destination in found:
        raise InvalidParameter(f"Duplicate mount point: {mount.destination}")
    found[mount.destination] = mount


def _check_mode(mode: str) -> None:
    """Of each kind of word there may be one (moby volume/mounts, linuxValidMountMode)."""
    words = mode.split(",") if mode else []
    known = all(any(word in kind for kind in MODES) for word in words)
    if not known or any(sum(word in kind for word in words) > 1 for kind in MODES):
        raise InvalidParameter(f"invalid mode: {mode}")


def _check_target(wanted: MountSpec) -> None:
    about = f'invalid mount config for type "{wanted.type}": '
    if not wanted.target.startswith("/"):
        raise InvalidParameter(f"{about}invalid mount path: '{wanted.target}' mount path must be absolute")
    if posixpath.normpath(wanted.target) in ("/", "//"):
        raise InvalidParameter(f"{about}invalid specification: destination can't be '/'")


def _check_destination(destination: str, text: str = "") -> None:
    if not destination.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{text or destination}': "
            f"invalid mount config for type \"volume\": invalid mount path: '{destination}' mount path must be absolute"
        )
    if posixpath.normpath(destination) in ("/", "//"):
        raise InvalidParameter(
            f"invalid volume specification: '{text or destination}': "
            "invalid mount config for type \"volume\": invalid specification: destination can't be '/'"
        )


def spec_mounts(
    points: Iterable[MountPoint], sources: dict[str, str], ids: IdRange | None, user: tuple[int, int]
) -> list[Mount]:
    """The mounts as the runtime takes them.

    `sources` are the host paths of volumes, or of what is wanted inside them, by destination.

    `ids` are the host's for the container's, when they differ, and `user` the (uid, gid) that it runs as.
    """
    found = []
    for point in points:
        if point.type == "tmpfs":
            options = ["noexec", "nosuid", "nodev", *([] if point.rw else ["ro"]), *point.options]
            found.append(Mount(point.destination, type="tmpfs", source="tmpfs", options=options))
            continue
        source = sources.get(point.destination, point.source)
        if not os.path.exists(source):
            raise InvalidParameter(
                f'invalid mount config for type "{point.type}": bind source path does not exist: {source}'
            )
        mapped = "idmap" in point.options or (point.type == "volume" and ids is not None and can_map(source))
        # a mapping is given to one mount alone: those below it are left out
        single = mapped or "bind" in point.options
        options = ["bind" if single else "rbind", point.propagation or "rprivate"]
        if not point.rw:
            # read-only all the way down where the kernel can (Linux 5.12), as Docker 25 and newer
            options.append("ro" if single else "rro")
        mount = Mount(point.destination, type="bind", source=source, options=options)
        if mapped:
            owner = os.stat(source) if "idmap" in point.options else None
            first, first_group, size = (0, 0, EVERY_ID) if ids is None else (ids.uid, ids.gid, ids.size)
            mount.uid_mappings = mount_rows(first, size, owner.st_uid if owner else 0, user[0] if owner else 0)
            mount.gid_mappings = mount_rows(first_group, size, owner.st_gid if owner else 0, user[1] if owner else 0)
        found.append(mount)
    return found


def can_map(path: str) -> bool:
    """Whether the file system there has idmapped mounts; a network file system has none, for instance."""
    try:
        with mapped_tree(path, IdRange(uid=1, gid=1, size=1)):
            return True
    except NotImplementedHere:
        return False
