"""The libraries of the prepared interpreter (../quick_start.py), on mounts where nobody can write to them.

Whoever may look into a process on its way into a container finds in /proc/<pid>/map_files what that has mapped, and
could open it for writing: the host's C library. So each library is mounted read-only on a file of the prepared
directory, and the launcher has the dynamic loader, one of them, look for the others there (ld.so(8), --library-path).
"""

import contextlib
import ctypes
import os

from dockyard.linux import executable, mounts, syscalls

# Below the prepared directory: system libraries and, as `ld.so`, the loader; modules of the interpreter's own.
LIBRARIES, MODULES, LOADER = "lib", "dynload", "ld.so"


def prepare(directory: str) -> None:
    """Mount all that this process has mapped, which has what commands need. Raises OSError."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libseccomp.so.2")  # loaded only when a filter is compiled
    found = loader(directory)
    if not found:
        return
    for path in _mapped():
        if "/lib-dynload/" in path:
            _mount(path, f"{directory}/{MODULES}")
        elif "/site-packages/" not in path:
            folder = f"{directory}/{LIBRARIES}"
            _mount(path, folder)
            for name in _other_names(path):
                with contextlib.suppress(FileExistsError):
                    os.symlink(os.path.basename(path), f"{folder}/{name}")
    # the last: with this the launcher uses them
    ((place, path),) = found
    os.symlink(os.path.basename(path), place)


def loader(directory: str) -> list[tuple[str, str]]:
    """Where the loader is to be found, prepared, and where it is installed; nothing where there is none to be known."""
    found = [path for path in _mapped() if os.path.basename(path).startswith("ld-")]
    return [(f"{directory}/{LIBRARIES}/{LOADER}", path) for path in found[:1]]


def forget(directory: str) -> None:
    """Take away what is mounted below `directory`, and its links."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{LIBRARIES}/{LOADER}")
    for row in mounts.mount_table():
        if row.target.startswith(directory + "/"):
            syscalls.umount2(row.target, syscalls.MNT_DETACH)
    for folder in (LIBRARIES, MODULES):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(f"{directory}/{folder}"):
                os.unlink(f"{directory}/{folder}/{name}")


def _mapped() -> list[str]:
    with open("/proc/self/maps") as rows:
        paths = {fields[5] for fields in (row.rstrip("\n").split(maxsplit=5) for row in rows) if len(fields) > 5}
    return sorted(path for path in paths if ".so" in os.path.basename(path) and os.path.exists(path))


def _other_names(path: str) -> list[str]:
    """The links beside a library, by which programs name it: libz.so.1 is libz.so.1.3."""
    folder, name = os.path.split(path)
    stem = name.partition(".so")[0]
    found = [other for other in os.listdir(folder) if other.startswith(stem) and ".so" in other and other != name]
    return [other for other in found if os.path.realpath(f"{folder}/{other}") == os.path.realpath(path)]


def _mount(path: str, folder: str) -> None:
    os.makedirs(folder, 0o755, exist_ok=True)
    place = f"{folder}/{os.path.basename(path)}"
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    executable.mount_read_only(path, place)
