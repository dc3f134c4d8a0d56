"""What the first command of a boot prepares."""

import subprocess
import sys
from pathlib import Path

from dockyard.runtime.startup import module_cache
from tests.runtime.conftest import PREPARED, ROOT, Runtime

SHOW = """
import sys
sys.path.insert(0, {root!r})
from dockyard.runtime.startup import module_cache
module_cache.install({directory!r})
import dockyard.runtime.state.exec_fifo as exec_fifo
print(type(exec_fifo.__spec__.loader).__name__, exec_fifo.__file__, exec_fifo.STARTED)
"""


def shown(directory: Path, root: Path) -> list[str]:
    code = SHOW.format(root=str(root), directory=str(directory))
    return subprocess.check_output([sys.executable, "-ISEc", code], text=True).split()


def test_the_first_command_prepares_an_interpreter_that_nobody_can_write_to(runtime: Runtime) -> None:
    assert runtime("list", "-q", "--help").returncode == 0
    directory = Path(f"{PREPARED}{runtime.program}")
    assert {entry.name for entry in directory.iterdir()} == {"main.py", "modules", "python", "lib", "dynload"}
    assert directory.stat().st_uid == 0
    try:
        (directory / "python").write_bytes(b"overwritten")
    except OSError:
        pass
    assert (directory / "python").read_bytes() == Path(sys.executable).resolve().read_bytes()
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    (row,) = [row for row in rows if row.split()[4] == f"{directory}/python"]
    assert row.split()[5].split(",")[0] == "ro"


def test_modules_come_from_one_file_which_follows_their_source(tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run(["cp", "-r", "--preserve=timestamps", ROOT / "dockyard", root.as_posix()], check=False)
    (tmp_path / "root2").mkdir()
    root.rename(tmp_path / "root2/dockyard")
    root = tmp_path / "root2"
    module_cache.write(str(tmp_path), str(root))
    assert shown(tmp_path, root) == ["_Modules", f"{root}/dockyard/runtime/state/exec_fifo.py", "started"]
    exec_fifo = root / "dockyard/runtime/state/exec_fifo.py"
    exec_fifo.write_text(exec_fifo.read_text() + 'STARTED = "changed"\n')
    assert shown(tmp_path, root) == ["SourceFileLoader", str(exec_fifo), "changed"]
    assert shown(tmp_path, root) == ["_Modules", str(exec_fifo), "changed"]
