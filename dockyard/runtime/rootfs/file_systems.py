"""New file systems, as detached mounts (fsopen(2), fsmount(2))."""

import os
from collections.abc import Mapping

from dockyard.linux import syscalls
from dockyard.linux.syscalls import FSCONFIG_SET_FD, FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING
from dockyard.oci.runtime_spec import Mount
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.rootfs.mount_options import SUPERBLOCK_FLAGS, Options


def failure(wanted: Mount, reason: str | None) -> RuntimeFailure:
    return RuntimeFailure(f'error mounting "{wanted.source}" to rootfs at "{wanted.destination}": {reason}')


def new_file_system(wanted: Mount, options: Options, data: str, files: Mapping[str, int] | None = None) -> int:
    """A new file system, mounted nowhere yet; its descriptor. Raises OSError, in the kernel's own words if any.

    `files` are options whose value is a descriptor.
    """
    context = syscalls.fsopen(wanted.type)
    try:
        try:
            syscalls.fsconfig(context, FSCONFIG_SET_STRING, "source", wanted.source or wanted.type)
            for flag, name in SUPERBLOCK_FLAGS:
                if options.flags & flag:
                    syscalls.fsconfig(context, FSCONFIG_SET_FLAG, name)
            for entry in _split(data):
                name, equals, value = entry.partition("=")
                if equals:
                    syscalls.fsconfig(context, FSCONFIG_SET_STRING, name, value.strip('"'))
                else:
                    syscalls.fsconfig(context, FSCONFIG_SET_FLAG, name)
            for name, fd in (files or {}).items():
                syscalls.fsconfig(context, FSCONFIG_SET_FD, name, auxiliary=fd)
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        except OSError as error:
            said = _log(context)
            raise OSError(error.errno, f"{error.strerror}: {said}" if said else error.strerror) from error
        set_, _ = options.attributes()
        if options.copy_up or wanted.type == "tmpfs" or wanted.destination == "/dev":
            set_ &= ~syscalls.MOUNT_ATTR_RDONLY  # later, when it is filled
        return syscalls.fsmount(context, set_)
    finally:
        os.close(context)


def _split(data: str) -> list[str]:
    """A file system's options; a comma inside quotes (an SELinux label) separates nothing."""
    entries: list[str] = []
    quoted = False
    for letter in data:
        if letter == '"':
            quoted = not quoted
        if not entries or (letter == "," and not quoted):
            entries.append("" if letter == "," else letter)
        else:
            entries[-1] += letter
    return [entry for entry in entries if entry]


def _log(context: int) -> str:
    """What the kernel has to say about a failed file system context: lines like "e tmpfs: Bad value for 'size'"."""
    try:
        return os.read(context, 4096).decode(errors="replace").strip().removeprefix("e ")
    except OSError:
        return ""
