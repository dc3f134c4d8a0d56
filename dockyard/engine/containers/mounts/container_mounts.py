"""From `-v`, `--mount`, `--volumes-from` and an image's VOLUMEs to the mounts of one container."""

import os
import posixpath
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from dockyard.engine.containers.config import BindOptions, ContainerConfig, HostConfig, MountSpec
from dockyard.engine.containers.container import Container, MountPoint
from dockyard.engine.containers.mounts.bind_sources import propagation_of
from dockyard.engine.system.id_ranges import EVERY_ID, IdRange, mount_rows
from dockyard.engine.volumes.service import VolumeService
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

    def __init__(
        self,
        volumes: VolumeService,
        find: Callable[[str], Container],
        data_root: Path,
        find_image: Callable[[str], str],
    ) -> None:
        """`find_image`: the id of an image by its name; raises NotFound."""
        self._find_image = find_image
        self._volumes = volumes
        self._find = find
        self._data_root = data_root

    async def resolve(
        self, config: ContainerConfig, host: HostConfig, owner: str, *, read_only_once: bool = False
    ) -> list[MountPoint]:
        """The mounts by destination; what is asked for explicitly wins over what comes from elsewhere.

        `read_only_once`: read-only binds leave what is mounted below them writable, as before API 1.44.

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
            if posixpath.normpath(destination) in ("/", "//"):
                raise InvalidParameter("invalid specification: destination can't be '/'")
            if not destination.startswith("/"):
                raise InvalidParameter(f"invalid mount path: '{destination}' mount path must be absolute")
            if posixpath.normpath(destination) in explicit:
                raise InvalidParameter(f"Duplicate mount point: {destination}")
        if read_only_once:
            for mount in explicit.values():
                mount.read_only = "once" if mount.type == "bind" and not mount.rw else ""
        found.update(explicit)
        tmpfs = {posixpath.normpath(destination) for destination in host.tmpfs or {}}
        for destination in config.volumes or {}:
            # of an image's VOLUME and a `-v` of one word; without a slash it is below the root, as everything is
            place = "/" + posixpath.normpath(f"/{destination}").strip("/")
            if place == "/":
                raise InvalidParameter("invalid specification: destination can't be '/'")
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
            rw = mount.rw and "ro" not in mode.split(",")
            yield msgspec.structs.replace(mount, mode=mode, rw=rw, copy=False, layer="")

    async def _bind(self, text: str, driver: str, owner: str) -> MountPoint:
        """`[SOURCE:]DESTINATION[:MODE]`."""
        parts = text.split(":")
        if len(parts) > 3 or not all(parts) or (len(parts) == 1):
            if len(parts) == 1 and parts[0].startswith("/"):
                return await self._volume("", posixpath.normpath(parts[0]), driver, owner)
            raise InvalidParameter(f"invalid volume specification: '{text}'")
        if len(parts) == 2 and not parts[1].startswith("/") and _is_mode(parts[1]):
            # `/data:ro`: volumes without a name have no mode
            raise InvalidParameter(f"invalid volume specification: '{text}'")
        source, destination, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
        words = mode.split(",") if mode else []
        _check_mode(mode)
        _check_destination(destination, text, "bind" if source.startswith("/") else "volume")
        destination = posixpath.normpath(destination)
        writable = not {"ro", "rro"} & set(words)
        propagation = next((word for word in words if word in PROPAGATIONS), "")
        if source.startswith("/"):
            if "nocopy" in words:
                raise InvalidParameter(
                    f"invalid volume specification: '{text}': "
                    'invalid mount config for type "bind": field VolumeOptions must not be specified'
                )
            source = _clean(source)
            return MountPoint(
                type="bind",
                source=source,
                destination=destination,
                mode=mode,
                rw=writable,
                propagation=propagation_of(source, propagation, self._data_root),
                given_propagation=bool(propagation),
                options=["idmap"] if "idmap" in words else [],
                make=True,
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
        if wanted.image_options is not None and wanted.type != "image":
            raise InvalidParameter(
                f'invalid mount config for type "{wanted.type}": field ImageOptions must not be specified'
            )
        if wanted.type == "image":
            return self._image(wanted, destination)
        if wanted.type == "bind":
            return self._bind_mount(wanted, destination)
        if wanted.type == "volume":
            told = wanted.volume_options
            _check_volume(wanted, told.subpath if told else "")
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
            data += _tmpfs_words(size.options or []) if size else []
            return MountPoint(type="tmpfs", destination=destination, rw=not wanted.read_only, options=data)
        raise InvalidParameter(f'invalid mount config for type "{wanted.type}": mount type unknown')

    def _image(self, wanted: MountSpec, destination: str) -> MountPoint:
        if not wanted.source:
            raise InvalidParameter('invalid mount config for type "image": field Source must not be empty')
        subpath = wanted.image_options.subpath if wanted.image_options else ""
        _check_subpath(wanted, subpath)
        try:
            image_id = self._find_image(wanted.source)
        except NotFound as missing:  # a client takes that for the absence of the container's own image
            raise InvalidParameter(str(missing)) from None
        return MountPoint(
            type="image",
            name=wanted.source,
            destination=destination,
            rw=False,
            propagation="rprivate",
            subpath=subpath,
            image_id=image_id,
        )

    def _bind_mount(self, wanted: MountSpec, destination: str) -> MountPoint:
        if not wanted.source:
            raise InvalidParameter('invalid mount config for type "bind": field Source must not be empty')
        if not wanted.source.startswith("/"):
            raise InvalidParameter(
                'invalid mount config for type "bind": '
                f"invalid mount path: '{wanted.source}' mount path must be absolute"
            )
        options = wanted.bind_options or BindOptions()
        if options.propagation and options.propagation not in PROPAGATIONS:
            raise InvalidParameter(
                f'invalid mount config for type "bind": invalid propagation mode: {options.propagation}'
            )
        _check_read_only(wanted, options)
        source = _clean(wanted.source)
        if not options.create_mountpoint and not os.path.lexists(source):
            raise InvalidParameter(
                'invalid mount config for type "bind": bind source path does not exist: ' + wanted.source
            )
        return MountPoint(
            type="bind",
            source=source,
            destination=destination,
            rw=not wanted.read_only,
            propagation=propagation_of(source, options.propagation, self._data_root),
            given_propagation=bool(options.propagation),
            options=["bind"] if options.non_recursive else [],
            read_only="once" if options.read_only_non_recursive else "",
            make=options.create_mountpoint,
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


def _is_mode(text: str) -> bool:
    try:
        _check_mode(text)
    except InvalidParameter:
        return False
    return True


def _check_mode(mode: str) -> None:
    """Of each kind of word there may be one (moby volume/mounts, linuxValidMountMode)."""
    words = mode.split(",") if mode else []
    known = all(any(word in kind for kind in MODES) for word in words)
    if not known or any(sum(word in kind for word in words) > 1 for kind in MODES):
        raise InvalidParameter(f"invalid mode: {mode}")


def _tmpfs_words(options: list[list[str]]) -> list[str]:
    """`TmpfsOptions.Options`: each a list of one word (moby volume/mounts, validateTmpfsOptions)."""
    about = 'invalid mount config for type "tmpfs": '
    for option in options:
        if not 1 <= len(option) <= 2:
            raise InvalidParameter(f"{about}invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise InvalidParameter(f"{about}invalid option: {option[0]}")
        if len(option) > 1:
            raise InvalidParameter(f'{about}invalid tmpfs option "{option[0]}"')
    return [option[0] for option in options]


def _check_volume(wanted: MountSpec, subpath: str) -> None:
    about = f'invalid mount config for type "{wanted.type}": '
    if subpath and not wanted.source:
        raise InvalidParameter(f"{about}must not set Subpath when using anonymous volumes")
    _check_subpath(wanted, subpath)
    if wanted.read_only and not wanted.source:
        raise InvalidParameter(f"{about}must not set ReadOnly mode when using anonymous volumes")


def _check_subpath(wanted: MountSpec, subpath: str) -> None:
    """By its words alone; whether symlinks lead out of the volume is seen at the start."""
    if subpath and (subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == ".."):
        raise InvalidParameter(
            f'invalid mount config for type "{wanted.type}": subpath must be a relative path within the volume'
        )


def _check_read_only(wanted: MountSpec, options: BindOptions) -> None:
    asked = {
        "!ReadOnly": not wanted.read_only,
        "BindOptions.ReadOnlyNonRecursive": options.read_only_non_recursive,
        "BindOptions.ReadOnlyForceRecursive": options.read_only_force_recursive,
    }
    given = [name for name, so in asked.items() if so]
    if len(given) > 1:
        raise InvalidParameter(f"mount options conflict: {' && '.join(given[:2])}")


def _clean(path: str) -> str:
    """An absolute path without `.`, `..` and doubled slashes."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _check_target(wanted: MountSpec) -> None:
    about = f'invalid mount config for type "{wanted.type}": '
    if not wanted.target.startswith("/"):
        raise InvalidParameter(f"{about}invalid mount path: '{wanted.target}' mount path must be absolute")
    if posixpath.normpath(wanted.target) in ("/", "//"):
        raise InvalidParameter(f"{about}invalid specification: destination can't be '/'")


def _check_destination(destination: str, text: str, kind: str) -> None:
    about = f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
    if not destination.startswith("/"):
        raise InvalidParameter(f"{about}invalid mount path: '{destination}' mount path must be absolute")
    if posixpath.normpath(destination) in ("/", "//"):
        raise InvalidParameter(f"{about}invalid specification: destination can't be '/'")


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
            if "exec" in point.options:
                options.remove("noexec")
                options.remove("exec")
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
            options.append("ro" if single or point.read_only == "once" else "rro")
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
