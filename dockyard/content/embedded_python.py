"""A Python program with all that it needs, as files of a layer: the interpreter that runs this, its shared libraries,
its standard library, and the packages that the program imports. Modules are taken compiled, and where they lie here.
"""

import importlib.util
import os
import re
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from py_compile import compile as compile_module

from dockyard.content.embedded_layer import Layer

PACKAGES = "usr/lib/dockyard"  # where the program and its packages go
# Parts of the standard library that no server needs, or that want large libraries of their own.
_LEFT_OUT = frozenset(
    "__pycache__ dist-packages site-packages test tests idlelib lib2to3 tkinter turtledemo turtle.py ensurepip "
    "pydoc_data pydoc.py distutils curses dbm sqlite3 msilib venv wsgiref".split()
)
_EXTENSIONS_LEFT_OUT = re.compile(r"_(?:test|xx|curses|tkinter|dbm|gdbm|sqlite3|ctypes_test)|xx|readline|nis|ossaudio")
# Rooms of ours that a program without an engine needs none of.
_ROOMS_LEFT_OUT = frozenset(
    "__pycache__ api build cli client compat engine networks runtime shim snapshots volumes".split()
)
_LIBRARY = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)

_FIND_IMPORTS = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ImportError:
            pass  # of a library that is not installed
for name, module in sorted(sys.modules.items()):
    if "." not in name and "custom" not in name and "distutils" not in name and getattr(module, "__file__", None):
        print(name, module.__file__, sep="\\t")
"""


def add_python(layer: Layer, program: str, command: str) -> None:
    """Add the package `program`, to be run as `command`, a path in the layer. Raises OSError, SubprocessError."""
    interpreter = os.path.realpath(sys.executable)
    files = {interpreter.lstrip("/"): interpreter}
    files |= dict(_standard_library())
    for name, path in _imports(program):
        files |= dict(_package(name, path))
    binaries = [path for path in files.values() if path == interpreter or ".so" in os.path.basename(path)]
    files |= {library.lstrip("/"): library for library in _libraries(binaries)}
    for target in sorted(files):
        source = files[target]
        data = _compiled(source) if source.endswith(".py") else _read(source)
        layer.folders_of(target)
        executable = source == interpreter or ".so" in os.path.basename(source)
        layer.file(_sourceless(target), data, 0o755 if executable else 0o644)
    script = (
        f"#!/{interpreter.lstrip('/')} -EPs\n"
        f"import sys\nsys.path.insert(0, '/{PACKAGES}')\n"
        f"from {program}.__main__ import main\nsys.exit(main())\n"
    )
    layer.folders_of(command)
    layer.file(command, script.encode(), 0o755)


def _imports(program: str) -> Iterator[tuple[str, str]]:
    """(Name, file) of each package outside the standard library that the program may import."""
    found = subprocess.run(
        [sys.executable, "-EP", "-c", _FIND_IMPORTS, program], capture_output=True, text=True, check=True
    )
    standard = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    for line in found.stdout.splitlines():
        name, _, path = line.partition("\t")
        place = os.path.realpath(path)
        inside = any(place.startswith(folder + "/") for folder in standard)
        if not inside or "/site-packages/" in place or "/dist-packages/" in place:
            yield name, path


def _standard_library() -> Iterator[tuple[str, str]]:
    """(Path in the layer, file) of each of its modules."""
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        base = os.path.join(sys.base_prefix, os.path.relpath(folder, sys.prefix)) if sys.prefix in folder else folder
        for path in _walk(base, _LEFT_OUT):
            if not _EXTENSIONS_LEFT_OUT.match(os.path.basename(path)) or not path.endswith(".so"):
                yield path.lstrip("/"), path


def _package(name: str, path: str) -> Iterator[tuple[str, str]]:
    """(Path in the layer, file) of each file of a package or module, and of the libraries that its wheel came with."""
    if os.path.basename(path).partition(".")[0] != "__init__":
        yield f"{PACKAGES}/{os.path.basename(path)}", path
        return
    top = os.path.dirname(path)
    parent = os.path.dirname(top)
    skipped = _ROOMS_LEFT_OUT if name == "dockyard" else frozenset(("__pycache__", "tests"))
    for folder in (top, f"{parent}/{name}.libs"):
        for file in _walk(folder, skipped):
            yield f"{PACKAGES}/{os.path.relpath(file, parent)}", file


def _walk(folder: str, skipped: frozenset[str]) -> Iterator[str]:
    """The modules and libraries below `folder`."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("config-"))
        for name in sorted(files):
            if name not in skipped and (name.endswith((".py", ".so", ".pem")) or ".so." in name):
                yield os.path.join(place, name)


def _libraries(binaries: list[str]) -> Iterator[str]:
    """The shared libraries that `binaries` are linked with, and the loader."""
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    yield from sorted({path for path in _LIBRARY.findall(listed) if os.path.isabs(path)})


def _sourceless(target: str) -> str:
    return target + "c" if target.endswith(".py") else target


def _compiled(path: str) -> bytes:
    """A module's byte code, from where the interpreter keeps it if that is up to date."""
    kept = importlib.util.cache_from_source(path)
    try:
        data = _read(kept)
        status = os.stat(path)
        flags, written, size = struct.unpack("<III", data[4:16])
        if (
            data[:4] != importlib.util.MAGIC_NUMBER
            or flags
            or (written, size)
            != (
                int(status.st_mtime) & 0xFFFFFFFF,
                status.st_size & 0xFFFFFFFF,
            )
        ):
            raise ValueError
    except (OSError, ValueError, struct.error):
        with tempfile.NamedTemporaryFile() as file:
            compile_module(path, cfile=file.name, doraise=True)
            data = _read(file.name)
    # its time is that of this machine's file: a layer is the same whenever that was written
    return data[:8] + bytes(4) + data[12:]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
