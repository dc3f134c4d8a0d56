"""A bundle with busybox in it, and the command line as it is installed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux.cgroups import layout
from tests.runtime.bundle import Bundle

ROOT = Path(__file__).parents[2]
PREPARED = Path("/run/dockyard-interpreter")
version_1 = pytest.mark.skipif(layout().version == 2, reason="looks into cgroups of version 1")


@dataclass
class Runtime:
    """`dockyard-runc` with a state directory and a bundle of its own."""

    program: Path
    state: Path
    bundle: Path
    configs: int = 0

    @property
    def cgroup(self) -> str:
        """The cgroup of the last config: below the caller's own, and no other test's, in this run or another."""
        return f"dockyard-test-{os.getpid()}-{self.state.parent.name}-{self.configs}"

    def __call__(self, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end. Its output goes to files: a container that goes on may keep them open."""
        given: dict[str, Any] = {"cwd": self.bundle, "timeout": 30, "text": True, "check": False, **options}
        if "input" not in given:
            given.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" in given:
            return subprocess.run([self.program, "--root", self.state, *words], **given)
        with open(self.state.parent / "out", "w+") as out, open(self.state.parent / "err", "w+") as err:
            done = subprocess.run([self.program, "--root", self.state, *words], stdout=out, stderr=err, **given)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())

    def config(self, change: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Write the bundle's config.json: what `spec` makes, without a terminal, in a new cgroup, and `change`d."""
        (self.bundle / "config.json").unlink(missing_ok=True)
        assert self("spec").returncode == 0
        config: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        self.configs += 1
        config["linux"]["cgroupsPath"] = self.cgroup
        if change is not None:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))
        return config

    def command(self, *words: str, **process: Any) -> None:
        """A config.json that runs `words`."""
        self.config(lambda config: config["process"].update(args=list(words), **process))

    def started(self, name: str, *words: str, **process: Any) -> str:
        """A container that runs in the background."""
        self.command(*(words or ("sleep", "1000")), **process)
        done = self("run", "-d", name)
        assert done.returncode == 0, done.stderr
        return name

    def status(self, name: str) -> str:
        done = self("state", name)
        assert done.returncode == 0, done.stderr
        status: str = json.loads(done.stdout)["status"]
        return status


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program, beside the interpreter of this run."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "dockyard-runc"
    shutil.copy(ROOT / "packaging/dockyard-runc", program)
    program.chmod(0o755)
    (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python3").chmod(0o755)
    try:
        yield program
    finally:
        forget_prepared(program)


def forget_prepared(program: Path) -> None:
    """Take away what the first command of a boot has prepared for `program`."""
    directory = Path(f"{PREPARED}{program}")
    for path in (*directory.glob("lib/*"), *directory.glob("dynload/*"), directory / "python"):
        subprocess.run(["umount", path], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(directory, ignore_errors=True)
    for parent in directory.parents:
        try:
            parent.rmdir()
        except OSError:
            break
        if parent == PREPARED:
            break


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system."""
    tree = tmp_path_factory.mktemp("busybox")
    tree.chmod(0o755)
    for name in ("bin", "etc", "root", "tmp", "dev", "proc", "sys"):
        (tree / name).mkdir()
    (tree / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
        if applet != "busybox":
            os.symlink("busybox", tree / "bin" / applet)
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nsomebody:x:1000:1000::/tmp:/bin/sh\n")
    return tree


@pytest.fixture
def runtime(launcher: Path, busybox: Path, tmp_path: Path) -> Iterator[Runtime]:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    shutil.copytree(busybox, bundle / "rootfs", symlinks=True)
    # pytest's own directories are closed to others; containers with user namespaces have to pass
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o111)
    made = Runtime(launcher, tmp_path / "state", bundle)
    try:
        yield made
    finally:
        for name in made("list", "-q").stdout.split():
            made("delete", "--force", name)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of its own, for what is tried on the runtime's code rather than on its command line."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o111)
    return Bundle.make(tmp_path / "made")
