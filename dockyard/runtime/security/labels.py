"""AppArmor profiles and SELinux labels of processes and mounts, on kernels that have them."""

import os

from dockyard.linux import apparmor, procfs, syscalls
from dockyard.oci.runtime_spec import Process, Spec
from dockyard.runtime.errors import RuntimeFailure

SELINUX_MAGIC = 0xF97CFF8C


def selinux_enabled() -> bool:
    """Whether the kernel labels by SELinux: its file system is mounted where everybody looks for it."""
    try:
        fd = os.open("/sys/fs/selinux", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return syscalls.file_system_type(fd) & 0xFFFFFFFF == SELINUX_MAGIC
    finally:
        os.close(fd)


def check(spec: Spec) -> None:
    """Raise RuntimeFailure for a label that this kernel can't give: a container must not seem confined."""
    if spec.process is not None:
        check_process(spec.process)
    if spec.linux.mount_label and not selinux_enabled():
        raise RuntimeFailure("selinux mount label is specified in config, but selinux is disabled or not supported")


def check_process(process: Process) -> None:
    """As `check`, for a process."""
    if process.apparmor_profile and not apparmor.is_enabled():
        raise RuntimeFailure("apparmor profile is specified in config, but apparmor is disabled or not supported")
    if process.selinux_label and not selinux_enabled():
        raise RuntimeFailure("selinux label is specified in config, but selinux is disabled or not supported")


def of_next_program(process: Process) -> None:
    """Have the program that this thread executes next run under the process's label and profile.

    Raises RuntimeFailure.
    """
    if process.selinux_label:
        _write("attr/exec", process.selinux_label, "selinux label")
    if process.apparmor_profile:
        text = f"exec {process.apparmor_profile}"
        try:
            # its own file since Linux 5.8: the old one belongs to whichever module comes first
            procfs.write_own("attr/apparmor/exec", text)
        except FileNotFoundError:
            _write("attr/exec", text, "apparmor profile")
        except OSError as error:
            raise RuntimeFailure(f"unable to apply apparmor profile: {error.strerror}") from error


def of_next_key(label: str) -> None:
    """Have keys that this thread makes carry the SELinux label. Raises RuntimeFailure."""
    _write("attr/keycreate", label, "selinux key label")


def _write(path: str, text: str, what: str) -> None:
    try:
        procfs.write_own(path, text)
    except OSError as error:
        raise RuntimeFailure(f"unable to apply {what}: {error.strerror}") from error


def mount_data(data: str, label: str) -> str:
    """A file system's options with the SELinux label that all its files get."""
    if not label:
        return data
    return f'{data},context="{label}"'.lstrip(",")
