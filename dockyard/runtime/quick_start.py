"""How `dockyard-runc` is started quickly and safely: what its launcher (packaging/dockyard-runc) finds and runs.

The first command of a boot, if root's, prepares a directory under /run for the launcher: `python`, the interpreter on a
read-only mount, which a container can't overwrite (linux/executable.py), its libraries likewise (startup/libraries.py),
and `main.py`, which knows where our modules are, so that the interpreter need not look for them (`-S`). From then on
the launcher runs `python -ISE main.py`.
Whoever can't mount does without: then commands start slower, and those that enter a container go on from a copy of the
interpreter in memory.
"""

import fcntl
import gc
import os
import sys

PREPARED = "/run/dockyard-interpreter"
# The commands whose process, or a child of it, enters a container.
ENTERING = frozenset({"create", "run", "exec", "restore"})

MAIN = """\
import os
import sys

root, interpreter = {root!r}, {interpreter!r}
sys.path[:0] = {paths!r}
arguments = sys.argv[1:]
try:
    current = all(os.path.samefile(ours, installed) for ours, installed in {mounted!r})
except OSError:
    current = False
if not current:
    # Python or the C library was upgraded: the mounts have the old ones
    os.execv(interpreter, [interpreter, "-c", {again!r}, {launcher!r}, *arguments])
from dockyard.runtime.quick_start import lean_main

lean_main()
"""
AGAIN = "import sys; sys.path[:0] = {paths!r}; from dockyard.runtime.quick_start import main; main()"


def lean_main() -> None:
    """Run the command of sys.argv with stand-ins for what takes long to import."""
    from dockyard.runtime.startup import module_cache

    gc.disable()  # it is over before there is anything worth collecting
    module_cache.install(os.path.dirname(sys.argv[0]))
    from dockyard.runtime.startup import stand_ins

    stand_ins.install()
    _run()


def main() -> None:
    """The launcher's other way: sys.argv[1] is its path, the command follows. Prepares the quick one if possible."""
    launcher = sys.argv.pop(1)
    if launcher.startswith("/") and os.geteuid() == 0:
        try:
            directory = prepare(launcher)
        except OSError:
            pass  # no right to mount, or no /run: it works without
        else:
            command = [f"{directory}/python", "-ISE", f"{directory}/main.py", *sys.argv[1:]]
            loader = f"{directory}/lib/ld.so"
            if os.path.exists(loader):  # as the launcher does
                os.environ["LC_ALL"] = "C"
                command = [loader, "--library-path", f"{directory}/lib", *command]
            os.execv(command[0], command)
    _run()


def prepare(launcher: str) -> str:
    """Make the directory for `launcher`; returns it. Raises OSError."""
    from dockyard.linux import executable
    from dockyard.runtime.command_line import (
        foreground,  # noqa: F401 (what commands load)
        launch,  # noqa: F401 (what commands load)
    )
    from dockyard.runtime.startup import libraries, module_cache

    directory = os.path.normpath(PREPARED + launcher)
    os.makedirs(directory, 0o755, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        interpreter = os.path.realpath(sys.executable)
        program = f"{directory}/python"
        mounted = [(program, interpreter), *libraries.loader(directory)]
        root = _write_main(directory, launcher, interpreter, mounted)
        module_cache.write(directory, root)
        if not all(_is(ours, installed) for ours, installed in mounted):
            libraries.forget(directory)  # and the interpreter, perhaps an older one
            libraries.prepare(directory)
            os.close(os.open(program, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
            executable.mount_read_only(interpreter, program)
        return directory
    finally:
        os.close(lock)


def _is(program: str, interpreter: str) -> bool:
    try:
        return os.path.samefile(program, interpreter)
    except OSError:
        return False


def _write_main(directory: str, launcher: str, interpreter: str, mounted: list[tuple[str, str]]) -> str:
    """Write main.py; where our modules are."""
    library = os.path.dirname(os.__file__)
    own = (library, library.replace(".", ""))  # the interpreter finds these by itself: python3.11, python311.zip
    paths = [path for path in sys.path if path.startswith("/") and not path.startswith(own)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [root, *(path for path in paths if path != root)]
    text = MAIN.format(
        root=root,
        interpreter=interpreter,
        mounted=mounted,
        paths=[f"{directory}/dynload", *paths],
        again=AGAIN.format(paths=paths),
        launcher=launcher,
    )
    temporary = f"{directory}/.main.py"
    with open(temporary, "w") as file:
        file.write(text)
    os.rename(temporary, f"{directory}/main.py")
    return root


def _run() -> None:
    from dockyard.runtime.command_line.main import main as command

    status = command()
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(status)  # the process is over: nothing is won by taking the interpreter apart
