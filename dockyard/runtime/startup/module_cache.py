"""The code of our modules in one file, compiled: looking for each by itself takes a third of what `create` takes.

Written beside the prepared interpreter (../quick_start.py). A module whose source has changed since is imported as
usual, and the file is written anew for the commands to come.
"""

import marshal
import os
import sys

FILE = "modules"
# Directories of modules that commands may want, below the package's own.
ROOMS = "state security resources rootfs spec birth lifecycle checkpoint startup command_line commands".split()
FOLDERS = ("", "oci", "linux", "runtime", *(f"runtime/{room}" for room in ROOMS))
ModuleSpec = type(sys.__spec__)


def write(directory: str, root: str) -> None:
    """Compile the modules below `root` into `directory`. Raises OSError."""
    index: dict[str, tuple[str, bool, int, int, int, int]] = {}
    code: list[bytes] = []
    at = 0
    for folder in FOLDERS:
        place = os.path.join(root, "dockyard", folder).rstrip("/")
        for name in sorted(os.listdir(place)):
            if not name.endswith(".py"):
                continue
            path = f"{place}/{name}"
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                compiled = marshal.dumps(compile(file.read(), path, "exec", dont_inherit=True))
            package = name == "__init__.py"
            parts = ["dockyard", *folder.split("/"), *([] if package else [name[:-3]])]
            entry = (path, package, found.st_mtime_ns, found.st_size, at, len(compiled))
            index[".".join(part for part in parts if part)] = entry
            code.append(compiled)
            at += len(compiled)
    head = marshal.dumps(index)
    temporary = f"{directory}/.{FILE}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + b"".join(code))
    os.rename(temporary, f"{directory}/{FILE}")


def install(directory: str) -> None:
    """Have imports look into the file in `directory` first; nothing happens if there is none."""
    try:
        with open(f"{directory}/{FILE}", "rb") as file:
            data = memoryview(file.read())
    except OSError:
        return
    sys.meta_path.insert(0, _Modules(data, directory))  # type: ignore[arg-type]  # a finder by its methods


class _Modules:
    """A finder and loader (importlib.abc)."""

    def __init__(self, data: memoryview, directory: str) -> None:
        self._directory = directory
        self._outdated = False
        start = 8 + int.from_bytes(data[:8], "little")
        self._index = marshal.loads(data[8:start])
        self._code = data[start:]

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        entry = self._index.get(name)
        if entry is None:
            return None
        source, package, changed, size = entry[:4]
        try:
            found = os.stat(source)
        except OSError:
            return None
        if found.st_mtime_ns != changed or found.st_size != size:
            self._renew()
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=package)  # type: ignore[arg-type]  # a loader by its methods
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def _renew(self) -> None:
        """Once: Dockyard has been upgraded."""
        if self._outdated:
            return
        self._outdated = True
        try:
            write(self._directory, os.path.abspath(f"{__file__}/../../../.."))
        except (OSError, SyntaxError):
            pass  # we may not, or the upgrade is under way: the next command tries again

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        at, length = self._index[module.__name__][4:]  # type: ignore[attr-defined]
        exec(marshal.loads(self._code[at : at + length]), vars(module))
